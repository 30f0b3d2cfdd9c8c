"""Prune at once or a bit at a time, with the same number of retraining steps in all."""

from collections.abc import Sequence

from lmcompress.experiments.perp_study import PerpStudy, with_rates
from lmcompress.experiments.pruned import Criterion, SubsetText
from lmcompress.parameters import Count, PatternText, Some
from lmcompress.records import Experiment, Record
from lmcompress.report.perp_tables import against_one_shot


class Study(PerpStudy):
    """Every subset retrained in each of ``rounds`` rounds of pruning and retraining, at the same total steps."""

    criteria: Some[Criterion] = ("magnitude",)
    patterns: Some[PatternText] = ("70%",)
    subsets: Some[SubsetText] = ("norms",)
    rounds: Some[Count] = (1, 3)

    def experiments(self) -> list[Experiment]:
        return with_rates(
            self.retrain(criterion, pattern, subset, seed, rounds=rounds)
            for criterion in self.criteria
            for pattern in self.patterns
            for seed in self.seeds
            for subset in self.subsets
            for rounds in self.rounds
        )


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
