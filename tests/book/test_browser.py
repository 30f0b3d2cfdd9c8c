"""Every page opened in a real browser: nothing fails, nothing is wider than a phone, all can be read in the dark."""

import pytest
from test_figures import DARK, LIGHT, contrast

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
NOTEBOOK = "notebooks/10_pruning_sweep.html"

# Text elements of the article with their colour and the first opaque background below them. Left out: the marks that
# show on hover only, and the numbers in the cells of a heat map, which are set against their cell.
TEXTS = """
() => {
  const opaque = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = getComputedStyle(at).backgroundColor;
      if (!/^rgba\\(.*, 0\\)$/.test(found) && found !== "transparent") return found;
    }
    return getComputedStyle(document.documentElement).backgroundColor;
  };
  const out = [];
  for (const element of document.querySelectorAll("article *")) {
    if (element.closest("svg") && element.tagName !== "text") continue;
    if (element.classList.contains("headerlink")) continue;
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const colour = element.tagName === "text" ? style.fill : style.color;
    if (colour !== style.color) continue;
    out.push([element.tagName, element.textContent.trim().slice(0, 40), colour, opaque(element)]);
  }
  return out;
}
"""


def hexadecimal(colour: str) -> str:
    """``#rrggbb`` of a computed ``rgb(...)``."""
    numbers = colour[colour.index("(") + 1 : -1].split(",")[:3]
    return "#" + "".join(f"{round(float(n)):02x}" for n in numbers)


@pytest.fixture(scope="module")
def addresses(built) -> list[str]:
    """All pages of the text, and two notebooks: the others are copies of these."""
    text = sorted(path.relative_to(built).as_posix() for path in built.glob("book/**/*.html"))
    return [*text, NOTEBOOK, "notebooks/39_cptquant_claims.html"]


def failure(request) -> list[str]:
    """What is wrong with a failed request; nothing where it was only left behind by going to the next page."""
    return [] if "ERR_ABORTED" in (request.failure or "") else [f"{request.failure}: {request.url}"]


def visit(browser, built, addresses, viewport, scheme):
    """``(address, page, troubles)`` of each page after loading; nothing outside the folder can be reached."""
    context = browser.new_context(viewport=viewport, color_scheme=scheme, offline=True)
    page, troubles = context.new_page(), []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("requestfailed", lambda request: troubles.extend(failure(request)))
    page.on("console", lambda m: troubles.append(m.text) if m.type in ("error", "warning") else None)
    for address in addresses:
        troubles.clear()
        page.goto((built / address).as_uri())
        yield address, page, list(troubles)
    context.close()


def test_phone_in_the_light(browser, built, addresses):
    for address, page, troubles in visit(browser, built, addresses, PHONE, "light"):
        assert not troubles, address
        beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert beyond <= 0, f"{address} is {beyond} px wider than a phone"
        assert hexadecimal(page.evaluate("getComputedStyle(document.body).backgroundColor")) == LIGHT


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read(browser, built, addresses, scheme):
    for address, page, troubles in visit(browser, built, addresses, DESK, scheme):
        assert not troubles, address
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        faint = [
            (tag, text, colour, background)
            for tag, text, colour, background in page.evaluate(TEXTS)
            if contrast(hexadecimal(colour), hexadecimal(background)) < 4.5  # WCAG 1.4.3
        ]
        assert not faint, f"{address} in {scheme} mode"


BACKGROUND = """
(element) => {
  for (let at = element; at !== document.body; at = at.parentElement) {
    const found = getComputedStyle(at).backgroundColor;
    if (found !== "rgba(0, 0, 0, 0)") return found;
  }
  return getComputedStyle(document.body).backgroundColor;
}
"""


def test_figures_keep_the_background_of_the_dark_page(browser, built):
    for _, page, _ in visit(browser, built, [NOTEBOOK], DESK, "dark"):
        behind = hexadecimal(page.locator(".lm-figure").first.evaluate(BACKGROUND))
        assert behind == DARK, "tests/test_figures.py assumes another background"


def test_the_data_of_a_figure_unfolds(browser, built):
    for _, page, _ in visit(browser, built, [NOTEBOOK], PHONE, "light"):
        details = page.locator(".lm-figure + details").first
        assert not details.locator("table").is_visible()
        details.locator("summary").click()
        assert details.locator("table").is_visible()
        figure = page.locator(".lm-figure svg").first
        assert figure.get_attribute("aria-label").startswith("Two rising lines. ")
        assert 250 < figure.bounding_box()["width"] <= PHONE["width"]


def test_a_record_can_be_downloaded(browser, built):
    for _, page, _ in visit(browser, built, [NOTEBOOK], DESK, "light"):
        block = page.locator("details", has_text="[run]").first
        block.locator("summary").click()
        with page.expect_download() as download:
            block.locator("a[download]").first.click()
        assert download.value.suggested_filename == "sweep-0123456789ab.json"


def test_a_solution_is_hidden_until_asked_for(browser, built):
    for _, page, _ in visit(browser, built, ["book/exercises/pruning.html"], PHONE, "light"):
        solution = page.locator("details", has_text="Solution").first
        assert not solution.locator("pre").first.is_visible()
        solution.locator("summary").click()
        assert solution.locator("pre").first.is_visible()


def test_solutions_are_printed_although_they_are_folded(browser, built, tmp_path):
    reader = pytest.importorskip("pypdf").PdfReader
    for _, page, _ in visit(browser, built, ["book/exercises/pruning.html"], DESK, "light"):
        page.pdf(path=tmp_path / "page.pdf")
    text = "".join(one.extract_text() for one in reader(tmp_path / "page.pdf").pages)
    assert "Reshape so that each group of four is a row" in text


def test_an_answer_of_a_quiz_opens_its_reason(browser, built):
    for _, page, _ in visit(browser, built, ["book/concepts/pruning.html"], PHONE, "light"):
        option = page.locator(".lm-quiz details").first
        assert not option.locator("p").first.is_visible()
        option.locator("summary").press("Enter")
        assert option.locator("p").first.is_visible()
