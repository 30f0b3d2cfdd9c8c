"""Every weight of the blocks as a Linear: experts that a model keeps in one three-dimensional parameter, and Conv1D.

Criteria, adapters and formats work on ``nn.Linear`` [out, in]. Mixture-of-experts models of transformers hold the
weights of all experts of a block in one parameter [experts, out, in] (or [experts, in, out]), and GPT-2 holds its
weights transposed. Here both become Linears that compute the same, so that every expert has a mask and statistics
of its own, from the tokens that the router sends to it. :func:`bundled` puts them back for saving; :func:`split` and
:func:`joined` do the same to tensors by name. Files always hold the model's own parameters.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

WEIGHTS = ("gate_up_proj", "up_proj", "down_proj")


class Expert(nn.Module):
    """One expert: its first Linear (gate and up together, or up alone) and its second."""

    def __init__(self, first: nn.Linear, second: nn.Linear):
        super().__init__()
        self.up, self.down = first, second


class Experts(nn.ModuleList):
    """The experts of a block, one by one; ``whole``: the module that they were taken from, without its weights."""

    def __init__(self, whole: Any):
        first = "gate_up_proj" if whole.has_gate else "up_proj"
        pairs = zip(_linears(whole, first), _linears(whole, "down_proj"), strict=True)
        super().__init__(Expert(*pair) for pair in pairs)
        for name in WEIGHTS:
            for key in (name, f"{name}_bias"):
                if isinstance(getattr(whole, key, None), nn.Parameter):
                    setattr(whole, key, None)
        self._whole = [whole]  # in a list: its parameters are no longer the model's

    def forward(self, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """hidden [tokens, D], the experts chosen for each token [tokens, k] and their weights -> [tokens, D]."""
        whole = self._whole[0]
        total = torch.zeros_like(hidden)
        expert: Any
        for number, expert in enumerate(self):
            token, place = torch.where(index == number)
            if not len(token):
                continue
            states = expert.up(hidden[token])
            states = whole._apply_gate(states) if whole.has_gate else whole.act_fn(states)
            states = expert.down(states) * weights[token, place, None]
            total = total.index_add(0, token, states.to(total.dtype))
        return total

    def bundle(self) -> nn.Module:
        """The module that the experts were taken from, with their weights as they are now."""
        whole = self._whole[0]
        first = "gate_up_proj" if whole.has_gate else "up_proj"
        experts: list[Any] = list(self)
        for name, linears in (
            (first, [one.up for one in experts]),
            ("down_proj", [one.down for one in experts]),
        ):
            stacked = torch.stack([one.weight.detach() for one in linears])
            stacked = stacked.transpose(1, 2).contiguous() if whole.is_transposed else stacked
            setattr(whole, name, nn.Parameter(stacked, requires_grad=False))
            if whole.has_bias:
                setattr(
                    whole, f"{name}_bias", nn.Parameter(torch.stack([one.bias.detach() for one in linears]))
                )
        return whole


def _linears(whole: nn.Module, name: str) -> list[nn.Linear]:
    """The Linears in one bundled parameter: a copy of one expert at a time, the bundle is given up afterwards."""
    bundle = getattr(whole, name).detach()
    biases = getattr(whole, f"{name}_bias").detach() if whole.has_bias else [None] * len(bundle)
    weights = bundle.transpose(1, 2) if whole.is_transposed else bundle
    return [_linear(weight.clone(), bias) for weight, bias in zip(weights.contiguous(), biases, strict=True)]


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return made


def is_bundle(module: nn.Module) -> bool:
    """Whether a module holds the weights of several experts (as transformers marks such classes)."""
    marked = all(hasattr(module, name) for name in ("has_gate", "has_bias", "is_transposed", "_apply_gate"))
    return marked and getattr(getattr(module, "down_proj", None), "ndim", 0) == 3


def as_linears(model: nn.Module) -> nn.Module:
    """``model`` with Linears in the place of bundled experts and Conv1D, in place; nothing happens a second time.

    A model whose experts do something else after each of them (``has_post_expert_norm``) is left as it is.
    """
    for name, module in list(model.named_modules()):
        if is_bundle(module) and not getattr(module, "has_post_expert_norm", False):
            made: Any = Experts(module)
        elif type(module) is Conv1D:
            made = _linear(module.weight.detach().T.contiguous(), module.bias.detach())
            made.transposed = True
        else:
            continue
        for parameter in made.parameters():
            parameter.requires_grad_(True)
        model.set_submodule(name, made.train(module.training))
    return model


@contextmanager
def bundled(model: nn.Module) -> Iterator[None]:
    """Inside, the model has its own modules again, with the weights as they are now: that is how it is saved."""
    changed = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, Experts):
            changed[name] = module, module.bundle()
        elif getattr(module, "transposed", False):
            back = Conv1D(module.out_features, module.in_features)
            back.weight = nn.Parameter(module.weight.detach().T.contiguous(), requires_grad=False)
            back.bias = nn.Parameter(module.bias.detach(), requires_grad=False)
            changed[name] = module, back
    for name, (_, whole) in changed.items():
        model.set_submodule(name, whole)
    try:
        yield
    finally:
        for name, (module, whole) in changed.items():
            model.set_submodule(name, module)
            if isinstance(module, Experts):
                for key in WEIGHTS:
                    for part in (key, f"{key}_bias"):
                        if isinstance(getattr(whole, part, None), nn.Parameter):
                            setattr(whole, part, None)


@dataclass(frozen=True)
class Origin:
    """Where the model itself keeps a parameter: ``name`` of its own, ``place`` in it (None: all), and how."""

    name: str
    place: int | None
    transposed: bool


def origins(module: nn.Module, prefix: str = "") -> dict[str, Origin]:
    """Name (after ``prefix``) of every parameter that :func:`as_linears` made -> where the model itself keeps it."""
    found = {}
    for name, part in module.named_modules(prefix=prefix.rstrip(".")):
        if isinstance(part, Experts):
            whole = part._whole[0]
            first = "gate_up_proj" if whole.has_gate else "up_proj"
            for index in range(len(part)):
                for own, bundle in (("up", first), ("down", "down_proj")):
                    place = f"{name}.{index}.{own}"
                    found[f"{place}.weight"] = Origin(f"{name}.{bundle}", index, whole.is_transposed)
                    if whole.has_bias:
                        found[f"{place}.bias"] = Origin(f"{name}.{bundle}_bias", index, False)
        elif getattr(part, "transposed", False):
            found[f"{name}.weight"] = Origin(f"{name}.weight", None, True)
    return found


def split(tensors: Mapping[str, Tensor], made: Mapping[str, Origin]) -> dict[str, Tensor]:
    """The model's own ``tensors`` as parameters of Linears; ``made`` of :func:`origins`. Others stay."""
    there = {name: one for name, one in made.items() if one.name in tensors}
    own = {one.name for one in there.values()}
    found = {name: value for name, value in tensors.items() if name not in own}
    for name, one in there.items():
        value = tensors[one.name] if one.place is None else tensors[one.name][one.place]
        found[name] = value.T.contiguous() if one.transposed else value
    return found


def joined(tensors: Mapping[str, Tensor], made: Mapping[str, Origin]) -> dict[str, Tensor]:
    """The inverse of :func:`split`."""
    found: dict[str, Any] = {}
    parts: dict[str, Any] = {}
    for name, value in tensors.items():
        if (one := made.get(name)) is None:
            found[name] = value
            continue
        value = value.T.contiguous() if one.transposed else value
        if one.place is None:
            found[one.name] = value
        else:
            parts.setdefault(one.name, {})[one.place] = value
    return found | {name: torch.stack([each[n] for n in range(len(each))]) for name, each in parts.items()}


def left(blocks: dict[str, nn.Module], covered: set[str]) -> dict[str, int]:
    """Matrices in the blocks that are not ``covered`` (full names of layers): parameter name -> number of weights."""
    found = {}
    for name, block in blocks.items():
        for own, parameter in block.named_parameters():
            full = f"{name}.{own}"
            if parameter.ndim >= 2 and full.rpartition(".")[0] not in covered:
                found[full] = parameter.numel()
    return found
