"""Print the built book into one PDF: title page, contents with page numbers, every page in the order of the book.

    python workflow/scripts/pdf.py build/book/_build/html build/lmcompress.pdf

Chromium prints one long HTML file until the contents are right: a print tells on which page each chapter begins.
Solutions and quizzes are open; the data behind figures and folded code are left out. Without Chromium nothing is made,
and the last line says so.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urljoin

from bs4 import BeautifulSoup, Tag
from pypdf import PdfReader, PdfWriter

PROGRAMS = ("chromium", "google-chrome", "chromium-browser")
FOLDED = "details:not(.sd-dropdown):not(.lm-quiz details)"  # data of figures, runs, code: for the screen
DROPPED = (
    "script, style, link, button, .headerlink, .prev-next-area, .tocsection, .cell_input, .sd-summary-chevron-right, "
    f".sd-summary-chevron-down, .sd-summary-state-marker, {FOLDED}"
)
NOT_COMPUTED = "Not computed on this machine"
ROWS, WIDE = 25, 7  # of a table: rows that are printed, columns that fit in the usual size
SITE = "https://book.invalid/"  # a base against which the book's own links are resolved
STYLE = Path(__file__).with_suffix(".css")


def chapters(book: Path) -> list[tuple[str, str]]:
    """``(part, address)`` of every page in the order of the sidebar; the first is the introduction."""
    soup = BeautifulSoup((book / "book" / "intro.html").read_text(encoding="utf-8"), "html.parser")
    found, part = [("", "book/intro.html")], ""
    for node in soup.select("nav.bd-links p.caption, nav.bd-links a.reference.internal"):
        if node.name == "p":
            part = node.get_text(strip=True)
            continue
        address = urljoin(SITE + "book/intro.html", node["href"]).removeprefix(SITE)
        if address not in ("book/intro.html", "book/intro.html#") and all(address != one for _, one in found):
            found.append((part, address))
    return found


def anchor(address: str, fragment: str = "") -> str:
    """The id in the one long file of a page, or of a place on it."""
    name = re.sub(r"\W", "-", address.removesuffix(".html"))
    return f"{name}--{fragment}" if fragment else name


def article(book: Path, address: str, known: set[str]) -> Tag:
    """The text of a page, its ids and links as they must be in the one long file."""
    soup = BeautifulSoup((book / address).read_text(encoding="utf-8"), "html.parser")
    text = soup.find("article")
    for gone in text.select(DROPPED):
        gone.decompose()
    for section in text.find_all("section"):
        if section.find(["section", "figure", "table"]) is None and NOT_COMPUTED in section.get_text():
            section.decompose()
    for section in reversed(text.find_all("section")):  # inner ones first
        shown, heading = section.get_text(" ", strip=True), section.find(["h2", "h3"])
        if heading and section.find(["svg", "img"]) is None and shown == heading.get_text(" ", strip=True):
            section.decompose()  # all of it was folded away
    for table in text.find_all("table"):
        shorten(table)
    for details in text.find_all("details"):
        details["open"] = ""
    for node in text.find_all(id=True):
        if node.find_parent("svg") is None:
            node["id"] = anchor(address, node["id"])
    for link in text.find_all("a", href=True):
        target, _, fragment = urljoin(SITE + address, link["href"]).partition("#")
        page = target.removeprefix(SITE)
        if page in known:
            link["href"] = "#" + anchor(page, unquote(fragment))
        elif target.startswith(SITE) or link["href"].startswith("data:"):
            link.unwrap()
    for image in text.find_all("img", src=True):
        if not image["src"].startswith(("data:", "http")):
            image["src"] = (book / address).parent.joinpath(image["src"]).resolve().as_uri()
    text.name = "div"
    text["class"], text["id"] = "bd-article", anchor(address)
    return text


def shorten(table: Tag) -> None:
    """Leave the first rows of a long table, and mark one of many columns."""
    rows = table.select("tbody > tr")
    columns = max((len(row.find_all(["td", "th"], recursive=False)) for row in rows), default=0)
    if columns > WIDE:
        table["class"] = [*table.get("class", []), "lm-wide"]
    if len(rows) > 1.5 * ROWS:
        for row in rows[ROWS:]:
            row.decompose()
        more = BeautifulSoup(
            f"<p><em>{len(rows) - ROWS} more rows are in the built book.</em></p>", "html.parser"
        )
        table.insert_after(more)


def document(book: Path, pages: dict[str, int]) -> str:
    """The long file; ``pages``: the number of the page on which each address begins, as far as known."""
    order = chapters(book)
    texts = {address: article(book, address, {one for _, one in order}) for _, address in order}
    contents, part = "", ""
    for caption, address in order:
        if caption != part:
            contents, part = f'{contents}<p class="part">{caption}</p>', caption
        title = texts[address].h1.get_text(" ", strip=True)
        number = pages.get(anchor(address), "000")  # as wide as the number that will stand there
        contents += f'<p><a href="#{anchor(address)}">{title}</a><span class="dots"></span>{number}</p>'
    name = texts["book/intro.html"].h1.get_text(strip=True)
    sheets = "".join(
        (book / "_static" / one).read_text(encoding="utf-8") for one in ("pygments.css", "lmcompress.css")
    )
    front = (
        f'<div class="lm-title"><h1>{name}</h1><p>PERP and CPTQuant: run, measured, taught.</p>'
        "<p>Printed from the built book, whose pages also unfold the data and the run behind each figure.</p></div>"
        f'<div class="toc"><h1>Contents</h1>{contents}</div>'
    )
    body = "".join(map(str, texts.values()))
    return (
        f'<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{sheets}{STYLE.read_text(encoding='utf-8')}</style></head><body>{front}{body}</body></html>"
    )


def print_to(program: str, text: str, out: Path) -> None:
    source = out.with_suffix(".html")
    source.write_text(text, encoding="utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-pdf-header-footer",
        "--generate-pdf-document-outline",
    ]
    call = [program, *flags, f"--print-to-pdf={out}", source.as_uri()]
    done = subprocess.run(call, capture_output=True, text=True, timeout=600)
    if not out.exists():
        sys.exit(f"{program} printed nothing: {done.stderr[-500:]}")


def first_pages(path: Path) -> dict[str, int]:
    """Anchor of each page of the book -> the number of the sheet on which it begins."""
    reader = PdfReader(path)
    return {
        name.removeprefix("/"): reader.get_destination_page_number(place) + 1
        for name, place in reader.named_destinations.items()
    }


def main() -> None:
    book, out = map(Path, sys.argv[1:])
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if not (book / "book" / "intro.html").exists():
        sys.exit(f"There is no book in {book} yet: make book")
    if program is None:
        print(f"SKIPPED: no PDF without one of {', '.join(PROGRAMS)}")
        return
    with tempfile.TemporaryDirectory() as room:
        printed, numbers, now = Path(room) / "book.pdf", {}, None
        while now != numbers:
            numbers = now or {}
            print_to(program, document(book, numbers), printed)
            now = first_pages(printed)
        writer = PdfWriter(clone_from=printed)
        writer.add_metadata(
            {"/Title": "Compressing language models, measured", "/Author": "The lmcompress authors"}
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        writer.write(out)
    print(f"{len(writer.pages)} pages in {out}")


if __name__ == "__main__":
    main()
