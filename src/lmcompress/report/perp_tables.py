"""Tables of the PERP pages: levels and comparisons with intervals over texts and seeds, made of records.

Two runs on the same test windows are compared window by window, so that what makes a text hard cancels. Where
several seeds were run, an interval draws seeds as well as windows (95 %, percentile bootstrap).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from lmcompress.numbers import exp
from lmcompress.prune.pattern import parse
from lmcompress.records import Record
from lmcompress.retrain.names import NAMES

DRAWS = 500


RETRAIN = "retrain"


Setting = tuple[str, str, str, int, int]  # criterion, pattern, subset, steps, rounds


def interval(values: np.ndarray, transform: Callable[[float], float] = float) -> tuple[float, float, float]:
    """``transform`` (monotone) of the mean of ``values`` [seeds, windows] and of its 95 % interval's ends."""
    means = _redrawn(values).mean(1)
    return transform(float(values.mean())), *map(transform, np.quantile(means, [0.025, 0.975]).tolist())


def shares(part: np.ndarray, whole: np.ndarray) -> tuple[float, float, float]:
    """Mean of ``part`` over mean of ``whole`` (both [seeds, windows], drawn together) and its 95 %
    interval.
    """
    ratios = _redrawn(part).mean(1) / _redrawn(whole).mean(1)
    low, high = np.quantile(ratios, [0.025, 0.975]).tolist()
    return float(part.mean() / whole.mean()), low, high


def _redrawn(values: np.ndarray) -> np.ndarray:
    """The samples of ``values`` [seeds, windows]: [DRAWS, seeds * windows]."""
    rows, columns = _places(*values.shape)
    return values[rows[:, :, None], columns[:, None, :]].reshape(DRAWS, -1)


@lru_cache(maxsize=16)
def _places(seeds: int, windows: int) -> tuple[np.ndarray, np.ndarray]:
    """Which seeds [DRAWS, seeds] and which windows [DRAWS, windows] each sample takes."""
    generator = np.random.default_rng(0)
    drawn = [
        (generator.integers(seeds, size=seeds), generator.integers(windows, size=windows))
        for _ in range(DRAWS)
    ]
    rows, columns = zip(*drawn, strict=True)
    return np.stack(rows), np.stack(columns)


def of_task(records: Iterable[Record], task: str, kind: str = RETRAIN) -> list[Record]:
    """Records of a kind of run on a task, of pruned models; :func:`without_pruning` has the others."""
    found = [record for record in records if record.kind == kind and record.parameters["task"] == task]
    return [record for record in found if parse(record.parameters["pattern"]).sparsity > 0]


def language(records: Iterable[Record]) -> list[Record]:
    """Retrainings of pruned language models."""
    return of_task(records, "language")


def classification(records: Iterable[Record]) -> list[Record]:
    """Retrainings of pruned classifiers."""
    return of_task(records, "classification")


def without_pruning(records: Iterable[Record]) -> list[Record]:
    """Retrainings of a language model of which nothing was pruned: what its texts alone teach it."""
    found = [
        record for record in records if record.kind == RETRAIN and record.parameters["task"] == "language"
    ]
    return [record for record in found if parse(record.parameters["pattern"]).sparsity == 0]


def setting(record: Record) -> Setting:
    """What distinguishes runs, but for the seed."""
    about = record.parameters
    return about["criterion"], about["pattern"], about["subset"], about["steps"], about.get("rounds", 1)


def values_of(
    records: Sequence[Record], corpus: str, name: str = "nll"
) -> dict[Setting, dict[int, np.ndarray]]:
    """Setting -> seed -> the windows' losses (``nll``) or the texts' hits (``correct``); failed runs are
    left out.
    """
    found: dict[Setting, dict[int, np.ndarray]] = {}
    for record in records:
        values = record.result["tests"].get(corpus, {}).get(name)
        if values is not None:
            found.setdefault(setting(record), {})[record.parameters["seed"]] = np.array(values, dtype=float)
    return found


def corpora(records: Sequence[Record]) -> list[str]:
    """Corpora that every record was evaluated on, in the order of the parameter ``tests``."""
    return list(records[0].parameters.get("tests") or records[0].result["tests"]) if records else []


def corpus_of(records: Sequence[Record], corpus: str | int) -> str:
    """A corpus by its name, or by its place among those that were tested. Raises ``LookupError`` if there is none."""
    return corpus if isinstance(corpus, str) else corpora(records)[corpus]


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Patterns from mild to harsh (N:M last) and subsets in the library's order, as categories; sorted so."""
    patterns = sorted(set(frame["pattern"]), key=lambda text: (":" in text, parse(text).sparsity, text))
    subsets = sorted(set(frame["subset"]), key=lambda text: [NAMES.index(part) for part in text.split("+")])
    frame = frame.assign(
        pattern=pd.Categorical(frame["pattern"], patterns, ordered=True),
        subset=pd.Categorical(frame["subset"], subsets, ordered=True),
    )
    keys = [key for key in ("criterion", "pattern", "subset", "steps", "rounds") if key in frame]
    return frame.sort_values(keys, ignore_index=True)


