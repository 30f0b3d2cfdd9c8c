"""The GPU kernel of the N:M masks against the plain way, bit for bit.

They run on a GPU, or in Triton's interpreter (``TRITON_INTERPRET=1`` with the package triton installed);
skipped otherwise.
"""

import os

import pytest
import torch

from lmcompress.prune import magnitude, ranking
from lmcompress.prune.mask import mask
from lmcompress.prune.pattern import NofM

GPU, INTERPRETED = torch.cuda.is_available(), os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if GPU and not INTERPRETED else "cpu"
needs_kernel = pytest.mark.skipif(
    ranking.triton is None or not (GPU or INTERPRETED), reason="needs Triton and a GPU, or its interpreter"
)
needs_gpu = pytest.mark.skipif(ranking.triton is None or not GPU, reason="needs Triton and a CUDA device")
PATTERNS = [(1, 2), (1, 3), (2, 3), (2, 4), (3, 4), (2, 5), (4, 8), (7, 8), (8, 16), (11, 20), (30, 60)]


def random_scores(rows, columns, levels=10**6, dtype=torch.float32):
    """Whole numbers, few ``levels`` of them for many ties, some below zero."""
    generator = torch.Generator().manual_seed(rows + columns + levels)
    return (torch.randint(levels, (rows, columns), generator=generator) - levels // 3).to(dtype)


def same(scores, n, m):
    """The kernel, wherever it runs, against the plain way on the CPU."""
    found = ranking.keep(scores.to(DEVICE), n, m)
    assert found.dtype == torch.bool
    assert found.shape == scores.shape
    return torch.equal(found.cpu(), mask(scores, NofM(n, m)))


@needs_kernel
def test_by_hand():
    scores = torch.tensor([[5.0, 1.0, 3.0, 4.0], [2.0, 2.0, 2.0, 2.0], [0.0, 7.0, -1.0, 0.0]], device=DEVICE)
    expected = [[True, False, False, True], [False, False, True, True], [False, True, False, True]]
    assert ranking.keep(scores, 2, 4).tolist() == expected


@needs_kernel
@pytest.mark.parametrize("levels", [1, 2, 5, 10**6])
@pytest.mark.parametrize(("n", "m"), PATTERNS)
def test_equal_to_the_plain_way_with_and_without_ties(n, m, levels):
    assert same(random_scores(7, 3 * m, levels), n, m)


@needs_kernel
@pytest.mark.parametrize(("n", "m"), [(2, 4), (2, 3), (4, 8)])
@pytest.mark.parametrize(("rows", "groups"), [(1, 1), (3, 1), (1, 513), (13, 257), (0, 2), (2, 0)])
def test_shapes_that_no_tile_divides(rows, groups, n, m):
    assert same(random_scores(rows, groups * m, levels=9), n, m)


@needs_kernel
@pytest.mark.parametrize("m", [1000, ranking.TILE])
def test_groups_up_to_a_tile(m):
    assert same(random_scores(2, m, levels=300), m // 3, m)


@needs_kernel
@pytest.mark.parametrize("dtype", ranking.DTYPES)
def test_dtypes(dtype):
    assert same(random_scores(5, 48, levels=40, dtype=dtype) / 7, 2, 4)


@needs_kernel
def test_double_is_not_rounded():
    scores = 1 + torch.tensor([[3.0, 2.0, 1.0, 0.0]], dtype=torch.float64, device=DEVICE) * 2**-40
    assert ranking.keep(scores, 2, 4).tolist() == [[True, True, False, False]]


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nan_and_infinite_scores_rank_as_in_the_plain_way(dtype):
    scores = random_scores(40, 64, levels=6, dtype=dtype)
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0], dtype=dtype)
    scores.view(-1)[::3] = special.repeat(scores.numel())[: scores.view(-1)[::3].numel()]
    for n, m in [(2, 4), (4, 8), (1, 2)]:
        assert same(scores, n, m)


@needs_kernel
def test_a_view_is_read_in_its_own_order():
    assert same(random_scores(24, 10).T, 4, 8)
    assert same(random_scores(6, 40)[:, 8:24], 2, 4)


def test_the_plain_way_serves_elsewhere():
    assert not ranking.usable(torch.zeros(2, 4), 4)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", ranking.DTYPES)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (2, 3), (3, 5)])
def test_masks_on_a_gpu_use_the_kernel_and_equal_those_of_the_cpu(n, m, dtype, monkeypatch):
    calls, keep = [], ranking.keep
    monkeypatch.setattr(ranking, "keep", lambda *given: calls.append(given) or keep(*given))
    scores = random_scores(500, 60 * m, levels=1000, dtype=dtype)
    assert torch.equal(mask(scores.cuda(), NofM(n, m)).cpu(), mask(scores, NofM(n, m)))
    assert len(calls) == 1


@pytest.mark.gpu
@needs_gpu
def test_other_scores_on_a_gpu_take_the_plain_way():
    whole = random_scores(3, 8, dtype=torch.int64)
    assert not ranking.usable(whole.cuda(), 4)
    assert torch.equal(mask(whole.cuda(), NofM(2, 4)).cpu(), mask(whole, NofM(2, 4)))
    wide = random_scores(1, 2 * ranking.TILE)
    assert not ranking.usable(wide.cuda(), 2 * ranking.TILE)
    assert torch.equal(mask(wide.cuda(), NofM(5, 4096)).cpu(), mask(wide, NofM(5, 4096)))


@pytest.mark.gpu
@needs_gpu
def test_a_parameter_that_needs_gradients_has_a_mask():
    weight = torch.nn.Parameter(torch.randn(64, 64, device="cuda"))
    kept = magnitude.per_matrix({"0": weight}, NofM(2, 4))["0"]
    assert torch.equal(kept.cpu(), mask(weight.detach().cpu().abs(), NofM(2, 4)))
