"""Prune and quantize under one number of bytes: every Linear chooses a sparsity pattern and a width
together.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import pandas as pd

from lmcompress.experiments.joint import DENSE, LOSS, Joint
from lmcompress.experiments.score_study import SubjectStudy
from lmcompress.parameters import Average, Flag, Group, ModelOrNone, PatternText, Sample, Seed, Some, Width
from lmcompress.records import Experiment, Record
from lmcompress.report import figures
from lmcompress.report.html import Html
from lmcompress.report.opening import Answer
from lmcompress.report.verdicts import Case, Rule
from lmcompress.report.words import of_kind, on_task, readable, says


class Study(SubjectStudy):
    """The joint choice beside quantization alone, pruning alone and one pattern for all, at the same
    bytes; by default of the classifier alone, since the language model takes minutes a run.
    """

    language: ModelOrNone = ""
    patterns: Some[PatternText] = (DENSE, "2:4", "50%", "70%")
    widths: Some[Width] = (2, 3, 4, 8)
    prune_only_width: Width = 8
    criterion: Literal["magnitude", "wanda"] = "wanda"
    group: Group = 128
    symmetric: Flag = False
    averages: Some[Average] = (2.25, 2.5, 3.0, 3.5, 4.0, 5.0)
    seeds: Some[Seed] = (0,)
    test: Sample = 128
    test_windows: Sample = 8

    def experiments(self) -> list[Experiment]:
        sets = [
            (self.patterns, self.widths),
            ((DENSE,), self.widths),
            (self.patterns, (self.prune_only_width,)),
        ]
        sets += [((pattern,), self.widths) for pattern in self.patterns if pattern != DENSE]
        found: list[Experiment] = []
        for on, count in self.subjects():
            for patterns, widths in sets:
                for seed in self.seeds:
                    found.append(
                        Joint(
                            **on,
                            patterns=patterns,
                            widths=widths,
                            criterion=self.criterion,
                            group=self.group,
                            symmetric=self.symmetric,
                            averages=self.averages,
                            windows=count,
                            seed=seed,
                            test=self.test_windows if on["task"] == "language" else self.test,
                        )
                    )
        return found


def name_of(record: Record) -> str:
    """What a figure calls a set of choices."""
    patterns, widths = record.parameters["patterns"], record.parameters["widths"]
    if patterns == [DENSE]:
        return "quantize only"
    if len(widths) == 1:
        return f"prune only ({widths[0]} bits)"
    return "joint" if len(patterns) > 1 else f"all at {patterns[0]}"


def points_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row for each set of choices and budget that it can meet; seeds are averaged."""
    rows = [
        {
            "task": readable(record.parameters["task"]),
            "choices": name_of(record),
            "budget (bits)": point["average"],
            "bits": point["bits"],
            "MB": point["bytes"] / 1e6,
            "sparsity": point["sparsity"],
            LOSS: point["increase"],
            "low": point["low"],
            "high": point["high"],
            "right": point["right"],
        }
        for record in of_kind(records, "joint")
        for point in record.result["points"]
        if point["bytes"] is not None and point["increase"] is not None
    ]
    return pd.DataFrame(rows).groupby(["task", "choices", "budget (bits)"], sort=False, as_index=False).mean()


def verdict(records: Sequence[Record]) -> list[str]:
    """For each task: up to which budget the joint choice prunes, at which it is better than quantization alone,
    and whether any other set of choices is better than it. Two sets differ where their intervals do not overlap.
    """
    sentences = []
    for task, rows in points_table(records).groupby("task", sort=False):
        at = rows.set_index(["choices", "budget (bits)"])
        joint = at.loc["joint"]
        pruned = joint["sparsity"][joint["sparsity"] > 0.01]
        used = (
            f"prunes at budgets up to {pruned.index.max():g} bits ({pruned.max():.0%} of the weights at most)"
            if len(pruned)
            else "never prunes"
        )
        sentence = f"{task.capitalize()}: the joint choice {used}. "
        sentence += _beside(joint, at.loc["quantize only"])
        better = []
        for name in dict.fromkeys(rows["choices"]):
            if name not in ("joint", "quantize only"):
                both = at.loc[name].join(joint.add_suffix(" of joint"), how="inner")
                clear = both.index[both["high"] < both["low of joint"]]
                better += [f"{name} ({_budgets(clear)})"] if len(clear) else []
        found = ", ".join(better) if better else "no other set"
        sentences.append(sentence + f" Better than the joint choice, beyond the intervals: {found}.")
    return sentences


