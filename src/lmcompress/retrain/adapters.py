"""Low-rank adapters on pruned Linear layers: LoRA, LoRA-Prune, MaskLoRA, ScaleLoRA (PERP, arXiv 2312.15230,
section 3).

With W the pruned weight [out, in], M its mask, A [r, in], B [out, r] and s = alpha / r:

===============  ==================  ==================  ===================================================
kind             weight in training  weight after merge  start
===============  ==================  ==================  ===================================================
lora             W + s BA            not merged          A uniform in +-1/sqrt(in), B = 0
lora-prune       W + s BA            W + s M*(BA)        as lora; masking at the merge makes the loss jump
masklora         W + s M*(BA)        W + s M*(BA)        as lora
scalelora        W * (BA)            W * (BA)            A = B = 1/sqrt(r) everywhere, so BA = 1
scalelora-free   W * (BA)            W * (BA)            first component 1, the others as lora
===============  ==================  ==================  ===================================================

Plain LoRA cannot be merged without filling the zeros of W, so it stays beside the layer. The constant start
of ``scalelora`` is the official one. It gives all r components equal values and equal gradients, hence an
elementwise optimizer keeps them equal for ever and BA stays of rank one; ``scalelora-free`` is ours and
breaks that symmetry.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmcompress.errors import ParameterError
from lmcompress.models import block_linears
from lmcompress.prune.bits import Packed, pack, unpacked
from lmcompress.retrain import fused
from lmcompress.retrain.names import ADAPTERS, ADDITIVE, MASKED, SCALING

KINDS = ADAPTERS
NEEDS_MASK = ("lora-prune", "masklora")


def effective_weight(
    weight: Tensor, a: Tensor, b: Tensor, mask: Tensor | None, scale: float | None
) -> Tensor:
    """A new tensor [out, in] in the weight's dtype: W + scale BA (times ``mask``), or W * (BA) when ``scale``
    is None.

    ``mask``: bool, or packed by ``bits.pack``. Where the kernels of ``fused.py`` serve they do the same in
    one pass. Not differentiable: see :class:`RebuiltWeight` and :class:`RebuiltLinear`.
    """
    if fused.usable(weight, len(a)):
        return fused.effective_weight(weight, a, b, mask, scale)
    mask = unpacked(mask, weight.shape[1])
    a, b = a.to(weight.dtype), b.to(weight.dtype)
    if scale is None:
        return torch.mm(b, a).mul_(weight)
    low = torch.mm(b * scale, a)
    return low.add_(weight) if mask is None else torch.addcmul(weight, low, mask, out=low)


def expression(weight: Tensor, a: Tensor, b: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """:func:`effective_weight` as plain differentiable operations, for a compiler; ``mask`` is bool."""
    low = torch.mm(b.to(weight.dtype), a.to(weight.dtype))
    if scale is None:
        return weight * low
    return weight + scale * (low if mask is None else low * mask)


def low_rank_gradients(
    product: Tensor, weight: Tensor, a: Tensor, b: Tensor, mask: Tensor | None, scale: float | None
) -> tuple[Tensor, Tensor]:
    """``(dA, dB)`` from ``product`` = dY^T X [out, in], the gradient of W_eff; ``product`` is overwritten.

    dA = B^T H and dB = H A^T, where H = scale M*product, or W*product when ``scale`` is None.
    """
    if fused.usable(weight, len(a)):
        da, db = fused.gradients(product, weight, a, b, mask, scale)
        return da.to(a.dtype), db.to(b.dtype)
    mask = unpacked(mask, weight.shape[1])
    h = product.mul_(weight) if scale is None else product if mask is None else product.mul_(mask)
    few = 1.0 if scale is None else scale  # on the small factors, not on H
    da = torch.mm((b * few).to(h.dtype).t(), h).to(a.dtype)
    db = torch.mm(h, (a * few).to(h.dtype).t()).to(b.dtype)
    return da, db


class RebuiltWeight(torch.autograd.Function):
    """:func:`effective_weight`, differentiable with respect to ``a`` and ``b``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, a: Tensor, b: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        ctx.save_for_backward(weight, a, b, mask)
        ctx.scale = scale
        return effective_weight(weight, a, b, mask, scale)

    @staticmethod
    def backward(ctx: Any, product: Tensor) -> tuple[Tensor | None, ...]:
        weight, a, b, mask = ctx.saved_tensors
        da, db = low_rank_gradients(product.clone(), weight, a, b, mask, ctx.scale)
        return None, da, db, None, None


