"""The sort and the bisection on bits drop what a stable sort drops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcompress.prune import selection


def by_sorting(scores, count):
    order = scores.flatten().float().sort(stable=True).indices
    kept = torch.ones(scores.numel(), dtype=torch.bool)
    kept[order[:count]] = False
    return kept.view(scores.shape)


@pytest.mark.parametrize("most", [0, selection.SORTED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [0, 1, 100, 512, 1023, 1024])
def test_any_count_of_scores_with_many_ties_and_both_signs(dtype, count, most, monkeypatch):
    monkeypatch.setattr(selection, "SORTED", most)
    generator = torch.Generator().manual_seed(count)
    scores = (torch.randn(16, 64, generator=generator) * 8).round().div(8).to(dtype)
    assert torch.equal(selection.keep(scores, count), by_sorting(scores, count))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40), st.data())
def test_all_floats_are_ordered_as_numbers(values, data):
    scores = torch.tensor(values)
    count = data.draw(st.integers(0, len(values)))
    assert torch.equal(selection.keep(scores, count), by_sorting(scores, count))


def test_several_parts_are_one_selection():
    parts = [torch.tensor([[3.0, 1.0]]), torch.tensor([1.0, 0.5, 1.0])]
    kept = selection.keep_of([lambda part=part: selection.ordered(part) for part in parts], 3)
    assert [part.tolist() for part in kept] == [[[True, False]], [False, False, True]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_large_matrices_on_a_gpu_have_the_mask_of_the_cpu():
    from lmcompress.prune.mask import mask
    from lmcompress.prune.pattern import parse

    scores = torch.randn(700, 512).bfloat16().abs()
    assert torch.equal(mask(scores.cuda(), parse("50%")).cpu(), mask(scores, parse("50%")))
