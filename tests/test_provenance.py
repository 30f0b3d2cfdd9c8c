import importlib
import sys
import textwrap

import pytest

from lmcompress import provenance
from lmcompress.studies import pruning_sweep

SOURCE = '''
"""A module."""
from lmcompress.prune.pattern import parse
from lmcompress.retrain import batches

LIMIT = 3


def used(x):
    """Docstring."""
    return parse(x), LIMIT  # a comment


def unused():
    return batches


class One:
    def run(self):
        return used(0.5)
'''


@pytest.fixture
def code_of(tmp_path, monkeypatch):
    """Hash of class One of a module with the given source."""
    monkeypatch.syspath_prepend(str(tmp_path))
    count = iter(range(100))

    def hashed(source):
        name = f"module_for_hash_{next(count)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        importlib.invalidate_caches()
        found = provenance.code_of(importlib.import_module(name).One)
        del sys.modules[name]
        return found.pop(name), found

    return hashed


def test_only_what_the_class_refers_to_counts(code_of):
    own, others = code_of(SOURCE)
    assert "lmcompress.prune.pattern" in others
    assert "lmcompress.retrain.batches" not in others
    assert code_of(SOURCE.replace("return batches", "return batches, 1"))[0] == own


def test_of_an_import_only_the_names_in_use_count(code_of):
    own, others = code_of(SOURCE)
    both = SOURCE.replace(
        "from lmcompress.retrain import batches", "from lmcompress.retrain import batches, train"
    )
    assert code_of(both) == (own, others)
    in_use = code_of(both.replace("return parse(x), LIMIT", "return parse(x), LIMIT, train"))
    assert in_use[0] != own
    assert "lmcompress.retrain.train" in in_use[1]


def test_comments_docstrings_and_layout_do_not_count(code_of):
    own = code_of(SOURCE)[0]
    changed = (
        SOURCE.replace("a comment", "another")
        .replace("Docstring.", "Other words.")
        .replace("\n\n\n", "\n\n\n\n")
    )
    assert code_of(changed)[0] == own


@pytest.mark.parametrize(
    ("old", "new"), [("LIMIT = 3", "LIMIT = 4"), ("used(0.5)", "used(0.6)"), ("parse(x)", "parse(1)")]
)
def test_a_changed_constant_or_function_counts(code_of, old, new):
    assert code_of(SOURCE.replace(old, new))[0] != code_of(SOURCE)[0]


def test_modules_are_followed_through_their_imports_and_pages_are_not():
    found = provenance.code_of(pruning_sweep.PrunedModel)
    assert {
        "lmcompress.prune.sparsegpt",
        "lmcompress.stream",
        "lmcompress.evaluate",
        "lmcompress.stats",
    } <= found.keys()
    assert not {"lmcompress.figures", "lmcompress.records", "lmcompress.cli"} & found.keys()


def test_a_process_names_its_commit_versions_and_device(monkeypatch):
    about = provenance.here()
    assert about["versions"]["torch"]
    assert about["device"]
    provenance.commit.cache_clear()
    monkeypatch.setenv("LMCOMPRESS_COMMIT", "abc123")
    assert provenance.commit() == "abc123"
    provenance.commit.cache_clear()
