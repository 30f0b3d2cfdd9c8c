"""Write the book's exercises and worked examples as notebooks, for a class. Run: make handouts

    python workflow/scripts/handouts.py build/handouts

``exercises/NAME.ipynb`` has text, start and check of each exercise, ``solutions/NAME.ipynb`` the solution between them,
and ``by_hand/NAME.ipynb`` is a concept page whose examples run in seconds. None needs a model or a network.
"""

import re
import sys
from pathlib import Path

import nbformat
import nbformat.v4 as nb

BOOK = Path(__file__).parents[2] / "book"
BLOCK = re.compile(r"^```\{code-block\} python\n:class: (\w+)\n+(.*?)^```$", re.MULTILINE | re.DOTALL)
SOLUTION = re.compile(r"^:::\{dropdown\} Solution\n(.*?)^:::$", re.MULTILINE | re.DOTALL)
SOLVED = re.compile(
    r"^(```\{code-block\} python\n:class: check\n(?:(?!^```$).)*?^```$\n)\s*" + SOLUTION.pattern[1:],
    re.M | re.S,
)


def blocks(text: str) -> list[tuple[str, str]]:
    """``(kind, code)`` of the marked code blocks of a page, in order."""
    return [(match[1], match[2]) for match in BLOCK.finditer(text)]


def title(page: Path) -> str:
    return re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)[1]


def plain(text: str, folder: Path) -> str:
    """Markdown that Jupyter shows: without labels, roles, directives and links within the book."""
    text = re.sub(r"^\([\w-]+\)=\n", "", text, flags=re.MULTILINE)
    text = re.sub(
        r"^:::\{admonition\} ([^\n]+)\n:class: [^\n]+\n(.*?)^:::$", r"**\1**\n\n\2", text, flags=re.M | re.S
    )
    text = re.sub(r"^```\{(?!code-block)[^}]*\}.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r" ?\{cite:\w+\}`[^`]*`", "", text)
    text = re.sub(r"\{page\}(`\w+`)", r"the notebook \1", text)
    text = re.sub(r"\{term\}`([^`]*)`", r"\1", text)
    text = re.sub(r"\[\]\(([^)]+\.md)\)", lambda match: f"*{title(folder / match[1])}*", text)
    return re.sub(r"\[([^\]]+)\]\((?!https?:)[^)]+\)", r"\1", text).strip()


def notebook(page: Path, solutions: bool = False) -> nbformat.NotebookNode:
    """The page as a notebook without outputs; ``solutions``: with these."""
    text = page.read_text(encoding="utf-8")
    if solutions:  # before the check, so that all cells run
        text = SOLVED.sub(lambda match: f"**Solution**\n\n{match[2]}\n{match[1]}", text)
    else:
        text = SOLUTION.sub("", text)
    cells, at = [], 0
    for match in [*BLOCK.finditer(text), None]:
        for part in re.split(r"(?m)^(?=## )", text[at : match.start() if match else None]):
            if words := plain(part, page.parent):
                cells.append(nb.new_markdown_cell(words))
        if match:
            cells.append(nb.new_code_cell(match[2].strip(), metadata={"tags": [match[1]]}))
            at = match.end()
    for place, cell in enumerate(cells):
        cell["id"] = f"{page.stem}-{place}"  # the same in each writing
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nb.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def pages(folder: str) -> list[Path]:
    """Pages of ``book/folder`` that hold code."""
    return [page for page in sorted((BOOK / folder).glob("*.md")) if blocks(page.read_text(encoding="utf-8"))]


def main() -> None:
    out = Path(sys.argv[1])
    kinds = (
        ("exercises", "exercises", False),
        ("solutions", "exercises", True),
        ("by_hand", "concepts", False),
    )
    for name, folder, solutions in kinds:
        (out / name).mkdir(parents=True, exist_ok=True)
        for page in pages(folder):
            nbformat.write(notebook(page, solutions), out / name / f"{page.stem}.ipynb")
    print(f"{len(list(out.glob('*/*.ipynb')))} notebooks in {out}")


if __name__ == "__main__":
    main()
