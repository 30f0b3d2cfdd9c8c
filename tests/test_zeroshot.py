"""Zero-shot through lm-eval on local files, against log-likelihoods summed by hand; no network is touched."""

import json
import math

import pytest
import torch
from tiny import tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lmcompress import zeroshot
from lmcompress.errors import AssetError, ParameterError

QUESTIONS = [
    {"goal": "open a jar", "sol1": "turn the lid", "sol2": "turn the jar upside down and wait"},
    {"goal": "boil an egg", "sol1": "put it into cold oil", "sol2": "put it into hot water"},
    {"goal": "dry a towel", "sol1": "hang it in the sun", "sol2": "fold it"},
    {"goal": "cut paper", "sol1": "use a spoon", "sol2": "use scissors"},
]
LABELS = [0, 1, 0, 1]


@pytest.fixture(scope="module")
def tokenizer():
    words = sorted({word for row in QUESTIONS for text in row.values() for word in text.split()})
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture
def piqa(tmp_path):
    (tmp_path / "valid.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    (tmp_path / "valid-labels.lst").write_text("".join(f"{label}\n" for label in LABELS))
    return tmp_path


def by_hand(model, tokenizer):
    """1 where the right solution has the larger summed log-likelihood after the official prompt."""
    right = []
    for row, label in zip(QUESTIONS, LABELS, strict=True):
        sums = []
        for solution in (row["sol1"], row["sol2"]):
            prompt = tokenizer(f"Question: {row['goal']}\nAnswer:")["input_ids"]
            answer = tokenizer(solution)["input_ids"]
            with torch.no_grad():
                logs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            sums.append(sum(logs[len(prompt) - 1 + k, token].item() for k, token in enumerate(answer)))
        right.append(int(sums[label] == max(sums)))
    return right


@pytest.mark.parametrize("seed", [0, 1])
def test_piqa_from_a_folder_equals_sums_by_hand(piqa, tokenizer, seed):
    model = tiny_model("llama", seed)
    found = zeroshot.evaluate(model, tokenizer, {"piqa": piqa}, batch_size=2)["piqa"]
    right = by_hand(model, tokenizer)
    share = sum(right) / 4
    assert found.accuracy == share
    assert found.error == pytest.approx(math.sqrt(share * (1 - share) / 3))
    assert found.questions == 4
    assert found.normalised is not None
    assert not model.training
    assert zeroshot.evaluate(model, tokenizer, {"piqa": piqa}, limit=2)["piqa"].accuracy == sum(right[:2]) / 2


def test_rte_from_a_folder_takes_quotes_as_text(tmp_path, tokenizer):
    header = "sentence1\tsentence2\tlabel\tidx\n"
    rows = ['A man said "hang it.\tA man spoke.\t0\t0\n', "It is hot.\tIt is cold.\t1\t1\n"]
    (tmp_path / "dev.tsv").write_text(header + "".join(rows))
    found = zeroshot.evaluate(tiny_model("opt"), tokenizer, {"rte": tmp_path})["rte"]
    assert found.questions == 2
    assert found.accuracy in (0, 0.5, 1)
    assert found.normalised is None


def test_damaged_files_are_refused_with_their_place(piqa, tmp_path, tokenizer):
    model = tiny_model("opt")
    (piqa / "valid-labels.lst").write_text("0\n1\n0\n")
    with pytest.raises(AssetError, match="4 questions but 3 labels"):
        zeroshot.evaluate(model, tokenizer, {"piqa": piqa})
    (piqa / "valid-labels.lst").write_text("0\n2\n0\n1\n")
    with pytest.raises(AssetError, match="line 2"):
        zeroshot.evaluate(model, tokenizer, {"piqa": piqa})
    with pytest.raises(AssetError, match=r"dev\.tsv: no such file"):
        zeroshot.evaluate(model, tokenizer, {"rte": tmp_path})
    (tmp_path / "dev.tsv").write_text("sentence1\tsentence2\tlabel\tidx\nonly one\n")
    with pytest.raises(AssetError, match="line 2"):
        zeroshot.evaluate(model, tokenizer, {"rte": tmp_path})


@pytest.mark.parametrize(
    ("tasks", "limit", "named"),
    [
        ({"pika": None}, None, "hellaswag"),
        ({"boolq": "folder"}, None, "rte"),
        ({}, None, "piqa"),
        ({"piqa": None}, 0, "at least 2"),
    ],
)
def test_bad_parameters_are_refused(tasks, limit, named, tokenizer):
    with pytest.raises(ParameterError, match=named):
        zeroshot.evaluate(tiny_model("opt"), tokenizer, tasks, limit=limit)
