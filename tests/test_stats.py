import pytest
import torch

from lmcompress import stats
from lmcompress.errors import NumericError, ParameterError
from lmcompress.stats import ColumnNorms, Gram, relative_output_error, require_finite

X = torch.tensor([[3.0, 0.0, 1.0], [4.0, 2.0, -1.0]])


def test_column_norms_by_hand_and_over_batches():
    whole, parts = ColumnNorms(3), ColumnNorms(3)
    whole.update(X.reshape(1, 2, 3))
    parts.update(X[:1])
    parts.update(X[1:].bfloat16())
    assert torch.equal(whole.result(), torch.tensor([5.0, 2.0, 2.0**0.5]))
    assert torch.equal(parts.result(), whole.result())
    assert whole.result().dtype == torch.float32


def test_gram_by_hand_and_over_batches():
    gram = Gram(3)
    gram.update(X[:1])
    gram.update(X[None, 1:])
    expected = torch.tensor([[25.0, 8.0, -1.0], [8.0, 4.0, -2.0], [-1.0, -2.0, 2.0]]) / 2
    assert torch.equal(gram.result(), expected)
    assert gram.tokens == 2


def test_fp64_sums_of_fp32_inputs():
    x = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(0))
    gram = Gram(4, dtype=torch.float64)
    gram.update(x)
    rows = x.reshape(-1, 4).double()
    torch.testing.assert_close(gram.result(), rows.T @ rows / 35, rtol=1e-12, atol=0)


@pytest.mark.parametrize("make", [ColumnNorms, Gram])
def test_wrong_width_and_no_tokens_are_refused(make):
    with pytest.raises(ParameterError, match="last dimension of 3"):
        make(3).update(torch.zeros(2, 4))
    with pytest.raises(ParameterError, match="at least one token"):
        make(3).result()


def test_relative_output_error_is_that_of_the_outputs():
    generator = torch.Generator().manual_seed(2)
    x, weight = (torch.randn(*shape, generator=generator).double() for shape in ((50, 6), (4, 6)))
    changed = weight * torch.tensor([1.0, 0, 1, 1, 0, 1])
    gram = Gram(6, dtype=torch.float64)
    gram.update(x)
    expected = ((x @ (weight - changed).T) ** 2).sum() / ((x @ weight.T) ** 2).sum()
    assert relative_output_error(weight, changed, gram.result()) == pytest.approx(float(expected))
    assert relative_output_error(weight, weight, torch.zeros(6, 6)) == 0
    assert relative_output_error(torch.zeros(4, 6), weight, torch.eye(6)) == float("inf")


def test_non_finite_names_its_layer():
    require_finite(X, "layers.0.q", "weight")
    with pytest.raises(NumericError, match=r"layer layers\.0\.q: non-finite weight"):
        require_finite(torch.tensor([1.0, float("nan")]), "layers.0.q", "weight")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_half_precision_on_a_gpu_is_summed_in_fp32():
    x = torch.randn(4, 4096, 96).bfloat16()
    gram = Gram(96)
    for batch in x:
        gram.update(batch.cuda())
    expected = torch.einsum("bti,btj->ij", x.double(), x.double()) / x[..., 0].numel()
    error = (gram.result().cpu().double() - expected).norm() / expected.norm()
    assert error < 1e-5


def test_a_gram_matrix_of_many_columns_is_whole_and_goes_on_after_it_was_read(monkeypatch):
    monkeypatch.setattr(stats, "SPAN", 5)
    x = torch.randn(40, 17, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    gram = Gram(17, torch.float64)
    gram.update(x[:30])
    torch.testing.assert_close(gram.result(), x[:30].T @ x[:30] / 30, rtol=1e-12, atol=1e-12)
    gram.update(x[30:])
    torch.testing.assert_close(gram.result(), x.T @ x / 40, rtol=1e-12, atol=1e-12)
