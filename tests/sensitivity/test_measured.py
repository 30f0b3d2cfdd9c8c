"""The truth, its log that survives a kill, and rank agreement with it."""

import json

import pytest
import torch
from scipy.stats import kendalltau, spearmanr
from sensing import MODELS, assert_untouched, model_and_batches, rounding, snapshot

from lmcompress.errors import NumericError, ParameterError
from lmcompress.models import block_linears, blocks
from lmcompress.sensitivity.agreement import rank_agreement
from lmcompress.sensitivity.losses import window_losses
from lmcompress.sensitivity.measured import measure
from lmcompress.sensitivity.scores import Scores
from lmcompress.sensitivity.trials import paired_interval, try_each


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("per", ["linear", "block"])
def test_measured_increase_is_that_of_the_whole_model(family, per):
    model, batches = model_and_batches(family)
    before = snapshot(model)
    truth = measure(model, batches, rounding, [2, 4], per=per)
    assert_untouched(model, before)
    layers = list(block_linears(model) if per == "linear" else blocks(model))
    assert list(truth.per_layer) == layers
    assert json.loads(json.dumps(truth.detail)) == truth.detail
    name = layers[-1]
    with torch.no_grad():
        for full, linear in block_linears(model).items():
            if full.startswith(name):
                linear.weight.copy_(rounding(linear.weight, 4))
        losses = torch.cat([window_losses(model, batch).double() for batch in batches])
    assert truth.detail["losses"][name]["4"] == losses.tolist()
    increase = float((losses - torch.tensor(truth.detail["base"], dtype=torch.float64)).mean())
    assert truth.at(4)[name] == pytest.approx(increase, abs=1e-12)
    assert truth.per_layer == truth.at(2)


def test_weights_come_back_after_a_failure():
    model, batches = model_and_batches("llama")
    before, calls = snapshot(model), []

    def explode(weight, bits):
        calls.append(bits)
        return weight * (float("nan") if len(calls) > 4 else 1.1)

    with pytest.raises(NumericError, match=r"model\.layers\.0\..*not finite after quantization"):
        measure(model, batches, explode, [4])
    assert_untouched(model, before)


def test_a_loss_that_overflows_names_the_layer_and_the_variant():
    model, batches = model_and_batches("opt")
    before = snapshot(model)
    with pytest.raises(NumericError, match=r"layers\.0\.self_attn\.k_proj \(huge\)"):
        try_each(model, batches, {"huge": lambda name, weight: weight * float("inf")})
    assert_untouched(model, before)


def test_an_interrupted_call_goes_on_where_it_stopped(tmp_path):
    model, batches = model_and_batches("llama", windows=2)
    path, calls = tmp_path / "new" / "truth.jsonl", []

    def counting(weight, bits):
        calls.append(bits)
        return rounding(weight, bits)

    whole = measure(model, batches, counting, [3, 4], checkpoint=path)
    everything = path.read_bytes()
    assert len(calls) == 2 + 2 * 21  # two to recognise the quantizer
    path.write_bytes(everything[: int(len(everything) * 0.6)])  # killed in the middle of a line
    calls.clear()
    resumed = measure(model, batches, counting, [3, 4], checkpoint=path)
    assert 10 < len(calls) < 30
    assert resumed.detail == whole.detail
    assert len(path.read_text().splitlines()) == 43
    calls.clear()
    again = measure(model, batches, counting, [3, 4], checkpoint=path)
    assert len(calls) == 2
    assert again.detail == whole.detail
    assert again.seconds == pytest.approx(resumed.seconds, rel=0.5)


def test_a_log_of_something_else_is_refused(tmp_path):
    model, batches = model_and_batches("llama", windows=2)
    path = tmp_path / "truth.jsonl"
    measure(model, batches, rounding, [4], checkpoint=path, per="block")
    content = path.read_bytes()
    for other in (
        lambda: measure(model, batches, rounding, [3], checkpoint=path, per="block"),
        lambda: measure(model, batches, rounding, [4], checkpoint=path, per="linear"),
        lambda: measure(model, batches[:1], rounding, [4], checkpoint=path, per="block"),
        lambda: measure(model, batches, lambda w, b: w * 0.9, [4], checkpoint=path, per="block"),
        lambda: measure(model, batches[::-1], rounding, [4], checkpoint=path, per="block"),
    ):
        with pytest.raises(ParameterError, match="checkpoint"):
            other()
    assert path.read_bytes() == content


