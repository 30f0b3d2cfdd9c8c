"""What notebooks' pieces of HTML need on a page of the book, where several of them meet.

* The style that every table brings along for JupyterLab stands in the head, once.
* Roles and labels of the theme that screen readers are misled by are left out.
* Identifiers inside drawings, which repeat where a figure is drawn twice, get the number of the drawing.
"""

import re

from sphinx.application import Sphinx

STYLE = re.compile(r"<style>\s*\.lm-.*?</style>", re.DOTALL)
DRAWING = re.compile(r"<svg\b[^>]*>.*?</svg>", re.DOTALL)
# A label that is not what the folded line says; a list whose parts are no list items; a role that is no longer one.
MISLEADING = re.compile(
    r' aria-label="Toggle hidden content"| role="list"(?= class="citation-list")| role="doc-biblioentry"'
)
NAME = re.compile(r'\b(id="|href="#|url\(#)([\w-]+)')


def tidy(body: str) -> tuple[str, str]:
    """``(body, style)``: the page without repeated styles and identifiers, and the style for its head."""
    styles = list(dict.fromkeys(STYLE.findall(body)))
    body = MISLEADING.sub("", STYLE.sub("", body))
    count = 0

    def numbered(match: re.Match) -> str:
        nonlocal count
        count += 1
        return NAME.sub(lambda name: f"{name[1]}d{count}-{name[2]}", match[0])

    return DRAWING.sub(numbered, body), "".join(styles)


def on_page(app: Sphinx, pagename: str, template: str, context: dict, doctree) -> None:
    if context.get("body"):
        context["body"], style = tidy(context["body"])
        context["metatags"] = context.get("metatags", "") + style


def setup(app: Sphinx) -> dict:
    app.connect("html-page-context", on_page, priority=950)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
