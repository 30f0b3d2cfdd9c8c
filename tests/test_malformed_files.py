"""Files of models, texts and earlier runs with something wrong: each is read, or refused in words that name it."""

import shutil

import pytest
import torch
from malformed import COUNTS, refused, spoiled
from tiny import tiny_model, tiny_tokens
from tiny_assets import tiny_model_folder

from lmcompress import data, models
from lmcompress.errors import AssetError
from lmcompress.prune import magnitude, mask
from lmcompress.prune.pattern import Unstructured
from lmcompress.quantize import pack
from lmcompress.quantize.formats import Bits
from lmcompress.quantize.model import quantize_model, round_rest
from lmcompress.retrain.train import train
from lmcompress.stream import stream

TEXTS = {
    "lines.txt": b"one line\nanother one\nand a third\n" * 3,
    "blocks.md": b"a document\nof two lines\n\nanother\n\n\nand a third" * 3,
    "wiki.raw": b" = One = \n\n text of it\n\n = Two = \n\n more text\n" * 2,
    "rows.jsonl": b'{"text": "one", "label": 0}\n{"text": "two", "label": 1}\n' * 3,
    "rows.json": b'[{"text": "one", "label": "a"}, {"text": "two", "label": "b"}]',
    "table.csv": b'text,label\n"one, quoted",a\n"two ""more""",b\n' * 1,
    "table.tsv": b"label\ttext\n0\tgood\n1\tbad\n0\tso so\n",
}


def block(count: int, kinds: int) -> int:
    """How many of ``count`` each of so many kinds gets."""
    return count // kinds


@pytest.mark.parametrize("name", TEXTS)
def test_texts(tmp_path, name):
    ends = []
    for number, content in enumerate(spoiled(TEXTS[name], block(COUNTS["texts and tables"], len(TEXTS)))):
        file = tmp_path / str(number) / name
        file.parent.mkdir()
        file.write_bytes(content)
        for read in (
            lambda file=file: data.documents(str(file), "test"),
            lambda file=file: data.classes(str(file)),
        ):
            ends.append(refused(read, name))
    assert any(ends)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "m"
    tiny_model_folder(folder)
    return folder


PARTS = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


@pytest.mark.parametrize("name", PARTS)
def test_model_folders(folder, tmp_path, name):
    shutil.copytree(folder, tmp_path / "m")
    whole, ends = (folder / name).read_bytes(), []
    head = len(whole) if name != "model.safetensors" else 4096  # the header; what follows are numbers
    for content in spoiled(whole[:head], block(COUNTS["files of a model folder"], len(PARTS))):
        (tmp_path / "m" / name).write_bytes(content + whole[head:])
        ends.append(refused(lambda: models.load(str(tmp_path / "m"), device="cpu"), str(tmp_path / "m")))
    assert any(ends)


def each_file(folder, count: int, act, head: int = 2000) -> list[bool]:
    """``act()`` with every file of ``folder`` spoiled in turn, ``count`` times in all; the others are whole."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    ends = []
    for number, path in enumerate(files):
        whole = path.read_bytes()
        for content in spoiled(whole[:head], block(count + number, len(files))):
            path.write_bytes(content + whole[head:])
            ends.append(refused(act, str(folder)))
        path.write_bytes(whole)
    assert len(ends) == count
    return ends


def test_masks(tmp_path):
    model = tiny_model("llama")
    weights = {name: layer.weight for name, layer in models.block_linears(model).items()}
    mask.save(magnitude.per_matrix(weights, Unstructured(0.5)), tmp_path / "masks.safetensors")
    ends = each_file(tmp_path, COUNTS["masks"], lambda: mask.load(tmp_path / "masks.safetensors"))
    assert any(ends)


def test_checkpoints_of_a_walk(tmp_path):
    windows = [{"input_ids": tokens} for tokens in tiny_tokens(4).split(2)]

    def walk():
        stream(
            tiny_model("llama"),
            windows,
            lambda found: {"name": found.name},
            checkpoint=tmp_path,
            progress=False,
        )

    walk()
    assert any(each_file(tmp_path, COUNTS["checkpoints of a walk over the blocks"], walk))


def test_checkpoints_of_a_training(tmp_path):
    def training():
        train(
            tiny_model("llama"),
            tiny_tokens(8),
            "norms",
            lr=1e-3,
            steps=2,
            folder=tmp_path,
            progress=False,
        )

    training()
    assert any(each_file(tmp_path, COUNTS["checkpoints of a training"], training))


def shorter(optimizer: dict) -> None:
    name = next(iter(optimizer["masters"]))
    optimizer["masters"][name] = optimizer["masters"][name][:1]  # of one number, which would fill all places


@pytest.mark.parametrize(
    "edit",
    [
        *(lambda found, name=name: found.pop(name) for name in ("run", "report", "optimizer", "random")),
        lambda found: found["report"].update(extra=1),
        lambda found: found["optimizer"].pop("masters"),
        lambda found: shorter(found["optimizer"]),
        lambda found: found.update(random=torch.zeros(3)),
    ],
)
def test_a_whole_checkpoint_that_says_something_else_is_named(tmp_path, edit):
    def training():
        train(tiny_model("llama"), tiny_tokens(8), "norms", lr=1e-3, steps=2, folder=tmp_path, progress=False)

    training()
    content = torch.load(tmp_path / "train.pt", weights_only=True)
    edit(content)
    torch.save(content, tmp_path / "train.pt")
    with pytest.raises(AssetError, match=r"train\.pt: .*; delete its folder to begin anew"):
        training()


def test_packed_models(tmp_path):
    model = tiny_model("llama")
    report = quantize_model(model, dict.fromkeys(models.block_linears(model), Bits(4, 8)), progress=False)
    round_rest(model, report.quantized)
    pack.save(model, None, tmp_path / "p", report.quantized)
    ends = each_file(tmp_path / "p", COUNTS["packed models"], lambda: pack.load(tmp_path / "p", device="cpu"))
    assert any(ends)
