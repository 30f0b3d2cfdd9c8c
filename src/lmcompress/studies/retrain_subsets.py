"""What to retrain after pruning: every subset against full retraining, at every pattern and after every
criterion.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from lmcompress.parameters import CorpusName, ModelName, PatternText
from lmcompress.records import Experiment, Record
from lmcompress.studies.perp import Criterion, Retrain, SubsetText
from lmcompress.studies.perp_study import Grid, PerpStudy, with_rates
from lmcompress.studies.perp_tables import corpora, perplexities


class Study(PerpStudy):
    """The product of ``criteria``, ``patterns``, ``subsets`` and ``seeds``, ``more`` such grids, and the same
    question for a ``classifier`` that has biases (an empty name leaves it out).
    """

    criteria: tuple[Criterion, ...] = ("magnitude",)
    patterns: tuple[PatternText, ...] = ("50%",)
    subsets: tuple[SubsetText, ...] = ("nothing", "norms", "masklora", "full")
    more: tuple[Grid, ...] = ()
    classifier: ModelName | Literal[""] = "minilm-l6"
    texts: CorpusName = "bbc-news"
    text_length: int = 64
    text_batch: int = 16
    fine_tune_steps: int = 60
    text_retraining: int = 240
    text_test: int = 200
    text_validation: int = 100
    classifier_steps: int = 15
    classifier_patterns: tuple[PatternText, ...] = ("70%",)
    classifier_subsets: tuple[SubsetText, ...] = ("nothing", "biases", "norms", "full")
    classifier_rates: dict[SubsetText, float] = Field(default_factory=dict)

    def experiments(self) -> list[Experiment]:
        runs = self.grid(Grid(), self.criteria, self.patterns, self.subsets)
        for grid in self.more:
            runs += self.grid(grid, self.criteria, self.patterns, self.subsets)
        return with_rates([*runs, *(self._classifier_runs() if self.classifier else ())])

    def _classifier_runs(self) -> list[Retrain]:
        """The classifier's runs: what a language study of other names would make."""
        of_texts = PerpStudy(
            model=self.classifier,
            corpus=self.texts,
            tests=(self.texts,),
            dtype="fp32",
            length=self.text_length,
            batch=self.text_batch,
            steps=self.classifier_steps,
            calibration=32,
            retraining=self.text_retraining,
            validation=self.text_validation,
            test=self.text_test,
            rates=self.classifier_rates,
            rate_patterns=self.rate_patterns,
            rate_steps=self.rate_steps,
            seeds=self.seeds,
        )
        return [
            of_texts.retrain(
                "magnitude",
                pattern,
                subset,
                seed,
                task="classification",
                fine_tune_steps=self.fine_tune_steps,
            )
            for pattern in self.classifier_patterns
            for seed in self.seeds
            for subset in self.classifier_subsets
        ]


def answers(records: Sequence[Record]) -> list[str]:
    """A sentence for each criterion and pattern on the first corpus: pruned, norms, full, and what comes closest."""
    found = corpora(records)
    if not found:
        return []
    frame = perplexities(records, found[0]).dropna(subset=["perplexity"])
    sentences = []
    for (criterion, pattern), rows in frame.groupby(["criterion", "pattern"], observed=True):
        there = {str(row["subset"]): row for _, row in rows.iterrows()}
        others = {name: row for name, row in there.items() if name not in ("nothing", "full")}
        parts = [f"dense {rows['dense'].iloc[0]:.2f}"]
        if "nothing" in there:
            parts.append(f"pruned {there['nothing']['perplexity']:,.2f}")
        named = [name for name in ("norms", "full") if name in there]
        if others:
            best = min(others, key=lambda name: others[name]["perplexity"])
            named += [best] if best not in named else []
        for name in named:
            row = there[name]
            level = f"{row['perplexity']:,.2f} ({row['low']:,.2f} to {row['high']:,.2f})"
            parts.append(f"{name} ({row['trained %']:.3g} % of the parameters) {level}")
        sentences.append(f"{pattern} by {criterion}, perplexity: " + ", ".join(parts) + ".")
    return sentences
