"""Quantize a model by an allocation of widths and measure it: by scores, at random, by clusters,
uniformly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import model_validator

from lmcompress import covered
from lmcompress.allocate.clusters import as_released, by_clusters
from lmcompress.allocate.evolve import evolve
from lmcompress.allocate.problem import Allocation, Problem
from lmcompress.allocate.solve import budget_for, exact, greedy, permuted, random_allocations
from lmcompress.errors import ParameterError
from lmcompress.experiments.scored import (
    DIVERGED,
    SHRUNK,
    TRUTHS,
    Divergence,
    Per,
    Score,
    ScoreOrTruth,
    Truth,
    as_scores,
)
from lmcompress.experiments.subjects import Batches, OnModel, Palette, Subject, measure, outcome
from lmcompress.lazily import lazy
from lmcompress.parameters import Average, Count, Flag, Group, Many, Sample, Seed, Some, Width
from lmcompress.records import obtain
from lmcompress.sensitivity.shrinkage import shrunk

if TYPE_CHECKING:
    from lmcompress.sensitivity.agreement import Scores

predict = lazy("lmcompress.allocate.predict")
quantize_model = lazy("lmcompress.quantize.model")
rtn = lazy("lmcompress.quantize.rtn")
sensitivity = lazy("lmcompress.sensitivity.scores")


def refuse_below_least(averages: Sequence[float], widths: Sequence[int]) -> None:
    """Raise :class:`ParameterError` for an average of bits that not even the least width can meet."""
    if averages and min(averages) < min(widths):
        valid = f"at least {min(widths)} bits, the least of the widths"
        raise ParameterError("averages", min(averages), valid)


class Scored(OnModel):
    """Parameters of what is done with one score: which, from which windows, and the formats to choose
    from.
    """

    covers: ClassVar[bool] = True

    score: ScoreOrTruth
    per: Per
    widths: Some[Width]
    group: Group
    symmetric: Flag
    windows: Sample
    seed: Seed
    test: Sample

    def scores(self) -> Scores:
        """The score's record (computed first if need be); one of :data:`TRUTHS` is that of the validation split."""
        same = self.model_dump(
            include={*OnModel.model_fields, "per", "widths", "group", "symmetric", "windows"}
        )
        if self.score in TRUTHS:
            wanted: OnModel = Divergence(**same) if self.score == DIVERGED else Truth(**same)
        else:
            wanted = Score(**same, score=self.score, seed=self.seed)
        found = as_scores(obtain([wanted], progress=False)[0])
        return shrunk(found) if self.score == SHRUNK else found


def _unscored(palette: Palette, widths: Sequence[int]) -> Problem:
    """Bytes alone: no choice costs any loss."""
    nothing = {layer: dict.fromkeys(map(str, widths), 0.0) for layer in palette.layers}
    return Problem(_costs(palette, widths), nothing)


def _budgeted(run: Any) -> Any:
    """``run``. Raises :class:`ParameterError` for no budget at all, and for one below every width."""
    if not run.averages and not run.as_uniform:
        raise ParameterError("averages", run.averages, "a budget here or in as_uniform")
    refuse_below_least((*run.averages, *run.as_uniform), run.widths)
    return run


class Frontier(Scored):
    """Allocate by a score within each budget, quantize, measure on the test split.

    Budgets: ``averages`` bits a weight, and the bytes of each uniform width in ``as_uniform``. ``method``:
    the weights are rounded to nearest or by GPTQ.
    """

    averages: Many[Average]
    as_uniform: Many[Width] = ()
    method: Literal["rtn", "gptq"] = "rtn"
    solver: Literal["exact", "greedy"] = "exact"

    @model_validator(mode="after")
    def _has_budgets(self) -> Self:
        return _budgeted(self)

    def run(self) -> dict[str, Any]:
        scores, subject = self.scores(), self.subject()
        palette = Palette(subject.model, self.per, self.like)
        problem = problem_of(palette, subject, scores, self)
        solve = {"exact": exact, "greedy": greedy}[self.solver]
        budgets = _budgets(palette, self.averages, self.as_uniform)
        found = [solve(problem, budget) for budget in budgets.values()]
        tried = outcomes(subject, self, [widths_of(one) for one in found], palette)
        predicted = [
            {"budget": name, "predicted": one.objective, "gap": one.gap}
            for name, one in zip(budgets, found, strict=True)
        ]
        return {**tried, "points": [a | b for a, b in zip(predicted, tried["points"], strict=True)]}