def truth_of(increase: list[list[float]]) -> Scores:
    """Truth of layers a, b, ... at 4 bits from their loss increases in each window."""
    losses = {chr(97 + i): {"4": [1 + value for value in row]} for i, row in enumerate(increase)}
    table = {name: sum(row["4"]) / len(row["4"]) - 1 for name, row in losses.items()}
    return Scores(table, 0.0, {"per_width": {"4": table}, "base": [1.0] * len(increase[0]), "losses": losses})


def test_rank_agreement_against_scipy():
    increase = [[0.1, 0.1], [0.3, 0.3], [0.2, 0.2], [0.8, 0.8], [0.5, 0.5]]
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = rank_agreement(Scores(dict(zip("abcde", values, strict=True)), 0.0), truth_of(increase), 4)
    means = [row[0] for row in increase]
    assert found.spearman.value == pytest.approx(spearmanr(values, means).statistic)
    assert found.kendall.value == pytest.approx(kendalltau(values, means).statistic)
    assert found.spearman.low < found.spearman.value < found.spearman.high <= 1
    assert found.kendall.low < found.kendall.value < found.kendall.high <= 1
    assert found.reliability == pytest.approx(1)
    assert found.layers == 5


def test_the_truth_itself_agrees_perfectly_and_its_opposite_not_at_all():
    truth = truth_of([[0.1 * i] for i in range(8)])
    perfect = rank_agreement(truth, truth, 4, draws=50)
    assert (perfect.spearman.low, perfect.spearman.value, perfect.kendall.value) == pytest.approx((1, 1, 1))
    assert perfect.reliability is None
    opposite = Scores({name: -value for name, value in truth.per_layer.items()}, 0.0)
    assert rank_agreement(opposite, truth, 4, draws=50).spearman.high == pytest.approx(-1)


def test_a_noisy_truth_is_unreliable_and_its_intervals_are_wide():
    generator = torch.Generator().manual_seed(0)
    noisy = truth_of(torch.randn(12, 8, generator=generator).double().tolist())
    clean = truth_of([[0.1 * i] * 8 for i in range(12)])
    score = Scores({chr(97 + i): float(i) for i in range(12)}, 0.0)
    found = rank_agreement(score, noisy, 4, draws=200)
    assert found.reliability < 0.6
    assert found.spearman.high - found.spearman.low > 0.5
    assert rank_agreement(score, clean, 4, draws=200).reliability == pytest.approx(1)


def test_scores_that_cannot_be_ranked_are_refused():
    truth = truth_of([[0.1], [0.2], [0.3]])
    for scores, field in (
        ({"a": 1.0, "b": 1.0, "c": 1.0}, "scores"),
        ({"a": 1.0, "b": 2.0}, "scores"),
        ({"a": 1.0, "b": 2.0, "x": 3.0}, "scores"),
    ):
        with pytest.raises(ParameterError, match=field):
            rank_agreement(Scores(scores, 0.0), truth, 4)
    with pytest.raises(ParameterError, match="truth"):
        rank_agreement(truth, truth_of([[0.1], [0.1], [0.1]]), 4)
    with pytest.raises(ParameterError, match="bits"):
        rank_agreement(truth, truth, 8)


def test_paired_interval_ignores_what_the_windows_share():
    base = [1.0, 5.0, 9.0, 2.0]
    low, high = paired_interval(base, [value + 0.5 for value in base])
    assert (low, high) == pytest.approx((0.5, 0.5))
    low, high = paired_interval(base, [1.0, 5.4, 9.0, 2.4])
    assert 0 <= low < 0.2 < high < 0.41


def test_nothing_to_try_is_refused():
    model, batches = model_and_batches("llama")
    with pytest.raises(ParameterError, match="variants"):
        try_each(model, batches, {})
    with pytest.raises(ParameterError, match="widths"):
        measure(model, batches, rounding, [])
    with pytest.raises(ParameterError, match="batches"):
        measure(model, [], rounding, [4])
