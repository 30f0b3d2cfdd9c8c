import pytest
import torch

from lmcompress.errors import ParameterError
from lmcompress.prune.pattern import NofM, Unstructured
from lmcompress.prune.wanda import prune, scores

WEIGHT = torch.tensor([[1.0, -2.0, 3.0, -4.0], [4.0, 3.0, -2.0, 1.0]])
NORMS = torch.tensor([10.0, 1.0, 2.0, 1.0])  # scores: 10 2 6 4 / 40 3 4 1


def kept(*rows):
    return torch.tensor([[char == "x" for char in row] for row in rows])


def test_by_hand():
    assert torch.equal(scores(WEIGHT, NORMS), torch.tensor([[10.0, 2, 6, 4], [40, 3, 4, 1]]))
    assert torch.equal(prune(WEIGHT, NORMS, Unstructured(0.5)), kept("x.x.", "x.x."))
    assert torch.equal(prune(WEIGHT, NORMS, Unstructured(0.3)), kept("x.xx", "xxx."))
    assert torch.equal(prune(WEIGHT, NORMS, NofM(1, 2)), kept("x.x.", "x.x."))


def test_equal_norms_are_magnitude_per_row_and_their_scale_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    weight, norms = torch.randn(8, 16, generator=generator).bfloat16(), torch.rand(16, generator=generator)
    ones = prune(weight, torch.ones(16), Unstructured(0.5))
    assert ((~ones).sum(1) == 8).all()
    assert torch.equal(prune(weight, norms, NofM(2, 4)), prune(weight, norms * 64, NofM(2, 4)))


def test_each_row_is_compared_by_itself():
    loud = WEIGHT * torch.tensor([[1.0], [1000.0]])
    assert torch.equal(prune(loud, NORMS, Unstructured(0.5)), prune(WEIGHT, NORMS, Unstructured(0.5)))


def test_m_has_to_divide_the_inputs():
    with pytest.raises(ParameterError, match="divides the 4 inputs"):
        prune(WEIGHT, NORMS, NofM(1, 3))
