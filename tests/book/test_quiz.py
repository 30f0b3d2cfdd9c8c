"""Each concept page has a quiz of three questions, with one right answer each and a reason for every answer."""

import re
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "book" / "_ext"))
from lmcompress_teach import parse_quiz

PAGES = sorted((ROOT / "book" / "concepts").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_three_questions(page):
    found = re.findall(
        r"^```\{quiz\}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert len(found) == 3
    for text in found:
        question, options = parse_quiz(text)
        assert question.endswith("?") or "." in question
        assert len(options) >= 3
        assert all(len(reason) > 15 for _, _, reason in options)


def test_the_right_answer_is_not_always_at_the_same_place():
    places = [
        next(place for place, (right, *_) in enumerate(parse_quiz(text)[1]) if right)
        for page in PAGES
        for text in re.findall(
            r"^```\{quiz\}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
    ]
    assert all(places.count(place) < 0.7 * len(places) for place in set(places))


def test_a_reason_may_go_over_lines():
    question, options = parse_quiz("What?\n\n- [x] this: because\n  of that\n- [ ] other: no\n")
    assert (question, options) == ("What?", [(True, "this", "because of that"), (False, "other", "no")])


@pytest.mark.parametrize(
    "text", ["What?\n- [x] a: b\n", "What?\n- [x] a: b\n- [x] c: d\n", "What?\n- [x] a: b\n- [ ] c\n"]
)
def test_a_quiz_without_one_right_answer_or_a_reason_is_refused(text):
    with pytest.raises(ValueError, match=r"quiz needs|answer needs"):
        parse_quiz(text)
