"""Saved models of tiny ones: the file is weighed, what is loaded is what was saved, refusals are results."""

import pytest
from cptquant_tiny import tiny  # noqa: F401

from lmcompress.records import Record, obtain
from lmcompress.studies.real_size_and_speed import Speed, Study, pieces, size_table, speed_table, verdict


@pytest.fixture(scope="module")
def records(tiny):  # noqa: F811
    study = Study(
        **tiny, group=8, average=5.5, widths=[2, 4, 8], language_widths=[2, 4, 8], test=24, test_windows=4
    )
    return obtain(study.experiments(), progress=False)


def test_files_shrink_with_bits_and_reload_bit_for_bit(records):
    table = size_table(records)
    assert table["same after reloading"].all()
    assert len(table) == 2 * (1 + 2 * 3)
    for _, rows in table.groupby("task"):
        sizes = rows[rows["embeddings"] == "16bit"].set_index("blocks")["file MB"]
        assert sizes["uniform 4 bits"] < sizes["uniform 8 bits"] < sizes["FP16"]
        assert rows.loc[rows["blocks"] == "FP16", "loss increase (nats)"].abs().max() < 1e-6
    mixed = table[table["blocks"].str.contains("Fisher")]
    assert (mixed["bits a block weight"] <= 5.5).all()
    assert (table["than FP32"] / table["times smaller than FP16"]).tolist() == pytest.approx(
        [2.0] * len(table)
    )


def test_a_kernel_that_is_not_there_is_a_result(records, tiny):  # noqa: F811
    common = {"model": tiny["language"], "data": tiny["corpus"], "batch": 2, "prompt": 8, "new_tokens": 4}
    common |= {"compile": False, "length": 16, "test": 2}
    plain, sparse = obtain([Speed(**common, kernel="bf16"), Speed(**common, kernel="2:4")], progress=False)
    assert plain.result["decode"] > 0
    table = speed_table([plain, sparse]).set_index("kernel")
    if plain.provenance["device"].endswith("cores"):  # the CPU has no 2:4 kernel
        assert sparse.result["refused"]
        assert table.loc["2:4", "why not"]
    assert len(pieces([*records, plain, sparse])) == 5


def test_sentences_name_the_file_and_slow_kernels(records):
    sentences = verdict(records)
    assert len(sentences) == 3
    assert "times smaller than FP16" in sentences[0]
    assert "Uniform 4 bits, a file" in sentences[0]
    assert sentences[2].startswith("All 14 saved models")
    assert "Not run here" in pieces(records)[-1]


@pytest.mark.parametrize(
    ("speeds", "word"),
    [
        ([2.0, 1.3], "faster:"),
        ([0.7, 0.5], "slower:"),
        ([1.3, 1.0], "faster at some"),
        ([1.1, 0.9], "no faster:"),
    ],
)
def test_a_kernel_is_faster_only_beyond_the_spread_of_timings(speeds, word):
    def timed(kernel, batch, speed):
        result = {"decode": speed, "prefill": 1.0, "loss": 1.0, "refused": None}
        return Record("", "speed", "", {"kernel": kernel, "batch": batch}, {}, {}, result, {"device": "one"})

    bf16 = [timed("bf16", batch, 1.0) for batch in (1, 8)]
    int8 = [timed("int8", batch, speed) for batch, speed in zip((1, 8), speeds, strict=True)]
    (sentence,) = verdict([*bf16, *int8])
    assert word in sentence
