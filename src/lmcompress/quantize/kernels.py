"""Real kernels and their speed: int8 and int4 Linears by torchao, 2:4 Linears by torch, tokens per second.

``pack.py`` saves bytes on disk and reads them back into full matrices, which makes nothing faster. Here the
compressed weight is what the matrix product reads. The kernels have formats of their own and quantize what
the model holds once more, so that quality must be evaluated on the very model that is timed:

=======  =====================================================  ==========================================
int8     symmetric, a scale per row                             CPU and GPU (torchao)
int4     affine, groups of inputs, real-valued zero point       GPU: bf16 only; CPU: a prototype of torchao
2:4      values as they are, two of every four inputs dropped   GPU only (torch, cuSPARSELt or CUTLASS)
=======  =====================================================  ==========================================

On a GPU the int4 kernel pads the inputs of a layer to a multiple of 1024: a layer of 576 inputs is held, and
read, as one of 1024. :func:`weight_bytes` counts what is really read.
"""

import importlib
import inspect
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.sparse import to_sparse_semi_structured
from transformers import PreTrainedModel, StaticCache

from lmcompress import cost
from lmcompress.errors import ParameterError
from lmcompress.models import block_linears, head

KERNELS = ("int8", "int4", "2:4")
GROUPS = (32, 64, 128)  # inputs that share a scale in the int4 kernels of both devices
# The same for every kernel and for the model as it is. Without coordinate descent torch writes an int8 weight out as
# bf16 before every product of a single token. What the descent finds differs from one compilation to the next: nothing
# is taken from an earlier one, so that two compilations are two draws.
COMPILED: dict[str, Any] = {
    "coordinate_descent_tuning": True,
    "fx_graph_cache": False,
    "autotune_local_cache": False,
}
FEWEST = 3  # repetitions, however long they take


@dataclass(frozen=True)
class Speed:
    """Tokens per second of a causal model and what they cost; medians over the repetitions.

    ``prefill_tokens_per_s``: prompt tokens of all sequences; ``decode_tokens_per_s``: new tokens of all
    sequences, without each one's first; ``decode_slowest`` and ``decode_fastest``: the same of the slowest and
    the fastest repetition. ``peak_bytes``: see :class:`~lmcompress.cost.Cost`. ``weight_bytes``: what one
    decoding step reads of the weights. ``bandwidth_share``: weight bytes per second of decoding over the
    measured bandwidth, the roofline of a step that does little else than read weights (keys and values are
    not counted); None when no bandwidth was given.
    """

    batch: int
    prompt: int
    new_tokens: int
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    decode_slowest: float
    decode_fastest: float
    peak_bytes: int
    weight_bytes: int
    bandwidth_share: float | None


@torch.no_grad()
def use_kernel(model: nn.Module, kernel: str, *, group: int = 64) -> None:
    """Replace the weights of all Linears in the blocks by those of ``kernel`` (one of :data:`KERNELS`), in
    place.

    ``group``: inputs that share a scale, for ``int4``. The model can then be run and timed, not trained or
    saved. Raises :class:`ParameterError` before any work for an unknown kernel, a device or dtype that has
    none, a layer that does not fit (inputs not a multiple of ``group``; a weight that is not 2:4 sparse
    already), or a torchao that is missing or of another version.
    """
    layers = block_linears(model)
    some = next(iter(layers.values())).weight
    if kernel == "2:4":
        return _use_two_of_four(layers)
    if kernel == "int8":
        config = _from_torchao(kernel, "torchao.quantization", "Int8WeightOnlyConfig", {})
    elif kernel == "int4":
        if group not in GROUPS:
            raise ParameterError("group", group, GROUPS)
        for name, layer in layers.items():
            if layer.in_features % group:
                raise ParameterError("group", group, f"a divisor of the {layer.in_features} inputs of {name}")
        if some.is_cuda and some.dtype != torch.bfloat16:
            raise ParameterError("dtype", some.dtype, "bfloat16, the only one of the int4 kernel on a GPU")
        options: dict[str, Any] = {"group_size": group}
        if some.is_cuda:
            where, what = "torchao.quantization", "Int4WeightOnlyConfig"
            options["int4_packing_format"] = "tile_packed_to_4d"
        else:
            where, what = "torchao.prototype.quantization.int4", "PrototypeInt4WeightOnlyConfig"
        config = _from_torchao(kernel, where, what, options)
    else:
        raise ParameterError("kernel", kernel, KERNELS)
    from torchao.quantization import quantize_

    quantize_(model, config, filter_fn=lambda module, name: name in layers)
    left = [name for name, layer in layers.items() if type(layer.weight) in (Tensor, nn.Parameter)]
    if left:  # torchao passes over what it cannot do
        raise ParameterError("kernel", kernel, f"layers that torchao takes; it left out {', '.join(left)}")


