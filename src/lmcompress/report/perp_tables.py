"""Tables of the PERP pages: levels and comparisons with intervals over texts and seeds, made of records.

Two runs on the same test windows are compared window by window, so that what makes a text hard cancels. Where
several seeds were run, an interval draws seeds as well as windows (95 %, percentile bootstrap).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd

from lmcompress.numbers import exp
from lmcompress.prune.pattern import parse
from lmcompress.records import Record
from lmcompress.retrain.names import NAMES

DRAWS = 500
RETRAIN = "retrain"
UNKNOWN = (math.nan, math.nan, math.nan)
SETTING = ("criterion", "pattern", "subset", "steps", "rounds")
Setting = tuple[str, str, str, int, int]  # of SETTING
Losses = dict[int, np.ndarray]  # seed -> loss of every test window, or hit of every text


def interval(
    values: np.ndarray, transform: Callable[[float], float] = float, over: np.ndarray | None = None
) -> tuple[float, float, float]:
    """``transform`` (monotone) of the mean of ``values`` [seeds, windows], over that of ``over`` (drawn together) if it
    is given, and of its 95 % interval's ends.
    """
    means = _redrawn(values).mean(1) / (1 if over is None else _redrawn(over).mean(1))
    mean = float(values.mean() / (1 if over is None else over.mean()))
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return transform(mean), transform(low), transform(high)


def ratio(own: Losses, other: Losses) -> tuple[float, float, float]:
    """Perplexity of the runs ``own`` over that of ``other``, pair by pair of the seeds that both have; unknown (NaN)
    where they share none.
    """
    seeds = sorted(own.keys() & other.keys())
    return interval(np.stack([own[seed] - other[seed] for seed in seeds]), exp) if seeds else UNKNOWN


def named(value: str, found: tuple[float, float, float], ends: str = "") -> dict[str, float]:
    """A value and the ends of its interval as columns ``value``, ``ENDSlow`` and ``ENDShigh``."""
    return dict(zip((value, f"{ends}low", f"{ends}high"), found, strict=True))


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


language = partial(of_task, task="language")  # retrainings of pruned language models


classification = partial(of_task, task="classification")


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


def ordered(rows: Sequence[dict[str, Any]] | pd.DataFrame) -> pd.DataFrame:
    """Patterns from mild to harsh (N:M last) and subsets in the library's order, as categories; sorted so."""
    frame = pd.DataFrame(rows)
    if frame.empty:
        return pd.DataFrame()
    patterns = sorted(set(frame["pattern"]), key=lambda text: (":" in text, parse(text).sparsity, text))
    subsets = sorted(set(frame["subset"]), key=lambda text: [NAMES.index(part) for part in text.split("+")])
    frame = frame.assign(
        pattern=pd.Categorical(frame["pattern"], patterns, ordered=True),
        subset=pd.Categorical(frame["subset"], subsets, ordered=True),
    )
    return frame.sort_values([key for key in SETTING if key in frame], ignore_index=True)


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
        level = interval(np.stack(list(there.values())), exp) if there else UNKNOWN
        kls = [test["kl"] for test in tests if test["kl"] is not None]
        result = group[0].result
        rows.append(
            dict(zip(SETTING, about, strict=True))
            | named("perplexity", level)
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
    return ordered(rows)


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
        share = UNKNOWN
        if pruned.keys() >= set(seeds) and subset != "nothing":
            gained = np.stack([pruned[seed] - found[seed] for seed in seeds])
            share = interval(gained, over=np.stack([pruned[seed] - reference[seed] for seed in seeds]))
        row = dict(zip(SETTING, about, strict=True)) | named("times full", ratio(found, reference))
        row |= named("recovered", share, "recovered ")
        rows.append(row | {"seeds": len(seeds)})
    return ordered(rows)


def accuracies(records: Sequence[Record], corpus: str) -> pd.DataFrame:
    """One row a setting of a classifier: accuracy with its interval over texts and seeds, and the dense
    one.
    """
    hits, rows = values_of(records, corpus, "correct"), []
    for about, found in hits.items():
        group = [record for record in records if setting(record) == about]
        rows.append(
            dict(zip(SETTING, about, strict=True))
            | named("accuracy", interval(np.stack(list(found.values()))))
            | {
                "dense": group[0].result["tests"][corpus]["dense"],
                "trained %": group[0].result["percent"],
                "rate": group[0].result["lr"],
                "seeds": len(found),
            }
        )
    return ordered(rows)


def compared(records: Sequence[Record]) -> list[Record]:
    """The runs whose setting was run with more than one number of rounds: only these can be compared."""
    rounds: dict[tuple[Any, ...], set[int]] = {}

    def about(record: Record) -> tuple[Any, ...]:
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
        level = interval(np.stack(list(found.values())), exp)
        row = dict(zip(SETTING, about, strict=True)) | named("perplexity", level)
        row |= named("times one-shot", ratio(found, once) if rounds > 1 else UNKNOWN, "ratio ")
        rows.append(row | {"seeds": len(found)})
    return ordered(rows)
