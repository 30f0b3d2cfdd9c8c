"""The decision guide is made of records and formats, and a missing record is an error."""

import math

import pytest

from lmcompress.plans import published
from lmcompress.quantize.formats import Bits, parse
from lmcompress.recipe import Recipe, short
from lmcompress.report import answers, frontier, guide


@pytest.fixture(scope="module")
def ways():
    return guide.ways()


def test_a_loss_is_that_of_the_record(ways):
    points = frontier.points_table(published(answers.BITS))
    row = points.query(
        "task == 'language modelling' and how == 'uniform, GPTQ' and budget == 'uniform 4 bits'"
    ).iloc[0]
    way = next(one for one in ways if one.name == "4 bits, GPTQ")
    assert way.times[0] == pytest.approx(math.exp(row["loss increase (nats)"]))
    assert way.times[1] < way.times[0] < way.times[2]


def test_the_gentlest_comes_first_and_dense_bytes_are_twice_the_parameters(ways):
    losses = [one.times[0] for one in ways]
    assert losses == sorted(losses)
    assert guide.MODELS["Llama 2 7B"].gigabytes(None, 16) == pytest.approx(13.48, abs=0.01)  # 6.74 billion
    assert guide.MODELS["Llama 2 70B"].gigabytes(None, 16) == pytest.approx(137.95, abs=0.05)


def test_half_of_the_weights_and_a_mask_take_nine_bits(ways):
    assert guide.size(next(one for one in ways if one.name.startswith("Magnitude 50%"))) == pytest.approx(9)
    assert guide.size(next(one for one in ways if one.name == "4 bits, GPTQ")) == pytest.approx(
        4.15625, abs=1e-3
    )


def test_what_fits_is_left_alone_and_what_has_no_kernel_is_not_advised(ways):
    seven = guide.MODELS["Llama 2 7B"]
    assert guide.choice(seven, 24, ways).startswith("as it is")
    assert guide.choice(seven, 16, ways).startswith("8 bits")
    assert guide.choice(seven, 3, ways) == "nothing here fits"


def test_the_commands_are_recipes(ways):
    for way in ways:
        flags = way.command.split()
        steps = {flag[2:]: value for flag, value in zip(flags[::2], flags[1::2], strict=True)}
        recipe = Recipe(**{step: short(step, value) for step, value in steps.items()})
        assert recipe.steps == tuple(steps)
        if recipe.quantize:
            assert parse(recipe.quantize.format) == Bits(way.bits, guide.GROUP)


def test_missing_records_are_an_error():
    with pytest.raises(LookupError):
        guide._quantized([], "rtn", 4)
    with pytest.raises(LookupError):
        guide._seconds(published(answers.BITS), kind="no such kind")
