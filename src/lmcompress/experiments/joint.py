"""Pruning and quantization from one budget of bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lmcompress import covered
from lmcompress.allocate.problem import Problem
from lmcompress.allocate.solve import budget_for, exact
from lmcompress.experiments.subjects import OnModel, measure, outcome
from lmcompress.lazily import lazy
from lmcompress.parameters import Average, Flag, Group, PatternText, Sample, Seed, Some, Width
from lmcompress.prune.criteria import CRITERIA
from lmcompress.prune.pattern import Unstructured, parse
from lmcompress.quantize.formats import stored_bytes

if TYPE_CHECKING:
    import torch
    from torch import nn

models = lazy("lmcompress.models")
nn = lazy("torch.nn")
pruning = lazy("lmcompress.sensitivity.pruning")
quantize_model = lazy("lmcompress.quantize.model")
rtn = lazy("lmcompress.quantize.rtn")
sensitivity = lazy("lmcompress.sensitivity.scores")
taylor = lazy("lmcompress.sensitivity.taylor")
torch = lazy("torch")

DENSE = str(Unstructured(0))


LOSS = "loss increase (nats)"

Masks = dict[tuple[str, str], "torch.Tensor | None"]  # by Linear and pattern; None keeps all


class Joint(OnModel):
    """Choose among pairs of ``patterns`` and ``widths`` for every Linear, within each of ``averages`` bits a
    weight.

    The predicted loss of a pair is 1/2 sum E[g^2] (W' - W)^2, W' the pruned and quantized weight, g the
    gradient of a window's loss (the empirical Fisher diagonal): one backward pass a window serves all pairs.
    Bytes are those on disk: a pruned Linear stores the codes of its kept weights and one mask bit a weight,
    or all codes where that is smaller.
    """

    covers: ClassVar[bool] = True

    patterns: Some[PatternText]
    widths: Some[Width]
    criterion: Literal["magnitude", "wanda"]
    group: Group
    symmetric: Flag
    averages: Some[Average]
    windows: Sample
    seed: Seed
    test: Sample

    def run(self) -> dict[str, Any]:
        subject = self.subject()
        model, linears = subject.model, models.block_linears(subject.model)
        calibration, test = (
            subject.texts("calibration", self.windows, self.seed),
            subject.texts("test", self.test),
        )
        kept = self.masks(model, calibration)
        fisher = taylor.gradient_moments(model, calibration).square
        made = {
            (name, choice): self._compressed(linear.weight.detach(), kept[name, pattern], bits)
            for name, linear in linears.items()
            for choice, pattern, bits in self.choices()
        }
        problem = self._problem(linears, kept, fisher, made)
        numbers = sum(linear.weight.numel() for linear in linears.values())
        dense = measure(model, test)
        points: list[dict[str, Any]] = []
        for average in self.averages:
            budget = budget_for(average, numbers)
            if budget < problem.least_bytes:
                points.append({"average": average, "bytes": None, "choice": None})
                continue
            found = exact(problem, budget)
            with sensitivity.changed(
                {linear.weight: made[name, found.choice[name]] for name, linear in linears.items()}
            ):
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
        others = 2 * sum(value.numel() for value in quantize_model.rest(model, list(linears)).values())
        about = {"rest_bytes": others, "numbers": numbers, **covered.field(model, linears)}
        return {"points": points, "dense": outcome(dense, dense), **about}

    def choices(self) -> list[tuple[str, str, int]]:
        """Name, pattern and width of every pair."""
        return [
            (f"{pattern} at {bits} bits", pattern, bits) for pattern in self.patterns for bits in self.widths
        ]

    def masks(self, model: nn.Module, calibration: Any) -> Masks:
        """Bool masks by Linear and pattern; None for the pattern that drops nothing."""
        criterion = CRITERIA["magnitude-row" if self.criterion == "magnitude" else self.criterion]
        norms = pruning.input_norms(model, calibration) if criterion.by_data else {}
        found: dict[tuple[str, str], torch.Tensor | None] = {}
        for name, linear in models.block_linears(model).items():
            weight = linear.weight.detach()
            for pattern in self.patterns:
                if pattern == DENSE:
                    found[name, pattern] = None
                else:
                    found[name, pattern] = criterion.of_layer(name, weight, norms.get(name), parse(pattern))
        return found

    def _compressed(self, weight: torch.Tensor, kept: torch.Tensor | None, bits: int) -> torch.Tensor:
        pruned = weight if kept is None else weight * kept
        return rtn.dequantize(rtn.quantize(pruned, self.like.at(bits)))

    def _problem(
        self,
        linears: dict[str, nn.Linear],
        kept: Masks,
        fisher: dict[str, torch.Tensor],
        made: dict[tuple[str, str], torch.Tensor],
    ) -> Problem:
        cost: dict[str, dict[str, int]] = {}
        loss: dict[str, dict[str, float]] = {}
        for name, linear in linears.items():
            cost[name], loss[name] = {}, {}
            for choice, pattern, bits in self.choices():
                mask, format = kept[name, pattern], self.like.at(bits)
                count = None if mask is None else int(mask.sum())
                cost[name][choice] = stored_bytes(tuple(linear.weight.shape), format, count)
                step = made[name, choice] - linear.weight.detach()
                loss[name][choice] = float((fisher[name] * step.square()).sum() / 2)
        return Problem(cost, loss)

    def _sparsity(
        self,
        choice: dict[str, str],
        linears: dict[str, nn.Linear],
        kept: dict[tuple[str, str], torch.Tensor | None],
    ) -> float:
        """Share of the Linears' weights that the chosen patterns drop."""
        pattern_of = {name: pattern for name, pattern, _ in self.choices()}
        masks = [
            (kept[name, pattern_of[choice[name]]], linear.weight.numel()) for name, linear in linears.items()
        ]
        dropped = sum(count - int(torch.count_nonzero(mask)) for mask, count in masks if mask is not None)
        return dropped / sum(count for _, count in masks)