class RebuiltLinear(torch.autograd.Function):
    """x W_eff^T + bias that keeps only x for the backward pass and builds W_eff a second time there.

    Left to autograd, W_eff and the mask product of every layer would stay alive until the backward pass:
    three bytes or more for each pruned weight. Here dX = dY W_eff, and dA and dB come from dY^T X by
    :func:`low_rank_gradients`. W itself is frozen.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        mask: Tensor | None,
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, a, b, mask)
        ctx.scale = scale
        return F.linear(x, effective_weight(weight, a, b, mask, scale), bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, mask = ctx.saved_tensors
        dx = da = db = dbias = None
        rows = dy.reshape(-1, dy.shape[-1])
        if ctx.needs_input_grad[0]:
            dx = dy @ effective_weight(weight, a, b, mask, ctx.scale)
        if ctx.needs_input_grad[2]:
            dbias = rows.sum(0)
        if ctx.needs_input_grad[3]:
            product = torch.mm(rows.t(), x.reshape(-1, x.shape[-1]))
            da, db = low_rank_gradients(product, weight, a, b, mask, ctx.scale)
        return dx, None, dbias, da, db, None, None


class AdaptedLinear(nn.Linear):
    """A Linear with an adapter. It shares weight and bias with the layer that it stands in for, and keeps its
    name.

    ``a`` [r, in] and ``b`` [out, r] are fp32 parameters whatever the weight's dtype (fp64 for an fp64
    weight); the products are taken in the weight's dtype, so that what is trained is exactly what is merged.
    They are plain parameters, not Linears: whoever lists the Linears of the model finds the same ones as
    before. The mask is kept as bits where the kernels of ``fused.py`` serve: eight weights a byte.
    """

    def __init__(
        self,
        linear: nn.Linear,
        kind: str,
        rank: int,
        alpha: float,
        mask: Tensor | None,
        generator: torch.Generator,
    ) -> None:
        nn.Module.__init__(self)  # not Linear's: it would allocate a second weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.transposed = getattr(
            linear, "transposed", False
        )  # a Conv1D to be put back (lmcompress.unbundle)
        self.kind, self.scale = kind, None if kind in SCALING else alpha / rank
        if mask is not None and mask.dtype == torch.bool and fused.usable(self.weight, rank):
            mask = pack(mask)
        self.kept: Tensor | None
        self.register_buffer("kept", mask, persistent=False)
        a, b = _start(kind, rank, self.in_features, self.out_features, generator)
        to: Any = {
            "device": linear.weight.device,
            "dtype": torch.promote_types(linear.weight.dtype, torch.float32),
        }
        self.a, self.b = nn.Parameter(a.to(**to)), nn.Parameter(b.to(**to))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind in ADDITIVE:
            low = F.linear(F.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype))
            return torch.add(F.linear(x, self.weight, self.bias), low, alpha=self.scale)
        kept = self.kept if self.kind in MASKED else None
        if torch.compiler.is_compiling():  # which fuses the plain expression
            weight = expression(self.weight, self.a, self.b, unpacked(kept, self.in_features), self.scale)
            return F.linear(x, weight, self.bias)
        return RebuiltLinear.apply(x, self.weight, self.bias, self.a, self.b, kept, self.scale)

    @property
    def mask(self) -> Tensor | None:
        """The mask [out, in], bool, True = kept, or None."""
        return unpacked(self.kept, self.in_features)

    def trained_weight(self) -> Tensor:
        """The weight [out, in] that the layer applies in training, differentiable in ``a`` and ``b``."""
        kept = self.kept if self.kind in MASKED else None
        return RebuiltWeight.apply(self.weight, self.a, self.b, kept, self.scale)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain Linear that this layer becomes; the shared weight is overwritten, zeros stay zeros."""
        weight = effective_weight(self.weight, self.a, self.b, self.kept, self.scale)
        if (mask := self.mask) is not None:
            weight.masked_fill_(~mask, 0)  # also turns the -0 of a masking by product into 0
        self.weight.copy_(weight)
        return self.bare()

    def bare(self) -> nn.Linear:
        """The plain Linear with the weight and bias as they are, without the adapter."""
        plain: Any = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        plain.weight, plain.bias, plain.transposed = self.weight, self.bias, self.transposed
        return plain.train(self.training)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kind={self.kind}, rank={self.a.shape[0]}"


