"""No field of any class of parameters takes nonsense: every value here is refused by name, or listed with a reason."""

import importlib
import math
import pkgutil
import re
import subprocess
import sys
from functools import cache

import pytest
from malformed import told

from lmcompress import cli, pages, records
from lmcompress.errors import ParameterError
from lmcompress.experiments import kinds
from lmcompress.files import project_root
from lmcompress.parameters import Parameters
from lmcompress.recipe import Recipe
from lmcompress.records import Experiment, Study
from lmcompress.sweep import Sweep

NONSENSE = {
    "-1": -1,
    "0": 0,
    "10^18": 10**18,
    "1.5": 1.5,
    "1e308": 1e308,
    "NaN": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "true": True,
    "false": False,
    "null": None,
    "empty text": "",
    "a space": " ",
    "a NUL": "a\0b",
    "a word": "nonsense",
    "bytes": b"\xff",
    "[]": [],
    "{}": {},
    "[null]": [None],
    "[true]": [True],
    "[-1]": [-1],
    "[10^18]": [10**18],
    "[NaN]": [math.nan],
    "[a word]": ["nonsense"],
    "[[]]": [[]],
    "[[[1]]]": [[[1]]],
    "{a word: 1}": {"nonsense": 1},
    "{1: 1}": {1: 1},
    "a class": object,
}

EXTRA = {
    "calibrated_gptq": {"method": "gptq", "window": 64, "act_order": True},
    "evolutionary": {"windows": 4, "generations": 2},
    "permuted_band": {"draws": 2},
}  # fields that no other kind has


def classes() -> dict[str, type[Parameters]]:
    """Every class of parameters of the package that is used itself, by name."""
    for one in pkgutil.iter_modules(pages.__path__):
        importlib.import_module(f"lmcompress.pages.{one.name}")
    known, waiting = set(kinds().values()), [Parameters]
    found = {}
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        module = cls.__module__.removeprefix("lmcompress.")
        ours = module != cls.__module__ and not module.startswith(
            "report."
        )  # there: claims, which no user gives
        if issubclass(cls, Experiment):
            used = cls in known
        else:
            used = not issubclass(cls, Study) or cls.experiments is not Study.experiments
        if ours and used and cls is not Parameters:
            found[f"{module}.{cls.__name__}"] = cls
    return found


CLASSES = classes()


@cache
def valid_experiments() -> dict[str, dict]:
    """Kind -> parameters of one run of it: a published or a planned one."""
    planned = (one for cls in CLASSES.values() if issubclass(cls, Study) for one in cls().experiments())
    found = {one.kind: one.model_dump() for one in planned}
    found |= {kind: one.parameters for kind in kinds() for one in records.published_records(kind)[:1]}
    for kind in kinds().keys() - found.keys():  # neither planned by default nor published
        fields = kinds()[kind].model_fields
        like = max(found.values(), key=lambda one: len(one.keys() & fields))
        found[kind] = {name: value for name, value in like.items() if name in fields} | EXTRA.get(kind, {})
    return found


def valid(cls: type[Parameters]) -> dict:
    if issubclass(cls, Experiment):
        return valid_experiments()[cls.kind]
    if cls is Sweep:
        return {"experiment": "pruned_model", "fixed": valid_experiments()["pruned_model"]}
    return {"prune": {}} if cls is Recipe else {}


def refused(cls: type[Parameters], given: dict) -> bool:
    """Whether a run cannot begin with these parameters, said in one line that names a field."""
    try:
        made = cls(**given)
        if isinstance(made, Study | Sweep):
            made.experiments()
    except ParameterError as error:
        return bool(error.field) and len(str(error).splitlines()) == 1
    return False


@cache
def accepted(name: str) -> set[tuple[str, str]]:
    """``(value, field)`` of what a class takes."""
    cls = CLASSES[name]
    return {
        (said, field)
        for field in cls.model_fields
        for said, value in NONSENSE.items()
        if not refused(cls, valid(cls) | {field: value})
    }


