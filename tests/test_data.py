import gzip
import json

import pytest
import torch
from tiny_assets import tiny_classes, tiny_corpus, tiny_tokenizer

from lmcompress import data
from lmcompress.errors import AssetError, ParameterError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"))


def test_every_document_is_in_exactly_one_split(corpus):
    parts = [data.documents(corpus, split) for split in data.SPLITS]
    everything = [text for part in parts for text in part]
    assert len(everything) == len(set(everything)) == 200
    assert all(parts)


def test_the_split_of_a_document_depends_on_its_text_alone(corpus, tmp_path):
    texts = [text for split in data.SPLITS for text in data.documents(corpus, split)]
    (tmp_path / "other.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in reversed(texts))
    )
    for split in data.SPLITS:
        assert set(data.documents(str(tmp_path), split)) == set(data.documents(corpus, split))


def test_a_document_that_occurs_twice_is_on_one_side(tmp_path):
    lines = [f"line {index}" for index in range(50)]
    (tmp_path / "text.txt").write_text("\n".join(lines + lines))
    found = [set(data.documents(str(tmp_path), split)) for split in data.SPLITS]
    assert sum(map(len, found)) == 50


def test_files_for_validation_and_test_keep_their_place(tmp_path):
    for name, start in (("train", 0), ("valid", 100), ("test", 200)):
        (tmp_path / f"wiki.{name}.txt").write_text("\n".join(f"line {start + index}" for index in range(60)))
    found = {split: data.documents(str(tmp_path), split) for split in data.SPLITS}
    assert found["test"] == tuple(f"line {index}" for index in range(200, 260))
    assert found["validation"] == tuple(f"line {index}" for index in range(100, 160))
    assert len(found["calibration"]) + len(found["retraining"]) == 60
    assert found["calibration"]


def test_wikitext_is_joined_as_the_usual_evaluation_joins_its_lines(tmp_path):
    lines = [
        " \n",
        " = First = \n",
        " \n",
        " Some text . \n",
        " = = Part = = \n",
        " More . \n",
        " = Second = \n",
        " End . \n",
    ]
    (tmp_path / "wiki.test.raw").write_text("".join(lines))
    articles = data.documents(str(tmp_path), "test")
    assert len(articles) == 2
    assert articles[1].startswith(" = Second")
    rows = [line if line.strip() else "" for line in lines]  # as the hub's copy holds them
    assert "\n\n".join(articles) == "\n\n".join(rows)


def test_windows_are_the_joined_text_without_overlap_padding_or_tail(corpus):
    tokenizer = tiny_tokenizer()
    windows = data.windows(corpus, tokenizer, "test", 16)
    tokens = tokenizer("\n\n".join(data.documents(corpus, "test")))["input_ids"]
    assert windows.dtype == torch.long
    assert len(windows) == len(tokens) // 16
    assert windows.flatten().tolist() == tokens[: windows.numel()]


def test_fewer_test_windows_are_spread_over_the_split_whatever_the_seed(corpus):
    tokenizer = tiny_tokenizer()
    everything = data.windows(corpus, tokenizer, "test", 16).tolist()
    some = data.windows(corpus, tokenizer, "test", 16, 4, seed=1).tolist()
    assert some == data.windows(corpus, tokenizer, "test", 16, 4, seed=2).tolist()
    places = [everything.index(window) for window in some]
    assert places == [index * len(everything) // 4 for index in range(4)]


def test_calibration_windows_follow_the_seed(corpus):
    tokenizer = tiny_tokenizer()
    first, again, other = (data.windows(corpus, tokenizer, "calibration", 16, 5, seed=s) for s in (0, 0, 1))
    assert first.shape == (5, 16)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_impossible_windows_are_refused(corpus):
    tokenizer = tiny_tokenizer()
    for field, options in (
        ("split", {"split": "train", "length": 16}),
        ("length", {"split": "test", "length": 1}),
        ("count", {"split": "test", "length": 16, "count": 0}),
        ("count", {"split": "test", "length": 16, "count": 10**6}),
    ):
        with pytest.raises(ParameterError, match=field):
            data.windows(corpus, tokenizer, **options)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json.gz", "rows.json", "rows.parquet"])
def test_tables_with_a_text_column_are_corpora(tmp_path, name):
    rows = [{"text": f"document {index}", "label": index % 2} for index in range(40)]
    path = tmp_path / name
    if name.endswith("parquet"):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif name.endswith("json"):
        path.write_text(json.dumps(rows))
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    assert sum(len(data.documents(str(path), split)) for split in data.SPLITS) == 40
    assert data.classes(str(path)) == ["0", "1"]


def test_a_source_without_text_is_an_error_that_says_what_there_is(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(AssetError, match=r"rows need a column text; they have body"):
        data.documents(str(tmp_path), "test")
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(AssetError, match="nothing for the split test"):
        data.documents(str(tmp_path), "test")


def test_a_folder_a_class_becomes_padded_batches(tmp_path):
    name, tokenizer = tiny_classes(tmp_path), tiny_tokenizer()
    assert data.classes(name) == ["even", "odd"]
    made = data.classification(name, tokenizer, "retraining", 24, 8)
    assert sum(len(batch["labels"]) for batch in made) == len(data.examples(name, "retraining"))
    batch = made[0]
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    assert batch["input_ids"].shape[1] <= 24
    assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()
    texts = dict(data.examples(name, "retraining"))
    for row, keep, label in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        start = tokenizer.decode(row[keep.bool()]).replace(" ", "")
        whole = next(text for text in texts if text.replace(" ", "").startswith(start))
        assert texts[whole] == ("even", "odd")[label]


def test_lines_of_class_and_text_keep_the_split_of_their_file(tmp_path):
    (tmp_path / "train.tsv").write_text("".join(f"{index % 2}\tsentence {index}\n" for index in range(30)))
    (tmp_path / "test.tsv").write_text("1\tgood\n0\tbad\n")
    assert data.examples(str(tmp_path), "test") == (("good", "1"), ("bad", "0"))
    (tmp_path / "test.tsv").write_text("no tab\n")
    data.examples.cache_clear()
    with pytest.raises(AssetError, match="without the tab"):
        data.examples(str(tmp_path), "test")


def test_more_texts_than_there_are_is_refused(tmp_path):
    name = tiny_classes(tmp_path)
    with pytest.raises(ParameterError, match="count"):
        data.classification(name, tiny_tokenizer(), "test", 24, 8, count=1000)
