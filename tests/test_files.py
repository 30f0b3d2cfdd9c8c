"""Writers side by side, killed writers, full and read-only disks."""

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lmcompress import files
from lmcompress.errors import StorageError
from lmcompress.files import atomic_path, once

FORK = multiprocessing.get_context("fork")
PARTS = 20


def _make(folder: Path) -> None:
    folder.mkdir()
    for part in range(PARTS):
        (folder / f"{part}.txt").write_text(f"{part}\n" * 50)
    time.sleep(0.002)


def _fetch(folder: Path, start, failures) -> None:
    start.wait()
    once(folder, lambda temporary: (folder.parent / f"made.{os.getpid()}").touch() or _make(temporary))
    try:
        for part in range(PARTS):
            assert (folder / f"{part}.txt").read_text() == f"{part}\n" * 50
            time.sleep(0.0002)
    except Exception as error:
        failures.put(repr(error))


def test_of_two_processes_at_once_one_makes_the_folder_and_none_loses_it_while_reading(tmp_path):
    failures = FORK.SimpleQueue()
    for index in range(40):
        room, start = tmp_path / str(index), FORK.Barrier(2)
        room.mkdir()
        pair = [FORK.Process(target=_fetch, args=(room / "asset", start, failures)) for _ in range(2)]
        for process in pair:
            process.start()
        for process in pair:
            process.join()
        assert failures.empty(), failures.get()
        assert len(list(room.glob("made.*"))) == 1
        assert {path.name for path in room.iterdir() if path.is_dir()} == {"asset"}


def test_a_finished_folder_is_not_replaced_unless_asked(tmp_path):
    target = once(tmp_path / "folder", _make)
    with pytest.raises(FileExistsError), atomic_path(target) as temporary:
        temporary.mkdir()
    assert len(list(target.iterdir())) == PARTS
    with atomic_path(target, replace=True) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
        assert len(list(target.iterdir())) == PARTS  # until the new one is complete
    assert [path.name for path in target.iterdir()] == ["new"]
    once(target, _make)
    assert [path.name for path in target.iterdir()] == ["new"]
    once(target, _make, whole=lambda folder: (folder / "0.txt").is_file())
    assert len(list(target.iterdir())) == PARTS


def test_a_failure_leaves_nothing_and_what_was_there(tmp_path):
    file = tmp_path / "file"
    file.write_text("old")

    def interrupted():
        with atomic_path(file) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def _hang(file: Path, ready) -> None:
    with atomic_path(file) as temporary:
        temporary.write_text("half")
        ready.set()
        time.sleep(60)


def test_the_rooms_of_killed_writers_go_with_the_next_write_and_those_of_live_ones_stay(tmp_path):
    file, ready = tmp_path / "file", [FORK.Event(), FORK.Event()]
    dead, live = [FORK.Process(target=_hang, args=(file, event)) for event in ready]
    for process, event in zip((dead, live), ready, strict=True):
        process.start()
        assert event.wait(20)
    os.kill(dead.pid, signal.SIGKILL)
    dead.join()
    (tmp_path / ".file.mine.partial").write_text("a file of the user")
    assert len(list(tmp_path.glob(".file.*.partial/file"))) == 2
    with atomic_path(file) as temporary:
        temporary.write_text("whole")
    assert len(list(tmp_path.glob(".file.*.partial/file"))) == 1
    assert (tmp_path / ".file.mine.partial").exists()
    os.kill(live.pid, signal.SIGKILL)
    live.join()
    with atomic_path(file) as temporary:
        temporary.write_text("again")
    assert not list(tmp_path.glob(".file.*.partial/file"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    target = tmp_path / "deep" / "result.json"

    def write():
        with atomic_path(target) as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text("x" * 100_000)

    with pytest.raises(StorageError, match=r"result\.json cannot be written: No space left.*MiB free"):
        write()
    assert list(target.parent.iterdir()) == []


def test_a_full_disk_in_safetensors_is_named(tmp_path):
    resource = pytest.importorskip("resource")

    def write(queue):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            with atomic_path(tmp_path / "weights") as temporary:
                save_file({"a": torch.zeros(10_000)}, temporary)
        except StorageError as error:
            queue.put(str(error))
        except Exception as error:
            queue.put(repr(error))

    queue = FORK.SimpleQueue()
    process = FORK.Process(target=write, args=(queue,))
    process.start()
    assert "weights cannot be written" in queue.get()
    process.join()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, code):
    def refuse(*_arguments, **_options):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.tempfile, "mkdtemp", refuse)
    with pytest.raises(StorageError, match=os.strerror(code)), atomic_path(tmp_path / "a" / "b"):
        pass
    monkeypatch.undo()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"File exists|Not a directory"):
        once(tmp_path / "file" / "folder", _make)
