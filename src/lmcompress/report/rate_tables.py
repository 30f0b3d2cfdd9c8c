"""What every learning rate gives, and the best of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lmcompress.numbers import exp
from lmcompress.records import Record
from lmcompress.report.perp_tables import UNKNOWN, interval, named, ordered, ratio

RATE = "learning rate"
SETTING = ["criterion", "pattern", "subset"]
Setting = tuple[str, str, str, float | None]  # criterion, pattern, subset, learning rate


def _losses(records: Sequence[Record], corpus: str) -> dict[Setting, dict[int, np.ndarray]]:
    """Setting -> seed -> loss of every test window; runs that ended in no finite loss are left out."""
    found: dict[Setting, dict[int, np.ndarray]] = {}
    for record in records:
        about, losses = record.parameters, record.result["tests"][corpus]["nll"]
        if losses is not None:
            found.setdefault(tuple(about[name] for name in (*SETTING, "lr")), {})[about["seed"]] = np.array(
                losses
            )
    return found


def _tried(records: Sequence[Record]) -> dict[tuple[str, str, str], set[float]]:
    """Criterion, pattern and subset -> the learning rates that were run."""
    found: dict[tuple[str, str, str], set[float]] = {}
    for about in (record.parameters for record in records):
        if about["lr"] is not None:
            found.setdefault(tuple(about[name] for name in SETTING), set()).add(about["lr"])
    return found


def by_rate(records: Sequence[Record], corpus: str) -> pd.DataFrame:
    """One row a criterion, pattern, subset and learning rate: perplexity with its 95 % interval over windows and
    seeds.
    """
    rows = [
        dict(zip((*SETTING, RATE), (*setting, rate), strict=True))
        | named("perplexity", interval(np.stack(list(runs.values())), exp))
        for (*setting, rate), runs in _losses(records, corpus).items()
        if rate is not None
    ]
    return ordered(rows)


def best(records: Sequence[Record], corpus: str) -> pd.DataFrame:
    """One row a criterion, pattern and subset: the learning rate of least test loss on ``corpus``, the perplexity
    there, and ``times full``: over that of full retraining at the rate which is best for it, with its 95 % interval.

    The rates are picked on the very texts that are reported, for all subsets alike. A rate at which a run ended in no
    finite loss is no candidate, nor is one with fewer seeds than others of its setting; a subset that was tried at
    fewer rates than elsewhere is left out, since its best may be among the others.
    """
    losses: dict[Any, Any] = _losses(records, corpus)
    tried: dict[Any, set[float]] = _tried(records)
    chosen: dict[Any, tuple[float, float]] = {}
    most: dict[str, int] = {}
    for (*_, subset), rates in tried.items():
        most[subset] = max(most.get(subset, 0), len(rates))
    seeds: dict[tuple[Any, ...], int] = {}
    for (*setting, _), runs in losses.items():
        seeds[tuple(setting)] = max(seeds.get(tuple(setting), 0), len(runs))
    for (*setting, rate), runs in losses.items():
        at = tuple(setting)
        if rate is None or len(tried[at]) < most[at[-1]] or len(runs) < seeds[at]:
            continue
        mean = np.mean([values.mean() for values in runs.values()])
        if at not in chosen or mean < chosen[at][0]:
            chosen[at] = mean, rate
    rows = []
    for at, (mean, rate) in chosen.items():
        row: dict[str, Any] = dict(zip(SETTING, at, strict=True)) | {RATE: rate, "perplexity": exp(mean)}
        beside = (*at[:-1], "full")
        known = at != beside and beside in chosen
        over = ratio(losses[*at, rate], losses[*beside, chosen[beside][1]]) if known else UNKNOWN
        rows.append(row | named("times full", over))
    return ordered(rows)
