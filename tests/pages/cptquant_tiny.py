"""A tiny language model, classifier and texts for the CPTQuant studies' tests; records go to a folder of
their own.
"""

import shutil
from pathlib import Path

import pytest
from tiny_assets import tiny_classes, tiny_corpus, tiny_model_folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Parameters of a ``SubjectStudy`` on a tiny Llama and a tiny BERT."""
    place = tmp_path_factory.mktemp("project")
    shutil.copytree(Path(__file__).parents[2] / "data" / "paper", place / "data" / "paper")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMCOMPRESS_ROOT", str(place))
        yield {
            "language": tiny_model_folder(place / "llama"),
            "corpus": tiny_corpus(place / "corpus", 400),
            "length": 32,
            "windows": 4,
            "classifier": tiny_model_folder(place / "bert", "bert"),
            "texts": tiny_classes(place / "classes", 400),
            "text_length": 24,
            "text_count": 24,
            "fine_tune_steps": 20,
        }