def _start(
    kind: str, rank: int, inputs: int, outputs: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Starting values of A [rank, inputs] and B [outputs, rank], drawn on the CPU: the same on every
    device.
    """
    if kind == "scalelora":
        return torch.full((rank, inputs), rank**-0.5), torch.full((outputs, rank), rank**-0.5)
    a = (torch.rand(rank, inputs, generator=generator) * 2 - 1) * inputs**-0.5
    b = torch.zeros(outputs, rank)
    if kind == "scalelora-free":
        a[0], b[:, 0] = 1.0, 1.0
    return a, b


def attach(
    model: nn.Module,
    kind: str,
    rank: int = 16,
    alpha: float = 32.0,
    masks: Mapping[str, Tensor] | None = None,
    layers: Iterable[str] | None = None,
    seed: int = 0,
) -> dict[str, nn.Parameter]:
    """Put an adapter on every layer of ``layers`` (full names; default: all Linears of the blocks), in place.

    ``masks``: layer name -> bool [out, in], True = kept; needed by ``lora-prune`` and ``masklora`` for every
    layer. Returns the new parameters by full name. Their layers' own weights are frozen. Raises
    :class:`ParameterError` for an unknown kind, a rank below 1, a layer that has an adapter already, and a
    mask that lacks, does not fit, or contradicts the weights. Defaults of rank and alpha are the official
    code's.
    """
    if kind not in KINDS:
        raise ParameterError("adapter", kind, KINDS)
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ParameterError("rank", rank, "a whole number of at least 1")
    masks = masks or {}
    names = list(block_linears(model)) if layers is None else list(layers)
    found: dict[str, Any] = {name: model.get_submodule(name) for name in names}
    for name, layer in found.items():
        _refuse(name, layer, kind, masks.get(name))
    generator = torch.Generator().manual_seed(seed)
    parameters: dict[str, nn.Parameter] = {}
    for name, layer in found.items():
        mask = None
        if name in masks:
            kernels = fused.usable(layer.weight, rank)
            mask = masks.bits(name) if kernels and isinstance(masks, Packed) else masks[name]
            mask = mask.to(layer.weight.device)
        adapted = AdaptedLinear(layer, kind, rank, alpha, mask, generator).train(layer.training)
        adapted.weight.requires_grad_(False)
        model.set_submodule(name, adapted)
        parameters |= {f"{name}.a": adapted.a, f"{name}.b": adapted.b}
    return parameters


def _refuse(name: str, layer: nn.Module, kind: str, mask: Tensor | None) -> None:
    if not isinstance(layer, nn.Linear) or isinstance(layer, AdaptedLinear):
        raise ParameterError("layers", name, "a Linear without an adapter (merge the earlier one first)")
    if mask is None:
        if kind in NEEDS_MASK:
            raise ParameterError(
                "masks", f"none for {name}", f"a mask for every layer: {kind} keeps its zeros"
            )
        return
    if mask.dtype != torch.bool or mask.shape != layer.weight.shape:
        valid = f"bool of shape {tuple(layer.weight.shape)}"
        raise ParameterError(f"mask of {name}", f"{mask.dtype} {tuple(mask.shape)}", valid)
    if bool(((layer.weight.detach() != 0) & ~mask.to(layer.weight.device)).any()):
        raise ParameterError(
            f"mask of {name}", "a mask that drops non-zero weights", "masks applied to the weights"
        )


def merge(model: nn.Module) -> list[str]:
    """Fold every adapter into its weight and put plain Linears back, in place; masked weights are exactly 0
    after it.

    Plain ``lora`` on a masked layer cannot be folded without filling the zeros: it stays an adapter. Returns
    the names of the layers that stayed (empty for all other kinds).
    """
    stayed = []
    for name, layer in adapted_layers(model).items():
        if layer.kind == "lora" and layer.kept is not None:
            stayed.append(name)
        else:
            model.set_submodule(name, layer.merged())
    return stayed


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLinear]:
    """Name -> layer for every layer that carries an adapter."""
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}
