import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from lmcompress.errors import NumericError, ParameterError
from lmcompress.prune import mask as masks_of
from lmcompress.prune.mask import mask
from lmcompress.prune.pattern import NofM, Unstructured

SCORES = torch.tensor([[5.0, 1.0, 3.0, 4.0], [2.0, 6.0, 8.0, 7.0]])


def kept(rows):
    return torch.tensor([[char == "x" for char in row] for row in rows])


@pytest.mark.parametrize(
    ("pattern", "per", "rows"),
    [
        (Unstructured(0.5), "tensor", ["....", ".xxx"]),  # the threshold at index 4 goes too: 5 of 8
        (Unstructured(0.5), "row", ["x..x", "..xx"]),
        (Unstructured(0.25), "tensor", ["x..x", ".xxx"]),
        (Unstructured(0.3), "row", ["x.xx", ".xxx"]),
        (Unstructured(0), "tensor", ["xxxx", "xxxx"]),
        (Unstructured(0), "row", ["xxxx", "xxxx"]),
        (NofM(2, 4), "tensor", ["x..x", "..xx"]),
        (NofM(1, 2), "row", ["x..x", ".xx."]),
        (NofM(3, 4), "tensor", ["x...", "..x."]),
    ],
)
def test_by_hand(pattern, per, rows):
    assert torch.equal(mask(SCORES, pattern, per), kept(rows))


def test_ties_go_in_row_major_order_and_keep_the_share():
    same = torch.ones(2, 4)
    assert torch.equal(mask(same, Unstructured(0.5)), kept(["....", ".xxx"]))
    assert torch.equal(mask(same, Unstructured(0.5), "row"), kept(["..xx", "..xx"]))
    assert torch.equal(mask(same, NofM(2, 4)), kept(["..xx", "..xx"]))


matrices = st.builds(
    lambda rows, groups, levels, seed: torch.randint(
        levels, (rows, 8 * groups), generator=torch.Generator().manual_seed(seed)
    ).float(),
    st.integers(1, 6),
    st.integers(1, 4),
    st.sampled_from([2, 5, 10**6]),  # few levels: many ties
    st.integers(0, 10**6),
)


@settings(max_examples=60, deadline=None)
@given(matrices, st.floats(0, 0.99))
def test_exact_counts_and_the_least_go_first(scores, share):
    whole, rows = mask(scores, Unstructured(share)), mask(scores, Unstructured(share), "row")
    assert int((~whole).sum()) == (int(scores.numel() * share) + 1 if share else 0)
    assert ((~rows).sum(1) == int(scores.shape[1] * share)).all()
    for score, keep in [(scores.flatten(), whole.flatten()), *zip(scores, rows, strict=True)]:
        order = torch.sort(score, stable=True).indices
        assert torch.equal(keep[order], keep[order].sort().values)  # dropped ones first, in stable order


@settings(max_examples=60, deadline=None)
@given(matrices, st.sampled_from([(1, 2), (2, 4), (1, 4), (3, 4), (4, 8), (7, 8)]))
def test_n_of_m_equals_a_stable_sort_of_each_group(scores, shape):
    n, m = shape
    result = mask(scores, NofM(n, m)).reshape(-1, m)
    assert ((~result).sum(1) == n).all()
    order = scores.reshape(-1, m).argsort(dim=1, stable=True)
    assert not result.gather(1, order[:, :n]).any()


@settings(max_examples=30, deadline=None)
@given(matrices, st.floats(0, 0.9), st.floats(0, 0.9))
def test_masks_are_nested(scores, one, other):
    less, more = sorted([one, other])
    for per in ("tensor", "row"):
        assert not (mask(scores, Unstructured(more), per) & ~mask(scores, Unstructured(less), per)).any()


def test_refused():
    with pytest.raises(ParameterError, match="an m that divides the 4 inputs of weight"):
        mask(SCORES, NofM(1, 3))
    with pytest.raises(ParameterError, match="tensor, row"):
        mask(SCORES, Unstructured(0.5), per="column")


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 3, dtype=torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dropped_numbers_are_plain_zeros_whatever_they_were(dtype):
    weight = torch.tensor([[-1.5, float("nan"), float("-inf"), -2.0], [3.0, -0.0, -4.0, 5.0]], dtype=dtype)
    found, keeps = nn.Parameter(weight.T.clone()).T, kept(["...x", "x.xx"])  # not contiguous
    masks_of.drop(found, keeps)
    assert torch.equal(found[keeps], weight[keeps])
    assert found[~keeps].tolist() == [0.0] * 4
    assert not found[~keeps].signbit().any()


def test_apply_check_and_sparsity(model):
    masks = {"0": kept(["x..x", "..xx"]), "1": torch.ones(3, 2, dtype=torch.bool)}
    before = model[0].weight.detach().clone()
    with pytest.raises(NumericError, match="layer 0: 4 weights"):
        masks_of.check(model, masks)
    masks_of.apply(model, masks)
    masks_of.check(model, masks)
    assert torch.equal(model[0].weight, before * masks["0"])
    assert masks_of.sparsity(masks) == pytest.approx(4 / 14)
    assert masks_of.sparsity({}) == 0
    with torch.no_grad():
        model[0].weight[0, 1] = float("nan")
    with pytest.raises(NumericError, match="layer 0: 1 weights"):
        masks_of.check(model, masks)


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("7", torch.ones(2, 4, dtype=torch.bool), "full name"),
        ("0", torch.ones(4, 2, dtype=torch.bool), r"bool mask of shape \(2, 4\)"),
        ("0", torch.ones(2, 4), "bool mask"),
    ],
)
def test_masks_that_do_not_fit_are_refused(model, name, bad, message):
    for action in (masks_of.apply, masks_of.check):
        with pytest.raises(ParameterError, match=message):
            action(model, {name: bad})


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 7), columns=st.integers(1, 19), seed=st.integers(0, 99))
def test_saved_masks_come_back_and_take_one_bit_each(rows, columns, seed, tmp_path_factory):
    path = tmp_path_factory.mktemp("masks") / "masks.safetensors"
    generator = torch.Generator().manual_seed(seed)
    masks = {"a.b": torch.rand(rows, columns, generator=generator) < 0.5, "c": torch.rand(3, 1000) < 0.5}
    masks_of.save(masks, path)
    loaded = masks_of.load(path)
    assert loaded.keys() == masks.keys()
    assert all(torch.equal(loaded[name], masks[name]) for name in masks)
    assert path.stat().st_size < 3000 / 8 + rows * columns / 8 + 400


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ParameterError, match="written by save"):
        masks_of.load(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ParameterError, match="written by save"):
        masks_of.load(tmp_path / "other.safetensors")
    (tmp_path / "text").write_text("no tensors here")
    with pytest.raises(ParameterError, match="written by save"):
        masks_of.load(tmp_path / "text")
