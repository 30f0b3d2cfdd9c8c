"""Runs in processes of this machine: one process a run, one run a GPU; a killed process costs nothing but its time."""

import errno
import multiprocessing
import os
import shutil
import subprocess
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

from lmcompress.errors import LmcompressError, StorageError
from lmcompress.records import Experiment

_NO_ROOM = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)


class _NotSaved(Exception):
    """A process could not write; made of text alone, so that it reaches the other process whole."""


@dataclass(frozen=True)
class Outcome:
    """What became of one run: the ``seconds`` it took (None: left for later, or its process died), its ``error``, and
    where that was raised (``trace``).

    ``retried``: its process died for the first time, and the run is on its way again.
    """

    experiment: Experiment
    seconds: float | None = None
    error: str = ""
    trace: str = ""
    retried: bool = False


def run_all(
    groups: Sequence[Sequence[Experiment]], workers: int = 1, end: float | None = None, force: bool = False
) -> Iterator[Outcome]:
    """Compute the record of every experiment; yields what became of each, as it becomes known.

    groups: experiments of one group are computed one after the other in one process, so that they share what it holds.
    workers: processes side by side, each with its share of the cores; with GPUs, at most one process a GPU.
    end: no run starts after this time (seconds since 1970).
    force: compute also what is known.

    A process that is killed has a fresh one in its place, which tries the runs of that group once more, each by itself;
    the others go on. When
    this process ends, in whatever way, its children end, too. Raises :class:`LmcompressError` where records cannot be
    saved (a full disk, say): nothing that would be computed then could be kept.
    """
    cards = gpus()
    workers = min(workers, len(cards)) if cards else workers
    threads = max(1, (os.cpu_count() or 1) // workers)
    idle = [_Lane(cards[index] if cards else None, threads) for index in range(min(workers, len(groups)))]
    waiting = deque((list(group), False) for group in groups)
    running: dict[Any, Any] = {}
    try:
        while waiting or running:
            while waiting and idle:
                lane, (group, again) = idle.pop(), waiting.popleft()
                running[lane.pool.submit(_compute, group, end, force)] = lane, group, again
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                lane, group, again = running.pop(done)
                try:
                    yield from done.result()
                except BrokenProcessPool:
                    lane.renew()
                    for one in group:
                        yield Outcome(one, error="its process was killed", retried=not again)
                    if not again:
                        waiting.extendleft(([one], True) for one in reversed(group))
                except _NotSaved as error:
                    raise LmcompressError(
                        f"records cannot be saved: {error}; what was computed before is kept"
                    ) from None
                idle.append(lane)
    finally:
        for lane in [*idle, *(lane for lane, *_ in running.values())]:
            lane.pool.shutdown(wait=False, cancel_futures=True)


class _Lane:
    """A pool of a single process: a process that is killed breaks its pool, and that must hit no other's run."""

    def __init__(self, gpu: str | None, threads: int):
        self._start = (gpu, threads)
        self.renew()

    def renew(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(1, context, initializer=_start, initargs=self._start)


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip()]
    if not shutil.which("nvidia-smi"):
        return []
    listing = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True).stdout
    return [str(index) for index, _ in enumerate(listing.splitlines())]


def _start(gpu: str | None, threads: int) -> None:
    """The first thing in a new process, before it loads torch."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    end_with_parent()


def end_with_parent() -> None:
    """End this process once the one that started it is killed: a run may take hours, and nobody waits for it."""

    def watch(parent: BaseProcess) -> None:
        parent.join()
        os._exit(1)

    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=watch, args=(parent,), daemon=True).start()


def _compute(group: Sequence[Experiment], end: float | None, force: bool) -> list[Outcome]:
    """The runs of a group, one after the other, in this process."""
    from lmcompress import records

    outcomes = []
    for experiment in group:
        if end is not None and time.time() > end:
            outcomes.append(Outcome(experiment))
            continue
        started, error, trace = time.time(), "", ""
        try:
            records.obtain([experiment], progress=False, force=force)
        except Exception as failure:  # the others go on; the reason is printed and the exit status is 1
            if isinstance(failure, StorageError) or getattr(failure, "errno", 0) in _NO_ROOM:
                raise _NotSaved(str(failure)) from None
            error, trace = f"{type(failure).__name__}: {failure}", traceback.format_exc()
        outcomes.append(Outcome(experiment, time.time() - started, error, trace))
    return outcomes
