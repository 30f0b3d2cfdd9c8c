"""Import the official codes from a checkout, unchanged, with the least that is needed to make them run today.

Nothing of them is in this repository: clone what SOURCES names and give the folder. What is put in their way:

* Packages that they import at the top and that the compared functions never use (``datasets``, ``wandb``,
  ``peft``, ``lm_eval``) are replaced by empty modules where they are not installed. ``peft`` gets the three
  names that PERP uses, see :func:`peft_stand_in`.
* ``transformers.Conv1D`` has moved to ``transformers.pytorch_utils``.
* Without a GPU, ``.cuda()`` and ``torch.cuda.synchronize()`` do nothing (:func:`on_cpu_too`).
* Blocks of today's transformers return a tensor where the codes take ``[0]`` of a tuple (:class:`InTuple`).
* PERP's ScaleLoRA calls ``self.custom_dropout``, which is defined nowhere (:func:`lora_layer`).
"""

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
import transformers.optimization  # before any stand-in for peft, which it would look for
from torch import nn
from transformers.pytorch_utils import Conv1D

SOURCES = {
    "perp": "github.com/ZIB-IOL/PERP",
    "wanda": "github.com/locuslab/wanda",
    "sparsegpt": "github.com/IST-DASLab/sparsegpt",
}


def load(checkout: Path, module: str) -> types.ModuleType:
    """The module of a checkout. Raises ``SystemExit`` with a plain message when the folder does not hold
    it.
    """
    if not (checkout / (module.replace(".", "/") + ".py")).is_file():
        raise SystemExit(
            f"{checkout}: no {module} there; expected a checkout of one of {', '.join(SOURCES.values())}"
        )
    if not hasattr(transformers, "Conv1D"):
        transformers.Conv1D = Conv1D
    stubs = {
        "datasets": {"load_dataset": None},
        "wandb": {},
        "lm_eval": {},
        "peft": peft_stand_in() if module == "peft_methods" or module == "prune_methods" else {},
        "peft.tuners": {},
        "peft.tuners.lora": {"LoraLayer": LoraLayer},
    }
    absent = [
        name for name in stubs if name.split(".")[0] == "peft" or importlib.util.find_spec(name) is None
    ]
    before = {name: sys.modules.get(name) for name in absent}
    for name in absent:
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(stubs[name])
    sys.path.insert(0, str(checkout))
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(str(checkout))
        for name, old in before.items():
            sys.modules.pop(name)
            if old is not None:
                sys.modules[name] = old


@contextmanager
def on_cpu_too() -> Iterator[None]:
    """Inside, ``tensor.cuda()`` gives the tensor and ``torch.cuda.synchronize()`` returns, where there is
    no GPU.
    """
    if torch.cuda.is_available():
        yield
        return
    before = torch.Tensor.cuda, torch.cuda.synchronize
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor
    torch.cuda.synchronize = lambda *_, **__: None
    try:
        yield
    finally:
        torch.Tensor.cuda, torch.cuda.synchronize = before


class InTuple(nn.Module):
    """A block whose output is wrapped as blocks did it when the official codes were written."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, *arguments, **keywords) -> tuple[torch.Tensor]:
        return (self.block(*arguments, **keywords),)


class OneLinear(nn.Module):
    """A "language model" of one block with one Linear, for the official loops over a model's blocks.

    It is called with the inputs [1, T, in] of the Linear themselves; the block passes them on, so that the
    official code finds the shapes that it expects whatever the Linear's outputs.
    """

    class Block(nn.Module):
        def __init__(self, linear: nn.Linear):
            super().__init__()
            self.linear = linear

        def forward(self, x, attention_mask=None, position_ids=None):
            self.linear(x)
            return (x,)

    def __init__(self, linear: nn.Linear, tokens: int):
        super().__init__()
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([self.Block(linear)])
        self.config = types.SimpleNamespace(use_cache=False, hidden_size=linear.in_features)
        self.seqlen, self.hf_device_map = tokens, {}

    def forward(self, x):
        return self.model.layers[0](x, attention_mask=None, position_ids=None)


class LoraLayer(nn.Module):
    """What the official forward reads of a layer of the ``peft`` library: the same names, nothing else.

    A and B start as there: A by ``kaiming_uniform(a=sqrt(5))``, B at zero, both fp32 as PERP's training
    makes them.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float):
        super().__init__()
        self.base_layer = base
        to = {"device": base.weight.device, "dtype": torch.float32}
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False, **to)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False, **to)})
        nn.init.zeros_(self.lora_B["default"].weight)
        self.scaling = {"default": alpha / rank}

    @property
    def weight(self) -> torch.Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> torch.Tensor | None:
        return self.base_layer.bias


def lora_layer(layers: types.ModuleType, kind: str, base: nn.Linear, rank: int, alpha: float) -> nn.Module:
    """The official layer (``layers``: module ``customLayers``) of ``kind`` masklora or scalelora around
    ``base``.
    """
    official = {"masklora": layers.MaskLoRALayer, "scalelora": layers.ScaleLoRALayer}[kind]
    layer = official(lora_layer=LoraLayer(base, rank, alpha), dropout_p=0.0)
    layer.custom_dropout = nn.Identity()  # only ScaleLoRA asks for it; the dropout is 0 in any case
    return layer


def peft_stand_in() -> dict:
    """``LoraConfig`` and ``get_peft_model``: put a :class:`LoraLayer` on every Linear named among the
    targets.
    """

    def get_peft_model(model: nn.Module, config: types.SimpleNamespace) -> nn.Module:
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and name.rpartition(".")[2] in config.target_modules:
                model.set_submodule(name, LoraLayer(module, config.r, config.lora_alpha))
        return model

    return {"LoraConfig": types.SimpleNamespace, "get_peft_model": get_peft_model}
