"""Prune at once or a bit at a time, with the same number of retraining steps in all."""

from collections.abc import Sequence
from typing import Any

from lmcompress.experiments.perp_study import PerpStudy, with_rates
from lmcompress.experiments.pruned import SubsetText
from lmcompress.parameters import Count, PatternText, Some
from lmcompress.prune.criteria import CriterionName
from lmcompress.records import Experiment, Record
from lmcompress.report import perp_figures
from lmcompress.report.opening import Answer, claimed
from lmcompress.report.perp_tables import against_one_shot, compared, corpora, language
from lmcompress.report.words import estimate, says


class Study(PerpStudy):
    """Every subset retrained in each of ``rounds`` rounds of pruning and retraining, at the same total steps."""

    criteria: Some[CriterionName] = ("magnitude",)
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


def runs(records: Sequence[Record]) -> list[Record]:
    """The retrainings that were run with several numbers of rounds."""
    return compared(language(records))


def answer(records: Sequence[Record]) -> Answer:
    """What rounds do at equal steps, over all settings, and the verdict on the question. Raises ``LookupError`` where
    the runs are missing.
    """
    found = runs(records)
    corpus = next(iter(corpora(found)), None)
    if corpus is None:
        raise LookupError("several rounds beside one")
    rows = against_one_shot(found, corpus).dropna(subset=["times one-shot"]).sort_values("times one-shot")
    best, worst = (
        estimate(row["times one-shot"], row["ratio low"], row["ratio high"])
        for _, row in rows.iloc[[0, -1]].iterrows()
    )
    better, worse = int((rows["ratio high"] < 1).sum()), int((rows["ratio low"] > 1).sum())
    sentence = (
        f"At equal steps, several rounds of pruning and retraining end at {best} to {worst} times the perplexity of "
        f"one round on {corpus}: better in {better}, worse in {worse} of {len(rows)} settings."
    )
    return claimed(sentence, "perp", "one-shot", found)


rounds_table = perp_figures.tabled(
    against_one_shot, "Every setting, {}; times one-shot: below 1 the rounds help"
)


def small(records: Sequence[Record]) -> list[Any]:
    """The figure and sentences of a few runs: for what one machine computed."""
    found = language(records)
    return [
        piece
        for corpus in corpora(found)
        for piece in (perp_figures.rounds(found, corpus), says(answers(found, corpus)))
    ]