@torch.no_grad()
def generate_speed(
    model: PreTrainedModel,
    batch: int,
    prompt: int,
    new_tokens: int,
    *,
    compile: bool = False,
    repeats: int = 3,
    seconds: float = 30.0,
    bandwidth: float | None = None,
    seed: int = 0,
) -> Speed:
    """Time greedy generation with a static cache on ``batch`` random prompts of ``prompt`` tokens.

    ``compile``: decode with :func:`compiled`; the prompt is always read without. A whole generation is run
    first and not timed: it compiles and allocates. After ``seconds`` no repetition beyond :data:`FEWEST` is begun.
    ``bandwidth``: bytes per second, as ``cost.ceilings(device).copy_bytes_per_s``. Raises
    :class:`ParameterError` for a model without a language head, fewer than 2 new tokens or no prompt, no
    sequence or no repetition.
    """
    for field, value, least in (("batch", batch, 1), ("prompt", prompt, 1), ("new_tokens", new_tokens, 2)):
        if value < least:
            raise ParameterError(field, value, f"an integer of at least {least}")
    if repeats < 1:
        raise ParameterError("repeats", repeats, "an integer of at least 1")
    if head(model) is None:
        raise ParameterError("model", type(model).__name__, "a causal model with a language head")
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(model.config.vocab_size, (batch, prompt), generator=generator).to(model.device)
    cache = StaticCache(config=model.config, max_cache_len=prompt + new_tokens)
    generate(model, tokens, 2, cache)  # a cache takes its memory when it is first filled
    decode = compiled(model, cache, batch) if compile else None
    generate(model, tokens, new_tokens, cache, decode)
    runs: list[Generated] = []
    end = time.perf_counter() + seconds
    with cost.measured(model.device) as spent:
        while len(runs) < min(repeats, FEWEST) or (len(runs) < repeats and time.perf_counter() < end):
            runs.append(generate(model, tokens, new_tokens, cache, decode))
    prefill = statistics.median(run.prefill_seconds for run in runs)
    steps = cost.Times(tuple(run.decode_seconds / (new_tokens - 1) for run in runs))
    read = weight_bytes(model)
    return Speed(
        batch=batch,
        prompt=prompt,
        new_tokens=new_tokens,
        prefill_tokens_per_s=batch * prompt / prefill,
        decode_tokens_per_s=batch / steps.median,
        decode_slowest=batch / steps.high,
        decode_fastest=batch / steps.low,
        peak_bytes=spent[0].peak_bytes,
        weight_bytes=read,
        bandwidth_share=None if bandwidth is None else read / steps.median / bandwidth,
    )


@dataclass(frozen=True)
class Generated:
    """``tokens`` [B, new] and the seconds that reading the prompt and all later steps together took."""

    tokens: Tensor
    prefill_seconds: float
    decode_seconds: float


Step = Callable[[Tensor, Tensor], Tensor]
"""One greedy step: tokens [B, 1] and their positions [B, 1] -> the next tokens [B, 1]."""


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompt: Tensor,
    new_tokens: int,
    cache: StaticCache,
    decode: Step | None = None,
) -> Generated:
    """Greedy continuation of ``prompt`` [B, T]: ``model`` reads it, ``decode`` (None: the model as it is) makes
    one token at a time. ``cache`` is emptied first; it has room for ``T + new_tokens``.
    """
    read = _step(model, model, cache)
    batch, length = prompt.shape
    positions = torch.arange(length + new_tokens, device=prompt.device).repeat(batch, 1)
    cache.reset()
    cost.synchronize(prompt.device)
    begun = time.perf_counter()
    found = [read(prompt, positions[:, :length].contiguous())]
    cost.synchronize(prompt.device)
    middle = time.perf_counter()
    for place in range(length, length + new_tokens - 1):
        found.append((decode or read)(found[-1], positions[:, place : place + 1].contiguous()))
    cost.synchronize(prompt.device)
    return Generated(torch.cat(found, dim=1), middle - begun, time.perf_counter() - middle)


