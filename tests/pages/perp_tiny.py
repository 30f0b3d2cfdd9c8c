"""A tiny language model, classifier and texts for the studies' tests, and a folder of their own for the
records.
"""

import shutil
from pathlib import Path

import pytest
from tiny_assets import tiny_classes, tiny_corpus, tiny_model_folder

from lmcompress.experiments import biased, pruned


@pytest.fixture(scope="module")
def tiny_place(tmp_path_factory):
    """Records and fine-tuned models of this test file go to an empty folder; nothing is remembered from
    another.
    """
    place = tmp_path_factory.mktemp("project")
    shutil.copytree(Path(__file__).parents[2] / "data" / "paper", place / "data" / "paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMCOMPRESS_ROOT", str(place))
        for cached in (
            pruned._dense,
            pruned._texts,
            pruned._pruned,
            pruned._reference,
            biased.with_biases,
        ):
            cached.cache_clear()
        yield place


@pytest.fixture(scope="module")
def language(tiny_place):
    """Parameters of a PERP study on a tiny Llama."""
    corpus = tiny_corpus(tiny_place / "corpus", 600)
    return {
        "model": tiny_model_folder(tiny_place / "llama"),
        "corpus": corpus,
        "tests": [corpus],
        "dtype": "fp32",
        "length": 32,
        "batch": 4,
        "steps": 12,
        "calibration": 8,
        "retraining": 48,
        "validation": 8,
        "test": 12,
    }


@pytest.fixture(scope="module")
def classification(tiny_place):
    """Parameters of the classifier's part, on a tiny BERT."""
    return {
        "classifier": tiny_model_folder(tiny_place / "bert", "bert"),
        "texts": tiny_classes(tiny_place / "classes", 800),
        "text_length": 16,
        "text_batch": 8,
        "fine_tune_steps": 20,
        "text_retraining": 60,
        "text_test": 60,
        "classifier_steps": 8,
    }
