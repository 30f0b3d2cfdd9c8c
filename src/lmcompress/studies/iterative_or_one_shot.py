"""Prune at once or a bit at a time, with the same number of retraining steps in all."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmcompress.parameters import PatternText
from lmcompress.records import Experiment, Record
from lmcompress.studies.perp import Criterion, SubsetText
from lmcompress.studies.perp_study import PerpStudy, with_rates
from lmcompress.studies.perp_tables import exp, interval, ordered, values_of


class Study(PerpStudy):
    """Every subset retrained in each of ``rounds`` rounds of pruning and retraining, at the same total steps."""

    criteria: tuple[Criterion, ...] = ("magnitude",)
    patterns: tuple[PatternText, ...] = ("70%",)
    subsets: tuple[SubsetText, ...] = ("norms",)
    rounds: tuple[int, ...] = (1, 3)

    def experiments(self) -> list[Experiment]:
        return with_rates(
            self.retrain(criterion, pattern, subset, seed, rounds=rounds)
            for criterion in self.criteria
            for pattern in self.patterns
            for seed in self.seeds
            for subset in self.subsets
            for rounds in self.rounds
        )


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


def answers(records: Sequence[Record], corpus: str) -> list[str]:
    """A sentence for each comparison of several rounds with one."""
    sentences = []
    for _, row in against_one_shot(records, corpus).dropna(subset=["times one-shot"]).iterrows():
        better, worse = row["ratio high"] < 1, row["ratio low"] > 1
        word = "better than" if better else "worse than" if worse else "not told apart from"
        sentences.append(
            f"{row['pattern']} by {row['criterion']}, {row['subset']}: {row['rounds']} rounds are {word} one-shot, "
            f"{row['times one-shot']:.3f} times its perplexity ({row['ratio low']:.3f} to {row['ratio high']:.3f})."
        )
    return sentences
