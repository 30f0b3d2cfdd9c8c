"""What to retrain: named subsets of a model's parameters (PERP, arXiv 2312.15230, sections 2 and 3).

A subset is written by its names joined with "+": ``"biases"``, ``"norms+masklora"``.

============  ==============================================================================================
nothing       no parameter (the pruned model as it is)
biases        every bias that the model has, of Linears and of norms
norms         weights and biases of every LayerNorm or RMSNorm
head          the output layer: to the vocabulary or the classes (a tied head gets its own copy first)
embeddings    token and learned position embeddings (a tied head gets its own copy first)
new-biases    a zero bias added to every bias-free Linear of the blocks (our extension for bias-free models)
head-lora     LoRA on the output Linear (the official code's treatment of the head)
lora ...      an adapter on every Linear of the blocks; the kinds are in ``adapters.py``
full          every parameter, pruned weights held at zero; a tied head stays tied (the control)
============  ==============================================================================================
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from lmcompress.errors import ParameterError
from lmcompress.models import block_linears, coverage, untie_head
from lmcompress.retrain import adapters
from lmcompress.retrain.names import ADDED, NAMES, Subset, parse
from lmcompress.unbundle import as_linears

UNTIES = {"head", "head-lora", "embeddings"}
ADDED_BIAS = "added_by_lmcompress"  # marks a bias that the model did not come with


@dataclass(frozen=True)
class Count:
    """Trainable parameters, all parameters of the model as loaded, and how many of the trainable ones are
    added to it. ``coverage``: share of the weights in the blocks' matrices that adapters or new biases stand beside,
    1 for a subset without them.
    """

    trainable: int
    total: int
    added: int
    coverage: float = 1.0

    @property
    def percent(self) -> float:
        """Trainable percentage of the parameters of the model as loaded."""
        return 100 * self.trainable / self.total


def is_norm(module: nn.Module) -> bool:
    """LayerNorm and every RMSNorm class: transformers gives each family its own, all named so."""
    return isinstance(module, nn.LayerNorm) or type(module).__name__.lower().endswith("norm")


def existing(root: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """Parameters of ``root`` (a model or one block) that the subset ``name`` (not an added one) holds, by
    full name.
    """
    if name == "full":
        return dict(root.named_parameters())
    if name == "biases":
        return {key: value for key, value in root.named_parameters() if key.rpartition(".")[2] == "bias"}
    if name == "norms":
        modules = [key for key, module in root.named_modules() if is_norm(module)]
    elif name == "embeddings":
        modules = [key for key, module in root.named_modules() if isinstance(module, nn.Embedding)]
    elif name == "head":
        modules = [key for key, _ in head_modules(root)]
    else:
        return {}
    return {
        f"{key}.{own}": value for key in modules for own, value in root.get_submodule(key).named_parameters()
    }


def head_modules(root: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children of a model with a head that are not its base model: ``lm_head``, ``classifier``, ..."""
    base = getattr(root, "base_model", root)
    return [] if base is root else [(key, child) for key, child in root.named_children() if child is not base]


def head_linears(root: nn.Module) -> dict[str, nn.Linear]:
    """Full name -> Linear of the head."""
    return {
        f"{key}.{own}" if own else key: module
        for key, child in head_modules(root)
        for own, module in child.named_modules()
        if isinstance(module, nn.Linear)
    }


def _sizes(root: nn.Module, layers: dict[str, nn.Linear], name: str, rank: int) -> dict[str, int]:
    """Number of trained values per parameter name."""
    if name == "new-biases":
        return {
            f"{key}.bias": layer.out_features
            for key, layer in layers.items()
            if layer.bias is None or hasattr(layer.bias, ADDED_BIAS)
        }
    if name in adapters.KINDS or name == "head-lora":
        targets = head_linears(root) if name == "head-lora" else layers
        return {
            f"{key}.ab": rank * (layer.in_features + layer.out_features) for key, layer in targets.items()
        }
    return {key: value.numel() for key, value in existing(root, name).items()}


