"""The table of contents holds every page; the book builds without a warning; links inside it lead somewhere."""

import importlib
import json
import re
import shutil
import sys
from fnmatch import fnmatchcase
from html import escape
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from conftest import LEFT_OUT, ROOT, notebook_names

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
CHAPTERS = [chapter for part in TOC["parts"] for chapter in part["chapters"]]

PLAN = [
    *("00_dense_baseline", "10_pruning_sweep"),
    *(
        "20_retrain_subsets",
        "21_reconstruction",
        "22_iterative_or_one_shot",
        "23_cost_of_retraining",
        "24_learning_rates",
        "25_other_settings",
        "29_perp_claims",
    ),
    *(
        "30_cmpq",
        "31_pmpq",
        "32_tdmpq",
        "33_sensitivity_shootout",
        "34_bit_allocation",
        "35_real_size_and_speed",
    ),
    *("36_prune_and_quantize", "39_cptquant_claims", "40_scale"),
]


class Page(HTMLParser):
    """Links, ids and pictures of one HTML file."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.ids, self.without_alt = [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids.add(found.get("id"))
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if (tag == "img" and found.get("alt") is None) or (
            tag == "svg" and found.get("role") == "img" and not found.get("aria-label")
        ):
            self.without_alt.append(found)


@pytest.fixture(scope="module")
def pages(built) -> dict[Path, Page]:
    return {path: Page(path) for path in built.rglob("*.html") if "_static" not in path.parts}


def test_jupyter_book_is_of_the_major_version_that_the_configuration_is_for():
    assert version("jupyter-book").split(".")[0] == "1", "2.x reads myst.yml, not _config.yml: stay below 2"


def test_the_book_executes_nothing_and_takes_only_what_is_listed():
    assert CONFIG["execute"]["execute_notebooks"] == "off"
    assert CONFIG["only_build_toc_files"] is True


def test_every_notebook_is_in_the_table_of_contents_once():
    patterns = [chapter["glob"] for chapter in CHAPTERS if "glob" in chapter]
    for name in notebook_names():
        hits = [pattern for pattern in patterns if fnmatchcase(f"notebooks/{name}", pattern)]
        assert len(hits) == 1, f"notebooks/{name}: its number must begin with 0, 1, 2 or 3; matches {hits}"


def test_every_page_is_in_the_table_of_contents_once():
    listed = [TOC["root"], *(chapter["file"] for chapter in CHAPTERS if "file" in chapter)]
    written = [str(path.relative_to(ROOT).with_suffix("")) for path in (ROOT / "book").rglob("*.md")]
    assert sorted(listed) == sorted(written)


def test_each_page_is_built(built, pages):
    for chapter in CHAPTERS:
        if "file" in chapter:
            assert built / f"{chapter['file']}.html" in pages
    for name in notebook_names():
        assert (built / "notebooks" / f"{name}.html" in pages) == (name != LEFT_OUT)
    assert (built / "index.html").is_file()


def test_links_inside_the_book_lead_somewhere(built, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            ids = pages[target].ids if target in pages else None
            lost = parts.fragment and ids is not None and unquote(parts.fragment) not in ids
            if lost or not target.exists():
                broken.append((path.name, link))
    assert not broken


def test_pictures_have_alternative_text(pages):
    assert not [(path.name, found) for path, page in pages.items() for found in page.without_alt]


def test_a_page_that_is_not_in_the_build_is_named_and_not_linked(built):
    text = (built / "book" / "results" / "questions.html").read_text(encoding="utf-8")
    assert f"{LEFT_OUT}</span></code><em>(not in this build)" in re.sub(r"\s*<em>\s*", "<em>", text)
    assert f"{LEFT_OUT}.html" not in text
    assert 'href="../../notebooks/10_pruning_sweep.html"' in text


def test_links_between_notebooks_work_with_and_without_an_extension(built):
    text = (built / "notebooks" / "10_pruning_sweep.html").read_text(encoding="utf-8")
    for words in ("with", "without"):
        assert re.search(rf'href="20_retrain_subsets.html">\s*<span[^>]*>{words}</span>', text)
    assert "the absent<em> (not in this build)</em>" in text


def test_the_front_page_shows_every_verdict(built):
    text = re.sub(r"<[^>]+>", "", (built / "book" / "intro.html").read_text(encoding="utf-8")).replace(
        "’", "'"
    )
    for page in ("perp_claims", "cptquant_claims"):
        claims = importlib.import_module(f"lmcompress.pages.{page}").claims([])
        assert [claim for claim, *_ in claims if escape(claim, quote=False) not in text] == []


def test_links_to_notebooks_name_notebooks_of_the_plan():
    pages = [*(ROOT / "book").rglob("*.md"), *(ROOT / "notebooks").glob("*.md")]
    for page in pages:
        linked = re.findall(r"\]\((?:[\w./]*/)?(\d\d_\w+)", page.read_text(encoding="utf-8"))
        assert set(linked) <= set(PLAN), page.name
    assert set(notebook_names()) <= set(PLAN)


def test_a_notebook_page_links_to_colab_and_to_its_executed_self(built, pages):
    links = pages[built / "notebooks" / "10_pruning_sweep.html"].links
    colab = "https://colab.research.google.com/github/lmcompress/lmcompress/blob/main/notebooks/10_pruning_sweep.ipynb"
    assert colab in links
    assert "../_sources/notebooks/10_pruning_sweep.ipynb" in links
    notebook = json.loads((built / "_sources" / "notebooks" / "10_pruning_sweep.ipynb").read_text())
    assert any(cell.get("outputs") for cell in notebook["cells"])


def test_progress_bars_do_not_show(built):
    text = (built / "notebooks" / "10_pruning_sweep.html").read_text(encoding="utf-8")
    assert "3/3" not in text


def test_formulas_need_no_network(built):
    for path in built.rglob("book/**/*.html"):
        assert not re.search(r"<script[^>]*mathjax", path.read_text(encoding="utf-8"), re.IGNORECASE), (
            path.name
        )


def test_an_unknown_formula_is_a_warning_that_names_it():
    sys.path.insert(0, str(ROOT / "book" / "_ext"))
    import lmcompress_book
    from docutils import nodes
    from sphinx.util import logging

    seen = []
    logger = logging.getLogger("lmcompress_book").logger
    logger.addFilter(lambda message: seen.append(message.getMessage()) or False)
    text = lmcompress_book.mathml(nodes.math(text=r"\nosuch < 1"), as_block=False)
    logger.filters.clear()
    assert text == r"<code>\nosuch &lt; 1</code>"
    assert r"\\nosuch" in seen[0]


def linked_terms(path: Path) -> list[str]:
    """What a page links to the glossary, in order."""
    return re.findall(r'href="[^"]*glossary\.html#term-([\w.-]+)"', path.read_text(encoding="utf-8"))


def test_each_page_links_a_term_where_it_uses_it_first(built, pages):
    for path in pages:
        if "book" in path.parts:
            found = linked_terms(path)
            assert len(found) == len(set(found)), path.name
    text = (built / "book" / "concepts" / "sparsegpt.html").read_text(encoding="utf-8")
    assert text.index("#term-magnitude") < text.index("#term-GPTQ")
    assert set(linked_terms(built / "book" / "concepts" / "sensitivity.html")) >= {"Fisher", "HAWQ-V2", "CCA"}


def script(name: str):
    """A module of workflow/scripts."""
    sys.path.insert(0, str(ROOT / "workflow" / "scripts"))
    return importlib.import_module(name)


def test_each_concept_page_becomes_slides_that_need_no_other_file(built):
    slides = script("slides")
    for page in sorted((built / "book" / "concepts").glob("*.html")):
        deck = slides.BeautifulSoup(slides.deck(page), "html.parser")
        shown = deck.find_all("section")
        assert len(shown) >= 8, page.name
        assert deck.find("svg", role="img"), f"{page.name}: the drawing is not on a slide"
        assert not deck.select("link, img, [src], a:not([href^=http])")
        for slide in shown:
            parts = slide.find_all(recursive=False)[1:-1]
            assert sum(map(slides.weight, parts)) <= 1.6 * slides.FULL or len(parts) == 1, slide.get_text()[
                :80
            ]
        assert len(deck.select(".lm-quiz")) == 3


def test_the_printed_book_has_contents_with_true_page_numbers(built, tmp_path, monkeypatch):
    if not any(map(shutil.which, ("chromium", "google-chrome"))):
        pytest.skip("no chromium or google-chrome on this machine")
    pdf = script("pdf")
    few = [one for one in pdf.chapters(built) if "intro" in one[1] or "pruning" in one[1]]
    assert len(few) >= 4
    monkeypatch.setattr(pdf, "chapters", lambda book: few)
    monkeypatch.setattr(sys, "argv", ["pdf.py", str(built), str(tmp_path / "book.pdf")])
    pdf.main()
    pages = [page.extract_text() for page in pdf.PdfReader(tmp_path / "book.pdf").pages]
    listed = re.findall(r"^(.*Pruning by hand.*?) ?(\d+)$", pages[1], re.MULTILINE)[0]
    assert listed[0] in pages[int(listed[1]) - 1]
    assert (
        pages[int(listed[1]) - 1].split()[-1] == listed[1]
        or pages[int(listed[1]) - 1].split()[0] == listed[1]
    )
    assert any("Reshape so that each group of four is a row" in page for page in pages), "solutions are open"
    assert not any("Data of this figure" in page for page in pages)


def test_without_chromium_the_pdf_is_skipped_visibly(built, tmp_path, monkeypatch, capsys):
    pdf = script("pdf")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["pdf.py", str(built), str(tmp_path / "book.pdf")])
    pdf.main()
    assert capsys.readouterr().out.startswith("SKIPPED")
    assert not (tmp_path / "book.pdf").exists()
