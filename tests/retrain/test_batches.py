"""Order of the batches: a seeded permutation of every pass, that depends on the position alone."""

import pytest
import torch
from tiny import tiny_tokens

from lmcompress.errors import ParameterError
from lmcompress.retrain.batches import Batches, in_order, tokens


def test_every_pass_holds_each_window_once_in_an_order_of_its_own():
    windows = torch.arange(6)[:, None].expand(6, 4).contiguous()
    batches = Batches(windows, 2, seed=5)
    passes = [torch.cat([batches[3 * turn + k]["input_ids"][:, 0] for k in range(3)]) for turn in range(4)]
    assert all(torch.equal(order.sort().values, torch.arange(6)) for order in passes)
    assert len({tuple(order.tolist()) for order in passes}) > 1
    assert torch.equal(batches[1]["input_ids"][:, 0], passes[0][2:4])  # back again, as after a resume


def test_a_remainder_that_fills_no_batch_is_left_out_of_the_pass():
    batches = Batches(tiny_tokens(5), 2, seed=0)
    assert batches.per_pass == 2
    assert batches[7]["labels"].shape == (2, 16)


def test_ready_batches_stay_whole():
    ready = [{"input_ids": tiny_tokens(k), "labels": torch.zeros(k, dtype=torch.long)} for k in (1, 2, 3)]
    batches = Batches(ready, 8, seed=0)
    assert sorted(len(batches[k]["labels"]) for k in range(3)) == [1, 2, 3]
    assert [len(batch["labels"]) for batch in in_order(ready, 8)] == [1, 2, 3]


def test_in_order_includes_the_last_smaller_batch():
    windows = tiny_tokens(5)
    assert torch.equal(torch.cat([batch["input_ids"] for batch in in_order(windows, 2)]), windows)


def test_padding_is_never_counted():
    batch = {"input_ids": tiny_tokens(2), "attention_mask": torch.tensor([[1] * 16, [1] * 3 + [0] * 13])}
    assert tokens(batch) == 19
    assert tokens({"input_ids": tiny_tokens(2)}) == 32


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (tiny_tokens(3), 4),
        (tiny_tokens(3), 0),
        (tiny_tokens(3).float(), 1),
        (tiny_tokens(3)[0], 1),
        ([], 1),
        ([{}], 1),
    ],
)
def test_unfit_data_is_refused(data, size):
    with pytest.raises(ParameterError):
        Batches(data, size, seed=0)
