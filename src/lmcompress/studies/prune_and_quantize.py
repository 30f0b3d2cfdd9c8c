"""Prune and quantize under one number of bytes: every Linear chooses a sparsity pattern and a width
together.
"""

from collections.abc import Sequence
from typing import Literal

import pandas as pd
import torch
from torch import Tensor, nn

from lmcompress import figures
from lmcompress.allocate.problem import Problem
from lmcompress.allocate.solve import budget_for, exact
from lmcompress.models import block_linears
from lmcompress.parameters import PatternText
from lmcompress.prune import magnitude, wanda
from lmcompress.prune.pattern import Unstructured, parse
from lmcompress.quantize.formats import Bits, stored_bytes
from lmcompress.quantize.model import rest
from lmcompress.quantize.rtn import dequantize, quantize
from lmcompress.records import Record
from lmcompress.sensitivity.pruning import input_norms
from lmcompress.sensitivity.scores import changed
from lmcompress.sensitivity.taylor import gradient_moments
from lmcompress.studies.allocating import Group
from lmcompress.studies.cptquant import SubjectStudy, of_kind, readable, says
from lmcompress.studies.subjects import OnModel, measure, outcome

DENSE = str(Unstructured(0))
LOSS = "loss increase (nats)"


class Joint(OnModel):
    """Choose among pairs of ``patterns`` and ``widths`` for every Linear, within each of ``averages`` bits a
    weight.

    The predicted loss of a pair is 1/2 sum E[g^2] (W' - W)^2, W' the pruned and quantized weight, g the
    gradient of a window's loss (the empirical Fisher diagonal): one backward pass a window serves all pairs.
    Bytes are those on disk: a pruned Linear stores the codes of its kept weights and one mask bit a weight,
    or all codes where that is smaller.
    """

    patterns: tuple[PatternText, ...]
    widths: tuple[int, ...]
    criterion: Literal["magnitude", "wanda"]
    group: Group
    symmetric: bool
    averages: tuple[float, ...]
    windows: int
    seed: int
    test: int

    def run(self) -> dict:
        subject = self.subject()
        model, linears = subject.model, block_linears(subject.model)
        calibration, test = (
            subject.texts("calibration", self.windows, self.seed),
            subject.texts("test", self.test),
        )
        kept = self._masks(model, calibration)
        fisher = gradient_moments(model, calibration).square
        made = {
            (name, choice): self._compressed(linear.weight.detach(), kept[name, pattern], bits)
            for name, linear in linears.items()
            for choice, pattern, bits in self._choices()
        }
        problem = self._problem(linears, kept, fisher, made)
        numbers = sum(linear.weight.numel() for linear in linears.values())
        dense, points = measure(model, test), []
        for average in self.averages:
            budget = budget_for(average, numbers)
            if budget < problem.least_bytes:
                points.append({"average": average, "bytes": None, "choice": None})
                continue
            found = exact(problem, budget)
            with changed({linear.weight: made[name, found.choice[name]] for name, linear in linears.items()}):
                now = measure(model, test)
            points.append(
                {
                    "average": average,
                    "bytes": found.bytes,
                    "bits": 8 * found.bytes / numbers,
                    "gap": found.gap,
                    "sparsity": self._sparsity(found.choice, linears, kept),
                    "choice": found.choice,
                    **outcome(dense, now),
                }
            )
        others = 2 * sum(value.numel() for value in rest(model, list(linears)).values())
        return {"points": points, "dense": outcome(dense, dense), "rest_bytes": others, "numbers": numbers}

    def _choices(self) -> list[tuple[str, str, int]]:
        return [
            (f"{pattern} at {bits} bits", pattern, bits) for pattern in self.patterns for bits in self.widths
        ]

    def _masks(self, model: nn.Module, calibration) -> dict[tuple[str, str], Tensor | None]:
        """Bool masks by Linear and pattern; None for the pattern that drops nothing."""
        norms = input_norms(model, calibration) if self.criterion == "wanda" else {}
        found: dict[tuple[str, str], Tensor | None] = {}
        for name, linear in block_linears(model).items():
            weight = linear.weight.detach()
            for pattern in self.patterns:
                if pattern == DENSE:
                    found[name, pattern] = None
                elif self.criterion == "wanda":
                    found[name, pattern] = wanda.prune(weight, norms[name].to(weight.device), parse(pattern))
                else:
                    found[name, pattern] = magnitude.per_row({name: weight}, parse(pattern))[name]
        return found

    def _compressed(self, weight: Tensor, kept: Tensor | None, bits: int) -> Tensor:
        pruned = weight if kept is None else weight * kept
        return dequantize(quantize(pruned, Bits(bits, self.group, self.symmetric)))

    def _problem(self, linears: dict[str, nn.Linear], kept: dict, fisher: dict, made: dict) -> Problem:
        cost: dict[str, dict[str, int]] = {}
        loss: dict[str, dict[str, float]] = {}
        for name, linear in linears.items():
            cost[name], loss[name] = {}, {}
            for choice, pattern, bits in self._choices():
                mask, format = kept[name, pattern], Bits(bits, self.group, self.symmetric)
                count = None if mask is None else int(mask.sum())
                cost[name][choice] = stored_bytes(tuple(linear.weight.shape), format, count)
                step = made[name, choice] - linear.weight.detach()
                loss[name][choice] = float((fisher[name] * step.square()).sum() / 2)
        return Problem(cost, loss)

    def _sparsity(self, choice: dict[str, str], linears: dict[str, nn.Linear], kept: dict) -> float:
        """Share of the Linears' weights that the chosen patterns drop."""
        pattern_of = {name: pattern for name, pattern, _ in self._choices()}
        masks = [
            (kept[name, pattern_of[choice[name]]], linear.weight.numel()) for name, linear in linears.items()
        ]
        dropped = sum(count - int(torch.count_nonzero(mask)) for mask, count in masks if mask is not None)
        return dropped / sum(count for _, count in masks)


