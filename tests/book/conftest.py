"""A copy of the book with small executed notebooks, built once with warnings as errors, and a browser to open it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import nbformat.v4 as nb
import pandas as pd
import pytest

from lmcompress.records import Record
from lmcompress.report import figures

ROOT = Path(__file__).parents[2]
LEFT_OUT = "35_real_size_and_speed"  # a page that this build does not hold
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


def notebook_names() -> list[str]:
    """All notebooks that exist or that a page of the book links to."""
    texts = [page.read_text(encoding="utf-8") for page in (ROOT / "book").rglob("*.md")]
    linked = {name for text in texts for name in re.findall(r"\{page\}`(\w+)`", text)}
    return sorted(linked | {path.stem for path in (ROOT / "notebooks").glob("*.md")})


def executed(name: str) -> nbformat.NotebookNode:
    """A notebook as the workflow leaves it: parameters, a figure, a table, the run behind them, progress on stderr."""
    data = pd.DataFrame({"sparsity": [0.3, 0.5, 0.7] * 2, "perplexity": [18.0, 30, 90, 20, 60, 400]})
    data["criterion"] = ["wanda"] * 3 + ["magnitude"] * 3
    texts = {"title": name, "caption": "Windows of 8 tokens.", "alt": "Two rising lines."}
    origin = {
        "commit": "abc",
        "device": "CPU",
        "seconds": 1.0,
        "date": "2026-11-24",
        "command": f"lmcompress run {name}",
    }
    run = Record("0123456789abcdef", "sweep", 1, {"sparsity": 0.5}, {"model": "ab" * 32}, {}, origin)
    wide = pd.DataFrame(
        [[f"a cell of column {i}" for i in range(12)]], columns=[f"column {i}" for i in range(12)]
    )
    shown = [
        figures.lines(data, "sparsity", "perplexity", "criterion", log="y", **texts),
        figures.bars(data, "sparsity", "perplexity", "criterion", **texts | {"alt": "Six bars."}),
        figures.table(wide, "A wide table"),
        figures.provenance([run]),
        figures.not_run("the 30B models", "one GPU with 80 GB"),
        figures.verdicts([("It holds.", "holds", f"see [the page]({name}.html)")]),
    ]
    links = f"[with](20_retrain_subsets.md), [without](20_retrain_subsets), [the absent]({LEFT_OUT}.md)"
    words = f"# Page {name}\n\nA sentence with $x^2$ in it. See {links}.\n\n$$ \\sum_i x_i $$"
    words += f'\n\n<div id="fig-{name[:2]}-1"></div>'  # the address of its first figure, which text links to
    cells = [nb.new_markdown_cell(words)]
    for piece in shown:
        out = nb.new_output("display_data", {"text/html": piece._repr_html_(), "text/plain": "a piece"})
        progress = nb.new_output("stream", name="stderr", text="100%|#####| 3/3\n")
        cells.append(nb.new_code_cell("piece", execution_count=1, outputs=[progress, out]))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nb.new_notebook(cells=cells, metadata=metadata)


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """Folder of the book's HTML."""
    folder = tmp_path_factory.mktemp("book")
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy2(ROOT / name, folder)
    shutil.copytree(ROOT / "book", folder / "book", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "notebooks").mkdir()
    for name in notebook_names():
        if name != LEFT_OUT:
            text = nb.writes(executed(name))
            (folder / "notebooks" / f"{name}.ipynb").write_text(text, encoding="utf-8")
    program = Path(sys.executable).with_name("jupyter-book")
    call = [str(program), "build", str(folder), "-n", "-W", "--keep-going"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return folder / "_build" / "html"


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window; the tests that need it are skipped, visibly, where there is none."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium or google-chrome on this machine")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()
