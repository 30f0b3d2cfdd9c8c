"""What papers report, beside what was measured here."""

import pytest

from lmcompress.pages import cptquant_claims, perp_claims
from lmcompress.report import reported
from lmcompress.report.html import PART
from lmcompress.report.verdicts import Case, Judged


def test_reported_values_keep_their_place():
    table = reported.wanda_llama2().set_index(["pattern", "criterion"])
    assert list(table.columns) == ["LLaMA-2-7B", "LLaMA-2-13B", "LLaMA-2-70B"]
    assert table.loc[("none", "dense"), "LLaMA-2-7B"] == 5.12
    assert table.loc[("2:4", "magnitude"), "LLaMA-2-7B"] == 54.59
    assert table.loc[("2:4", "wanda"), "LLaMA-2-70B"] == 5.16
    assert len(table) == 10


@pytest.mark.parametrize(("paper", "page"), [("cptquant", cptquant_claims), ("perp", perp_claims)])
def test_every_reported_number_has_a_source_and_a_claim_or_a_reason(paper, page):
    judged = page.judged([])
    table = reported.beside(paper, judged)
    assert len(table) > 10
    assert (table["source"].str.len() > 10).all()
    told = (table["verdict"] != reported.NOTHING) | (table["why not number by number"] != reported.NOTHING)
    assert told.all()
    named = set(reported._read(paper)["claim"]) - {""}
    assert named <= {one.claim.id for one in judged}


def test_a_verdict_stands_beside_the_number_that_it_is_about():
    claim = next(one.claim for one in cptquant_claims.judged([]) if one.claim.id == "efficiency")
    cases = (Case("int8", 0.9, 0.8, 1.0), Case("int4", 2.5, 2.1, 3.0))
    table = reported.beside("cptquant", [Judged(claim, PART, cases, 0.95)]).set_index("quantity")
    row = table.loc["efficiency against FP16"]
    assert row["paper"] == "2 times"
    assert row["here"] == "decoding speed over that of bf16: 0.9 [0.8, 1] (int8) to 2.5 [2.1, 3] (int4)"
    assert row["verdict"] == PART


def test_sources_are_linked():
    linked = reported._linked
    assert linked("abstract of arXiv 2312.15230v3 and v4").startswith(
        "abstract of [arXiv 2312.15230v3](https://arxiv"
    )
    assert (
        linked("github.com/locuslab/wanda issue 45")
        == "[wanda issue 45](https://github.com/locuslab/wanda/issues/45)"
    )
    assert linked("logs in github.com/someone/Some_Code at ca5ef79") == (
        "logs in [someone](https://github.com/someone/Some_Code) at ca5ef79"
    )


def test_released_scores_are_judged_like_measured_ones():
    table = reported.released_scores().set_index(["score", "model"])
    assert len(table) == 3
    row = table.loc[("PMPQ", "BERT-base")]
    assert row["highest three blocks"] == "3, 4, 0"
    ends = [0.0229, 0.0115, 0.0138, 0.0482, 0.0080, 0.0023, 0, 0.0011]  # blocks 0 to 3 and 8 to 11
    middle = [0.0401, 0.0161, 0.0103, 0.0023]
    assert row["first and last 30 % minus the middle"] == pytest.approx(sum(ends) / 8 - sum(middle) / 4)
