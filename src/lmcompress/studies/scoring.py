"""One score of every layer, and the truth to hold it against: the records that all CPTQuant notebooks share.

``Truth`` quantizes one layer at a time and measures; ``Score`` computes one of :data:`SCORES`.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import nn

from lmcompress.errors import ParameterError
from lmcompress.models import blocks
from lmcompress.quantize.rtn import quantizer
from lmcompress.records import Record
from lmcompress.sensitivity import cca, hessian, layer_errors, measured, null, pruning, taylor
from lmcompress.sensitivity.losses import block_of
from lmcompress.sensitivity.scores import Scores, layer_groups
from lmcompress.studies.subjects import Batches, OnModel

Per = Literal["block", "linear"]
PARTS = (
    16  # windows are averaged to at most so many parts, between which intervals are drawn: records stay small
)


class Truth(OnModel):
    """The loss increase on the validation split when one layer, and nothing else, is rounded to each
    width.
    """

    per: Per
    widths: tuple[int, ...]
    group: int | Literal["row", "tensor"]
    symmetric: bool
    windows: int

    def run(self) -> dict:
        subject = self.subject()
        found = measured.measure(
            subject.model,
            subject.texts("validation", self.windows),
            quantizer(self.group, self.symmetric),
            self.widths,
            per=self.per,
        )
        base = _parts(found.detail["base"])
        losses = {
            layer: {bits: _parts(values) for bits, values in tried.items()}
            for layer, tried in found.detail["losses"].items()
        }
        return {"base": base, "losses": losses, "seconds": found.seconds}


def _parts(values: Sequence[float]) -> list[float]:
    pieces = torch.tensor(values, dtype=torch.float64).tensor_split(min(PARTS, len(values)))
    return [round(float(piece.mean()), 7) for piece in pieces]


def _spread_over(per_block: Scores, model: nn.Module, per: str) -> Scores:
    """Scores of blocks, handed on to the Linears inside where these are what is asked for."""
    if per == "block":
        return per_block
    names, where = list(blocks(model)), block_of(model)
    scores = {name: per_block.per_layer[names[where[name]]] for name in layer_groups(model, per)}
    return Scores(scores, per_block.seconds, per_block.detail)


def _by_block(score: Callable[..., Scores], **options) -> Callable[..., Scores]:
    def scored(model: nn.Module, batches: Batches, _quantizer, _widths, per: str, seed: int) -> Scores:
        return _spread_over(score(model, batches, **options), model, per)

    return scored


def _without_widths(score: Callable[..., Scores], **options) -> Callable[..., Scores]:
    return lambda model, batches, _quantizer, _widths, per, _seed: score(model, batches, per=per, **options)


def _with_widths(score: Callable[..., Scores], **options) -> Callable[..., Scores]:
    return lambda model, batches, quantizer, widths, per, _seed: score(
        model, batches, quantizer, widths, per=per, **options
    )


def _random(model: nn.Module, _batches, _quantizer, _widths, per: str, seed: int) -> Scores:
    return null.random_draws(model, per=per, draws=1, seed=seed)[0]


def _taylor_as_released(
    model: nn.Module, batches: Batches, _quantizer, _widths, per: str, seed: int
) -> Scores:
    return _spread_over(taylor.tdmpq_as_released(model, batches, seed=seed)[0], model, per)


SCORES: dict[str, Callable[..., Scores]] = {
    "CMPQ": _by_block(cca.cmpq, tokens=4096),
    "CMPQ, SVCCA": _by_block(cca.cmpq, tokens=4096, measure="svcca"),
    "CMPQ, PWCCA": _by_block(cca.cmpq, tokens=4096, measure="pwcca"),
    "CMPQ, CKA": _by_block(cca.cmpq, tokens=4096, measure="cka"),
    "CMPQ as released": _by_block(cca.cmpq_as_released),
    "PMPQ": _without_widths(pruning.pmpq),
    "PMPQ, Wanda": _without_widths(pruning.pmpq, criterion="wanda"),
    "PMPQ as released": _by_block(pruning.pmpq_as_released),
    "TDMPQ": _with_widths(taylor.first_order),
    "TDMPQ, Fisher": _with_widths(taylor.fisher),
    "TDMPQ, Gauss-Newton": _with_widths(hessian.gauss_newton),
    "TDMPQ, second order": _with_widths(hessian.expansion, draws=2),
    "TDMPQ, input perturbation": _without_widths(taylor.input_perturbation),
    "TDMPQ as released": _taylor_as_released,
    "HAWQ-V2": _with_widths(hessian.hawq, draws=2),
    "output error": _with_widths(layer_errors.activation_weighted),
    "weight error": _with_widths(layer_errors.weight_error),
    "ends high": _without_widths(null.ends_high),
    "middle high": _without_widths(null.middle_high),
    "random": _random,
}
"""Name -> ``score(model, batches, quantizer, widths, per, seed)``. CMPQ and the released codes score whole
blocks.
"""


class Score(OnModel):
    """One score of every layer, on windows of the calibration split drawn by ``seed``."""

    score: str
    per: Per
    widths: tuple[int, ...]
    group: int | Literal["row", "tensor"]
    symmetric: bool
    windows: int
    seed: int

    def run(self) -> dict:
        check_score(self.score)
        subject = self.subject()
        batches = subject.texts("calibration", self.windows, self.seed)
        found = SCORES[self.score](
            subject.model, batches, quantizer(self.group, self.symmetric), self.widths, self.per, self.seed
        )
        kept = {
            key: found.detail[key]
            for key in ("per_width", "similarity", "per_pattern")
            if key in found.detail
        }
        return {"per_layer": found.per_layer, "seconds": found.seconds, **kept}


def check_score(name: str) -> None:
    """Refuse a name that is no score (:class:`ParameterError`)."""
    if name not in SCORES:
        raise ParameterError("score", name, SCORES)


def as_scores(record: Record) -> Scores:
    """A record of :class:`Score` or :class:`Truth` as the library's own type."""
    result = record.result
    if "losses" not in result:
        detail = {key: result[key] for key in ("per_width", "similarity", "per_pattern") if key in result}
        return Scores(result["per_layer"], result["seconds"], detail)
    base = sum(result["base"]) / len(result["base"])
    table = {
        str(bits): {
            layer: sum(tried[str(bits)]) / len(tried[str(bits)]) - base
            for layer, tried in result["losses"].items()
        }
        for bits in record.parameters["widths"]
    }
    first = table[str(record.parameters["widths"][0])]
    return Scores(first, result["seconds"], {**result, "per_width": table})
