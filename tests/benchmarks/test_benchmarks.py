"""Every benchmark runs on tiny shapes and its checks agree.

The official codes are not part of this repository: with clones of them (``PERP``, ``wanda``, ``sparsegpt``)
in the folder that the variable LMCOMPRESS_OFFICIAL names, these tests compare with them; without, they are
skipped.
"""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
OFFICIAL = Path(os.environ.get("LMCOMPRESS_OFFICIAL", "no such folder"))


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def checkout(name):
    folder = OFFICIAL / name
    if not folder.is_dir():
        pytest.skip(f"needs a clone of the official code as {name} in the folder LMCOMPRESS_OFFICIAL")
    return str(folder)


def record(folder, name):
    found = json.loads((folder / f"{name}.json").read_text())
    assert found["benchmark"] == name
    assert found["rows"]
    assert set(found["provenance"]) >= {"device", "versions", "commit", "settings"}
    assert str(ROOT) not in json.dumps(found)
    return found


def test_masks_and_errors_agree_with_the_official_codes(tmp_path):
    import agreement

    arguments = ["--wanda", checkout("wanda"), "--sparsegpt", checkout("sparsegpt")]
    agreement.main([*arguments, "--tiny", "--device", "cpu", "--out", str(tmp_path)])
    found = record(tmp_path, "agreement")
    assert found["agrees"]
    assert {(row["criterion"], row["pattern"]) for row in found["rows"]} == {
        (criterion, pattern)
        for criterion in ("magnitude", "wanda", "sparsegpt")
        for pattern in agreement.PATTERNS
    }
    assert set(found["provenance"]["official"]) == {
        "github.com/locuslab/wanda",
        "github.com/IST-DASLab/sparsegpt",
    }


def test_a_wrong_mask_does_not_pass_for_a_tie():
    import agreement

    from lmcompress.prune.pattern import parse

    scores = torch.tensor([[1.0, 2.0, 3.0, 3.0], [5.0, 4.0, 1.0, 1.0 + 1e-7]])
    pattern = parse("50%")
    ours = torch.tensor([[False, False, True, True], [True, True, False, False]])
    row = agreement.masks_row("", "wanda", "50%", ours, ours, scores, pattern, "row")
    assert row["agrees"]
    swapped = torch.tensor([[False, False, True, True], [True, False, False, True]])
    row = agreement.masks_row("", "wanda", "50%", ours, swapped, scores, pattern, "row")
    assert (row["different"], row["no ties"], row["agrees"]) == (2, 1, False)
    weight = torch.eye(2)
    row = agreement.errors_row("", "50%", weight, 0.9 * weight, 0.8 * weight, [torch.ones(1, 3, 2)])
    assert (round(row["ours"], 6), round(row["official"], 6), row["agrees"]) == (0.01, 0.04, False)


def test_one_call_masks_equal_the_official_loop(tmp_path):
    import nm_mask

    nm_mask.main(["--perp", checkout("PERP"), "--tiny", "--device", "cpu", "--out", str(tmp_path)])
    assert record(tmp_path, "nm_mask")["agrees"]


def test_a_training_step_has_the_official_loss_and_gradients(tmp_path):
    import adapter_step

    adapter_step.main(["--perp", checkout("PERP"), "--tiny", "--device", "cpu", "--out", str(tmp_path)])
    found = record(tmp_path, "adapter_step")
    assert found["agrees"]
    assert {row["code"] for row in found["rows"]} == {"official", "ours"}
    assert {row["adapter"] for row in found["checks"]} == {"masklora", "scalelora"}


def test_reconstruction_gains_what_the_official_loop_gains(tmp_path):
    import reconstruction

    reconstruction.main(["--perp", checkout("PERP"), "--tiny", "--device", "cpu", "--out", str(tmp_path)])
    assert record(tmp_path, "reconstruction")["agrees"]


def test_packed_windows_have_no_padding_and_padded_documents_do(tmp_path):
    import useful_tokens

    documents = tmp_path / "documents.txt"
    lines = ["word " * (1 + 7 * (number % 9)) + f"and number {number}." for number in range(60)]
    documents.write_text("\n".join(lines))
    useful_tokens.main(["--documents", str(documents), "--tiny", "--device", "cpu", "--out", str(tmp_path)])
    official, ours = record(tmp_path, "useful_tokens")["rows"]
    assert official["padding"] > 0.2
    assert ours["padding"] == 0


