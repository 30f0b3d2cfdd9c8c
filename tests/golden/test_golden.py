"""The result of a tiny run of every kind is what it was; whoever changes what a kind computes raises its version."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import runs

from lmcompress.experiments import kinds

KEPT = json.loads(runs.FILE.read_text(encoding="utf-8"))
NEAR = {
    "rel": 2e-3,
    "abs": 1e-5,
}  # what kernels of another processor may add up to in a few steps of training


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMCOMPRESS_ROOT", str(folder))
        yield folder, runs.runs(folder)


def differences(old: object, new: object, where: str = "result") -> list[str]:
    """Where two results differ by more than :data:`NEAR`."""
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        return [text for key in old for text in differences(old[key], new[key], f"{where}.{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            text
            for at, pair in enumerate(zip(old, new, strict=True))
            for text in differences(*pair, f"{where}[{at}]")
        ]
    numbers = [isinstance(one, (int, float)) and not isinstance(one, bool) for one in (old, new)]
    same = (
        new == pytest.approx(old, **NEAR) if all(numbers) and float in map(type, (old, new)) else new == old
    )
    return [] if same else [f"{where}: {old} became {new}"]


def test_every_kind_has_a_golden_run_of_its_version():
    assert KEPT.keys() == kinds().keys()
    assert {kind: cls.version for kind, cls in kinds().items()} == {
        kind: kept["version"] for kind, kept in KEPT.items()
    }


@pytest.mark.parametrize("kind", sorted(KEPT))
def test_the_result_of_a_kind_is_what_it_was(kind, place):
    folder, wanted = place
    found = differences(KEPT[kind]["result"], runs.result_of(kind, wanted[kind], folder))
    assert not found, (
        f"the result of {kind} changed ({'; '.join(found[:3])}): raise version in {kinds()[kind].__name__} "
        f"and run python tests/golden/runs.py {kind}"
    )


def test_a_changed_result_is_noticed(place):
    folder, wanted = place
    assert differences({"a": [1.0, 2]}, {"a": [1.0001, 2]}) == []
    assert differences({"a": [1.0, 2]}, {"a": [1.1, 2]}) == ["result.a[0]: 1.0 became 1.1"]
    assert differences({"a": 1}, {"b": 1})
    changed = wanted["retrain"] | {"lr": 0.02}
    assert differences(KEPT["retrain"]["result"], runs.result_of("retrain", changed, folder))