def _checked(
    root: nn.Module, layers: dict[str, nn.Linear], subset: Subset, rank: int
) -> tuple[dict[str, Any], int]:
    """Values per trained parameter, and how many of them are added; refuses a subset that is empty here."""
    sizes: dict[str, int] = {}
    added = 0
    for name in subset.names:
        own = _sizes(root, layers, name, rank)
        if not own and name != "nothing":
            here = [other for other in NAMES if other == "nothing" or _sizes(root, layers, other, rank)]
            raise ParameterError("subset", name, f"one that {type(root).__name__} has: " + ", ".join(here))
        sizes |= own
        added += sum(own.values()) if name in ADDED else 0
    return sizes, added


def count(model: nn.Module | PretrainedConfig, spec: str | Subset, rank: int = 16) -> Count:
    """How much ``spec`` would train, without changing the model.

    A transformers config is built as a causal language model on the meta device: no weights are loaded or
    allocated. Raises :class:`ParameterError` for a subset that is empty for the model, naming those that are
    not.
    """
    if isinstance(model, PretrainedConfig):
        with torch.device("meta"):
            model = as_linears(AutoModelForCausalLM.from_config(model))
    subset, layers = parse(spec), block_linears(model)
    sizes, added = _checked(model, layers, subset, rank)
    reached = coverage(model, layers)[0] if subset.adapter or "new-biases" in subset.names else 1.0
    return Count(sum(sizes.values()), sum(each.numel() for each in model.parameters()), added, reached)


def select(
    model: nn.Module,
    spec: str | Subset,
    *,
    masks: Mapping[str, Tensor] | None = None,
    rank: int = 16,
    alpha: float = 32.0,
    seed: int = 0,
) -> dict[str, nn.Parameter]:
    """Freeze the model but for ``spec``, adding what it adds, in place. Returns the trainable parameters by
    full name.

    ``masks`` (Linear name -> bool [out, in], True = kept) are needed by the adapters that keep the zeros.
    Parameters keep their dtype; ``train`` holds fp32 copies of half-precision ones. Raises
    :class:`ParameterError` as :func:`parse`, :func:`count` and :func:`adapters.attach` do.
    """
    as_linears(model)
    return select_within(model, block_linears(model), spec, masks=masks, rank=rank, alpha=alpha, seed=seed)


def select_within(
    root: nn.Module,
    layers: dict[str, nn.Linear],
    spec: str | Subset,
    *,
    masks: Mapping[str, Tensor] | None = None,
    rank: int = 16,
    alpha: float = 32.0,
    seed: int = 0,
) -> dict[str, nn.Parameter]:
    """:func:`select` in any module: ``layers`` (name within ``root`` -> Linear) receive the adapters or new
    biases.
    """
    subset = parse(spec)
    _checked(root, layers, subset, rank)
    root.requires_grad_(False)
    if UNTIES & set(subset.names) and hasattr(root, "get_input_embeddings"):
        untie_head(root)
    trained: dict[str, nn.Parameter] = {}
    for name in subset.names:
        trained |= existing(root, name)
    if "new-biases" in subset.names:
        trained |= add_biases(layers)
    if "head-lora" in subset.names:
        trained |= adapters.attach(root, "lora", rank, alpha, None, head_linears(root), seed)
    if subset.adapter:
        trained |= adapters.attach(root, subset.adapter, rank, alpha, masks, layers, seed)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    return trained


def add_biases(layers: dict[str, nn.Linear]) -> dict[str, nn.Parameter]:
    """Give each bias-free Linear a zero bias [out] of its weight's dtype, in place; returns the biases that were added,
    now or by an earlier call (another round of pruning and retraining goes on with them).
    """
    added = {}
    for name, layer in layers.items():
        if layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_zeros(layer.out_features))
            setattr(layer.bias, ADDED_BIAS, True)
        if hasattr(layer.bias, ADDED_BIAS):
            added[f"{name}.bias"] = layer.bias
    return added
