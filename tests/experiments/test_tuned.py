"""Subsets at their own rates on a tiny model: the rate is chosen on the validation split, and zeros stay."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pages"))
from perp_tiny import classification, language, tiny_place  # noqa: F401

from lmcompress.experiments.tuned import Tuned
from lmcompress.records import obtain


def tuned(language, **changes):  # noqa: F811
    on = {key: value for key, value in language.items() if key != "corpus"} | {"data": language["corpus"]}
    about = {
        "criterion": "magnitude",
        "pattern": "50%",
        "subset": "norms",
        "seed": 0,
        "rates": (0.001, 0.01, 0.03),
    }
    return Tuned(**on | about | changes)


def test_the_rate_of_least_validation_loss_is_evaluated(language):  # noqa: F811
    (record,) = obtain([tuned(language)], progress=False)
    result = record.result
    losses = {trial["lr"]: trial["loss"] for trial in result["trials"]}
    assert result["lr"] == min(losses, key=losses.get)
    assert result["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert len(result["tests"][language["tests"][0]]["nll"]) == language["test"]


def test_the_rank_decides_how_much_is_trained(language):  # noqa: F811
    few, many = (
        record.result["trainable"]
        for record in obtain(
            [tuned(language, subset="masklora", rank=rank, rates=(0.003,)) for rank in (1, 4)], progress=False
        )
    )
    assert 4 * few == many


def test_nothing_is_the_pruned_model_and_questions_are_asked(language, tiny_place):  # noqa: F811
    folder = tiny_place / "questions"
    folder.mkdir()
    questions = [{"goal": f"g{k}", "sol1": "a ship", "sol2": "the sea"} for k in range(4)]
    (folder / "valid.jsonl").write_text("\n".join(map(json.dumps, questions)))
    (folder / "valid-labels.lst").write_text("0\n1\n0\n1\n")
    run = tuned(language, subset="nothing", steps=0, rates=(), tasks={"piqa": str(folder)})
    (record,) = obtain([run], progress=False)
    assert record.result["lr"] is None
    assert len(record.result["tasks"]["piqa"]["hits"]) == 4


def test_a_classifier(classification):  # noqa: F811
    on = {"model": classification["classifier"], "data": classification["texts"], "task": "classification"}
    on |= {
        "dtype": "fp32",
        "length": 16,
        "batch": 8,
        "fine_tune_steps": 20,
        "calibration": 8,
        "retraining": 60,
    }
    on |= {"validation": 24, "tests": (classification["texts"],), "test": 40, "steps": 6, "rates": (0.003,)}
    run = Tuned(**on, criterion="magnitude", pattern="50%", subset="biases", seed=0)
    (record,) = obtain([run], progress=False)
    assert len(record.result["tests"][classification["texts"]]["correct"]) == 40