class RandomBand(OnModel):
    """Allocations drawn at random within each budget: the band that a score must leave to mean anything."""

    covers: ClassVar[bool] = True

    per: Per
    widths: Some[Width]
    group: Group
    symmetric: Flag
    averages: Many[Average]
    as_uniform: Many[Width] = ()
    draws: Count
    seed: Seed
    test: Sample
    method: Literal["rtn"] = "rtn"

    @model_validator(mode="after")
    def _has_budgets(self) -> Self:
        return _budgeted(self)

    def run(self) -> dict[str, Any]:
        subject = self.subject()
        palette = Palette(subject.model, self.per, self.like)
        problem = _unscored(palette, self.widths)
        drawn = [
            (name, one)
            for name, budget in _budgets(palette, self.averages, self.as_uniform).items()
            for one in random_allocations(problem, budget, self.draws, self.seed)
        ]
        tried = outcomes(subject, self, [widths_of(one) for _, one in drawn], palette)
        points = [{"budget": name} | point for (name, _), point in zip(drawn, tried["points"], strict=True)]
        return {**tried, "points": points}


class PermutedBand(Scored):
    """The widths that a score chose at the bytes of uniform ones, in random order among layers of equal size: what a
    score must beat to say anything about depth.
    """

    as_uniform: Some[Width]
    draws: Count
    method: Literal["rtn"] = "rtn"

    def run(self) -> dict[str, Any]:
        scores, subject = self.scores(), self.subject()
        palette = Palette(subject.model, self.per, self.like)
        problem = problem_of(palette, subject, scores, self)
        drawn = [
            (name, one)
            for name, budget in _budgets(palette, (), self.as_uniform).items()
            for one in permuted(problem, exact(problem, budget).choice, self.draws, self.seed)
        ]
        tried = outcomes(subject, self, [widths_of(one) for _, one in drawn], palette)
        points = [{"budget": name} | point for (name, _), point in zip(drawn, tried["points"], strict=True)]
        return {**tried, "points": points}


class Evolutionary(OnModel):
    """Widths by evolutionary search within each budget, from the widest uniform ones that fit: the loss of the whole
    model on calibration windows decides (:func:`lmcompress.allocate.evolve.evolve`).
    """

    covers: ClassVar[bool] = True

    per: Per
    widths: Some[Width]
    group: Group
    symmetric: Flag
    windows: Sample
    seed: Seed
    test: Sample
    averages: Many[Average]
    as_uniform: Many[Width] = ()
    generations: Count
    offspring: Count = 16
    stages: Some[tuple[Count, Count]] = ((4, 4), (1, 16))
    method: Literal["rtn"] = "rtn"

    @model_validator(mode="after")
    def _has_budgets(self) -> Self:
        return _budgeted(self)

    def run(self) -> dict[str, Any]:
        subject = self.subject()
        palette = Palette(subject.model, self.per, self.like)
        read = sensitivity.windows_of(subject.texts("calibration", self.windows, self.seed))
        problem = _unscored(palette, self.widths)

        def fitness(choice: dict[str, str], windows: list[int]) -> float:
            with sensitivity.changed(palette.weights({layer: int(bits) for layer, bits in choice.items()})):
                losses = measure(subject.model, [read[window] for window in windows]).losses
            return float(losses.mean()) if losses.isfinite().all() else math.inf

        def widest(budget: int) -> dict[str, str]:
            """The uniform widths to start from; the narrowest where none fits, which the search then refuses."""
            uniform = [dict.fromkeys(palette.layers, str(bits)) for bits in sorted(self.widths)]
            fit = [one for one in uniform if problem.allocation(one).bytes <= budget]
            return (fit or uniform[:1])[-1]

        found = {
            name: evolve(
                problem,
                budget,
                fitness,
                widest(budget),
                windows=len(read),
                generations=self.generations,
                offspring=self.offspring,
                stages=self.stages,
                seed=self.seed,
            )
            for name, budget in _budgets(palette, self.averages, self.as_uniform).items()
        }
        choices = [{layer: int(bits) for layer, bits in one.choice.items()} for one in found.values()]
        tried = outcomes(subject, self, choices, palette)
        points = [
            {"budget": name, "forwards": one.forwards, "history": one.history} | point
            for (name, one), point in zip(found.items(), tried["points"], strict=True)
        ]
        return {**tried, "points": points}


