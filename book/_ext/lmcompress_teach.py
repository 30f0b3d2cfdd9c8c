"""What the teaching pages need of Sphinx.

* ``{guide} recipes`` is a table of the decision guide (:mod:`lmcompress.report.guide`), made of the published records.
* ``{drawing} pruning`` is the drawing of a concept page, made while building (:mod:`lmcompress.report.drawings`).
* ``{quiz}`` is a question with answers to open: a line or more of question, then a list item for each answer,
  ``- [x] answer: why it is right`` or ``- [ ] answer: why not``, of which one is right. It needs no script.
"""

import importlib
import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

OPTION = re.compile(r"^- \[([ x])\] (.+?): (.+)$", re.DOTALL)


def drawing(name: str):
    """The :class:`~lmcompress.report.figures.Figure` of this name."""
    from lmcompress.report import bit_drawings, drawings

    return (getattr(drawings, name, None) or getattr(bit_drawings, name))()


class Drawing(SphinxDirective):
    required_arguments = 1

    def run(self):
        return [nodes.raw("", drawing(self.arguments[0])._repr_html_(), format="html")]


class Made(SphinxDirective):
    """A piece that ``lmcompress.report.NAME``, NAME that of the directive, makes of records."""

    required_arguments = 1

    def run(self):
        module = importlib.import_module(f"lmcompress.report.{self.name}")
        try:
            made = getattr(module, self.arguments[0])()
        except LookupError as missing:
            raise self.error(f"{self.name} lacks its records: {missing}") from missing
        return [nodes.raw("", made._repr_html_(), format="html")]


def parse_quiz(text: str) -> tuple[str, list[tuple[bool, str, str]]]:
    """``(question, [(right, answer, reason)])``; ``ValueError`` unless exactly one of two or more answers is right."""
    question, *parts = re.split(r"^(?=- \[)", text, flags=re.MULTILINE)
    options = []
    for part in parts:
        match = OPTION.match(" ".join(part.split()))
        if match is None:
            raise ValueError(f"an answer needs a mark, a colon and a reason: {part.strip()!r}")
        options.append((match[1] == "x", match[2], match[3]))
    if not question.strip() or len(options) < 2 or sum(right for right, *_ in options) != 1:
        raise ValueError("a quiz needs a question and two or more answers, one of them right")
    return question.strip(), options


class Quiz(SphinxDirective):
    has_content = True

    def run(self):
        try:
            question, options = parse_quiz("\n".join(self.content))
        except ValueError as wrong:
            raise self.error(str(wrong)) from wrong
        shown: list[nodes.Node] = [nodes.raw("", '<div class="lm-quiz">', format="html")]
        shown += self.parse_text_to_nodes(question)
        for right, answer, reason in options:
            verdict = "Right" if right else "No"
            shown.append(nodes.raw("", '<details class="lm-details"><summary>', format="html"))
            shown.append(nodes.inline("", "", *self.parse_inline(answer)[0], classes=["lm-option"]))
            shown.append(nodes.raw("", "</summary>", format="html"))
            shown += self.parse_text_to_nodes(f"**{verdict}.** {reason}")
            shown.append(nodes.raw("", "</details>", format="html"))
        return [*shown, nodes.raw("", "</div>", format="html")]


def setup(app: Sphinx) -> dict:
    app.add_directive("drawing", Drawing)
    app.add_directive("guide", Made)
    app.add_directive("families", Made)
    app.add_directive("notebook_times", Made)
    app.add_directive("readings", Made)
    app.add_directive("verified", Made)
    app.add_directive("quiz", Quiz)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
