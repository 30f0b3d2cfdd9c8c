"""End this process, and what it started, when the one that drives the workflow on this machine has died."""

import os
import signal
import socket
import threading
import time


def follow_driver() -> None:
    """Watch the process in LMCOMPRESS_DRIVER (``host:pid``). On another machine, a node of a cluster, jobs go on."""
    host, _, pid = os.environ.get("LMCOMPRESS_DRIVER", "").rpartition(":")
    if host == socket.gethostname():
        threading.Thread(target=_watch, args=(int(pid),), daemon=True).start()


def _watch(pid: int) -> None:
    while _alive(pid):
        time.sleep(0.5)
    os.killpg(os.getpgrp(), signal.SIGKILL)  # Snakemake's session: its shells and their other jobs


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