@torch.no_grad()
def compiled(model: PreTrainedModel, cache: StaticCache, batch: int) -> Step:
    """A decoding step by ``torch.compile`` under :data:`COMPILED`, on a GPU replayed as one CUDA graph.

    ``cache`` must have been filled once, for ``batch`` sequences; it is left empty. The graph is made here and not
    by torch.compile, which would ask in Python for every part of every compressed weight before each replay: that
    took several times as long as the step itself.
    """
    step = _step(torch.compile(model, dynamic=False, options=COMPILED), model, cache)
    if model.device.type != "cuda":
        return step
    token = torch.zeros(batch, 1, dtype=torch.long, device=model.device)
    place = torch.zeros_like(token)
    cache.reset()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles and allocates, which a capture must not
        step(token, place)
        step(token, place)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step(token, place)
    cache.reset()

    def replay(tokens: Tensor, positions: Tensor) -> Tensor:
        token.copy_(tokens)
        place.copy_(positions)
        graph.replay()
        return found.clone()  # the next replay overwrites it

    return replay


def _step(run: Callable[..., Any], model: PreTrainedModel, cache: StaticCache) -> Step:
    """``run`` (``model``, or it compiled) on ``cache``, and the likeliest next token."""
    keyword = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"

    def step(tokens: Tensor, positions: Tensor) -> Tensor:
        output = run(
            input_ids=tokens, position_ids=positions, use_cache=True, logits_to_keep=1, **{keyword: cache}
        )
        return output.logits[:, -1:].argmax(-1)

    return step


def weight_bytes(model: nn.Module) -> int:
    """Bytes of every Linear's weight and bias, head included, in the form that its kernel reads."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return sum(_held(value) for layer in layers for value in (layer.weight, layer.bias) if value is not None)


def _held(value: Tensor) -> int:
    """Bytes of a tensor, or of all tensors that a compressed one is made of."""
    if not hasattr(value, "__tensor_flatten__"):
        return value.nbytes
    return sum(_held(getattr(value, name)) for name in value.__tensor_flatten__()[0])


def _from_torchao(kernel: str, module: str, name: str, options: dict[str, Any]) -> object:
    """A torchao configuration; its names and arguments change between releases, so that each step may fail."""
    try:
        torchao = importlib.import_module("torchao")
    except ImportError as error:
        raise ParameterError("kernel", kernel, "torchao installed: pip install torchao") from error
    try:
        # inductor's settings are left alone: COMPILED holds those of every kernel
        return getattr(importlib.import_module(module), name)(set_inductor_config=False, **options)
    except (ImportError, AttributeError, TypeError) as error:
        version = getattr(torchao, "__version__", "unknown")
        raise ParameterError("torchao", version, f"a release with {module}.{name} ({error})") from error


def _use_two_of_four(layers: dict[str, nn.Linear]) -> None:
    for name, layer in layers.items():
        weight = layer.weight
        if not weight.is_cuda:
            raise ParameterError("device", str(weight.device), "a CUDA device, where the 2:4 kernels are")
        if weight.dtype not in (torch.float16, torch.bfloat16):
            raise ParameterError("dtype", weight.dtype, "float16 or bfloat16")
        # the conversion drops what does not fit the pattern without a word
        if weight.shape[1] % 4 or ((weight.reshape(-1, 4) != 0).sum(1) > 2).any():
            raise ParameterError("kernel", "2:4", f"a model pruned to 2:4, which {name} is not")
    sparse = {}
    for name, layer in layers.items():
        try:
            sparse[name] = nn.Parameter(to_sparse_semi_structured(layer.weight.detach()), requires_grad=False)
        except RuntimeError as error:
            raise ParameterError(
                "kernel", "2:4", f"a shape that torch takes, unlike {name} ({error})"
            ) from error
    for name, layer in layers.items():
        layer.weight = sparse[name]
        layer.__class__ = _OnMatrices


class _OnMatrices(nn.Linear):
    """A Linear that sees its inputs [..., in] as one matrix: a 2:4 tensor has no product with more dimensions,
    to which torch turns for some strides.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.reshape(-1, x.shape[-1]), self.weight, self.bias).view(*x.shape[:-1], -1)