def test_a_copy_without_git_may_carry_its_commit(tmp_path):
    import bench

    assert bench.commit(tmp_path) is None
    (tmp_path / "COMMIT").write_text("abc123\n")
    assert bench.commit(tmp_path) == "abc123"


def test_what_is_missing_is_said_and_left_out(tmp_path, capsys):
    sys.modules.pop("all", None)
    import all as everything

    assert (
        everything.main(
            [
                "--checkouts",
                str(tmp_path),
                "--out",
                str(tmp_path / "records"),
                "--tiny",
                "--only",
                "agreement",
                "adapter_step",
                "useful_tokens",
            ]
        )
        == 0
    )
    told = capsys.readouterr().out
    assert told.count("not run, needs") == 6  # each said twice
    assert not (tmp_path / "records").exists()


def test_a_folder_is_compressed_and_loaded(tmp_path):
    import compress_folder

    compress_folder.main(
        ["--tiny", "--device", "cpu", "--out", str(tmp_path), "--recipes", "4 bits, groups of 128"]
    )
    (row,) = record(tmp_path, "compress_folder")["rows"]
    assert row["loads"]
    assert row["bytes"] < row["dense_bytes"]
    assert row["peak_bytes"] > 0


@pytest.mark.parametrize("name", ["training_step", "at_size", "peers"])
def test_those_without_official_codes_run(tmp_path, name):
    module = __import__(name)
    assert module.main(["--tiny", "--device", "cpu", "--out", str(tmp_path)]).get("agrees", True)
    record(tmp_path, name)


def test_a_profile_counts_every_kernel_once_and_nothing_waits_less_than_no_time(tmp_path):
    import step_profile

    step_profile.main(["--tiny", "--device", "cpu", "--repeats", "2", "--out", str(tmp_path)])
    found = record(tmp_path, "step_profile")
    assert len(found["rows"]) == 5  # three subsets of the small model, two adapters of the large one
    for row in found["rows"]:
        classes = [row[kind] for kind in (*step_profile.CLASSES, "element by element")]
        largest = sum(ms for _, ms in found["kernels"][row["step"]])
        assert 0 < largest <= sum(classes) + 1e-9
        assert row["waiting"] == pytest.approx(max(0, row["ms"] - sum(classes)))
        assert row["products"] > 0


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("triton_red_fused__to_copy_mean_mul_rsqrt_3", "compiled"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNN", "products"),
        ("pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention"),
        ("_effective_weight", "adapters' own kernels"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("void at::native::vectorized_elementwise_kernel<4, MulFunctor>", "element by element"),
    ],
)
def test_kernels_have_the_class_of_their_name(kernel, kind):
    import step_profile

    assert step_profile.kind_of(kernel) == kind


def test_a_notebook_is_run_whole_and_one_that_fails_is_told(tmp_path, capsys):
    import notebooks

    assert notebooks.main(["--tiny", "--out", str(tmp_path)])["agrees"]
    (row,) = record(tmp_path, "notebooks")["rows"]
    assert (row["notebook"], row["exit code"]) == ("40_scale", 0)
    assert 1 < row["processor seconds"] < 180
    assert "1 of 1 within" in capsys.readouterr().out
    found = notebooks.main(
        ["--only", "22_iterative_or_one_shot", "--set", "steps=-1", "--out", str(tmp_path)]
    )
    assert not found["agrees"]
    assert [row["exit code"] for row in found["rows"]] == [1, 0]  # the row of the first call stays
    assert "steps" in capsys.readouterr().out


def test_counted_memory_is_that_of_weights_gradients_and_moments(tmp_path):
    import at_size

    at_size.main(["--count", "--tiny", "--device", "cpu", "--out", str(tmp_path)])
    few, full = record(tmp_path, "at_size")["rows"]
    size = few["parameters"] / 2**30
    assert few["run"] == full["run"] == "counted"
    assert few["peak GiB"] > 2 * size  # bf16 weights
    assert full["peak GiB"] > 18 * size  # with fp32 copies, gradients and two moments
    assert full["peak GiB"] - few["peak GiB"] < 19 * size


def test_records_of_some_shapes_each_are_joined(tmp_path):
    import at_size

    paths = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        small = ["--methods", "magnitude", "--tiny", "--device", "cpu", "--out", str(folder)]
        at_size.main(small)
        paths.append(str(folder / "at_size.json"))
    at_size.main(["--join", *paths, "--device", "cpu", "--out", str(tmp_path)])
    found = record(tmp_path, "at_size")
    assert [row["method"] for row in found["rows"]] == ["magnitude", "magnitude"]
    assert len(found["parts"]) == 2
