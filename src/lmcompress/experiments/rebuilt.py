"""The model that a record is of, made again: runs measure their model and keep the numbers alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lmcompress.errors import ParameterError
from lmcompress.experiments.allocated import Clustered, Frontier, RandomBand, calibration_of
from lmcompress.experiments.joint import Joint
from lmcompress.experiments.one_shot import PrunedModel
from lmcompress.experiments.pruned import OnPruned
from lmcompress.experiments.reconstructed import Reconstruct, reconstructed
from lmcompress.experiments.retrained import Retrain
from lmcompress.experiments.subjects import Palette
from lmcompress.experiments.uniform import UniformFormat
from lmcompress.lazily import lazy
from lmcompress.prune.criteria import CRITERIA
from lmcompress.records import Record
from lmcompress.retrain.names import parse as parse_subset

if TYPE_CHECKING:
    from torch import nn

    from lmcompress.prune import mask
    from lmcompress.quantize import rtn

mask = lazy("lmcompress.prune.mask")
models = lazy("lmcompress.models")
nn = lazy("torch.nn")
prune_model = lazy("lmcompress.prune.model")
quantize_model = lazy("lmcompress.quantize.model")
rtn = lazy("lmcompress.quantize.rtn")
torch = lazy("torch")

ALLOCATED = (Frontier, RandomBand, Clustered, UniformFormat)


@dataclass(frozen=True)
class Rebuilt:
    """``model`` and ``tokenizer``; ``masks`` of pruned Linears; codes of the ``quantized`` ones, by full name."""

    model: nn.Module
    tokenizer: object
    masks: mask.Masks = field(default_factory=dict)
    quantized: dict[str, rtn.Quantized] = field(default_factory=dict)


def rebuild(record: Record, point: int | None = None) -> Rebuilt:
    """Make the model of ``record`` again, with the learning rate and the choices that it tells.

    Parameters
    ----------
    record: of a run that prunes, retrains, reconstructs or quantizes one model.
    point: which of the record's ``points``, from 0, where it has several.

    Raises :class:`ParameterError` for any other kind, a missing or wrong ``point``, and a subset whose result no config
    describes.
    """
    run, result = record.again(), record.result
    about = f"{record.key[:12]} ({record.kind})"
    if not isinstance(run, (PrunedModel, Retrain, Reconstruct, Joint, *ALLOCATED)):
        raise ParameterError(
            "key", about, "a record of a pruned, retrained, reconstructed or quantized model"
        )
    if isinstance(run, OnPruned):
        for name in ("new-biases", "lora", "head-lora"):
            if name in parse_subset(run.subset).names:
                raise ParameterError(
                    "key", about, f"a subset that stays within the architecture; {name} does not"
                )
    if isinstance(run, PrunedModel):
        return _pruned(run)
    if isinstance(run, Retrain):
        windows = run.texts("retraining", run.retraining)
        model, masks, _ = run.trained(result["lr"], windows)
        return Rebuilt(model, run.dense()[1], masks)
    if isinstance(run, Reconstruct):
        model, _ = reconstructed(run, run.subset, run.granularity, run.targets, run.steps, result["lr"])
        return Rebuilt(model, run.dense()[1], run.pruned_weights()[0])
    found = _point(result["points"], point)
    return _joint(run, found) if isinstance(run, Joint) else _allocated(run, found)


def _point(points: list[dict[str, Any]], number: int | None) -> dict[str, Any]:
    told = "; ".join(
        f"{index}: {one['bits']:.2f} bits a weight" if one.get("choice") else f"{index}: no allocation"
        for index, one in enumerate(points)
    )
    if number is None and len(points) == 1:
        number = 0
    if number is None or not 0 <= number < len(points) or not points[number].get("choice"):
        raise ParameterError("point", number, f"one of the record's points, {told}")
    return points[number]


def _pruned(run: PrunedModel) -> Rebuilt:
    model = run.fresh()
    report = prune_model.prune_model(
        model,
        run.criterion,
        run.pattern,
        run.batches() if CRITERIA[run.criterion].by_data else None,
        seed=run.seed,
        output_errors=False,
        progress=False,
    )
    return Rebuilt(model, models.load(run.model, run.dtype)[1], report.masks)


def _allocated(run: Any, point: dict[str, Any]) -> Rebuilt:
    subject = run.subject()
    palette = Palette(subject.model, run.per, run.like)
    formats = palette.formats(dict(zip(palette.layers, point["choice"], strict=True)))
    report = quantize_model.quantize_model(
        subject.model,
        formats,
        run.method,
        calibration_of(run, subject),
        act_order=getattr(run, "act_order", False),
        progress=False,
    )
    return Rebuilt(subject.model, subject.tokenizer, quantized=report.quantized)


def _joint(run: Joint, point: dict[str, Any]) -> Rebuilt:
    subject = run.subject()
    kept = run.masks(subject.model, subject.texts("calibration", run.windows, run.seed))
    pairs = {name: (pattern, bits) for name, pattern, bits in run.choices()}
    masks, quantized = {}, {}
    with torch.no_grad():
        for name, layer in models.block_linears(subject.model).items():
            pattern, bits = pairs[point["choice"][name]]
            if (mine := kept[name, pattern]) is not None:
                masks[name] = mine
                layer.weight.masked_fill_(~mine, 0)
            quantized[name] = rtn.quantize(layer.weight, run.like.at(bits), layer=name)
            layer.weight.copy_(rtn.dequantize(quantized[name]))
    return Rebuilt(subject.model, subject.tokenizer, masks, quantized)
