"""Ten readings of the built book, walked in a real browser: what a reader clicks, scrolls and reads before the answer.

    make book
    python benchmarks/readings.py build/book/_build/html results/benchmarks/readings.json

Each begins on the front page and uses what can be seen there. A reader is taken to read every visible word from the
top of the page (or from the place that a link leads to) to the end of the answer, drawings left out: four words a
second, two seconds a click, one a screen that is scrolled. Commands of a reading are run; their time is told apart.
"""

import argparse
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lmcompress import __version__
from lmcompress.files import write_json

WORDS, CLICK, SCREEN = 240 / 60, 2.0, 1.0  # words a second; seconds a click; seconds a screen
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
FRONT = "book/intro.html"

# What is read on the page: `upto(pattern, selector)` finds the first visible element after the start whose text has the
# pattern, and counts words and screens from the start to its end; the start moves there.
SCRIPT = r"""
() => {
  const article = document.querySelector("article");
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  let start = target && article.contains(target) ? target : null;
  const from = () => start ? start.getBoundingClientRect().top : article.getBoundingClientRect().top;
  window.upto = (pattern, selector) => {
    const after = (e) => !start || start.contains(e) || start.compareDocumentPosition(e) & 4;
    const found = [...article.querySelectorAll(selector)].find((e) =>
      after(e) && e.checkVisibility() && new RegExp(pattern).test(e.textContent.replace(/\s+/g, " ")));
    if (!found) return null;
    const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
    let words = 0;
    for (let text; (text = walker.nextNode());) {
      const parent = text.parentElement, past = found.compareDocumentPosition(text);
      if (past & 4 && !(past & 16)) break;
      if (!after(text) || parent.closest("svg, .headerlink, button") || !parent.checkVisibility()) continue;
      words += text.data.split(/\s+/).filter((word) => /[\p{L}\p{N}]/u.test(word)).length;
    }
    const way = found.getBoundingClientRect().bottom - from();
    start = found;
    const screens = Math.max(0, Math.ceil(way / innerHeight) - 1);
    return {words, screens, text: found.innerText.replace(/\s+/g, " ").trim()};
  };
}
"""


@dataclass(frozen=True)
class Reading:
    """A question of a reader, the way to its answer, and what is then done.

    steps: ``("follow", words of a link)`` and, last, ``("find", pattern, selector)``.
    commands: run after it; arguments of ``lmcompress``.
    """

    name: str
    steps: tuple[tuple[str, ...], ...]
    viewport: dict
    commands: tuple[tuple[str, ...], ...] = ()


READINGS = (
    Reading("what survived of PERP at 50 %", (("find", "Retraining only the norms", "p"),), DESK),
    Reading("which score is worth its seconds", (("find", "ranks the layers best", "p"),), DESK),
    Reading(
        "what a 7B model on 24 GB should do",
        (("follow", "What should I do with my model"), ("find", "Llama 2 7B", "tr")),
        DESK,
    ),
    Reading(
        "redo one figure",
        (("follow", "redo a figure"), ("find", "lmcompress redo 20.1", "pre")),
        DESK,
        (("redo", "20.1", "--estimate"), ("redo", "weight_grid")),  # the second is what Table 00.5 is made of
    ),
    Reading(
        "change one parameter",
        (("follow", "change a parameter"), ("find", "lmcompress run 10_pruning_sweep -p", "pre")),
        DESK,
        (("run", "10_pruning_sweep", "-p", "sparsities", "[0.6]", "--check"),),
    ),
    Reading(
        "add a criterion", (("follow", "add a criterion"), ("find", 'Criterion\\("ria.prune"', "pre")), DESK
    ),
    Reading(
        "prepare a 90-minute lesson",
        (("follow", "a lesson of 90 minutes"), ("find", "^ ?0 ?Ask", "tr")),
        DESK,
    ),
    Reading(
        "cite a figure",
        (("follow", "cite a figure"), ("find", "The lmcompress authors \\(2026\\)", "pre")),
        DESK,
    ),
    Reading(
        "find a record's machine",
        (
            ("follow", "find the machine behind a number"),
            ("follow", "Figure 20.1"),
            ("find", r"^\[run\].*(NVIDIA|AMD|Intel)", "summary"),
        ),
        DESK,
        (("records", "list", "--page", "20_retrain_subsets", "--limit", "3"),),
    ),
    Reading(
        "read it on a phone: the 7B model again",
        (("follow", "What should I do with my model"), ("find", "Llama 2 7B", "tr")),
        PHONE,
    ),
)


def walk(browser, html: Path, reading: Reading) -> dict:
    """What it takes to find the answer: ``words``, ``clicks``, ``screens``, ``seconds``, and the ``answer`` itself.

    browser: of playwright. html: folder of the built book.
    Raises :class:`LookupError` where a step finds nothing that can be seen, or a page is wider than the screen.
    """
    context = browser.new_context(viewport=reading.viewport, offline=True)
    page = context.new_page()
    page.goto((html / FRONT).resolve().as_uri())
    words = clicks = screens = 0
    text, pages = "", [FRONT]
    for kind, what, *selector in reading.steps:
        page.evaluate(SCRIPT)
        pattern, where = (re.escape(what), "a[href]") if kind == "follow" else (what, selector[0])
        found = page.evaluate("([pattern, where]) => upto(pattern, where)", [pattern, where])
        if found is None:
            raise LookupError(f"{reading.name}: {what!r} is not to be seen on {pages[-1]}")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if wide > 0:
            raise LookupError(f"{reading.name}: {pages[-1]} is {wide} px wider than the screen")
        words, screens, text = words + found["words"], screens + found["screens"], found["text"]
        if kind == "follow":
            link = page.locator("article a[href]").filter(has_text=what, visible=True).first
            page.goto(link.evaluate("link => link.href"))
            pages.append(Path(page.url).name)
            clicks += 1
    context.close()
    seconds = words / WORDS + CLICK * clicks + SCREEN * screens
    found = {"reading": reading.name, "pages": pages, "words": words, "clicks": clicks, "screens": screens}
    return found | {"seconds": round(seconds, 1), "answer": text[:300]}


def execute(command: tuple[str, ...]) -> dict:
    """Run ``lmcompress`` with these arguments: seconds, of which ``processor`` were spent computing, and last line."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "lmcompress", *command], capture_output=True, text=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    line = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1]
    said = {"command": shlex.join(["lmcompress", *command]), "status": done.returncode, "last line": line}
    return said | {"seconds": round(seconds, 1), "processor": round(spent, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("html", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    rows = []
    with sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for reading in READINGS:
            rows.append(walk(browser, given.html, reading))
            rows[-1]["commands"] = [execute(command) for command in reading.commands]
            print(rows[-1], flush=True)
        browser.close()
    write_json(given.out, {"benchmark": "readings", "versions": {"lmcompress": __version__}, "rows": rows})


if __name__ == "__main__":
    main()