MEANT = {
    "a flag is true or false": (
        ["true", "false"],
        "act_order asked bos checkpointing compile draws_language gptq gptq_language layer_errors symmetric",
    ),
    "all there are; or what is said elsewhere": (
        ["null"],
        """batch calibration corpus criteria granularities layers length lr model pattern patterns quantize
        questions reconstruct retrain retraining seeds spans subsets targets test validation""",
    ),
    "leaves this part out": (
        ["[]"],
        """architectures as_uniform averages budgets cards classifier_scores clustered compared embeddings
        gptq_widths gptq_windows kernels language_measures language_scores measures more packings patterns permuted
        random_averages retrained runs searched shapes sparsities tests truth_texts truth_windows uniform""",
    ),
    "nothing beyond the defaults": (
        ["{}"],
        "block_rates classifier_rates grid layers prune quantize rates reconstruct retrain tasks",
    ),
    "none; the first; a pattern of 0 %": (
        ["0"],
        """biases block_rate_pattern budget_pattern compilation evaluation fine_tune_steps generations pattern
        rate_pattern rate_steps seed spared_at steps test""",
    ),
    "none": (["empty text"], "block_rate_pattern classifier language notebook rate_pattern runs_of"),
    "a regular expression": (["empty text", "a space", "a NUL", "a word"], "layers"),
}
LISTED = {(said, field) for values, fields in MEANT.values() for said in values for field in fields.split()}
TRIED = sum(len(cls.model_fields) for cls in CLASSES.values()) * len(NONSENSE)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_takes_no_nonsense(name):
    assert not refused(CLASSES[name], valid(CLASSES[name]))
    assert not accepted(name) - LISTED


def test_what_is_listed_as_meant_is_taken_somewhere():
    assert set().union(*map(accepted, CLASSES)) >= LISTED


def test_the_book_tells_no_more_than_was_tried():
    tried = sum(len(cls.model_fields) for cls in CLASSES.values()) * len(NONSENSE)
    assert told("a value in every field of every class of parameters") <= tried


UNSTARTABLE = {  # each value is one that its field may have; only together they ask for runs that cannot be
    "10 errors_at": ("['35%']", "errors_at"),
    "00 lengths": ("[500]", "lengths"),
    "20 more": ("[{subsets: [biasses]}]", r"more\.0\.subsets\.0: .*did you mean biases"),
    "21 block_subsets": ("[head]", "subset: 'head' .*parameters inside a"),
    "21 targets": ("[dense]", None),
    "22 rounds": ("[1, 30]", "rounds: 30 .*at most the 8 steps"),
    "22 patterns": ("['2:4']", "rounds: 3 .*at most 2 for 2:4"),
    "29 compared": ("[{subsets: [biases+norms]}]", "subsets: 'biases.norms' .*one of nothing, norms"),
    "34 averages": ("[1.5]", "averages: 1.5 .*at least 2 bits"),
    "35 average": ("1.5", "averages: 1.5 .*at least 2 bits"),
    "35 uniform": ("[7]", r"uniform\.0: 7 "),
}


@pytest.mark.parametrize("given", UNSTARTABLE)
def test_what_passes_the_check_can_start(given, capsys):
    value, said = UNSTARTABLE[given]
    code = cli.main(
        ["run", *given.split()[:1], "--check", "--profile", "none", "-p", given.split()[1], value]
    )
    assert code == (0 if said is None else 2)
    assert said is None or re.search(said, capsys.readouterr().err)


def test_the_workflow_checks_as_the_command_does(tmp_path):
    (tmp_path / "p.yaml").write_text("10_pruning_sweep: {errors_at: ['35%']}\n")
    script = project_root() / "workflow" / "scripts" / "parameters.py"
    words = [sys.executable, script, tmp_path / "p.yaml", "10_pruning_sweep", tmp_path / "out.yaml"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert re.match(r"Failed: .*p\.yaml, 10_pruning_sweep: errors_at: ", done.stderr)
    assert done.returncode == 1
    assert not (tmp_path / "out.yaml").exists()
