"""Quantize a whole model in place: every named layer to its own format, by rounding or by GPTQ."""

import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmcompress.errors import ParameterError
from lmcompress.models import block_linears, coverage, linears
from lmcompress.prune import mask
from lmcompress.prune.mask import Masks
from lmcompress.prune.sparsegpt import inverse_factor
from lmcompress.quantize import compressed_tensors, gptq, rtn
from lmcompress.quantize.formats import Bits, parse, stored_bytes
from lmcompress.quantize.rtn import Quantized, dequantize, to_half
from lmcompress.shards import is_streamed
from lmcompress.stats import Gram, relative_output_error, require_finite
from lmcompress.stream import BlockVisit, stream
from lmcompress.unbundle import as_linears, origins

METHODS = ("rtn", "gptq")


@dataclass(frozen=True)
class LayerReport:
    """What happened to one layer.

    ``format``, as text; ``method`` used; number of ``weights``; ``bytes`` that ``pack.save`` writes for the weight.
    ``relative_error``: ``||(W - W')X||^2 / ||W X||^2`` on the inputs that the layer sees in the model as
    quantized so far; ``dead_columns``: inputs that were zero at every token;
    both None without calibration and outside the blocks. ``damping``: share of the mean diagonal that GPTQ
    needed. ``seconds``: wall time of quantizing and reading back, without forward passes.
    """

    format: str
    method: str
    weights: int
    bytes: int
    relative_error: float | None
    dead_columns: int | None
    damping: float | None
    seconds: float


