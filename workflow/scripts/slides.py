"""Make slides of the built book's concept pages: one HTML file each, which needs no network and no other file.

    python workflow/scripts/slides.py build/book/_build/html build/slides

The text is the book's own; a section becomes one slide or, where it is long, some. Arrow keys and the space bar go on;
without scripts one scrolls. Printing gives a page a slide.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from bs4 import BeautifulSoup, Tag

FULL = 110  # words that a slide holds; what is drawn counts as many
WEIGHTS = {"figure": 60, "pre": 5, "tr": 9, "math": 12, "details": 8}  # of each, pre: of each line
HERE = Path(__file__).parent


def weight(part: Tag) -> int:
    """About how many words of room an element takes."""
    if part.name == "figure":
        return WEIGHTS["figure"]
    total = len(part.get_text(" ").split())
    lines = sum(len(pre.get_text().splitlines()) for pre in part.find_all("pre"))
    drawn = sum(
        count * len(part.find_all(name)) for name, count in WEIGHTS.items() if name not in ("pre", "figure")
    )
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
    for gone in article.select(".headerlink, script, style, button, .lm-figure + details"):
        gone.decompose()
    for link in article.find_all("a"):
        if not link.get("href", "").startswith("http"):
            link.unwrap()
    shown = list(slides(article))
    name = shown[0][0].get_text()
    body = ""
    for place, (heading, parts) in enumerate(shown, 1):
        level = "h1" if place == 1 else "h2"
        title = f"<{level}>{heading.decode_contents()}</{level}>"
        body += (
            f"<section>{title}{''.join(map(str, parts))}<footer>{place} / {len(shown)}</footer></section>\n"
        )
    style, script = ((HERE / f"slides.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{name}</title>'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{style}</style></head><body>\n{body}'
        f"<script>{script}</script></body></html>\n"
    )


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
