"""Zero-shot through lm-eval on local files, against log-likelihoods summed by hand; no network is touched."""

import json
import math
from typing import get_args

import pytest
import torch
from tiny import VOCABULARY, tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lmcompress import zeroshot
from lmcompress.errors import AssetError, ParameterError
from lmcompress.pages.perp_claims import Study
from lmcompress.parameters import TaskName

QUESTIONS = [
    {"goal": "open a jar", "sol1": "turn the lid", "sol2": "turn the jar upside down and wait"},
    {"goal": "boil an egg", "sol1": "put it into cold oil", "sol2": "put it into hot water"},
    {"goal": "dry a towel", "sol1": "hang it in the sun", "sol2": "fold it"},
    {"goal": "cut paper", "sol1": "use a spoon", "sol2": "use scissors"},
]
LABELS = [0, 1, 0, 1]


FORMS = {  # file and rows as the local copies of the tasks have them; (contexts, continuations, right one) by hand
    "boolq": (
        "val.jsonl",
        [
            {"question": "is hot water cold", "answer": False, "passage": "A jar of hot water"},
            {"question": "is the sun hot", "answer": True, "passage": "The sun is hot"},
        ],
        [
            (["A jar of hot water\nQuestion: is hot water cold?\nAnswer:"] * 2, ["no", "yes"], 0),
            (["The sun is hot\nQuestion: is the sun hot?\nAnswer:"] * 2, ["no", "yes"], 1),
        ],
    ),
    "hellaswag": (
        "val_1000.jsonl",
        [
            {
                "ind": 7,
                "activity_label": "Cut paper",
                "ctx_a": "A man has [substeps] scissors.",
                "ctx_b": "he",
                "ctx": "A man has [substeps] scissors. he",
                "split": "val",
                "split_type": "indomain",
                "label": 2,
                "endings": ["cuts oil.", "folds a spoon.", "cuts paper.", "is a jar."],
                "source_id": "x",
            }
        ]
        * 2,
        [
            (
                ["Cut paper: A man has scissors. He"] * 4,
                ["cuts oil.", "folds a spoon.", "cuts paper.", "is a jar."],
                2,
            )
        ]
        * 2,
    ),
    "winogrande": (
        "val.jsonl",
        [
            {
                "sentence": "Ann fed Bob since _ was hungry .",
                "option1": "Ann",
                "option2": "Bob",
                "answer": "2",
            },
            {"sentence": "Ann fed Bob since _ was kind .", "option1": "Ann", "option2": "Bob", "answer": "1"},
        ],
        [
            (["Ann fed Bob since Ann", "Ann fed Bob since Bob"], ["was hungry ."] * 2, 1),
            (["Ann fed Bob since Ann", "Ann fed Bob since Bob"], ["was kind ."] * 2, 0),
        ],
    ),
    "arc_easy": (
        "test.jsonl",
        [
            {"question": "What is hot?", "choices": ["the sun", "cold water", "paper"], "label": 0},
            {"question": "What folds?", "choices": ["the sun", "oil", "a jar", "paper", "water"], "label": 3},
        ],
        [
            (["Question: What is hot?\nAnswer:"] * 3, ["the sun", "cold water", "paper"], 0),
            (["Question: What folds?\nAnswer:"] * 5, ["the sun", "oil", "a jar", "paper", "water"], 3),
        ],
    ),
    "openbookqa": (
        "test.jsonl",
        [{"question": "Predators eat", "choices": ["lions", "humans", "bunnies", "grass"], "label": 2}] * 2,
        [(["Predators eat"] * 4, ["lions", "humans", "bunnies", "grass"], 2)] * 2,
    ),
    "rte": (
        "dev.tsv",
        "sentence1\tsentence2\tlabel\tidx\nIt is hot.\tIt is cold.\t1\t0\nAnn fed Bob.\tBob eats.\t0\t1\n",
        [
            (["It is hot.\nQuestion: It is cold. True or False?\nAnswer:"] * 2, ["True", "False"], 1),
            (["Ann fed Bob.\nQuestion: Bob eats. True or False?\nAnswer:"] * 2, ["True", "False"], 0),
        ],
    ),
}
FORMS["arc_challenge"] = FORMS["arc_easy"]


@pytest.fixture(scope="module")
def tokenizer():
    texts = [text for row in QUESTIONS for text in row.values()]
    texts += [text for _, _, asked in FORMS.values() for one in asked for text in (*one[0], *one[1])]
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    assert len(vocabulary) <= VOCABULARY
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


def write(folder, name):
    """The local folder of a task, with a read-me beside its file."""
    file, rows, _ = FORMS[name]
    text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    (folder / file).write_text(text)
    (folder / "README.md").write_text("where it is from")
    return folder


def by_hand(model, tokenizer, asked):
    """For each question 1 where the right choice has the largest summed log-likelihood; and the same a byte."""
    right, normalised = [], []
    for contexts, choices, label in asked:
        sums = []
        for context, choice in zip(contexts, choices, strict=True):
            prompt, answer = tokenizer(context)["input_ids"], tokenizer(choice)["input_ids"]
            with torch.no_grad():
                logs = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
            sums.append(sum(logs[len(prompt) - 1 + k, token].item() for k, token in enumerate(answer)))
        lengths = [len(choice) for choice in choices]
        right.append(int(sums[label] == max(sums)))
        shares = [one / length for one, length in zip(sums, lengths, strict=True)]
        normalised.append(int(shares[label] == max(shares)))
    return right, normalised