class Study(SubjectStudy):
    """The joint choice beside quantization alone, pruning alone and one pattern for all, at the same
    bytes.
    """

    patterns: tuple[PatternText, ...] = (DENSE, "2:4", "50%", "70%")
    widths: tuple[int, ...] = (2, 3, 4, 8)
    prune_only_width: int = 8
    criterion: Literal["magnitude", "wanda"] = "wanda"
    group: Group = 128
    symmetric: bool = False
    averages: tuple[float, ...] = (2.25, 2.5, 3.0, 3.5, 4.0, 5.0)
    seeds: tuple[int, ...] = (0,)
    test: int = 128
    test_windows: int = 8

    def experiments(self) -> list[Joint]:
        sets = [
            (self.patterns, self.widths),
            ((DENSE,), self.widths),
            (self.patterns, (self.prune_only_width,)),
        ]
        sets += [((pattern,), self.widths) for pattern in self.patterns if pattern != DENSE]
        found = []
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


def _budgets(budgets) -> str:
    return ", ".join(f"{budget:g}" for budget in budgets) + " bits"


def pieces(records: Sequence[Record]) -> list:
    """Sentences, and for each task the frontier and its table."""
    points = points_table(records)
    found: list = [says(verdict(records))]
    for task, rows in points.groupby("task", sort=False):
        found.append(
            figures.lines(
                rows.drop(columns="task"),
                "bits",
                LOSS,
                "choices",
                low="low",
                high="high",
                log_y=bool((rows["low"] > 0).all()),
                title=f"One budget for pruning and quantization, {task}",
                caption="Bits a weight of the blocks' Linears on disk, masks, scales and zero points counted. Test "
                "split; bars are 95 % intervals over windows paired with the FP16 model, their ends and the values "
                "averaged over the seeds. All choices go through the same solver.",
                alt=f"Lines for {task}, one a set of choices: bits a weight against loss increase.",
            )
        )
        wide = rows.pivot(index="budget (bits)", columns="choices", values=LOSS)[
            list(dict.fromkeys(rows["choices"]))
        ]
        sparsity = rows[rows["choices"] == "joint"].set_index("budget (bits)")["sparsity"]
        wide = wide.round(4)
        wide.insert(1, "zeros of joint (%)", (100 * sparsity).round(1))
        found.append(
            figures.table(
                wide.reset_index(),
                f"Loss increase (nats) at every budget, {task}. A dash: these choices cannot be that small",
            )
        )
    return found
