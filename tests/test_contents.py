"""One hash of whole contents, remembered with the sizes and times of the files."""

import hashlib
import os
import time

import pytest

from lmcompress import contents
from lmcompress.assets import resolve
from lmcompress.errors import AssetError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LMCOMPRESS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    (folder / "deep" / "b.txt").write_text("two")
    return folder


def age(*paths):
    """Change times of an hour ago, as of files that nobody is writing."""
    for path in paths:
        os.utime(path, (time.time() - 3600,) * 2)


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are read, in their order. The ctime of a new file is let pass as settled."""
    names, inner = [], hashlib.file_digest
    monkeypatch.setattr(contents, "_SETTLED", -10.0)
    monkeypatch.setattr(contents, "_WORTH", 0)
    monkeypatch.setattr(
        contents.hashlib, "file_digest", lambda file, kind: (names.append(file.name), inner(file, kind))[1]
    )
    return names


def test_the_hash_is_of_names_and_whole_contents(folder):
    parts = b"".join(
        name + b"\0" + hashlib.sha256(text).digest()
        for name, text in ((b"a.txt", b"one"), (b"deep/b.txt", b"two"))
    )
    assert contents.fingerprint(folder, "data") == hashlib.sha256(parts).hexdigest()
    single = hashlib.sha256(b".\0" + hashlib.sha256(b"one").digest()).hexdigest()
    assert contents.fingerprint(folder / "a.txt", "data") == single


def test_a_byte_in_the_middle_of_a_large_file_counts(folder):
    content = bytearray(5 << 20)
    (folder / "large.bin").write_bytes(content)
    first = contents.fingerprint(folder, "model")
    content[len(content) // 2] = 1
    (folder / "large.bin").write_bytes(content)
    age(folder / "large.bin")
    assert contents.fingerprint(folder, "model") != first


def test_contents_are_read_once_and_again_when_a_file_changed(folder, read):
    first = contents.fingerprint(folder, "data")
    assert len(read) == 2
    assert contents.fingerprint(folder, "data") == first
    assert len(read) == 2
    status = (folder / "a.txt").stat()
    (folder / "a.txt").write_text("ONE")  # as long as before, and its time set back
    os.utime(folder / "a.txt", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert contents.fingerprint(folder, "data") != first
    assert len(read) == 3
    (folder / "deep" / "b.txt").unlink()
    shorter = contents.fingerprint(folder, "data")
    assert len(read) == 3
    assert shorter != first


def test_small_folders_leave_no_trace_in_the_cache(folder):
    contents.fingerprint(folder, "data")
    assert not (folder.parent / "cache").exists()


def test_a_file_that_has_just_been_written_is_not_trusted_to_stay(folder, read, monkeypatch):
    monkeypatch.setattr(contents, "_SETTLED", 2.0)
    contents.fingerprint(folder, "data")
    contents.fingerprint(folder, "data")
    assert len(read) == 4


def test_what_is_hidden_and_the_read_me_of_a_corpus_do_not_count(folder):
    first = {kind: contents.fingerprint(folder, kind) for kind in ("data", "model")}
    (folder / ".hidden.txt").write_text("x")
    (folder / ".git").mkdir()
    (folder / ".git" / "c.txt").write_text("x")
    assert {kind: contents.fingerprint(folder, kind) for kind in ("data", "model")} == first
    for name in ("README.md", "readme.txt", "LICENSE", "licence.txt"):
        (folder / name).write_text("x")
    assert contents.fingerprint(folder, "data") == first["data"]
    assert contents.fingerprint(folder, "model") != first["model"]
    assert [file.name for file in contents.files(folder, "data")] == ["a.txt", "b.txt"]


def test_a_local_folder_is_named_by_what_it_holds_now(folder):
    first = resolve(str(folder), "data")
    (folder / "a.txt").write_text("other")
    assert resolve(str(folder), "data").sha256 != first.sha256


def test_a_broken_or_read_only_index_costs_a_second_reading_only(folder, read, monkeypatch):
    first = contents.fingerprint(folder, "data")
    for file in (folder.parent / "cache" / "index").iterdir():
        file.write_text("{")
    assert contents.fingerprint(folder, "data") == first
    monkeypatch.setenv("LMCOMPRESS_CACHE", str(folder / "a.txt"))
    assert contents.fingerprint(folder, "data") == first
    assert len(read) == 6


def test_links_are_followed_and_odd_ones_named(folder):
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere" / "c.txt").write_text("three")
    before = contents.fingerprint(folder, "data")
    (folder / "link").symlink_to(folder.parent / "elsewhere")
    assert contents.fingerprint(folder, "data") != before
    assert len(contents.files(folder, "data")) == 3
    for target, said in (
        (folder.parent, "leads back"),
        (folder / "link2", "link that leads nowhere"),
        ("no", "nowhere"),
    ):
        (folder / "link2").symlink_to(target)
        with pytest.raises(AssetError, match=rf"link2.*{said}"):
            contents.fingerprint(folder, "data")
        (folder / "link2").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(AssetError, match="pipe: neither a file nor a folder"):
        contents.fingerprint(folder, "data")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_named(folder):
    (folder / "a.txt").chmod(0)
    with pytest.raises(AssetError, match=r"a\.txt: Permission denied"):
        contents.fingerprint(folder, "data")
