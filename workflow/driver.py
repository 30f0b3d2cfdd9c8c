"""Start Snakemake, follow it with one line of progress, and leave nothing running behind."""

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

WORKFLOW = Path(__file__).parent
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


@contextmanager
def alone(folder: Path, what: str) -> Iterator[TextIO]:
    """Refuse a second run in ``folder``; yields the lock, which lives as long as a process that holds it open."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"Another {what} is being made in this folder; wait for it or stop it.")
        yield lock


def snakemake(
    snakefile: str,
    config: dict[str, object],
    options: list[str],
    lock: TextIO,
    log: Path,
    line: Callable[[], str],
    gpus: int = 1,
) -> int:
    """Run a workflow with its output in ``log`` and ``line()`` on the terminal; returns Snakemake's exit code.

    ``gpus``: how many jobs that ask for one may run on this machine at a time.

    However this process ends, Snakemake and its jobs on this machine end, too: Snakemake by the signal that Linux sends
    it, its jobs because they look whether the process in LMCOMPRESS_DRIVER is alive (see scripts/follow.py). Snakemake
    holds the lock as well: it is free once both have ended.
    """
    command = [sys.executable, "-m", "snakemake", *options, "--snakefile", str(WORKFLOW / snakefile)]
    command += ["--config", *(f"{name}={value}" for name, value in config.items())]
    if "--profile" not in options and "--resources" not in options:  # this machine's own limits
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        command += ["--resources", f"mem_mb={memory}", f"gpu={gpus}"]
    environment = os.environ | {"LMCOMPRESS_DRIVER": f"{socket.gethostname()}:{os.getpid()}"}
    asked = {"-n", "--dry-run", "--dryrun", "-h", "--help", "--unlock", "--summary", "--dag", "--rulegraph"}
    if asked & set(options):  # the scheduler's own answer is wanted
        return subprocess.run(command, env=environment).returncode
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock.fileno()],
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        try:
            return _follow(process, line)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)  # cancels the jobs of a cluster
            return process.wait() or 130
        finally:
            _end(process)


def _end_with_parent() -> None:
    """In the new process: ask Linux to kill it when the process that started it dies."""
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)


def _end(process: subprocess.Popen) -> None:
    """End whatever is left of the session that ``process`` led."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _follow(process: subprocess.Popen, line: Callable[[], str]) -> int:
    """Show ``line()`` until the process ends: on a terminal in one place, elsewhere every quarter of a minute."""
    live, shown, printed, started = sys.stderr.isatty(), "", -15.0, time.monotonic()
    while (code := process.poll()) is None:
        now = line()
        if live:
            width = shutil.get_terminal_size().columns - 1
            text = f"{now}  [{duration(time.monotonic() - started)}]"[:width]
            print(f"\r{text:<{width}}", end="", file=sys.stderr, flush=True)
        elif now != shown and time.monotonic() > printed + 15:
            print(now, flush=True)
            shown, printed = now, time.monotonic()
        time.sleep(0.5)
    if (now := line()) != shown or live:
        print(f"\r{now}\033[K" if live else now, file=sys.stderr if live else sys.stdout, flush=True)
    return code


def duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def complaint(log: Path) -> str:
    """What Snakemake itself had to say, for a run that failed before any job did."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n  ".join(lines[-15:])
