import contextlib
import gzip
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_assets import tiny_classes, tiny_corpus, tiny_tokenizer

from lmcompress import data
from lmcompress.assets import resolve
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
    with pytest.raises(AssetError, match=r"rows\.jsonl, row 1: rows need a column text; they have body"):
        data.documents(str(tmp_path), "test")
    (tmp_path / "rows.jsonl").write_text('{"text": "the only one"}')
    with pytest.raises(
        AssetError, match=r"nothing for the split test; its documents are .* 1 for retraining"
    ):
        data.documents(str(tmp_path), "test")


def test_only_a_whole_word_in_a_name_tells_the_split(tmp_path):
    for name in ("devices", "latest", "testimony", "training2nd", "invalid", "val_1000", "wiki.dev"):
        (tmp_path / f"{name}.txt").write_text("\n".join(f"{name} {index}" for index in range(40)))
    found = {
        split: {line.split()[0] for line in data.documents(str(tmp_path), split)} for split in data.SPLITS
    }
    assert found["validation"] == {"val_1000", "wiki.dev"}
    assert (
        found["test"] == found["retraining"] == {"devices", "latest", "testimony", "training2nd", "invalid"}
    )


def test_a_folder_a_class_may_lie_in_folders_for_training_and_test(tmp_path):
    for part in ("train", "test"):
        tiny_classes(tmp_path / part, 40 if part == "train" else 6)
    assert len(data.examples(str(tmp_path), "test")) == 6
    assert data.classes(str(tmp_path)) == ["even", "odd"]


def test_what_lies_in_the_corpus_is_read_anew_when_it_changed(tmp_path):
    (tmp_path / "wiki.test.txt").write_text("one\ntwo")
    assert data.documents(str(tmp_path), "test") == ("one", "two")
    (tmp_path / "wiki.test.txt").write_text("one\nsix")
    assert data.documents(str(tmp_path), "test") == ("one", "six")


def test_read_me_files_and_hidden_ones_are_neither_text_nor_class(tmp_path):
    name = tiny_classes(tmp_path / "classes")
    for place in (tmp_path / "classes", tmp_path / "classes" / "odd"):
        (place / "README.md").write_text("read me")
        (place / "licence.txt").write_text("all rights")
        (place / ".hidden.txt").write_text("hidden")
    texts = [text for split in data.SPLITS for text, _ in data.examples(name, split)]
    assert len(texts) == 120
    assert not {"read me", "all rights", "hidden"} & {*texts}
    assert data.classes(name) == ["even", "odd"]
    (tmp_path / "classes" / "notes.txt").write_text("notes")
    with pytest.raises(AssetError, match=r"notes\.txt: a text outside of the folders"):
        data.classes(name)


def test_a_header_is_no_class_and_names_the_columns(tmp_path):
    for name, lines in {
        "sst.tsv": 'sentence\tlabel\na "fine film\t1\nno good\t0\n',
        "other.tsv": "label\ttext\n1\ta fine film\n0\tno good\n",
        "with.csv": 'idx,text,Label\n1,"a, fine film",1\n2,no good,0\n',
        "without.csv": '1,"a fine\nfilm"\n0,no good\n',
    }.items():
        (tmp_path / name).write_text(lines)
        assert data.classes(str(tmp_path / name)) == ["0", "1"], name
        rows = [
            row
            for split in data.SPLITS
            for row in data._examples(resolve(str(tmp_path / name), "data"))[split]
        ]
        assert {label: text for text, label in rows}["0"] == "no good"
        assert {label: text for text, label in rows}["1"][:6] in ("a fine", 'a "fin', "a, fin")


BAD_LABELLED = {
    "null.jsonl": ('{"text": "a", "label": null}', "row 1: no class is given"),
    "nan.jsonl": ('{"text": "a", "label": NaN}', "row 1: no class is given"),
    "empty.tsv": ("1\tgood\n \tbad\n", "row 2: no class is given"),
    "missing.jsonl": (
        '{"text": "a", "label": 1}\n{"text": "b"}',
        "row 2: rows need a column label; they have text",
    ),
    "list.jsonl": ('{"text": "a", "label": [1]}', "row 1: the class is list"),
    "blank.tsv": ("1\tgood\n0\t \n", "row 2: the text is empty"),
    "five.tsv": ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n", "row 1: 5 fields where label and text"),
    "quote.csv": ('1,"good\n0,bad\n', "row 2: unexpected end of data"),
    "ragged.csv": ("text,label\ngood,1\nso,bad,0\n", "row 3: 3 fields where text and label"),
    "class.tsv": ("1\tgood\n1\tbad\n", "at least 2 classes are needed; there is 1"),
}


