"""A SLURM cluster of one node in a folder: munge, controller and node daemon of this machine, started as root."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")
CONFIG = """\
ClusterName=tiny
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    absent = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
    if absent:
        return f"needs {', '.join(absent)} (apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "the daemons want to be started as root"


class Cluster:
    """``folder`` holds configuration, sockets, state and logs; :attr:`environment` is that of SLURM's commands."""

    def __init__(self, folder: Path, cpus: int = 2):
        self.folder, self.running = folder, {}
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        text = CONFIG.format(folder=folder, host=socket.gethostname(), ports=_free_ports(2), cpus=cpus)
        (folder / "slurm.conf").write_text(text)
        # Snakemake's plugin takes SLURM_CONF from its jobs, since their own srun must not see the outer job.
        (folder / "bin").mkdir()
        inner = folder / "bin" / "srun"
        inner.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        inner.chmod(0o755)
        path = f"{folder}/bin:{os.environ['PATH']}:/usr/sbin"
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
        own = {
            "key-file": "key",
            "socket": "socket",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        places = [f"--{name}={folder}/munge.{end}" for name, end in own.items()]
        self._start("munged", "--foreground", "--force", *places)
        self.start()

    def start(self) -> None:
        """Controller and node; returns when jobs can be submitted."""
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D")
        for _ in range(120):
            if self.run("sinfo", "--noheader", "--format=%t").strip() in ("idle", "mix", "alloc"):
                return
            time.sleep(0.5)
        raise RuntimeError(self.log())

    def kill(self) -> None:
        """Controller and node at once, as if the machine that they run on had failed."""
        for name in ("slurmctld", "slurmd"):
            self.running[name].kill()
            self.running[name].wait()

    def stop(self) -> None:
        self.run("scancel", "--user", "root")
        for process in reversed(self.running.values()):
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    def run(self, *words: str) -> str:
        return subprocess.run(words, env=self.environment, capture_output=True, text=True).stdout

    def log(self) -> str:
        """What the daemons said."""
        names = ("munge.log", "slurmctld.log", "slurmd.log")
        return "\n".join((self.folder / name).read_text() for name in names if (self.folder / name).exists())

    def _start(self, *words: str) -> None:
        output = (self.folder / f"{words[0]}.out").open("a")
        process = subprocess.Popen(words, env=self.environment, stdout=output, stderr=output)
        self.running[words[0]] = process
        time.sleep(0.5)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
