"""Make slides of the built book's concept pages: one HTML file each, which needs no network and no other file.

    python workflow/scripts/slides.py build/book/_build/html build/slides

The text is the book's own, a section becomes one slide or, where it is long, some. Arrow keys and the space bar go on; without
scripts one scrolls. Printing gives a page a slide.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from bs4 import BeautifulSoup, Tag

FULL = 110  # words that a slide holds; what is drawn counts as many
WEIGHTS = {"figure": 60, "pre": 5, "tr": 9, "math": 12, "details": 8}  # of each, pre: of each line
STYLE = """
:root { color-scheme: light dark; }
html { scroll-snap-type: y proximity; }
body { margin: 0; font: 1.5rem/1.45 system-ui, sans-serif; }
section { box-sizing: border-box; min-height: 100vh; padding: 5vh 8vw 7vh; scroll-snap-align: start;
  display: flex; flex-direction: column; justify-content: center; border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
section > * { max-width: 60rem; width: 100%; margin-left: auto; margin-right: auto; }
h1 { font-size: 2.6rem; } h2 { font-size: 1.9rem; margin-top: 0; }
pre { font-size: 1.05rem; line-height: 1.35; overflow-x: auto; padding: 0.8rem; background: color-mix(in srgb, currentColor 8%, transparent); }
figure { margin: 0.5rem auto !important; max-width: 60rem !important; text-align: center; }
figure svg { max-height: 60vh; max-width: 100% !important; } figcaption { font-size: 1.1rem; }
table { border-collapse: collapse; font-size: 1.2rem; } td, th { padding: 0.25rem 0.8rem; text-align: left; border-bottom: 1px solid; }
.math { text-align: center; } .admonition-title, .headerlink, .lm-figure details { display: none; }
dt { font-weight: 600; } summary { cursor: pointer; } footer { font-size: 1rem; opacity: 0.7; margin-top: 2rem; }
@media print { section { break-after: page; min-height: auto; } }
"""
SCRIPT = """
addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1 }[event.key];
  if (!step || event.target.closest("summary, pre")) return;
  const slides = [...document.querySelectorAll("section")];
  const now = slides.findIndex((slide) => slide.getBoundingClientRect().bottom > innerHeight / 2);
  slides[Math.min(Math.max(now + step, 0), slides.length - 1)].scrollIntoView();
  event.preventDefault();
});
"""


def weight(part: Tag) -> int:
    """About how many words of room an element takes."""
    if part.name == "figure":
        return WEIGHTS["figure"]
    total = len(part.get_text(" ").split())
    lines = sum(len(pre.get_text().splitlines()) for pre in part.find_all("pre"))
    drawn = sum(count * len(part.find_all(name)) for name, count in WEIGHTS.items() if name not in ("pre", "figure"))
    return total + drawn + WEIGHTS["pre"] * lines


def slides(article: Tag) -> Iterator[tuple[Tag, list[Tag]]]:
    """``(heading, parts)`` of each slide of a page."""
    heading, parts, room = None, [], FULL
    for part in flat(article):
        if part.name in ("h1", "h2", "h3"):
            if heading is not None:
                yield heading, parts
            heading, parts, room = part, [], FULL
            continue
        needed = weight(part)
        if parts and needed > room:
            yield heading, parts
            parts, room = [], FULL
        parts.append(part)
        room -= needed
    if heading is not None:
        yield heading, parts


def flat(node: Tag) -> Iterator[Tag]:
    """The elements of nested sections one after the other."""
    for child in node.find_all(recursive=False):
        if child.name == "section" or "container" in (child.get("class") or ()):
            yield from flat(child)
        elif child.name in ("dl", "ul", "ol") and weight(child) > FULL and child.find("dd"):
            yield from (part for part in child.find_all(["dt", "dd"], recursive=False))
        elif child.get_text(strip=True):
            yield child


def deck(page: Path) -> str:
    """The page as one HTML file of slides."""
    soup = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    article = soup.find("article")
    for gone in article.select(".headerlink, script, style, button"):
        gone.decompose()
    for link in article.find_all("a"):
        if not link.get("href", "").startswith("http"):
            link.unwrap()
    shown = list(slides(article))
    name = shown[0][0].get_text()
    body = ""
    for place, (heading, parts) in enumerate(shown, 1):
        level = "h1" if place == 1 else "h2"
        content = "".join(map(str, parts))
        body += f"<section><{level}>{heading.decode_contents()}</{level}>{content}<footer>{place} / {len(shown)}</footer></section>\n"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{name}</title>'
    return f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head><body>\n{body}<script>{SCRIPT}</script></body></html>\n'


def main() -> None:
    book, out = map(Path, sys.argv[1:])
    pages = sorted((book / "book" / "concepts").glob("*.html"))
    if not pages:
        sys.exit(f"There is no book in {book} yet: make book")
    out.mkdir(parents=True, exist_ok=True)
    for page in pages:
        (out / page.name).write_text(deck(page), encoding="utf-8")
    print(f"{len(pages)} decks of slides in {out}")


if __name__ == "__main__":
    main()
