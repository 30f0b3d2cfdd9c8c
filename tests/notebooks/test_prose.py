"""Results stand in prose only where they are read from records: the text of a notebook holds none that was typed."""

import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.md"))
NUMBER = re.compile(r"\d[\d,.]*\s?%|\d+\.\d+|\d+ times\b|[Ii]n the published runs?\b")
BOLD = 5  # words; a bold sentence is a lead, and leads are made of records
# What is no result of ours: settings, versions, sizes and what papers say.
ALLOWED = {
    "10_pruning_sweep": {"500 times": "sizes of models"},
    "22_iterative_or_one_shot": {"70 %": "the argument of the cell below"},
    "25_other_settings": {},
    "29_perp_claims": {"2.7": "sizes of the paper's models"},
    "31_pmpq": {"30 %": "what the released code prunes to"},
    "35_real_size_and_speed": {"2.11": "a version"},
    "39_cptquant_claims": {
        "0.05": "a rule",
        "11 %": "what the paper claims",
        "30 %": "what the paper claims",
        "2.7": "sizes of the paper's models",
    },
    "40_scale": {"1.3": "sizes of models", "3.5": "counted, not measured", "1.5": "an exponent"},
}


def prose(text: str) -> str:
    """The text of a notebook without head, code, formulas, addresses, and names of figures and papers."""
    text = text.split("---", 2)[2]
    for left_out in (r"```.*?```", r"`[^`]*`", r"\]\([^)]*\)", r"\$[^$]*\$"):
        text = re.sub(left_out, " ", text, flags=re.DOTALL)
    return re.sub(r"arXiv \d+\.\d+|(Figure|Table) \d\d\.\d+", " ", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_result_is_typed(path):
    text = prose(path.read_text(encoding="utf-8"))
    found = {number.strip() for number in NUMBER.findall(text)}
    assert found <= set(ALLOWED.get(path.stem, ())), (
        "read it from records, or say in ALLOWED why it is no result"
    )
    bold = [words for words in re.findall(r"\*\*(.+?)\*\*", text, re.DOTALL) if len(words.split()) > BOLD]
    assert not bold, "a bold sentence is a lead: have it made of records"


def test_a_typed_result_is_found():
    text = "---\nhead: 0.5\n---\nThe norms repair 97 % of it. See Figure 20.1, `-p share 0.5`."
    assert NUMBER.findall(prose(text)) == ["97 %"]
