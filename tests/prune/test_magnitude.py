import pytest
import torch

from lmcompress.errors import ParameterError
from lmcompress.prune.magnitude import at_random, over_model, per_matrix, per_row
from lmcompress.prune.pattern import NofM, Unstructured

WEIGHTS = {
    "a": torch.tensor([[0.1, -0.2, 0.9, 0.8], [-0.3, 0.4, 0.7, -0.6]]),
    "b": torch.tensor([[10.0, -20.0, 30.0, 0.05]]),
}


def kept(*rows):
    return torch.tensor([[char == "x" for char in row] for row in rows])


def test_per_matrix_by_hand():
    masks = per_matrix(WEIGHTS, Unstructured(0.5))
    assert torch.equal(masks["a"], kept("..xx", "..x."))  # 5 of 8: with the weight at the threshold index
    assert torch.equal(masks["b"], kept("..x."))
    assert torch.equal(per_matrix(WEIGHTS, NofM(2, 4))["a"], kept("..xx", "..xx"))


def test_per_row_by_hand():
    assert torch.equal(per_row(WEIGHTS, Unstructured(0.25))["a"], kept(".xxx", ".xxx"))


def test_over_the_model_by_hand():
    masks = over_model(WEIGHTS, Unstructured(0.4))  # int(12 * 0.4) + 1 = 5 of 12
    assert torch.equal(masks["a"], kept("..xx", "..xx"))
    assert torch.equal(masks["b"], kept("xxx."))
    assert all(mask.all() for mask in over_model(WEIGHTS, Unstructured(0)).values())
    with pytest.raises(ParameterError, match="unstructured"):
        over_model(WEIGHTS, NofM(2, 4))


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.93])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_over_the_model_equals_one_big_matrix(share, dtype):
    generator = torch.Generator().manual_seed(3)
    weights = {str(i): torch.randn(8, 16, generator=generator).mul(i + 1).to(dtype) for i in range(4)}
    together = torch.cat([weight.flatten() for weight in weights.values()])
    expected = per_matrix({"all": together[None]}, Unstructured(share))["all"].flatten().split(128)
    for mask, reference in zip(over_model(weights, Unstructured(share)).values(), expected, strict=True):
        assert torch.equal(mask.flatten(), reference)  # bf16 has ties: both break them in order


def test_random_depends_on_seed_and_name_only():
    weights = {"a": torch.zeros(8, 16), "b": torch.ones(8, 16)}
    first, alone = at_random(weights, Unstructured(0.5)), at_random({"b": weights["b"]}, Unstructured(0.5))
    assert torch.equal(first["b"], alone["b"])
    assert not torch.equal(first["a"], first["b"])
    assert not torch.equal(first["a"], at_random(weights, Unstructured(0.5), seed=1)["a"])
    assert int((~first["a"]).sum()) == 65
    assert ((~at_random(weights, NofM(2, 4))["a"]).reshape(-1, 4).sum(1) == 2).all()
