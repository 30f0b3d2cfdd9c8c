"""One score of every layer, and the truth to hold it against: the records that all CPTQuant notebooks share.

``Truth`` quantizes one layer at a time and measures; ``Score`` computes one of :data:`SCORES`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from lmcompress import covered
from lmcompress.errors import ParameterError
from lmcompress.experiments.subjects import Batches, OnModel, Subject
from lmcompress.lazily import lazy
from lmcompress.parameters import Count, Flag, Group, Sample, Seed, Some, Width, one_of
from lmcompress.records import Record
from lmcompress.sensitivity.agreement import Scores
from lmcompress.tasks import TASKS

if TYPE_CHECKING:
    from torch import nn

    from lmcompress.sensitivity import losses as model_losses

model_losses = lazy("lmcompress.sensitivity.losses")
cca = lazy("lmcompress.sensitivity.cca")
measured = lazy("lmcompress.sensitivity.measured")
models = lazy("lmcompress.models")
nn = lazy("torch.nn")
rtn = lazy("lmcompress.quantize.rtn")
sensitivity = lazy("lmcompress.sensitivity.scores")
torch = lazy("torch")

Per = Literal["block", "linear"]


PARTS = (
    16  # windows are averaged to at most so many parts, between which intervals are drawn: records stay small
)


class Truth(OnModel):
    """The loss increase on the validation split when one layer, and nothing else, is rounded to each
    width.
    """

    covers: ClassVar[bool] = True

    per: Per
    widths: Some[Width]
    group: Group
    symmetric: Flag
    windows: Sample

    def run(self) -> dict[str, Any]:
        subject = self.subject()
        # A GPU waits for the launches of smaller batches.
        batch = 4 * TASKS[self.task].batch if subject.model.device.type == "cuda" else 0
        batches = subject.texts("validation", self.windows, batch=batch)
        found = measured.measure(
            subject.model,
            batches,
            rtn.quantizer(self.like),
            self.widths,
            per=self.per,
            loss=self.loss(subject.model, batches),
        )
        base = _parts(found.detail["base"])
        losses = {
            layer: {bits: _parts(values) for bits, values in tried.items()}
            for layer, tried in found.detail["losses"].items()
        }
        return {"base": base, "losses": losses, "seconds": found.seconds} | _reached(subject)

    def loss(self, _model: nn.Module, _batches: Batches) -> model_losses.Loss:
        """What is measured of every window."""
        return model_losses.window_losses


class Divergence(Truth):
    """How far the predictions on the validation split move when one layer, and nothing else, is rounded to each width:
    the mean KL divergence (nats) from those of the model as it is.
    """

    def loss(self, model: nn.Module, batches: Batches) -> model_losses.Loss:
        return model_losses.divergence_from(model, batches)


def _parts(values: Sequence[float]) -> list[float]:
    pieces = torch.tensor(values, dtype=torch.float64).tensor_split(min(PARTS, len(values)))
    return [round(float(piece.mean()), 7) for piece in pieces]


def _spread_over(per_block: Scores, model: nn.Module, per: str) -> Scores:
    """Scores of blocks, handed on to the Linears inside where these are what is asked for."""
    if per == "block":
        return per_block
    names, where = list(models.blocks(model)), model_losses.block_of(model)
    scores = {name: per_block.per_layer[names[where[name]]] for name in sensitivity.layer_groups(model, per)}
    return Scores(scores, per_block.seconds, per_block.detail)


@dataclass(frozen=True)
class Scoring:
    """How a score is computed.

    function: ``module.function`` of :mod:`lmcompress.sensitivity`.
    takes: what it wants to know: ``layers`` (which are asked for), ``widths`` (these and how they are quantized, too),
        or nothing but the model, whose ``blocks`` it scores whole.
    options: further arguments.
    draws: whether it draws at random (then it takes a ``seed``, and gives a list of draws).
    """

    function: str
    takes: Literal["blocks", "layers", "widths"]
    options: dict[str, object] = field(default_factory=dict)
    draws: bool = False

    def __call__(
        self, model: nn.Module, batches: Batches, quantizer: Any, widths: Any, per: str, seed: int
    ) -> Any:
        """The :class:`~lmcompress.sensitivity.scores.Scores` of every layer."""
        module, _, name = self.function.partition(".")
        function = getattr(importlib.import_module(f"lmcompress.sensitivity.{module}"), name)
        options = self.options | ({"seed": seed, "draws": 1} if self.draws else {})
        options |= {} if self.takes == "blocks" else {"per": per}
        found = function(model, batches, *((quantizer, widths) if self.takes == "widths" else ()), **options)
        found = found[0] if self.draws else found
        return _spread_over(found, model, per) if self.takes == "blocks" else found


SCORES: dict[str, Scoring] = {
    "CMPQ": Scoring("cca.cmpq", "blocks"),
    "CMPQ, SVCCA": Scoring("cca.cmpq", "blocks", {"measure": "svcca"}),
    "CMPQ, PWCCA": Scoring("cca.cmpq", "blocks", {"measure": "pwcca"}),
    "CMPQ, CKA": Scoring("cca.cmpq", "blocks", {"measure": "cka"}),
    "CMPQ as released": Scoring("cca.cmpq_as_released", "blocks"),
    "PMPQ": Scoring("pruning.pmpq", "layers"),
    "PMPQ, Wanda": Scoring("pruning.pmpq", "layers", {"criterion": "wanda"}),
    "PMPQ, blocks": Scoring("pruning.pmpq", "blocks", {"per": "block"}),
    "PMPQ as released": Scoring("pruning.pmpq_as_released", "blocks"),
    "TDMPQ": Scoring("taylor.first_order", "widths"),
    "TDMPQ, Fisher": Scoring("taylor.fisher", "widths"),
    "TDMPQ, Gauss-Newton": Scoring("hessian.gauss_newton", "widths"),
    "TDMPQ, second order": Scoring("hessian.expansion", "widths", {"draws": 2}),
    "TDMPQ, input perturbation": Scoring("taylor.input_perturbation", "layers"),
    "TDMPQ as released": Scoring("taylor.tdmpq_as_released", "blocks", draws=True),
    "HIGGS": Scoring("linearity.higgs", "layers", draws=True),
    "HAWQ-V2": Scoring("hessian.hawq", "widths", {"draws": 2}),
    "output error": Scoring("layer_errors.activation_weighted", "widths"),
    "weight error": Scoring("layer_errors.weight_error", "widths"),
    "ends high": Scoring("null.ends_high", "layers"),
    "middle high": Scoring("null.middle_high", "layers"),
    "random": Scoring("null.random_draws", "layers", draws=True),
}
"""Every score by name: a new one is a function in :mod:`lmcompress.sensitivity` and a line here."""


MEASURED = "measured truth"
SHRUNK = "measured truth, shrunk"  # without the luck in it
DIVERGED = "measured divergence"
TRUTHS = (MEASURED, SHRUNK, DIVERGED)


ScoreName = Annotated[str, one_of(SCORES)]
"""One of :data:`SCORES`."""
ScoreOrTruth = Annotated[str, one_of((*SCORES, *TRUTHS))]
"""A score, or what rounding a layer does itself (:class:`Truth`, :class:`Divergence`)."""


class Score(OnModel):
    """One score of every layer, on windows of the calibration split drawn by ``seed``."""

    covers: ClassVar[bool] = True

    score: ScoreName
    per: Per
    widths: Some[Width]
    group: Group
    symmetric: Flag
    windows: Count
    seed: Seed

    def run(self) -> dict[str, Any]:
        subject = self.subject()
        batches = calibration(
            subject, self.windows, self.seed, enough=SCORES[self.score].function == "cca.cmpq"
        )
        found = SCORES[self.score](
            subject.model,
            batches,
            rtn.quantizer(self.like),
            self.widths,
            self.per,
            self.seed,
        )
        kept = {
            key: found.detail[key]
            for key in ("per_width", "similarity", "per_pattern")
            if key in found.detail
        }
        return {"per_layer": found.per_layer, "seconds": found.seconds, **kept} | _reached(subject)


def _reached(subject: Subject) -> dict[str, object]:
    """Every Linear in the blocks is scored, alone or with its block: what is left is said."""
    return covered.field(subject.model, models.block_linears(subject.model))


def calibration(subject: Subject, windows: int, seed: int, enough: bool) -> Batches:
    """Calibration batches of ``windows`` windows or texts; with ``enough``, of as many more as CMPQ wants for the
    width of the model (or all that there are: CMPQ itself refuses too few).
    """
    batches = subject.texts("calibration", windows, seed)
    needed = cca.samples_for(subject.model.config.hidden_size)
    while enough and (seen := cca.samples_in(batches)) < needed:
        windows = math.ceil(windows * needed / seen) + 1
        try:
            batches = subject.texts("calibration", windows, seed)
        except ParameterError:  # the split has no more
            return batches
    return batches


def as_scores(record: Record) -> Scores:
    """A record of :class:`Score` or :class:`Truth` as the library's own type."""
    result = record.result
    if "losses" not in result:
        detail: dict[str, Any] = {
            key: result[key] for key in ("per_width", "similarity", "per_pattern") if key in result
        }
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