@pytest.mark.parametrize("name", BAD_LABELLED)
def test_rows_without_a_class_or_text_are_refused_with_their_place(tmp_path, name):
    content, said = BAD_LABELLED[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(AssetError, match=rf"{name.split('.')[0]}.*{said}"):
        data.classes(str(tmp_path))


BAD_TEXT = {
    "nul.txt": (b"one\n\0two", "byte 4 is a NUL"),
    "utf16.txt": ("one two".encode("utf-16"), "is a NUL"),
    "latin.txt": ("é là-bas ".encode("latin-1") * 50, "not UTF-8: byte 0 is 0xe9"),
    "image.md": (b"\x89PNG\r\n\x1a\n" + bytes(range(1, 256)), "not UTF-8: byte 0 is 0x89"),
    "cut.jsonl": (b'{"text": "one"}\n{"text": "two', "line 2: not JSON"),
    "list.jsonl": (b'["one"]', "row 1: a list where named columns are needed"),
    "number.json": (b"17", "int where a list of rows is needed"),
    "deep.json": (b"[" * 100_000, "not JSON"),
    "null.jsonl": (b'{"text": null}', "row 1: the text is NoneType"),
    "nul.jsonl": (rb'{"text": "a\u0000b"}', "row 1: the text holds a NUL"),
    "half.jsonl": (rb'{"text": "a\ud800b"}', "row 1: the text holds a NUL or half"),
    "bad.parquet": (b"PAR1xxxxPAR1", "not Parquet"),
    "bad.jsonl.gz": (b"no gzip", "damaged: Not a gzipped file"),
    "cut.jsonl.gz": (gzip.compress(b'{"text": "one"}' * 99)[:-9], "damaged"),
    "odd.tar.gz": (gzip.compress(b"x"), "line 1: not JSON"),
    "empty.txt": (b"", "nothing for the split test"),
    "blank.txt": (b" \n\n \n", "nothing for the split test"),
}


@pytest.mark.parametrize("name", BAD_TEXT)
def test_files_that_are_no_text_are_refused_by_name_and_place(tmp_path, name):
    content, said = BAD_TEXT[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AssetError, match=said):
        data.documents(str(tmp_path / name), "test")


def test_a_stray_byte_and_a_byte_order_mark_are_let_pass(tmp_path):
    (tmp_path / "wiki.test.txt").write_bytes(b"\xef\xbb\xbfprice: \xa310\r\n" + b"more words here\n" * 200)
    assert data.documents(str(tmp_path), "test")[0] == "price: \ufffd10"


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(
        ["a.txt", "a.jsonl", "a.json", "a.tsv", "a.csv", "a.parquet", "a.jsonl.gz", "a.md", "a.zip"]
    ),
    st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.lists(
        st.dictionaries(st.sampled_from(["text", "label"]), st.none() | st.text() | st.integers())
    ).map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
)
def test_whatever_a_file_holds_it_is_text_or_an_error_of_ours(tmp_path_factory, name, content):
    file = tmp_path_factory.mktemp("any") / name
    file.write_bytes(content)
    for read in (lambda: data.documents(str(file), "test"), lambda: data.classes(str(file))):
        with contextlib.suppress(AssetError):
            assert all(isinstance(text, str) and text.strip() for text in read())


class WithBos:
    """A tokenizer that begins every text with BOS (id 1), as those of Gemma, Llama and OPT do."""

    bos_token_id = 1

    def __init__(self):
        self.inner = tiny_tokenizer()

    def __call__(self, text, add_special_tokens=True, verbose=True):
        return {"input_ids": [1] * add_special_tokens + self.inner(text)["input_ids"]}


@pytest.mark.parametrize("split", ["test", "calibration"])
def test_each_window_begins_with_the_bos_that_the_tokenizer_sets(corpus, split):
    plain = data.windows(corpus, tiny_tokenizer(), split, 15, 6)
    each = data.windows(corpus, WithBos(), split, 16, 6)
    assert each.shape == (6, 16)
    assert (each[:, 0] == 1).all()
    assert torch.equal(each[:, 1:], plain)
    first = data.windows(corpus, WithBos(), "test", 16, bos="text").flatten().tolist()
    assert first[0] == 1
    assert 1 not in data.windows(corpus, WithBos(), "test", 16, bos="none")
    assert 1 not in first[1:]
    assert first[1:100] == data.windows(corpus, tiny_tokenizer(), "test", 16).flatten().tolist()[:99]


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
    with pytest.raises(AssetError, match=r"test\.tsv, row 1: 1 fields where label and text.*tab between"):
        data.examples(str(tmp_path), "test")


def test_more_texts_than_there_are_is_refused(tmp_path):
    name = tiny_classes(tmp_path)
    with pytest.raises(ParameterError, match="count"):
        data.classification(name, tiny_tokenizer(), "test", 24, 8, count=1000)
