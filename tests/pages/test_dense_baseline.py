import math

import pytest
import torch
from tiny_assets import tiny_corpus, tiny_model_folder, tiny_tokenizer
from tokenizers.processors import TemplateProcessing

from lmcompress import data, models
from lmcompress.errors import ParameterError
from lmcompress.evaluate import perplexity
from lmcompress.experiments import dense
from lmcompress.pages import dense_baseline
from lmcompress.records import compute
from lmcompress.report import figures


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    place = tmp_path_factory.mktemp("assets")
    return {
        "model": tiny_model_folder(place / "llama"),
        "data": tiny_corpus(place / "corpus", 400),
        "dtype": "fp32",
        "length": 16,
        "lengths": [8, 16, 32],
        "spans": 6,
        "span": 32,
    }


@pytest.fixture(scope="module")
def found(given):
    return [compute(experiment) for experiment in dense_baseline.Study(**given).experiments()]


def test_the_baseline_is_the_perplexity_of_the_model_loaded_by_hand(given, found):
    model, tokenizer = models.load(given["model"])
    windows = data.windows(given["data"], tokenizer, "test", 32, 6).view(-1, 16)
    expected = perplexity(model, windows)
    run = dense_baseline.baseline(found, 16)
    assert run.result["perplexity"] == pytest.approx(expected.value, rel=1e-6)
    assert run.result["nll"] == pytest.approx(expected.nll.tolist(), abs=1e-5)
    assert run.result["tokens"] == 12 * 15
    assert run.result["parameters"] == model.num_parameters()


def test_every_length_reads_the_same_text(found):
    for length in (8, 16, 32):
        assert dense_baseline.baseline(found, length).result["tokens"] == 6 * 32 // length * (length - 1)


def test_bos_is_before_every_window(found):
    assert "each begins with token" in dense_baseline.baseline(found, 16, bos=True).result["convention"]


def test_our_convention_begins_every_window_with_the_bos_that_the_tokenizer_sets(given, tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[BOS] $A", special_tokens=[("[BOS]", 1)]
    )
    models.load(given["model"])[0].save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    about = {name: given[name] for name in ("data", "dtype", "span", "spans", "length")}
    runs = {
        convention: dense.DensePerplexity(model=str(tmp_path), convention=convention, **about).run()
        for convention in ("ours", "GPTQ")
    }
    assert "each begins with token 1" in runs["ours"]["convention"]
    assert runs["ours"]["perplexity"] != pytest.approx(runs["GPTQ"]["perplexity"], rel=1e-4)
    plain = dense.DensePerplexity(model=given["model"], bos=True, **about).run()
    assert runs["ours"]["nll"] == plain["nll"], "the same as asked for of a tokenizer that sets none"


def test_the_page_says_what_the_records_say(given, found):
    first = dense_baseline.baseline(found, 16)
    said = dense_baseline.answer(found)
    assert said.verdict == "holds"
    for length in (8, 32):  # the shortest and the longest windows
        level = dense_baseline.baseline(found, length).result["perplexity"]
        assert f"{level:.2f} (" in said.sentence
    with pytest.raises(LookupError):
        dense_baseline.answer([])
    assert len(dense_baseline.perplexities(found)) == 6
    distribution = dense_baseline.distribution_figure(first)
    assert distribution.table["windows"].sum() == 12
    assert list(dense_baseline.length_figure(found, "fp32").table["tokens a window"]) == [8, 16, 32]
    verdicts = dense_baseline.claims(found, 16, "fp32")
    assert verdicts[0][1] == "holds"
    figures.verdicts(verdicts)
    figures.table(dense_baseline.perplexities(found), "caption")


def test_a_difference_that_chance_explains_is_not_claimed(found):
    first = dense_baseline.baseline(found, 16)
    assert dense_baseline._alike("same", first, first)[1] == "does not hold here"
    worse = dense_baseline.baseline(found, 16, bos=True)
    worse.result["nll"] = [nll + 0.1 for nll in first.result["nll"]]
    assert dense_baseline._alike("worse", worse, first)[1:] == (
        "holds",
        f"{math.exp(0.1):.4f} times (paired 95 % interval {math.exp(0.1):.4f} to {math.exp(0.1):.4f})",
    )


def test_weights_from_a_grid_of_sixteen_values_are_seen(tmp_path):
    model, tokenizer = models.load(tiny_model_folder(tmp_path / "born"))
    born = dense.WeightGrid(model=str(tmp_path / "born")).run()["histogram"]
    assert born[32] == sum(born)
    with torch.no_grad():
        for linear in models.block_linears(model).values():
            groups = linear.weight.view(-1, 32)
            step = (groups.amax(1, keepdim=True) - groups.amin(1, keepdim=True)) / 15
            groups.copy_(torch.round(groups / step) * step)
    model.save_pretrained(tmp_path / "rounded")
    tokenizer.save_pretrained(tmp_path / "rounded")
    rounded = dense.WeightGrid(model=str(tmp_path / "rounded")).run()["histogram"]
    assert sum(rounded[:18]) == sum(rounded) == sum(born)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths": [8, 12, 16]}, "divide the span, 32"),
        ({"length": 64}, "divide the span, 32"),
        ({"length": 4}, "one of 8, 16, 32"),
        ({"dtype": "fp16"}, "dtype"),
        ({"windows": 3}, "no such parameter"),
    ],
)
def test_impossible_parameters_are_refused(given, change, message):
    with pytest.raises(ParameterError, match=message):
        dense_baseline.Study(**{**given, **change}).experiments()