def _beside(joint: pd.DataFrame, other: pd.DataFrame) -> str:
    """At which budgets the joint choice differs from ``other``, quantization alone, and by how much."""
    both = joint.join(other.add_suffix(" alone"), how="inner").sort_index()
    less, more = both["high"] < both["low alone"], both["low"] > both["high alone"]
    parts = [
        f"it loses {word} than quantization alone at {_budgets(both.index[mask])}"
        for word, mask in (("less", less), ("more", more))
        if mask.any()
    ]
    if not parts:
        parts = ["it is nowhere told apart from quantization alone"]
    shown = both[less] if less.any() else both
    ends = [
        f"at {budget:g} bits {row[LOSS]:.3f} against {row[f'{LOSS} alone']:.3f} nats"
        for budget, row in shown.iloc[sorted({0, len(shown) - 1})].iterrows()
    ]
    return f"I{'; '.join(parts)[1:]} ({'; '.join(ends)})."


def _budgets(budgets: Iterable[float]) -> str:
    return ", ".join(f"{budget:g}" for budget in budgets) + " bits"


def answer(records: Sequence[Record]) -> Answer:
    """What the joint choice gains over quantization alone, by task, and whether it is better at equal bytes. Raises
    ``LookupError`` where the runs are missing.
    """
    if not of_kind(records, "joint"):
        raise LookupError("joint choices")
    parts, cases = [], []
    for task, rows in points_table(records).groupby("task", sort=False):
        at = rows.set_index(["choices", "budget (bits)"])
        both = at.loc["joint"].join(at.loc["quantize only"].add_suffix(" alone"), how="inner").sort_index()
        for budget, row in both.iterrows():
            low, high = row["low"] - row["high alone"], row["high"] - row["low alone"]
            cases.append(Case(f"{task}, {budget:g} bits", row[LOSS] - row[f"{LOSS} alone"], low, high))
        first = both.iloc[0]
        parts.append(
            f"at {both.index[0]:g} bits a weight ({task}) {first[LOSS]:.3f} nats ({first['low']:.3f} to "
            f"{first['high']:.3f}) against {first[f'{LOSS} alone']:.3f}"
        )
    rule = Rule(at_most=0.0)
    good = sum(rule.says(case) == "as claimed" for case in cases)
    return Answer(
        f"Choosing pruning and bits together loses, beside bits alone, {'; '.join(parts)}.",
        "At equal bytes the joint choice loses less than quantization alone (intervals that do not overlap).",
        rule.verdict(cases),
        f" ({good} of {len(cases)} budgets)",
    )


def curve(records: Sequence[Record], task: str = "language modelling") -> figures.Figure:
    """Loss against bytes for every set of choices. Raises ``LookupError`` where that task was not run."""
    rows = on_task(points_table(records), task)
    return figures.lines(
        rows.drop(columns="task"),
        "bits",
        LOSS,
        "choices",
        log="y" if (rows["low"] > 0).all() else "",
        title=f"One budget for pruning and quantization, {task}",
        caption="Bits a weight of the blocks' Linears on disk, masks, scales and zero points counted. Test "
        "split; bars are 95 % intervals over windows paired with the FP16 model, their ends and the values "
        "averaged over the seeds. All choices go through the same solver.",
        alt=f"Lines for {task}, one a set of choices: bits a weight against loss increase.",
    )


def budgets_table(records: Sequence[Record], task: str = "language modelling") -> Html:
    """The same in numbers. Raises ``LookupError`` where that task was not run."""
    rows = on_task(points_table(records), task)
    wide = rows.pivot(index="budget (bits)", columns="choices", values=LOSS)[
        list(dict.fromkeys(rows["choices"]))
    ]
    sparsity = rows[rows["choices"] == "joint"].set_index("budget (bits)")["sparsity"]
    wide = wide.round(4)
    wide.insert(1, "zeros of joint (%)", (100 * sparsity).round(1))
    caption = f"Loss increase (nats) at every budget, {task}. A dash: these choices cannot be that small"
    return figures.table(wide.reset_index(), caption)


def sentences(records: Sequence[Record]) -> Html:
    """What the runs say on each task."""
    return says(verdict(records))


def pieces(records: Sequence[Record]) -> list[Any]:
    """Sentences, figures and tables of a few runs: for what one machine computed."""
    tasks = points_table(records)["task"].unique()
    return [sentences(records), *(make(records, task) for task in tasks for make in (curve, budgets_table))]
