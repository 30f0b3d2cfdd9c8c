"""Saved models of tiny ones: the file is weighed, what is loaded is what was saved, refusals are results."""

import pytest
from cptquant_tiny import tiny  # noqa: F401

from lmcompress.experiments.speeds import Speed
from lmcompress.pages.real_size_and_speed import Study, pieces, verdict
from lmcompress.records import obtain
from lmcompress.report.size_tables import size_table
from lmcompress.report.speed_tables import speed_table


@pytest.fixture(scope="module")
def records(tiny):  # noqa: F811
    study = Study(
        **tiny,
        group=8,
        average=5.5,
        widths=[2, 4, 8],
        language_widths=[2, 4, 8],
        test=24,
        test_windows=4,
        uniform=[16, 8, 4],
        embeddings=["16bit", "8bit"],
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


def test_kernels_are_timed_on_the_model_and_on_every_shape():
    kernels = {"kernels": ["bf16", "int8"], "speed_batches": [1, 8], "compilations": 2}
    study = Study(classifier="", **kernels, shapes=["llama-2-7b"], shape_batches=[1])
    speeds = [one for one in study.experiments() if one.kind in ("speed", "shape_speed")]
    assert len(set(speeds)) == len(speeds) == 2 * 2 * (2 + 1)
    assert [one.compilation for one in speeds] == [0] * 6 + [1] * 6
    assert {(one.kernel, one.batch) for one in speeds if one.kind == "shape_speed"} == {
        ("bf16", 1),
        ("int8", 1),
    }
