"""A tiny run of every kind of experiment, whose result is kept in ``results.json``: they guard each kind's ``version``.

``python tests/golden/runs.py [KIND ...]`` records anew; a result that changed is taken only with a raised version,
a new field of it always.
"""

import json
import math
import os
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tiny_assets import tiny_classes, tiny_corpus, tiny_model_folder

from lmcompress.experiments import kinds, speeds

FILE = Path(__file__).with_name("results.json")
TIMES = ("seconds", "deciding", "memory", "peak")  # parts of names of what no two runs have in common
DIGITS = 6
SMALLER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "vocab_size": 128,
}  # than 1.1 billion


def runs(place: Path) -> dict[str, dict]:
    """Kind -> parameters, on tiny models and texts that are made in ``place``."""
    llama, bert = tiny_model_folder(place / "llama"), tiny_model_folder(place / "bert", "bert")
    corpus, texts = tiny_corpus(place / "corpus", 300), tiny_classes(place / "classes", 300)
    language = {"model": llama, "data": corpus, "task": "language", "length": 16}
    classes = {"model": bert, "data": texts, "task": "classification", "length": 16, "steps": 4}
    bits = {"per": "linear", "widths": [3, 4, 8], "group": "row", "symmetric": False, "windows": 4}
    scored = language | bits | {"seed": 0}
    on = {"model": llama, "data": corpus, "dtype": "fp32", "length": 16, "calibration": 4, "seed": 0}
    pruning = on | {"batch": 4, "criterion": "magnitude", "pattern": "50%", "retraining": 8, "validation": 4}
    tested = pruning | {"tests": [corpus], "test": 4, "subset": "norms", "steps": 3}
    one_shot = on | {"test": 4}
    speed = {"kernel": "bf16", "batch": 1, "prompt": 8, "new_tokens": 2, "compile": False}
    averages = {"averages": [4.0], "test": 4}
    questions = place / "questions"
    questions.mkdir()
    asked = [{"goal": f"g{k}", "sol1": "a ship", "sol2": "the sea"} for k in range(4)]
    (questions / "valid.jsonl").write_text("\n".join(map(json.dumps, asked)))
    (questions / "valid-labels.lst").write_text("0\n1\n0\n1\n")
    return {
        "biases_matter": {"model": llama, "data": corpus, "dtype": "fp32", "length": 16, "batch": 4}
        | {"steps": 4, "test": 4},
        "calibrated_gptq": scored | {"method": "gptq", "test": 4, "window": 24, "act_order": True},
        "choose_rate": pruning | {"subset": "norms", "steps": 3},
        "choose_reconstruction_rate": pruning | {"subset": "masklora", "granularity": "block", "steps": 3},
        "clustered": scored
        | {"score": "weight error", "test": 4, "clusters": "k_means", "cluster_widths": [8, 3]},
        "cmpq_checks": language | {"windows": 12, "held_out": 12, "null_draws": 1, "seed": 0},
        "cmpq_flaws": language | {"counts": [80, 120], "padding": 4, "seed": 0},
        "dense_perplexity": {
            "model": llama,
            "data": corpus,
            "dtype": "fp32",
            "spans": 4,
            "span": 32,
            "length": 16,
        },
        "divergence": language | bits,
        "dotted_name": classes | {"bits": 4, "test": 8},
        "evolutionary": scored | averages | {"generations": 2, "offspring": 4, "stages": [[2, 2], [1, 4]]},
        "few_columns": one_shot | {"action": "spare", "columns": "largest", "share": 0.1, "pattern": "50%"},
        "fine_tuned": classes | {"test": 8},
        "frontier": scored | averages | {"score": "weight error"},
        "input_norms": one_shot | {"share": 0.1},
        "joint": scored | averages | {"patterns": ["0%", "50%"], "criterion": "magnitude", "per": None},
        "origin_grid": language | {"test": 4},
        "packed": scored | {"score": "weight error", "test": 4, "average": 4.0, "embeddings": "8bit"},
        "permuted_band": scored | {"score": "weight error", "test": 4, "as_uniform": [4], "draws": 2},
        "pruned_model": one_shot | {"criterion": "sparsegpt", "pattern": "2:4", "layer_errors": True},
        "random_band": scored | averages | {"draws": 2, "windows": None},
        "random_head": classes | {"steps": 0, "texts": 8, "seeds": [0, 1]},
        "reconstruct": tested | {"granularity": "block", "subset": "masklora", "lr": 0.003},
        "released_draws": language | {"windows": 4, "draws": 2, "seed": 0},
        "retrain": tested | {"lr": 0.01, "rounds": 2},
        "score": scored | {"score": "TDMPQ, Fisher"},
        "shape_speed": speed | {"shape": "tinyllama-1.1b"},
        "share_trained": {"architecture": "OPT-125M", "subsets": ["biases", "norms"]},
        "speed": speed | {"model": llama, "data": corpus, "length": 16, "test": 4},
        "step_cost": {
            "model": llama,
            "dtype": "fp32",
            "length": 16,
            "batch": 2,
            "subset": "norms",
            "steps": 1,
        },
        "truth": language | bits,
        "tuned": tested | {"rates": [0.01], "subset": "masklora", "rank": 2},
        "uniform_format": scored | {"method": "gptq", "test": 4},
        "weight_grid": {"model": llama},
        "zero_shot": pruning
        | {"subset": "nothing", "steps": 1, "lr": None, "tasks": {"piqa": str(questions)}, "questions": None},
    }


def result_of(kind: str, parameters: dict, place: Path) -> object:
    """What the run gives, without times and without the names of the folders in ``place``."""
    cls = kinds()[kind]
    given = {
        name: value for name, value in parameters.items() if name in cls.model_fields and value is not None
    }
    with patch.dict(speeds.SHAPES["tinyllama-1.1b"], SMALLER):
        return _plain(cls(**given).run(), str(place), cls.timed)


def _plain(value: object, place: str, timed: bool) -> object:
    if isinstance(value, dict):
        return {
            key.replace(place, ""): "a time"
            if any(word in key for word in TIMES)
            else _plain(one, place, timed)
            for key, one in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(one, place, timed) for one in value]
    if isinstance(value, float):
        if timed:
            return "a time"
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)
    return value.replace(place, "") if isinstance(value, str) else value


def main(names: list[str]) -> None:
    kept = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LMCOMPRESS_ROOT"] = folder
        wanted = runs(Path(folder))
        for kind in names or sorted(wanted):
            new = {"version": kinds()[kind].version, "result": result_of(kind, wanted[kind], Path(folder))}
            old = kept.get(kind)
            if (
                old and old["version"] == new["version"]
            ):  # fields alone are added: the test judges the numbers
                new["result"] |= old["result"]
            kept[kind] = new
            print(kind)
            lines = [f"{json.dumps(name)}: {json.dumps(kept[name], sort_keys=True)}" for name in sorted(kept)]
            FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