@dataclass(frozen=True)
class QuantizeReport:
    """``quantized`` weights and ``layers`` by full module name; ``seconds`` of wall time in all. ``coverage``: share of
    the weights in the blocks' matrices that the layers hold; ``left``: the others.
    """

    method: str
    quantized: dict[str, Quantized]
    layers: dict[str, LayerReport]
    seconds: float
    coverage: float = 1.0
    left: dict[str, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes of the quantized weights on disk; the rest of the model takes two bytes a number."""
        return sum(layer.bytes for layer in self.layers.values())

    @property
    def average_bits(self) -> float:
        """Stored bits per quantized weight, with scales and zero points."""
        return 8 * self.bytes / sum(layer.weights for layer in self.layers.values())


@torch.no_grad()
def quantize_model(
    model: nn.Module,
    allocation: Mapping[str, Bits | str],
    method: str = "rtn",
    batches: list[dict[str, Tensor]] | None = None,
    *,
    masks: Masks | None = None,
    act_order: bool = False,
    scale_dtype: torch.dtype = torch.float16,
    store: str | torch.device = "cpu",
    device: str | torch.device | None = None,
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> QuantizeReport:
    """Quantize the layers that ``allocation`` names, in place: the model then holds the values read back.

    ``allocation``: full module name of a Linear or Embedding -> format. A head that shares the embedding's
    matrix is quantized with it, under the embedding's name. **Everything else is rounded to half precision in
    place**, as it will be stored (:func:`round_rest`), so that what is evaluated is what is stored.

    ``method="gptq"`` applies to the Linears in the blocks; they see the inputs of the model as quantized so
    far (those of one block together), one block at a time. Embeddings, head, pooler and the like are rounded
    to nearest. ``batches``: calibration inputs as model keyword arguments, needed by GPTQ; rounding uses them
    only to measure output errors. ``masks`` (True = kept) hold pruned weights at exactly
    zero. ``act_order``: see :func:`~lmcompress.quantize.gptq.quantize`. ``scale_dtype``: what the scales are
    rounded to after the codes are chosen. ``store``, ``device``, ``progress``: see
    :func:`~lmcompress.stream.stream`. ``checkpoint``: a folder that gets every finished block in the
    compressed-tensors format, and from which a later call with the same arguments goes on. A model whose blocks are
    on disk needs it, is quantized in its blocks alone, and leaves its codes there instead of in the report.

    Raises, before the model is touched, :class:`ParameterError` for an unknown method, format or layer, a
    mask that fits no layer, or missing batches, and :class:`~lmcompress.errors.NumericError` naming the layer
    for non-finite weights or masks that the weights break; later, for non-finite inputs.
    """
    started = time.perf_counter()
    if method not in METHODS:
        raise ParameterError("method", method, METHODS)
    formats = {name: parse(format) for name, format in allocation.items()}
    if not is_streamed(model):
        as_linears(model)
    targets = _targets(model, formats)
    made = origins(model) if checkpoint is not None else {}
    for name, module in targets.items() if checkpoint is not None else ():
        compressed_tensors.check(formats[name], tuple(module.weight.shape), name)
        if f"{name}.weight" in made:
            raise ParameterError("allocation", name, "a Linear of the model's own layout, for packed storage")
    masks = masks or {}
    on_disk = is_streamed(model)
    if not on_disk:
        mask.check(model, masks)
    elif outside := targets.keys() - block_linears(model).keys():
        raise ParameterError("allocation", min(outside), "Linears in the blocks, for a model on disk")
    if method == "gptq" and (uneven := [str(format) for format in formats.values() if format.values]):
        raise ParameterError(
            "allocation", uneven[0], "formats of evenly spaced values for gptq (rtn takes any)"
        )
    if not batches and method == "gptq":
        raise ParameterError("batches", batches, "at least one batch of calibration inputs for gptq")
    for name, value in rest(model, ()).items():
        if value.is_meta:
            continue
        require_finite(value, name.removesuffix(".weight"), "parameter")

    round_rest(model, targets)
    walked = bool(batches) or checkpoint is not None
    streamed = set(block_linears(model)) & set(targets) if walked else set()
    home = {name: "cpu" if on_disk else module.weight.device for name, module in targets.items()}
    quantized: dict[str, Quantized] = {}
    layers: dict[str, LayerReport] = {}
    factors: dict[
        Gram, tuple[Any, ...]
    ] = {}  # of the block that is worked on; query, key and value share theirs

    def compress(name: str, module: Any, inputs: Any) -> None:
        original, format, kept = module.weight.clone(), formats[name], masks.get(name)
        gram: Any = None if inputs is None else inputs.result()
        by = "rtn" if inputs is None else method
        begun = time.perf_counter()
        if by == "gptq":
            if not act_order and format.bits < 16 and inputs not in factors:
                factors.clear()
                require_finite(gram, name, "Gram matrix of the inputs")
                factors[inputs] = inverse_factor(gram, name)
            result, damping, _ = gptq.quantize(
                original, gram, format, act_order=act_order, kept=kept, layer=name, factor=factors.get(inputs)
            )
        else:
            result, damping = rtn.quantize(original, format, layer=name), None
        if result.scales is not None:
            result = replace(result, scales=result.scales.to(scale_dtype).to(result.scales.dtype))
        module.weight.copy_(dequantize(result))
        require_finite(module.weight, name, "quantized weight")  # waits for the device: the clock is right
        seconds = time.perf_counter() - begun
        quantized[name] = _moved(result, home[name])
        layers[name] = LayerReport(
            format=str(format),
            method=by,
            weights=original.numel(),
            bytes=stored_bytes(result.shape, format, None if kept is None else int(kept.sum())),
            relative_error=None if gram is None else relative_output_error(original, module.weight, gram),
            dead_columns=None if gram is None else int((gram.diagonal() == 0).sum()),
            damping=damping,
            seconds=seconds,
        )

    for name, module in targets.items():
        if name not in streamed:
            compress(name, module, None)

    def visit(block: BlockVisit) -> dict[str, Any]:
        inside = {
            name: layer for name, layer in linears(block.module, block.name).items() if name in streamed
        }
        short = {name: name.removeprefix(f"{block.name}.") for name in inside}
        if on_disk:
            mask.check(block.module, {short[name]: masks[name] for name in inside if name in masks})
            round_rest(block.module, short.values())
        seen = {}
        if block.inputs:
            seen = block.statistics(lambda layer: Gram(layer.in_features), list(short.values()))
        for name, layer in inside.items():
            inputs = seen.pop(short[name], None)
            compress(name, layer, inputs if inputs is not None and inputs.tokens else None)
        factors.clear()
        return {name: asdict(layers[name]) for name in inside}

    files = None
    if checkpoint is not None:
        files = compressed_tensors.block_files(checkpoint, formats, quantized, forget=on_disk)
    if streamed:
        written = {name: str(format) for name, format in formats.items()}
        done = stream(
            model,
            batches or [],
            visit,
            store=store,
            device=device,
            progress=progress,
            checkpoint=files,
            settings=[method, written, act_order, str(scale_dtype), mask.digest(masks)],
        )
        layers |= {name: LayerReport(**layer) for block in done for name, layer in block.items()}
    return QuantizeReport(
        method,
        {name: quantized[name] for name in formats if name in quantized},
        {name: layers[name] for name in formats},
        time.perf_counter() - started,
        *coverage(model, formats),
    )


def rest(model: nn.Module, names: Collection[str]) -> dict[str, Tensor]:
    """All that a model stores besides the weights of the modules ``names``; shared tensors once."""
    weights, stored = {f"{name}.weight" for name in names}, model.state_dict().keys()
    buffers = {name: value for name, value in model.named_buffers() if name in stored}
    tensors = {**dict(model.named_parameters()), **buffers}
    return {name: value for name, value in tensors.items() if name not in weights}


@torch.no_grad()
def round_rest(model: nn.Module, names: Collection[str]) -> None:
    """Round everything but the weights of the modules ``names`` to the half precision of its storage, in
    place.

    To be called again after norms or biases of a quantized model were retrained in fp32. Parameters keep
    their dtype. Raises :class:`~lmcompress.errors.NumericError` naming a tensor that fp16 cannot hold.
    """
    for name, value in rest(model, names).items():
        if value.is_floating_point() and not value.is_meta:
            value.copy_(to_half(value, name))


def _targets(model: nn.Module, formats: dict[str, Bits]) -> dict[str, Any]:
    """Layers of the allocation; refuses what is not there, not a matrix, or a second name of one."""
    if not formats:
        raise ParameterError("allocation", {}, "a format for at least one layer")
    modules = dict(model.named_modules())
    owners = {id(value): name.removesuffix(".weight") for name, value in model.named_parameters()}
    for name in formats:
        module = modules.get(name)
        if not isinstance(module, (nn.Linear, nn.Embedding)):
            raise ParameterError("allocation", name, "the full name of a Linear or Embedding of the model")
        if owners[id(module.weight)] != name:
            raise ParameterError("allocation", name, f"{owners[id(module.weight)]}, whose matrix it shares")
    return {name: modules[name] for name in formats}


def _moved(quantized: Quantized, device: str | torch.device) -> Quantized:
    scales, zeros = (
        part if part is None else part.to(device) for part in (quantized.scales, quantized.zeros)
    )
    return replace(quantized, codes=quantized.codes.to(device), scales=scales, zeros=zeros)
