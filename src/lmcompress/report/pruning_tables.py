"""Tables and verdicts of the pruning sweep, from its records and nothing else."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lmcompress.intervals import bootstrap
from lmcompress.numbers import mean
from lmcompress.prune.criteria import CRITERIA
from lmcompress.prune.pattern import NofM, parse
from lmcompress.records import Record
from lmcompress.report.words import of_kind

ORDER = ("random", "magnitude-global", "magnitude", "magnitude-row", "wanda", "sparsegpt")


def sweep(records: Sequence[Record]) -> pd.DataFrame:
    """One row for each criterion and pattern; means over seeds, intervals over windows of that mean."""
    rows = []
    for (criterion, pattern), runs in _groups(records).items():
        done = [run for run in runs if "failed" not in run.result]
        row: dict[str, Any] = {"criterion": criterion, "pattern": pattern, "kind": _kind(pattern)}
        row["sparsity (%)"] = 100 * parse(pattern).sparsity
        if done:
            low, high = bootstrap(_nll(done))
            row["perplexity"] = math.exp(float(_nll(done).mean()))
            row["low"], row["high"] = math.exp(low), math.exp(high)
            row["times dense"] = math.exp(float((_nll(done) - _dense_nll(done)).mean()))
            row["KL (nats a token)"] = mean(run.result["kl"]["value"] for run in done)
            row["top-1 agreement (%)"] = 100 * mean(run.result["agreement"]["value"] for run in done)
            errors = [value for run in done for values in run.result["errors"].values() for value in values]
            row["layer error"] = mean(errors) if errors else None
            row["seconds"] = mean(run.result["seconds"] for run in done)
            row["of which deciding"] = mean(run.result["deciding"] for run in done)
            values = [run.result["perplexity"]["value"] for run in done]
            row["seeds"], row["spread over seeds (%)"] = len(done), 100 * (max(values) / min(values) - 1)
        rows.append(row)
    frame = pd.DataFrame(rows)
    frame["criterion"] = _ordered(frame["criterion"])
    return frame.sort_values(["criterion", "kind", "sparsity (%)"], ignore_index=True)


def dense(records: Sequence[Record]) -> float:
    """Perplexity of the dense model."""
    return of_kind(records, "pruned_model")[0].result["dense"]["value"]


def about(records: Sequence[Record]) -> str:
    """The sentence for captions: model, text, windows, calibration."""
    first = of_kind(records, "pruned_model")
    given, seeds = first[0].parameters, len({run.parameters["seed"] for run in first})
    windows = len(first[0].result["nll"])
    return (
        f"{given['model']} ({given['dtype']}) on {windows} test windows of {given['length']} tokens of "
        f"{given['data']}, {given['calibration']} calibration windows, {seeds} draw{'s' * (seeds > 1)} of them."
    )


def costs(records: Sequence[Record]) -> pd.DataFrame:
    """Mean seconds of each criterion, in forward passes with their statistics, and in deciding and updating; over the
    runs that did not measure layer errors (where there are such).
    """
    runs: dict[str, list[Record]] = {}
    for (criterion, _), some in _groups(records).items():
        runs.setdefault(criterion, []).extend(run for run in some if "failed" not in run.result)
    rows = []
    for criterion, some in runs.items():
        lean = [run.result for run in some if not run.parameters["layer_errors"]] or [
            run.result for run in some
        ]
        if lean:
            deciding = mean(result["deciding"] for result in lean)
            passes = mean(result["seconds"] for result in lean) - deciding
            rows.append({"criterion": criterion, "part": "passes", "seconds": passes})
            rows.append({"criterion": criterion, "part": "decisions", "seconds": deciding})
    frame = pd.DataFrame(rows)
    frame["criterion"] = _ordered(frame["criterion"])
    return frame


def by_depth(records: Sequence[Record], pattern: str) -> pd.DataFrame:
    """Mean relative error of the Linears of each block, a row for each criterion and block, first seed."""
    rows = [
        {"criterion": criterion, "block": block, "relative output error": mean(errors)}
        for (criterion, found), runs in _groups(records).items()
        if found == pattern and runs[0].result.get("errors")
        for block, errors in enumerate(zip(*runs[0].result["errors"].values(), strict=True))
    ]
    frame = pd.DataFrame(rows)
    frame["criterion"] = _ordered(frame["criterion"])
    return frame


def inputs(records: Sequence[Record]) -> pd.DataFrame:
    """A row for each block and kind of Linear: how uneven its inputs are (see ``InputNorms``)."""
    found = of_kind(records, "input_norms")[0].result
    names = {"peak": "largest / median", "energy": "share of energy", "score": "share of Wanda's score"}
    rows = []
    for kind in found["peak"]:
        for block in range(len(found["peak"][kind])):
            values = {label: found[name][kind][block] for name, label in names.items()}
            rows.append(
                {"input of": kind, "block": block, **values, "kept by Wanda": found["kept"][kind][block]}
            )
    return pd.DataFrame(rows)


def outlier_summary(records: Sequence[Record]) -> pd.DataFrame:
    """Medians over the blocks of what :func:`inputs` has, for each kind of Linear."""
    share = f"{100 * of_kind(records, 'input_norms')[0].parameters['share']:g} %"
    found = inputs(records).groupby("input of", sort=False).median().drop(columns="block").reset_index()
    renamed = {
        "share of energy": f"energy in the largest {share}",
        "share of Wanda's score": "Wanda's score on them",
        "kept by Wanda": "of the weights on them kept at 50 %",
    }
    return found.rename(columns=renamed)


def complete(records: Sequence[Record]) -> list[Record]:
    """The records, or none where some kind of run is missing: a page shows a whole run or says so."""
    kinds = {record.kind for record in records}
    return list(records) if {"pruned_model", "input_norms", "few_columns"} <= kinds else []


def few_columns(records: Sequence[Record]) -> pd.DataFrame:
    """What sparing or dropping a share of the input features does, the largest or as many at random."""
    some = of_kind(records, "few_columns")
    rows = [
        {
            "treatment": f"{run.parameters['action']} {100 * run.parameters['share']:g} %: {_words(run)}",
            **_values(run),
        }
        for run in sorted(some, key=lambda run: (run.parameters["action"] == "drop", _words(run)))
    ]
    plain = _plain_magnitude(records)
    return pd.DataFrame([{"treatment": "magnitude, nothing spared", **_values(plain)}, *rows])


def claims(records: Sequence[Record]) -> list[tuple[str, str, str]]:
    """``(claim, verdict, evidence)`` about the criteria and the outlier features, every number from the records."""
    groups = _groups(records)
    pattern = _plain_magnitude(records).parameters["pattern"]
    at = {criterion: runs for (criterion, found), runs in groups.items() if found == pattern}
    found = [
        _ratio_claim(
            f"Magnitude pruning of whole matrices at {pattern} at least doubles the perplexity",
            at["magnitude"],
        )
    ]
    for better, worse, why in (
        (
            "wanda",
            "magnitude-row",
            "norms of the inputs are all that Wanda adds to magnitude per row, and they help",
        ),
        (
            "sparsegpt",
            "wanda",
            "letting the kept weights make up for the dropped ones (SparseGPT) beats Wanda",
        ),
        ("magnitude", "random", "magnitude is better than chance"),
    ):
        if better in at and worse in at:
            found.append(_paired(f"At {pattern}, {why}", at[better], at[worse], (better, worse)))
    few = {
        (run.parameters["action"], run.parameters["columns"]): run for run in of_kind(records, "few_columns")
    }
    share = f"{100 * of_kind(records, 'few_columns')[0].parameters['share']:g} %"
    for action, claim in (
        (
            "spare",
            f"Sparing the {share} largest input features helps magnitude more than sparing {share} at random",
        ),
        ("drop", f"The model depends more on the {share} largest input features than on {share} at random"),
    ):
        pair = [few[action, "largest"]], [few[action, "random"]]
        pair = pair[::-1] if action == "drop" else pair
        names = ("largest", "random") if action == "spare" else ("without random ones", "without the largest")
        found.append(_paired(claim, *pair, names))
    for criterion in ("wanda", "sparsegpt"):
        if (criterion, "2:4") in groups and (criterion, "50%") in groups:
            pair = groups[criterion, "50%"], groups[criterion, "2:4"]
            found.append(_paired(f"2:4 costs more than 50 % anywhere ({criterion})", *pair, ("50 %", "2:4")))
    return found


def _ratio_claim(claim: str, runs: list[Record]) -> tuple[str, str, str]:
    low, high = (math.exp(end) for end in bootstrap(_nll(runs) - _dense_nll(runs)))
    ratio = math.exp(float((_nll(runs) - _dense_nll(runs)).mean()))
    verdict = "holds" if low > 2 else "does not hold here" if high < 2 else "holds in part"
    return claim, verdict, f"{ratio:.3g} times the dense perplexity (95 % interval {low:.3g} to {high:.3g})"


def _paired(
    claim: str, better: list[Record], worse: list[Record], names: tuple[str, str]
) -> tuple[str, str, str]:
    """Whether ``better`` has the lower loss on the same windows, beyond chance."""
    difference = _nll(worse) - _nll(better)
    low, high = (math.exp(end) for end in bootstrap(difference))
    verdict = "holds" if low > 1 else "does not hold here" if high < 1 else "holds in part"
    evidence = (
        f"perplexity {_perplexity(better):.4g} ({names[0]}) against {_perplexity(worse):.4g} ({names[1]}): "
        f"{math.exp(float(difference.mean())):.3g} times (paired 95 % interval {low:.3g} to {high:.3g})"
    )
    return claim, verdict, evidence if verdict != "holds in part" else f"{evidence}; it includes 1"


def _perplexity(runs: list[Record]) -> float:
    return math.exp(float(_nll(runs).mean()))


def _groups(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    found: dict[tuple[str, str], list[Record]] = {}
    for record in of_kind(records, "pruned_model"):
        found.setdefault((record.parameters["criterion"], record.parameters["pattern"]), []).append(record)
    return found


def _plain_magnitude(records: Sequence[Record]) -> Record:
    """The run that the spared columns are compared with: magnitude to the same pattern."""
    patterns = (run.parameters["pattern"] for run in of_kind(records, "few_columns"))
    return _groups(records)["magnitude", next(filter(None, patterns))][0]


def _nll(runs: list[Record]) -> np.ndarray:
    """Loss of each window, mean over the runs."""
    return np.array([run.result["nll"] for run in runs]).mean(0)


def _dense_nll(runs: list[Record]) -> np.ndarray:
    return np.array(runs[0].result["dense_nll"])


def _values(run: Record) -> dict[str, Any]:
    perplexity = run.result["perplexity"]
    return {"perplexity": perplexity["value"], "low": perplexity["low"], "high": perplexity["high"]}


def _words(run: Record) -> str:
    return {"largest": "the largest", "random": "random ones"}[run.parameters["columns"]]


def _kind(pattern: str) -> str:
    return "N:M" if isinstance(parse(pattern), NofM) else "unstructured"


def _ordered(column: pd.Series) -> pd.Categorical:
    names = dict.fromkeys([*ORDER, *CRITERIA])
    return pd.Categorical(column, [name for name in names if name in set(column)], ordered=True)
