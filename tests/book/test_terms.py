"""Terms of the glossary: each explained in two sentences, each linked where a page uses it first and nowhere else."""

import re
import sys

import pytest
from conftest import ROOT
from docutils import nodes

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import lmcompress_terms

SOURCE = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
ENTRIES = re.findall(r"^((?:\S.*\n)+)((?:  .*\n)+)", SOURCE.split("```{glossary}\n")[1], re.MULTILINE)


def uses(*paragraphs: nodes.Node, terms=("mask", "low rank", "KL", "HAWQ", "HAWQ-V2")) -> list[str]:
    document = nodes.document("", "")
    document.extend(paragraphs)
    found = lmcompress_terms.first_uses(document, list(terms))
    return [str(text)[start:end] for text, start, end, _ in found]


def test_the_first_use_of_each_term_is_found_in_any_number_and_at_the_start_of_a_sentence():
    assert uses(nodes.paragraph(text="Masks are kept. A mask is low rank.")) == ["Mask", "low rank"]


def test_the_longer_term_wins_and_names_keep_their_capitals():
    assert uses(nodes.paragraph(text="HAWQ-V2, not HAWQ-V3; kl, then KL.")) == ["HAWQ-V2", "KL"]


def test_words_that_only_contain_a_term_and_code_are_left_alone():
    assert uses(nodes.paragraph(text="Unmasked, masked, mask-like."), nodes.literal(text="mask")) == []
    assert uses(nodes.title(text="The mask")) == []


@pytest.mark.parametrize(("names", "text"), ENTRIES, ids=[names.split("\n")[0] for names, _ in ENTRIES])
def test_a_term_is_explained_in_two_sentences(names, text):
    sentences = re.findall(r"[^.!?]+[.!?](?=\s|$)", " ".join(text.split()))
    assert len(sentences) >= 2, f"{names}: {sentences}"


def test_the_terms_stand_in_the_order_of_the_alphabet_and_none_twice():
    first = [names.split("\n")[0].lower() for names, _ in ENTRIES]
    assert first == sorted(first)
    every = [name.lower() for name in lmcompress_terms.terms(SOURCE)]
    assert len(every) == len(set(every))


@pytest.mark.parametrize(
    "name", ["Fisher", "Gauss-Newton", "HAWQ", "GPTQ", "bf16", "Spearman", "bootstrap", "KL"]
)
def test_what_a_newcomer_asked_for_is_there(name):
    assert name in lmcompress_terms.terms(SOURCE)
