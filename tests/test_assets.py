import errno
import hashlib
import zipfile

import pytest
from tiny_assets import tiny_model_folder

from lmcompress import assets
from lmcompress.errors import AssetError, ParameterError


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
    assets.resolve.cache_clear()
    yield index, entry
    assets.resolve.cache_clear()


def left_behind(tmp_path):
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_an_embedded_asset_is_taken_out_of_its_wheel_and_reused_without_it(shelf):
    index, entry = shelf
    asset = assets.resolve("stories", "data")
    assert (asset.path / "a.txt").read_text() == "first"
    assert (asset.path / "more" / "b.txt").read_text() == "second"
    assert sorted(path.name for path in asset.path.iterdir()) == ["a.txt", "more"]
    assert (asset.sha256, asset.licence, asset.source) == (entry["sha256"], "CC0", "stories==1.0")
    next(index.iterdir()).unlink()
    assets.resolve.cache_clear()
    assert assets.resolve("stories", "data") == asset


def test_a_wrong_hash_keeps_nothing(shelf, tmp_path):
    shelf[1]["sha256"] = "0" * 64
    with pytest.raises(AssetError, match=r"stories: .* sha256 .* assets.toml says 000"):
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
        patch.setattr(assets.shutil, "copyfileobj", no_room)
        with pytest.raises(AssetError, match=r"No space left on device.*MiB free"):
            assets.resolve("stories", "data")
    assert not left_behind(tmp_path)
    assert assets.resolve("stories", "data").path.is_dir()


def test_an_interrupted_extraction_leaves_nothing(shelf, tmp_path, monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(assets, "tree_sha256", interrupted)
        with pytest.raises(KeyboardInterrupt):
            assets.resolve("stories", "data")
    assert not left_behind(tmp_path)


def test_an_unknown_name_is_refused_with_the_names_there_are(shelf):
    with pytest.raises(ParameterError, match=r"data: 'storeys' .*stories; a local folder"):
        assets.resolve("storeys", "data")
    with pytest.raises(ParameterError, match="kind"):
        assets.resolve("stories", "corpus")


def test_a_local_folder_is_named_by_its_contents(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "text.txt").write_text("one")
    first = assets.fingerprint(folder)
    assert assets.resolve(str(folder), "data").sha256 == first
    (folder / "text.txt").write_text("two")
    assert assets.fingerprint(folder) != first


def test_large_files_are_named_by_size_and_both_ends(tmp_path):
    file = tmp_path / "large.bin"
    content = bytearray(3 << 20)
    file.write_bytes(content)
    first = assets.fingerprint(file)
    for place in (0, len(content) - 1):
        content[place] = 1
        file.write_bytes(content)
        assert assets.fingerprint(file) != first
        content[place] = 0
    file.write_bytes(content + b"\0")
    assert assets.fingerprint(file) != first


def test_a_folder_under_data_local_takes_the_place_of_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "project_root", lambda: tmp_path)
    folder = tmp_path / "data" / "local" / "wikipedia-vital"
    folder.mkdir(parents=True)
    assets.resolve.cache_clear()
    assert assets.resolve("wikipedia-vital", "data").path == folder
    assets.resolve.cache_clear()


def test_a_hub_repository_is_pinned_and_only_safetensors_are_asked_for(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def snapshot(repository, **options):
        asked.append((repository, options))
        folder = tmp_path / "snapshots" / "0123abc"
        tiny_model_folder(folder)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    asset = assets.resolve("someone/tiny@v1", "model")
    assert (asset.sha256, asset.source) == ("0123abc", "someone/tiny@0123abc")
    repository, options = asked[0]
    assert (repository, options["revision"], options["repo_type"]) == ("someone/tiny", "v1", "model")
    assert not [
        pattern for pattern in options["allow_patterns"] if "bin" in pattern or "pt" in pattern.split(".")
    ]
    (asset.path / "model.safetensors").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_a, **_k: str(asset.path))
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
                ("==" in entry["package"] and len(entry["sha256"]) == 64)
                if "package" in entry
                else entry["revision"]
            )