@pytest.mark.parametrize("name", FORMS)
def test_every_task_from_a_local_folder_equals_sums_by_hand(tmp_path, tokenizer, name):
    folder = write(tmp_path, name)
    for seed in (0, 1):
        model = tiny_model("llama", seed)
        found = zeroshot.evaluate(model, tokenizer, {name: folder}, batch_size=2)[name]
        right, normalised = by_hand(model, tokenizer, FORMS[name][2])
        assert found.hits == right
        assert found.accuracy == sum(right) / len(right)
        assert found.questions == len(right) < found.official == zeroshot.TASKS[name][0]
        has = name in ("hellaswag", "arc_easy", "arc_challenge", "openbookqa")
        assert found.normalised_hits == (normalised if has else None)


def test_questions_nested_as_their_authors_publish_them_are_the_same(tmp_path):
    flat = write(tmp_path, "arc_easy")
    nested = tmp_path / "nested"
    nested.mkdir()
    (nested / "ARC-Easy-Train.jsonl").write_text("{}")
    with (nested / "ARC-Easy-Test.jsonl").open("w") as file:
        for row in FORMS["arc_easy"][1]:
            choices = [{"text": text, "label": str(index)} for index, text in enumerate(row["choices"], 1)]
            about = {"stem": row["question"], "choices": choices}
            file.write(json.dumps({"id": "x", "question": about, "answerKey": str(row["label"] + 1)}) + "\n")
    for name in ("arc_easy", "openbookqa"):
        assert zeroshot._questions(name, nested) == zeroshot._questions(name, flat)


@pytest.mark.parametrize("seed", [0, 1])
def test_piqa_from_a_folder_equals_sums_by_hand(piqa, tokenizer, seed):
    model = tiny_model("llama", seed)
    found = zeroshot.evaluate(model, tokenizer, {"piqa": piqa}, batch_size=2)["piqa"]
    asked = [
        ([f"Question: {row['goal']}\nAnswer:"] * 2, [row["sol1"], row["sol2"]], label)
        for row, label in zip(QUESTIONS, LABELS, strict=True)
    ]
    right, normalised = by_hand(model, tokenizer, asked)
    share = sum(right) / 4
    assert found.accuracy == share
    assert found.error == pytest.approx(math.sqrt(share * (1 - share) / 3))
    assert found.questions == 4
    assert (found.hits, found.normalised_hits) == (right, normalised)
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


BAD = {
    "boolq": ({"answer": "no"}, {"passage": ""}, {"question": None}),
    "hellaswag": ({"label": 4}, {"label": "x"}, {"endings": []}, {"ctx_a": 3}),
    "winogrande": ({"sentence": "no gap"}, {"sentence": "_ and _"}, {"answer": "3"}, {"option1": ""}),
    "arc_challenge": ({"label": 3}, {"label": -1}, {"label": True}, {"choices": ["one"]}, {"choices": None}),
    "openbookqa": ({"question": ""}, {"question": {"stem": "x"}}),
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_questions_are_refused_with_their_line(tmp_path, name, tokenizer):
    file, rows, _ = FORMS[name]
    for change in (*BAD[name], dict.fromkeys(rows[0], None)):
        lines = [json.dumps(rows[0]), json.dumps(rows[0] | change)]
        (tmp_path / file).write_text("\n".join(lines))
        with pytest.raises(AssetError, match=rf"{file}, line 2: not a question of this task"):
            zeroshot.evaluate(tiny_model("opt"), tokenizer, {name: tmp_path})
    (tmp_path / file).write_text("{")
    with pytest.raises(AssetError, match=rf"{file}, line 1: not a question"):
        zeroshot.evaluate(tiny_model("opt"), tokenizer, {name: tmp_path})
    (tmp_path / file).write_text("")
    with pytest.raises(AssetError, match=f"no questions of {name}"):
        zeroshot.evaluate(tiny_model("opt"), tokenizer, {name: tmp_path})
    (tmp_path / "dev.jsonl").touch()
    with pytest.raises(AssetError, match=r"one \.jsonl file with val, dev or test"):
        zeroshot.evaluate(tiny_model("opt"), tokenizer, {name: tmp_path})


@pytest.mark.parametrize(
    ("tasks", "limit", "named"),
    [
        ({"pika": None}, None, "hellaswag"),
        ({"pika": "folder"}, None, "rte"),
        ({}, None, "piqa"),
        ({"piqa": None}, 0, "at least 2"),
    ],
)
def test_bad_parameters_are_refused(tasks, limit, named, tokenizer):
    with pytest.raises(ParameterError, match=named):
        zeroshot.evaluate(tiny_model("opt"), tokenizer, tasks, limit=limit)


def test_an_experiment_takes_the_tasks_that_there_are_and_no_other():
    assert get_args(TaskName) == tuple(zeroshot.TASKS)
    with pytest.raises(ParameterError, match="hellaswag"):
        Study(tasks={"hellaswagg": ""})