class Clustered(Scored):
    """The paper's own allocation: clusters of scores, one width each, no budget. Several seeds when as
    released.
    """

    clusters: Literal["k_means", "k_harmonic_means", "as_released"]
    cluster_widths: Some[Width]
    cluster_seeds: Some[Seed] = (0,)
    method: Literal["rtn"] = "rtn"

    def run(self) -> dict[str, Any]:
        scores, subject = self.scores().per_layer, self.subject()
        palette = Palette(subject.model, self.per, self.like)
        if self.clusters == "as_released":
            found = [as_released(scores, self.cluster_widths, seed) for seed in self.cluster_seeds]
        else:
            found = [by_clusters(scores, self.cluster_widths, self.clusters)]
        return outcomes(subject, self, found, palette)


def _costs(palette: Palette, widths: Sequence[int]) -> dict[str, dict[str, int]]:
    return {layer: {str(bits): palette.bytes(layer, bits) for bits in widths} for layer in palette.layers}


def _budgets(palette: Palette, averages: Sequence[float], as_uniform: Sequence[int]) -> dict[str, int]:
    """What a budget is called -> its bytes."""
    bytes_of = {f"{average:g} bits": budget_for(average, palette.numbers) for average in averages}
    for width in as_uniform:
        bytes_of[f"uniform {width} bits"] = sum(palette.bytes(layer, width) for layer in palette.layers)
    return bytes_of


def problem_of(palette: Palette, subject: Subject, scores: Scores, of: Scored) -> Problem:
    """Bytes and predicted losses of every width of every layer."""
    errors = predict.relative_errors(subject.model, rtn.quantizer(of.like), of.widths, of.per)
    return Problem(_costs(palette, of.widths), predict.loss_table(scores, of.widths, errors))


def widths_of(allocation: Allocation) -> dict[str, int]:
    """Layer -> width of an allocation whose choices are widths."""
    return {layer: int(choice) for layer, choice in allocation.choice.items()}


def calibration_of(run: Any, subject: Subject) -> Batches | None:
    """What GPTQ reads in a run with ``method``; None for one that rounds to nearest. A run with a ``window`` of its own
    reads the retraining split, since that of calibration does not hold 128 windows of 2,048 tokens.
    """
    if run.method != "gptq":
        return None
    if window := getattr(run, "window", None):
        return replace(subject, length=window).texts("retraining", run.windows, run.seed)
    return subject.texts("calibration", run.windows, run.seed)


def outcomes(subject: Subject, of: Any, choices: list[dict[str, int]], palette: Palette) -> dict[str, Any]:
    """Quantize by each choice of a width a layer, measure on the test split, put the weights back."""
    test = subject.texts("test", of.test)
    dense = measure(subject.model, test)
    calibration, act_order = calibration_of(of, subject), getattr(of, "act_order", False)
    inside = [linear for layer in palette.layers.values() for linear in layer.values()]
    points = []
    for bits in choices:
        if calibration is None:
            changed = palette.weights(bits)
        else:
            changed = {linear.weight: linear.weight.detach().clone() for linear in inside}
        with sensitivity.changed(changed):
            if calibration is not None:
                formats = palette.formats(bits)
                quantize_model.quantize_model(
                    subject.model, formats, "gptq", calibration, act_order=act_order, progress=False
                )
            now = measure(subject.model, test)
        points.append({**palette.sizes(bits), **outcome(dense, now), "choice": list(bits.values())})
    reached = covered.field(subject.model, [name for inside in palette.layers.values() for name in inside])
    return {"dense": outcome(dense, dense), "points": points, "numbers": palette.numbers, **reached}
