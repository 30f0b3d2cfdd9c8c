"""The processes of one machine: killed ones, failing runs, a full disk, a parent that is killed."""

import subprocess
import sys
from pathlib import Path

import experiments_for_tests as experiments
import pytest

from lmcompress import pool
from lmcompress.errors import LmcompressError


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A checkout of its own for this process and for those that it starts."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("LMCOMPRESS_ROOT", str(tmp_path))
    return tmp_path


def outcomes(*wanted, workers=1, **options):
    return list(pool.run_all(wanted, workers, **options))


def test_a_killed_process_is_reported_and_its_runs_are_tried_once_more(tmp_path):
    log = str(tmp_path / "log")
    killed = experiments.Faulty(fault="kill-once", log=log)
    found = outcomes(
        [experiments.Doubling(value=1, log=log), killed], [experiments.Doubling(value=2, log=log)]
    )
    assert [(one.error, one.retried) for one in found if one.error] == [("its process was killed", True)] * 2
    assert [one.error for one in found[2:]] == ["", "", ""]
    assert sorted(Path(log).read_text().split()) == [
        "1",
        "2",
        "again",
        "kill-once",
    ]  # 1 was not computed twice


def test_a_run_that_always_kills_its_process_fails_and_the_others_go_on(tmp_path):
    log = str(tmp_path / "log")
    others = [[experiments.Doubling(value=value, log=log)] for value in range(4)]
    found = outcomes([experiments.Faulty(fault="kill", log=log)], *others, workers=2)
    assert sorted((one.error, one.retried) for one in found) == [
        *[("", False)] * 4,
        ("its process was killed", False),
        ("its process was killed", True),
    ]
    assert Path(log).read_text().split().count("kill") == 2


def test_a_failed_run_does_not_stop_its_group_and_a_late_one_does_not_start(tmp_path):
    log = tmp_path / "log"
    group = [experiments.Doubling(value=value, log=str(log)) for value in (1, -1, 2)]
    found = outcomes(group)
    assert [one.error for one in found] == ["", "RuntimeError: no negative numbers", ""]
    assert log.read_text().split() == ["1", "2"]
    late = outcomes([experiments.Doubling(value=7, log=str(log))], end=0)
    assert [(one.seconds, one.error) for one in late] == [(None, "")]


def test_a_full_disk_stops_everything():
    groups = [[experiments.Faulty(fault="full disk")], *[[experiments.Doubling(value=v)] for v in range(3)]]
    with pytest.raises(LmcompressError, match=r"records cannot be saved: .*No space left"):
        outcomes(*groups)


def test_one_process_a_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    started = []
    monkeypatch.setattr(pool, "_Lane", lambda gpu, threads: started.append(gpu) or _Inline())
    found = outcomes(*[[experiments.Doubling(value=value)] for value in range(5)], workers=8)
    assert started == ["GPU-a", "GPU-b"]
    assert [one.error for one in found] == [""] * 5


class _Inline:
    """A lane that works at once, in this process."""

    @property
    def pool(self):
        return self

    def submit(self, function, *arguments):
        from concurrent.futures import Future

        future = Future()
        future.set_result(function(*arguments))
        return future

    def shutdown(self, **_options):
        pass


WORKER = """
import multiprocessing, time
from lmcompress.pool import end_with_parent

def work():
    end_with_parent()
    print("at work", flush=True)
    time.sleep(300)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work).start()
    time.sleep(300)
"""


def test_a_worker_ends_when_the_process_that_started_it_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(WORKER)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "at work\n"
    parent.kill()
    assert parent.communicate(timeout=60) == ("", None)  # the end of the worker's output, too
