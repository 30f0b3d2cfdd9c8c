"""Speeds beside bf16: which model is timed, what counts as faster, and what a reader is told of it."""

from html import escape

import pytest
from tiny_assets import tiny_corpus, tiny_model_folder

from lmcompress.errors import ParameterError
from lmcompress.experiments import speeds
from lmcompress.experiments.speeds import ShapeSpeed, Speed
from lmcompress.records import Record, obtain
from lmcompress.report.speed_tables import over_bf16, pieces, speed_table, verdict

TIMES = {"batch": 2, "prompt": 8, "new_tokens": 4, "compile": False}
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
}


def timed(kernel, batch, speed, spread=0.0, parameters=2_000_000, **about):
    about = (about or {"model": "one"}) | {"kernel": kernel, "batch": batch}
    result = {"decode": speed, "decode_low": speed * (1 - spread), "decode_high": speed * (1 + spread)}
    result |= {"prefill": 1.0, "loss": 1.0, "refused": None, "parameters": parameters}
    kind = "shape_speed" if "shape" in about else "speed"
    return Record("", kind, 1, about, {}, result, {"device": "a device"})


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("LMCOMPRESS_ROOT", str(tmp_path))
    return tmp_path


def test_the_loss_is_that_of_the_timed_model_and_a_missing_kernel_is_a_result(place):
    model, corpus = tiny_model_folder(place / "llama"), tiny_corpus(place / "corpus", 400)
    on = {"model": model, "data": corpus, "length": 16, "test": 2}
    plain, sparse = obtain(
        [Speed(**on, **TIMES, kernel="bf16"), Speed(**on, **TIMES, kernel="2:4")], progress=False
    )
    assert 0 < plain.result["decode_low"] <= plain.result["decode"] <= plain.result["decode_high"]
    table = speed_table([plain, sparse]).set_index("kernel")
    assert table.loc["bf16", "perplexity"] > 1
    if plain.provenance["device"].endswith("cores"):  # the CPU has no 2:4 kernel
        assert sparse.result["refused"]
        (shown,) = pieces(speed_table([plain, sparse]))
        assert escape(sparse.result["refused"]) in str(shown)


def test_a_shape_is_timed_with_random_weights(place, monkeypatch):
    monkeypatch.setitem(speeds.SHAPES, "small", SMALL)
    (found,) = obtain([ShapeSpeed(shape="small", kernel="bf16", **TIMES)], progress=False)
    attention, mlp = 32 * 32 * 2 + 32 * 16 * 2, 3 * 32 * 64
    assert found.result["parameters"] == 2 * 64 * 32 + 2 * (attention + mlp + 2 * 32) + 32
    assert "loss" not in found.result
    with pytest.raises(ParameterError, match="llama-2-7b"):
        ShapeSpeed(shape="llama-9b", kernel="bf16", **TIMES)


@pytest.mark.parametrize(
    ("shape", "millions"),
    [("tinyllama-1.1b", 1100), ("llama-2-7b", 6738)],
)
def test_shapes_have_the_published_number_of_parameters(shape, millions):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**speeds.SHAPES[shape]))
    assert round(sum(value.numel() for value in model.parameters()) / 1e6) == millions


@pytest.mark.parametrize(
    ("speeds", "spread", "word"),
    [
        ([2.0, 1.3], 0.1, "faster:"),
        ([0.7, 0.5], 0.1, "slower:"),
        ([1.3, 1.1], 0.1, "faster at some"),
        ([1.1, 0.9], 0.1, "no faster:"),
        ([1.1, 0.5], 0.1, "no faster, at some batches slower:"),
        ([1.1, 1.2], 0.01, "faster:"),
    ],
)
def test_a_kernel_is_faster_only_beyond_the_range_of_repetitions(speeds, spread, word):
    bf16 = [timed("bf16", batch, 1.0, spread) for batch in (1, 8)]
    int8 = [timed("int8", batch, speed, spread) for batch, speed in zip((1, 8), speeds, strict=True)]
    sentence, spread = verdict(speed_table([*bf16, *int8]))
    assert word in sentence
    assert "compiled once" in spread


def test_ratios_keep_to_one_model_and_batch():
    large = {"shape": "small", "parameters": 9_000_000}
    found = [timed("bf16", 1, 10.0, 0.1), timed("int4", 1, 5.0, 0.2)]
    found += [timed("bf16", 1, 2.0, **large), timed("int4", 1, 6.0, **large), timed("int4", 8, 6.0, **large)]
    ratios = over_bf16(speed_table(found)).set_index("model")
    assert ratios["over bf16"].to_dict() == {"one": 0.5, "small": 3.0}
    assert ratios.loc["one", ["least", "most"]].tolist() == pytest.approx([4 / 11, 6 / 9])
    assert len(verdict(speed_table(found))) == 3
    _, figure = pieces(speed_table(found))
    assert figure.table["over bf16"].tolist() == [0.5, 3.0]


def test_what_was_compiled_once_may_be_as_far_off_as_any_two_compilations():
    found = [
        timed("bf16", 1, speed, compilation=number, model="one") for number, speed in enumerate((10.0, 12.5))
    ]
    found += [
        timed("int4", 1, speed, compilation=number, model="one") for number, speed in enumerate((20.0, 22.0))
    ]
    found += [timed("int8", 1, 14.0)]
    table = speed_table(found).set_index("kernel")
    assert table["compilations"].to_dict() == {"bf16": 2, "int4": 2, "int8": 1}
    assert table.loc["bf16", ["decode tokens/s", "slowest", "fastest"]].tolist() == [11.25, 10.0, 12.5]
    assert table.loc["int8", ["slowest", "fastest"]].tolist() == pytest.approx([14 / 1.25, 14 * 1.25])
    int4, int8, spread = verdict(table.reset_index())
    assert "int4 decodes faster" in int4
    assert "int8 decodes no faster" in int8  # 11.2, but for 12.5 of bf16
    assert "differs by up to 25% on a device (2 of 3 were)" in spread
