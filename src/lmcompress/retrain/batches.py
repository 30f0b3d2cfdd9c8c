"""Token windows or ready batches, in a seeded order that depends on the step alone (so a run can be
resumed).
"""

import torch
from torch import Tensor

from lmcompress.errors import ParameterError

Batch = dict[str, Tensor]


class Batches:
    """Endless shuffled batches for a model's forward call with ``labels``.

    ``data``: LongTensor [N, T] of packed windows, cut into batches of ``size`` windows (labels = the tokens),
    or a list of dicts (``input_ids`` [B, T], ``labels`` and perhaps ``attention_mask``), each one batch as it
    is. Every pass over the data has its own order, drawn from ``seed`` and the number of the pass.
    """

    def __init__(self, data: Tensor | list[Batch], size: int, seed: int):
        self.data, self.seed = data, seed
        self.size = size if isinstance(data, Tensor) else 1
        _refuse(data, self.size)
        self.per_pass = len(data) // self.size
        self._order: tuple[int, Tensor] | None = None

    @property
    def recordable(self) -> bool:
        """Whether every batch has the same shapes and the usual positions (see ``graphs.unread_masks``)."""
        if isinstance(self.data, Tensor):
            return True
        shapes = {tuple((key, value.shape) for key, value in batch.items()) for batch in self.data}
        return len(shapes) == 1 and "position_ids" not in self.data[0]

    def __getitem__(self, number: int) -> Batch:
        """The batch at position ``number`` (from 0) of the endless sequence."""
        turn, place = divmod(number, self.per_pass)
        if self._order is None or self._order[0] != turn:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + turn) % 2**63)
            self._order = (turn, torch.randperm(len(self.data), generator=generator))
        chosen = self._order[1][place * self.size : (place + 1) * self.size]
        return _batch(self.data, chosen)


def in_order(data: Tensor | list[Batch], size: int) -> list[Batch]:
    """All of ``data`` in its own order, the last batch perhaps smaller."""
    size = size if isinstance(data, Tensor) else 1
    _refuse(data, 1)
    return [
        _batch(data, torch.arange(start, min(start + size, len(data)))) for start in range(0, len(data), size)
    ]


def tokens(batch: Batch) -> int:
    """Real tokens of a batch: padding never counts."""
    mask = batch.get("attention_mask")
    return batch["input_ids"].numel() if mask is None else int(mask.sum())


def _batch(data: Tensor | list[Batch], chosen: Tensor) -> Batch:
    if isinstance(data, Tensor):
        return {"input_ids": data[chosen], "labels": data[chosen]}
    return data[int(chosen)]


def _refuse(data: Tensor | list[Batch], size: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ParameterError("batch_size", size, "a whole number of at least 1")
    if isinstance(data, Tensor):
        if data.dim() != 2 or data.dtype != torch.long or len(data) < size:
            shape = f"{data.dtype} {tuple(data.shape)}"
            raise ParameterError("windows", shape, f"int64 token windows [N, T] with N of at least {size}")
    elif not data or any("input_ids" not in batch or "labels" not in batch for batch in data):
        raise ParameterError(
            "windows", type(data).__name__, "a non-empty list of dicts with input_ids and labels"
        )
