"""The pages of the book as it was last built here, in a real browser: `make book` or `make report` first."""

from collections import Counter
from pathlib import Path

import pytest
from test_browser import DESK, PHONE, visit

ROOT = Path(__file__).parents[2]
HTML = ROOT / "build" / "book" / "_build" / "html"
PAGES = sorted(path.relative_to(HTML).as_posix() for path in HTML.glob("notebooks/*.html"))
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"  # npm install --no-save axe-core
FIRST_SCREEN = {"width": 1280, "height": 800}
WORDS = 1500  # code and what is folded away not counted
LONG = dict.fromkeys(("29_perp_claims", "39_cptquant_claims"), "all claims of a paper, and its explorer")
# The theme's own markup, which is not ours to mend.
OURS = ".lm-answer, .lm-cited, .lm-figure, .lm-details, .lm-table, .lm-not-run, .lm-time"

pytestmark = pytest.mark.skipif(not PAGES, reason="no book was built here: make book")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_every_page_whole(browser, scheme):
    for address, page, troubles in visit(browser, HTML, PAGES, PHONE, scheme):
        assert not troubles, address
        beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert beyond <= 0, f"{address} is {beyond} px wider than a phone"


def test_pages_are_valid_where_they_meet(browser):
    """Identifiers are unique, styles stand in the head, a caption is the first or last of its figure."""
    for address, page, _ in visit(browser, HTML, PAGES, DESK, "light"):
        names = Counter(page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)"))
        assert not [name for name, count in names.items() if count > 1], address
        assert page.evaluate("document.querySelectorAll('article style').length") == 0, address
        inside = "document.querySelectorAll('figure details').length"
        assert page.evaluate(inside) == 0, address


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


@pytest.mark.skipif(not AXE.is_file(), reason="axe-core is not there: npm install --no-save axe-core")
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_our_markup_is_accessible(browser, scheme, viewport):
    for address, page, _ in visit(browser, HTML, PAGES, viewport, scheme):
        page.add_script_tag(path=AXE)
        found = page.evaluate("(ours) => axe.run({include: [[ours]]})", OURS)
        grave = [one for one in found["violations"] if one["impact"] in ("critical", "serious")]
        told = [(one["id"], one["nodes"][0]["html"][:120]) for one in grave]
        assert not told, f"{address}, {scheme}"
