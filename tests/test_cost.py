"""Costs: clocks and peaks that see what happened, operations against the count written out by hand."""

import subprocess
import sys
import time

import pytest
import torch
from tiny import CONFIGS, HIDDEN, VOCABULARY

from lmcompress import cost
from lmcompress.errors import ParameterError


def test_a_measured_body_has_its_time_and_tokens():
    with cost.measured("cpu", tokens=50) as found:
        time.sleep(0.02)
    assert 0.02 <= found[0].seconds < 5
    assert found[0].tokens_per_s == pytest.approx(50 / found[0].seconds)


MEMORY = """
import torch
from lmcompress import cost

with cost.measured("cpu") as before:
    pass
with cost.measured("cpu") as found:
    held = torch.ones(64 * 2**20, dtype=torch.uint8)  # written, so that it is resident
assert found[0].peak_bytes >= before[0].peak_bytes + 0.9 * held.numel(), (before, found)
"""


def test_a_measured_body_has_its_peak_of_memory():
    # In a process of its own: one that has freed memory before takes that again, and its peak does not rise.
    subprocess.run([sys.executable, "-c", MEMORY], check=True)


def test_versions_take_turns_and_the_warm_up_does_not_count():
    calls = []
    found = cost.paired(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, "cpu", repeats=3, warmup=1
    )
    assert calls == ["a", "b"] * 4
    assert len(found["a"].seconds) == len(found["b"].seconds) == 3
    assert found["a"].low <= found["a"].median <= found["a"].high
    with pytest.raises(ParameterError, match="at least 1"):
        cost.times(lambda: None, "cpu", repeats=0)


def test_median_is_that_of_the_repetitions():
    assert cost.Times((3.0, 1.0, 8.0)).median == 3.0


def opt_forward(batch: int, length: int) -> int:
    """Forward operations of the tiny OPT: four square projections, two of the MLP, attention, head."""
    tokens, blocks, inner = batch * length, 3, 64
    linears = 2 * tokens * (4 * HIDDEN**2 + 2 * HIDDEN * inner)
    attention = 2 * 2 * tokens * length * HIDDEN
    return blocks * (linears + attention) + 2 * tokens * HIDDEN * VOCABULARY


def test_operations_of_a_model_equal_the_count_by_hand():
    found = cost.flops(CONFIGS["opt"](), batch=2, length=8)
    assert found.forward == opt_forward(2, 8)
    assert found.backward == 2 * found.forward
    assert found.total == 3 * found.forward


def test_frozen_weights_save_their_gradients():
    found = cost.flops(CONFIGS["opt"](), batch=2, length=8, trained=r"layer_norm|bias")
    tokens = 16
    attention = 3 * 2 * 2 * tokens * 8 * HIDDEN
    linears = found.forward - attention  # each product is taken once more, for the gradient of its input
    assert found.backward == linears + 2 * attention
    with pytest.raises(ParameterError, match="matches some parameter"):
        cost.flops(CONFIGS["opt"](), batch=1, length=4, trained="no such name")


def test_ceilings_are_rates_and_a_share_is_of_them():
    found = cost.ceilings("cpu", torch.float32, size=64)
    assert found.copy_bytes_per_s > 0
    assert found.matmul_flops_per_s > 0
    limit = cost.Ceilings(1.0, 200.0)
    assert cost.share_of_peak(operations=300.0, seconds=3.0, limit=limit) == pytest.approx(0.5)


def test_counting_operations_leaves_a_living_model_its_attention():
    config = CONFIGS["opt"]()
    config._attn_implementation = "sdpa"
    cost.flops(config, batch=1, length=4)
    assert config._attn_implementation == "sdpa"
