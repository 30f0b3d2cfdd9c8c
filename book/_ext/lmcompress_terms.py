"""Each page links a term of the glossary where it uses it first; nobody has to type the links.

The terms are those of ``book/glossary.md``. Left alone are headings, links, code, formulas and the glossary itself.
"""

import re
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

GLOSSARY = "book/glossary"
ANSWER = "lm-option"  # of a quiz: a click on it opens the reason, not the glossary
CLOSED = (
    nodes.title, nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw,
    nodes.caption, nodes.term, nodes.citation, addnodes.pending_xref, addnodes.download_reference,
)  # fmt: skip


def terms(text: str) -> list[str]:
    """The terms of a glossary's source, in its order."""
    body = re.search(r"^```\{glossary\}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)[1]
    return [line for line in body.splitlines() if line and not line[0].isspace()]


def pattern(found: list[str]) -> re.Pattern:
    """Any of the terms as a word, in the singular or plural; longer terms first; names keep their capitals."""
    words = [
        re.escape(term) if term[0].isupper() else f"[{term[0]}{term[0].upper()}]{re.escape(term[1:])}"
        for term in sorted(found, key=len, reverse=True)
    ]
    return re.compile(rf"(?<![\w-])(?:{'|'.join(words)})(?=(?:s|es)?(?![\w-]))")


def first_uses(document: nodes.document, found: list[str]) -> list[tuple[nodes.Text, int, int, str]]:
    """``(text, start, end, term)`` of each term's first use in the prose of a page."""
    names = {term.lower(): term for term in found}
    match, seen, uses = pattern(found), set(), []
    for text in document.findall(nodes.Text):
        above = text.parent
        while above is not None and not isinstance(above, CLOSED) and ANSWER not in above["classes"]:
            above = above.parent
        if above is not None:
            continue
        for hit in match.finditer(str(text)):
            term = names[hit[0].lower()]
            if term not in seen:
                seen.add(term)
                uses.append((text, *hit.span(), term))
    return uses


def link_terms(app: Sphinx, document: nodes.document) -> None:
    """Put a link to the glossary around each first use."""
    if app.env.docname == GLOSSARY:
        return
    app.env.note_dependency(str(Path(app.srcdir) / f"{GLOSSARY}.md"))
    parts: dict[nodes.Text, list[nodes.Node]] = {}
    done: dict[nodes.Text, int] = {}
    for text, start, end, term in first_uses(document, app.lmcompress_terms):
        target = {"refdomain": "std", "reftype": "term", "reftarget": term, "refdoc": app.env.docname}
        reference = addnodes.pending_xref("", **target, refexplicit=True, refwarn=True)
        reference += nodes.inline("", str(text)[start:end], classes=["lm-term"])
        before = nodes.Text(str(text)[done.get(text, 0) : start])
        parts.setdefault(text, []).extend([before, reference])
        done[text] = end
    for text, pieces in parts.items():
        text.parent.replace(text, [*pieces, nodes.Text(str(text)[done[text] :])])


def setup(app: Sphinx) -> dict:
    app.lmcompress_terms = terms((Path(app.srcdir) / f"{GLOSSARY}.md").read_text(encoding="utf-8"))
    app.connect("doctree-read", link_terms)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
