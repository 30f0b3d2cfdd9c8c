"""Each claim of PERP (arXiv 2312.15230) with a verdict made of records, by the rule that its text states."""

from collections.abc import Sequence
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from lmcompress.experiments.perp_study import PerpStudy, on_texts
from lmcompress.experiments.pruned import SubsetText
from lmcompress.experiments.tuned import Compared
from lmcompress.parameters import (
    CorpusName,
    Count,
    Flag,
    Length,
    Many,
    ModelOrNone,
    PatternText,
    QuestionsName,
    Sample,
    Some,
    TaskName,
)
from lmcompress.plans import profile, study_class
from lmcompress.records import Experiment, Record
from lmcompress.report import answers, figures, reported, verdicts
from lmcompress.report.html import VERDICTS, Html
from lmcompress.report.opening import Answer, claimed
from lmcompress.report.perp_evidence import judged, state

NOTEBOOKS = ("20_retrain_subsets", "21_reconstruction", "22_iterative_or_one_shot", "23_cost_of_retraining")


class Asked(Compared):
    """``asked``: zero-shot questions as well."""

    subsets: Some[SubsetText] = ("nothing", "norms", "masklora", "full")
    asked: Flag = False


class Study(PerpStudy):
    """The runs of the other PERP notebooks in ``runs_of`` (a profile; an empty one leaves them out); subsets
    ``compared`` at their own rates, some of them on zero-shot ``tasks`` (lm-eval's name -> local asset, or "" for the
    hub); and the same for a ``classifier`` that has biases (an empty name leaves it out).
    """

    runs_of: Annotated[str, Field(pattern=r"^[\w-]{0,100}$")] = ""
    compared: Many[Asked] = (
        Asked(subsets=("nothing", "norms")),
        Asked(criteria=("wanda",), subsets=("nothing",)),
    )
    tasks: dict[TaskName, QuestionsName] = Field(default_factory=dict)
    questions: Count | None = None
    classifier: ModelOrNone = ""
    texts: CorpusName = "bbc-news"
    text_length: Length = 64
    text_batch: Count = 32
    fine_tune_steps: Count = 60
    text_retraining: Count = 240
    text_validation: Count = 100
    text_test: Sample = 200
    classifier_steps: Count = 15
    classifier_patterns: Some[PatternText] = ("70%",)
    classifier_subsets: Some[SubsetText] = ("nothing", "biases", "norms", "full")

    def experiments(self) -> list[Experiment]:
        found = [
            experiment
            for notebook in (NOTEBOOKS if self.runs_of else ())
            for experiment in study_class(notebook)(**profile(self.runs_of, notebook)).experiments()
        ]
        asked = {"tasks": self.tasks, "questions": self.questions}
        for grid in self.compared:
            found += grid.runs(self.evaluated() | (asked if grid.asked else {}), self.steps, self.seeds)
        if self.classifier:
            texts = Compared(patterns=self.classifier_patterns, subsets=self.classifier_subsets)
            found += texts.runs(on_texts(self), self.classifier_steps, self.seeds)
        return list({(one.kind, one.model_dump_json()): one for one in found}.values())


def claims(records: Sequence[Record]) -> list[tuple[str, str, str]]:
    """``(claim, verdict, evidence)`` of every claim."""
    return verdicts.claim_rows(judged(records))


def zero_shot_table(records: Sequence[Record]) -> pd.DataFrame:
    """Accuracy and standard error of every task for the dense, pruned and retrained models, seed by seed."""
    rows = [
        {
            "task": task,
            "model": state(record.parameters),
            "seed": record.parameters["seed"],
            "accuracy": found["accuracy"],
            "standard error": found["error"],
            "questions": found["questions"],
            "of": found["official"],
        }
        for record in records
        if record.kind == "tuned"
        for task, found in record.result["tasks"].items()
    ]
    return pd.DataFrame(rows)


def answer(records: Sequence[Record]) -> Answer:
    """How many claims have which verdict, and the one on the main claim. Raises ``LookupError`` without runs."""
    if not records:
        raise LookupError("runs")
    said = answers.cannot_be_judged(judged(records)).sentence
    return claimed(said, "perp", "matches-tiny", records)


def verdicts_table(records: Sequence[Record]) -> Html:
    """Claims and verdicts, without the evidence."""
    rows = [(claim, f"{VERDICTS[verdict]} {verdict}") for claim, verdict, _ in claims(records)]
    return figures.whole(
        pd.DataFrame(rows, columns=["Claim", "Verdict"]), "Claims and what became of them here"
    )


def evidence_table(records: Sequence[Record]) -> Html:
    """Claims, verdicts and the numbers that make them."""
    return figures.verdicts(claims(records))


beside_table = figures.tabled(
    lambda records: reported.beside("perp", judged(records)),
    "Paper beside here: every number of the paper and of its baselines that can be cited",
)


cases_table = figures.tabled(
    lambda records: verdicts.cases_table(judged(records)),
    "Every case behind the verdicts, with the interval that decides",
)


asked_table = figures.tabled(
    zero_shot_table,
    "Zero-shot accuracy with its standard error (lm-eval, no examples in the prompt)",
    "zero-shot tasks: the hub, or local folders named in `tasks`",
)


def small(records: Sequence[Record]) -> list[Any]:
    """The verdicts of a few runs: for what one machine computed."""
    return [evidence_table(records)]