def perplexities(records: Sequence[Record], corpus: str) -> pd.DataFrame:
    """One row a setting: perplexity with its interval over windows and seeds, dense perplexity, KL, share of
    parameters trained, chosen learning rate, seconds of training.
    """
    by_setting: dict[Setting, list[Record]] = {}
    for record in records:
        by_setting.setdefault(setting(record), []).append(record)
    losses, rows = values_of(records, corpus), []
    for about, group in by_setting.items():
        tests = [record.result["tests"][corpus] for record in group if corpus in record.result["tests"]]
        if not tests:
            continue
        there = losses.get(about)
        level = interval(np.stack(list(there.values())), exp) if there else (math.nan,) * 3
        kls = [test["kl"] for test in tests if test["kl"] is not None]
        result = group[0].result
        rows.append(
            dict(zip(("criterion", "pattern", "subset", "steps", "rounds"), about, strict=True))
            | dict(zip(("perplexity", "low", "high"), level, strict=True))
            | {
                "dense": tests[0]["dense"],
                "KL to dense": sum(kls) / len(kls) if kls else math.nan,
                "trained %": result.get("percent", math.nan),
                "rate": result["lr"],
                "seconds": sum(record.result.get("train_seconds", 0.0) for record in group) / len(group),
                "seeds": len(there or ()),
                "diverged": sum(bool(record.result.get("diverged")) for record in group),
            }
        )
    return ordered(pd.DataFrame(rows)) if rows else pd.DataFrame()


def against_full(records: Sequence[Record], corpus: str, other: str = "full") -> pd.DataFrame:
    """How close every subset comes to retraining ``other``, run by run on the same windows.

    ``times full``: perplexity over that of ``other``; ``recovered``: share of the loss which pruning added
    and ``other`` took away that the subset takes away, each with its interval.
    """
    losses, rows = values_of(records, corpus), []
    for about, found in losses.items():
        criterion, pattern, subset, *_ = about
        reference = losses.get((criterion, pattern, other, *about[3:]), {})
        pruned = next((losses[key] for key in losses if key[:3] == (criterion, pattern, "nothing")), {})
        seeds = sorted(found.keys() & reference.keys())
        if not seeds or subset == other:
            continue
        difference = np.stack([found[seed] - reference[seed] for seed in seeds])
        row = dict(zip(("criterion", "pattern", "subset", "steps", "rounds"), about, strict=True))
        row |= dict(zip(("times full", "low", "high"), interval(difference, exp), strict=True))
        names = ("recovered", "recovered low", "recovered high")
        if pruned.keys() >= set(seeds) and subset != "nothing":
            gained = np.stack([pruned[seed] - found[seed] for seed in seeds])
            whole = np.stack([pruned[seed] - reference[seed] for seed in seeds])
            row |= dict(zip(names, shares(gained, whole), strict=True))
        else:
            row |= dict.fromkeys(names, math.nan)
        rows.append(row | {"seeds": len(seeds)})
    return ordered(pd.DataFrame(rows)) if rows else pd.DataFrame()


def accuracies(records: Sequence[Record], corpus: str) -> pd.DataFrame:
    """One row a setting of a classifier: accuracy with its interval over texts and seeds, and the dense
    one.
    """
    hits, rows = values_of(records, corpus, "correct"), []
    for about, found in hits.items():
        group = [record for record in records if setting(record) == about]
        rows.append(
            dict(zip(("criterion", "pattern", "subset", "steps", "rounds"), about, strict=True))
            | dict(zip(("accuracy", "low", "high"), interval(np.stack(list(found.values()))), strict=True))
            | {
                "dense": group[0].result["tests"][corpus]["dense"],
                "trained %": group[0].result["percent"],
                "rate": group[0].result["lr"],
                "seeds": len(found),
            }
        )
    return ordered(pd.DataFrame(rows)) if rows else pd.DataFrame()


def compared(records: Sequence[Record]) -> list[Record]:
    """The runs whose setting was run with more than one number of rounds: only these can be compared."""
    rounds: dict[tuple, set[int]] = {}

    def about(record: Record) -> tuple:
        return tuple(record.parameters[name] for name in ("criterion", "pattern", "subset", "steps"))

    for record in records:
        rounds.setdefault(about(record), set()).add(record.parameters["rounds"])
    return [record for record in records if len(rounds[about(record)]) > 1]


def against_one_shot(records: Sequence[Record], corpus: str) -> pd.DataFrame:
    """Perplexity by rounds with its interval, and ``times one-shot``: over that of one round, run by run on
    the same windows. Below 1 the rounds have helped.
    """
    losses, rows = values_of(records, corpus), []
    for about, found in losses.items():
        criterion, pattern, subset, steps, rounds = about
        once = losses.get((criterion, pattern, subset, steps, 1), {})
        seeds = sorted(found.keys() & once.keys())
        row = dict(zip(("criterion", "pattern", "subset", "steps", "rounds"), about, strict=True))
        level = interval(np.stack(list(found.values())), exp)
        row |= dict(zip(("perplexity", "low", "high"), level, strict=True))
        names = ("times one-shot", "ratio low", "ratio high")
        if rounds > 1 and seeds:
            difference = np.stack([found[seed] - once[seed] for seed in seeds])
            row |= dict(zip(names, interval(difference, exp), strict=True))
        else:
            row |= dict.fromkeys(names, np.nan)
        rows.append(row | {"seeds": len(found)})
    return ordered(pd.DataFrame(rows)) if rows else pd.DataFrame()
