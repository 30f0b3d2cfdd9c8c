"""The schedule by hand, AdamW against torch on a copy, fp32 copies of bf16 parameters, zeros that stay
zeros.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lmcompress.retrain.optimizer import MaskedAdamW, schedule


def test_schedule_of_ten_steps_with_two_of_warm_up():
    factors = [schedule(step, 10, 0.2) for step in range(10)]
    assert factors == pytest.approx([1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])


@given(st.integers(1, 500), st.floats(0, 0.99))
def test_every_step_of_any_schedule_moves_and_the_top_is_one(steps, warmup):
    factors = [schedule(step, steps, warmup) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    rising = round(warmup * steps)
    assert factors[:rising] == sorted(factors[:rising])
    assert factors[rising:] == sorted(factors[rising:], reverse=True)
    if rising < steps:
        assert max(factors) == 1


def gradients(count, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def test_bf16_parameters_follow_an_fp32_adamw_with_clipping():
    start = torch.tensor([1.0, -2.0, 0.5])
    ours, plain = nn.Parameter(start.bfloat16()), nn.Parameter(start.clone())
    optimizer = MaskedAdamW({"norm.weight": ours}, {}, lr=1e-3, steps=50, warmup=0.1, clip=0.5)
    adam = torch.optim.AdamW([plain], weight_decay=0.0)
    for step, gradient in enumerate(gradients(50, 3)):
        gradient = gradient.bfloat16()
        ours.grad, plain.grad = gradient, gradient.float()
        optimizer.collect()
        norm = optimizer.step(step)
        assert norm == pytest.approx(gradient.float().norm().item(), rel=1e-5)
        torch.nn.utils.clip_grad_norm_([plain], 0.5)
        adam.param_groups[0]["lr"] = 1e-3 * schedule(step, 50, 0.1)
        adam.step()
    torch.testing.assert_close(optimizer.masters["norm.weight"].detach(), plain.detach())
    assert torch.equal(ours.detach(), plain.detach().bfloat16())
    assert ours.grad is None


def test_updates_below_the_resolution_of_bf16_are_not_lost():
    parameter = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    optimizer = MaskedAdamW({"norm.weight": parameter}, {}, lr=1e-3, steps=1000, warmup=0.0)
    for step in range(20):
        parameter.grad = torch.ones(1, dtype=torch.bfloat16)
        optimizer.collect()
        optimizer.step(step)
    assert parameter.item() == pytest.approx(0.98, abs=2**-8)


def test_accumulated_gradients_add_up_in_fp32():
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    optimizer = MaskedAdamW({"p": parameter}, {}, lr=1.0, steps=2)
    for _ in range(300):  # in bf16 a sum of ones would stick at 256
        parameter.grad = torch.ones(1, dtype=torch.bfloat16)
        optimizer.collect()
    assert optimizer.masters["p"].grad.item() == 300


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropped_weights_take_no_part(dtype):
    weight = nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=dtype))
    kept = torch.tensor([[True, False], [False, True]])
    optimizer = MaskedAdamW({"layer.weight": weight}, {"layer": kept, "frozen": kept}, lr=0.1, steps=20)
    for step in range(20):
        weight.grad = torch.tensor([[3.0, 100.0], [100.0, 4.0]], dtype=dtype)
        optimizer.collect()
        assert optimizer.step(step) == pytest.approx(5.0)
        assert (weight[~kept] == 0).all()
    assert (weight[kept] < torch.tensor([1.0, 2.0])).all()


def test_a_gradient_that_is_not_finite_changes_nothing():
    parameter = nn.Parameter(torch.ones(2))
    optimizer = MaskedAdamW({"p": parameter}, {}, lr=0.1, steps=2)
    parameter.grad = torch.tensor([1.0, float("nan")])
    norm = optimizer.step(0)
    assert norm != norm
    assert torch.equal(parameter.detach(), torch.ones(2))
    assert parameter.grad is None
