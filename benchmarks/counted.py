"""Peak memory of a training step without the memory: every tensor of the step on the meta device, where it has a size
and no content, counted from its making to its end.

What a GPU adds (buffers of its libraries, gaps between tensors) is left out.
"""

import weakref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AutoModelForCausalLM, PretrainedConfig

from lmcompress.graphs import unread_masks
from lmcompress.models import block_linears
from lmcompress.prune.bits import Packed
from lmcompress.retrain.loss import chunked
from lmcompress.retrain.optimizer import MaskedAdamW
from lmcompress.retrain.subsets import select
from lmcompress.retrain.train import _step, _training


class Memory(TorchDispatchMode):
    """Bytes of the storages that are alive, ``live``, and the most that ever were, ``peak``, inside a ``with``."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        made = function(*arguments, **(keywords or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor) and value.is_meta:
                self._note(value.untyped_storage())
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.live += self._sizes[key]
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


class Held(MaskedAdamW):
    """The optimizer whose update allocates what AdamW keeps, and computes nothing."""

    def update(self) -> Tensor:
        for master in self.masters.values():
            if master not in self.adam.state:
                self.adam.state[master] = [torch.empty_like(master), torch.empty_like(master)]
        self.adam.zero_grad(set_to_none=True)
        return self.stopped


def peak(config: PretrainedConfig, subset: str, batch: int, length: int) -> int:
    """Most bytes that retraining ``subset`` of the bf16 model of ``config`` holds, masks included, all blocks
    checkpointed: of two steps of ``batch`` windows of ``length`` tokens, the second with AdamW's state.
    """
    AttentionInterface.register("counted", _attention)
    with Memory() as memory, unread_masks(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="counted")
        masks = Packed()
        for name, linear in block_linears(model).items():
            masks[name] = torch.empty(linear.weight.shape, dtype=torch.bool)
        optimizer = Held(select(model, subset), masks, lr=1.0, steps=2)
        tokens = torch.zeros(batch, length, dtype=torch.long)
        with _training(model, True), chunked(model):
            for _ in range(2):
                _step(model, [{"input_ids": tokens, "labels": tokens}], optimizer)
    return memory.peak


def _attention(_module, query, key, value, _mask, dropout=0.0, scaling=None, **_) -> tuple[Tensor, None]:
    """The memory of flash attention, which is what a GPU runs: no scores of all pairs of tokens."""
    found = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True, scale=scaling)[0]
    return found.transpose(1, 2), None
