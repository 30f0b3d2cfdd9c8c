"""Masks held as bits are the masks that were put in."""

import pytest
import torch

from lmcompress.prune.bits import Packed, pack, unpacked


@pytest.mark.parametrize("columns", [1, 7, 8, 9, 40])
def test_eight_weights_a_byte(columns):
    mask = torch.rand(5, columns, generator=torch.Generator().manual_seed(columns)) < 0.5
    bits = pack(mask)
    assert bits.dtype == torch.uint8
    assert bits.shape == (5, -(-columns // 8))
    assert torch.equal(unpacked(bits, columns), mask)
    assert unpacked(mask, columns) is mask
    assert unpacked(None, columns) is None


def test_a_packed_dict_of_masks_is_a_mapping_of_bools():
    masks = {"b": torch.tensor([[True, False, True]]), "a": torch.zeros(2, 9, dtype=torch.bool)}
    packed = Packed(masks)
    assert list(packed) == ["b", "a"]
    assert all(torch.equal(packed[name], kept) for name, kept in masks.items())
    assert list(packed.in_order(["a"])) == ["a"]
    assert torch.equal(packed.bits("a"), pack(masks["a"]))
    assert packed.in_order(["a"]).bits("a") is packed.bits("a")
    assert "c" not in packed
    assert packed.get("c") is None
    assert repr(packed) == "Packed(b, a)"
    assert torch.equal(packed.pop("b"), masks["b"])
    assert len(packed) == 1
    packed["a"] = ~masks["a"]
    assert packed["a"].all()
