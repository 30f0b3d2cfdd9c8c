"""The pages of the book as it was last built here, in a real browser: `make book` or `make report` first."""

import json
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from test_browser import DESK, PHONE, visit

ROOT = Path(__file__).parents[2]
HTML = ROOT / "build" / "book" / "_build" / "html"
PAGES = sorted(path.relative_to(HTML).as_posix() for path in HTML.glob("notebooks/*.html"))
ALL = sorted(path.relative_to(HTML).as_posix() for path in HTML.glob("book/**/*.html")) + PAGES
MODULES = ROOT / "node_modules"  # npm install --no-save axe-core html-validate, as .ci/pages does
AXE, VALIDATE = MODULES / "axe-core" / "axe.min.js", MODULES / ".bin" / "html-validate"
FIRST_SCREEN = {"width": 1280, "height": 800}
WORDS = 1500  # code and what is folded away not counted
LONG = dict.fromkeys(("29_perp_claims", "39_cptquant_claims"), "all claims of a paper, and its explorer")
# The theme's own markup, which is not ours to mend: paragraphs in the line that folds code away.
TOGGLE = re.compile(r'<p class="(?:collapsed|expanded) admonition-title">.*?</p>')

pytestmark = pytest.mark.skipif(not PAGES, reason="no book was built here: make book")


def barriers(page) -> list[tuple[str, str]]:
    """What axe finds critical or serious in the article; nothing where axe is not installed."""
    if not AXE.is_file():
        return []
    page.add_script_tag(path=AXE)
    options = "{resultTypes: ['violations'], preload: false}"  # preloading asks for style sheets, which files refuse
    found = page.evaluate(f"axe.run({{include: [['article']]}}, {options})")["violations"]
    grave = [one for one in found if one["impact"] in ("critical", "serious")]
    return [(one["id"], one["nodes"][0]["html"][:120]) for one in grave]


def test_on_a_phone_in_the_dark_every_page_is_whole_and_has_no_barrier(browser):
    for address, page, troubles in visit(browser, HTML, ALL, PHONE, "dark"):
        assert not troubles, address
        beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert beyond <= 0, f"{address} is {beyond} px wider than a phone"
        assert address not in ALL[::3] or not barriers(page), address  # axe takes two seconds a page


def test_on_a_desk_pages_are_valid_where_they_meet_and_have_no_barrier(browser):
    """Identifiers are unique, styles stand in the head, a caption is the first or last of its figure."""
    for address, page, troubles in visit(browser, HTML, ALL, DESK, "light"):
        assert not troubles, address
        names = Counter(page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)"))
        assert not [name for name, count in names.items() if count > 1], address
        assert page.evaluate("document.querySelectorAll('article style').length") == 0, address
        inside = "document.querySelectorAll('figure details').length"
        assert page.evaluate(inside) == 0, address
        assert not barriers(page), address


def test_a_page_answers_on_its_first_screen(browser):
    for address, page, _ in visit(browser, HTML, PAGES, FIRST_SCREEN, "light"):
        if not page.locator(".lm-answer").count():
            continue  # nothing is published, and the page says so
        box = page.locator(".lm-answer").first.bounding_box()
        assert box["y"] + box["height"] < FIRST_SCREEN["height"] / 1.5, address
        shown = page.locator("figure.lm-figure, .lm-table").first.bounding_box()
        assert shown["y"] < FIRST_SCREEN["height"] * 0.75, f"{address}: its figure is below the first screen"
        page.evaluate("document.querySelectorAll('article pre').forEach((code) => code.remove())")
        words = len(page.evaluate("document.querySelector('article').innerText").split())
        assert words <= WORDS or Path(address).stem in LONG, f"{address} has {words} words"


@pytest.mark.skipif(not VALIDATE.is_file(), reason="no html-validate: npm install --no-save html-validate")
def test_articles_are_valid_html(tmp_path):
    rules = '{"root": true, "extends": ["html-validate:standard"]}'
    (tmp_path / ".htmlvalidate.json").write_text(rules, encoding="utf-8")
    names = []
    for address in ALL:
        article = re.search(
            r"<article.*?</article>", (HTML / address).read_text(encoding="utf-8"), re.DOTALL
        )[0]
        page = f'<!DOCTYPE html><html lang="en"><head><title>A page</title></head><body>{TOGGLE.sub("", article)}'
        names.append(address.replace("/", "-"))
        (tmp_path / names[-1]).write_text(f"{page}</body></html>", encoding="utf-8")
    call = [VALIDATE, "--formatter", "json=found.json", *names]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
    assert (tmp_path / "found.json").is_file(), done.stdout + done.stderr
    pages = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    told = [(Path(one["filePath"]).name, fault["message"]) for one in pages for fault in one["messages"]]
    assert not told
