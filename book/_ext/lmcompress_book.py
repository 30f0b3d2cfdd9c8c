"""Six small things that the book needs of Sphinx.

* ``{page}`10_pruning_sweep``` links to a notebook's page by its title, and says so when this build does not hold it.
  Markdown links to a notebook, such as ``[pruning](10_pruning_sweep.md)``, do the same with their own words.
* ``{verdicts} 29_perp_claims`` is the table of a claims page without the evidence, made of the published records.
* ``{answers}`` is the front page's six sentences and two figures, made of the published records; a missing record is an
  error.
* ``{explorer}`` is the explorer of all published results; ``{explorer} 2`` of the pages whose numbers begin with 2.
* Formulas become MathML while building: they are read by screen readers, and need no network and no script.
* Scripts of live cells, which Jupyter Book puts into every page (twice, which is an error), are left out.
"""

import re
from html import escape

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

NOTEBOOK = re.compile(r"(?:\S*/)?(\d\d_\w+)(?:\.md|\.ipynb)?")


class PageRole(SphinxRole):
    """A link to ``notebooks/NAME``, with the page's title as its text."""

    def run(self):
        return link(self.env, self.text, []), []


class Verdicts(SphinxDirective):
    """Claims and their verdicts on the published records; the evidence is on the claims page, which is the argument."""

    required_arguments = 1

    def run(self):
        # here, not above: only one page needs torch, which these bring along
        from lmcompress.pages import cptquant_claims, perp_claims
        from lmcompress.plans import published
        from lmcompress.report.html import VERDICTS

        page = self.arguments[0]
        if page == "29_perp_claims":
            claims = perp_claims.claims(published(page))
        elif page == "39_cptquant_claims":
            claims = cptquant_claims.claims(cptquant_claims.published_evidence())
        else:
            raise self.error(f"verdicts of {page}: only 29_perp_claims and 39_cptquant_claims judge claims")
        head = nodes.thead("", row("claim", "published runs"))
        body = nodes.tbody(
            "", *(row(claim, f"{VERDICTS[verdict]} {verdict}") for claim, verdict, _ in claims)
        )
        columns = [nodes.colspec(colwidth=width) for width in (75, 25)]
        return [nodes.table("", nodes.tgroup("", *columns, head, body, cols=2))]


class Answers(SphinxDirective):
    """Questions of the front page, each with a sentence made of records and a link to its page; then two figures."""

    def run(self):
        from lmcompress.report import answers

        try:
            said, pictures = answers.answers(), answers.pictures()
        except LookupError as missing:
            raise self.error(f"an answer of the front page lacks its records: {missing}") from missing
        shown = []
        for one in said:
            said_here = nodes.paragraph(
                "", f"{one.sentence} ", nodes.Text("→ "), *link(self.env, one.page, [])
            )
            item = nodes.definition("", said_here)
            shown.append(nodes.definition_list_item("", nodes.term(text=one.question), item))
        drawn = [nodes.raw("", figure._repr_html_(), format="html") for figure, _ in pictures]
        return [nodes.definition_list("", *shown), *drawn]


class Explorer(SphinxDirective):
    """The explorer, made of the published records; its script and style are the library's, and sort every table."""

    optional_arguments = 1

    def run(self):
        from lmcompress.report import explorer

        options = self.config.html_theme_options
        repository = options["repository_url"].removeprefix("https://github.com/")
        link = f"{options['launch_buttons']['colab_url']}/github/{repository}/blob/main/notebooks/PAGE.ipynb"
        made = explorer.of_book(self.arguments[0] if self.arguments else "", link)
        return [nodes.raw("", made, format="html")]


def add_scripts(app: Sphinx, config) -> None:
    from lmcompress.report.explorer import FILES, STATIC

    style, *scripts = FILES
    config.html_static_path.append(str(STATIC))
    config.html_css_files.append(style)
    config.html_js_files += scripts


def row(*cells: str) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph(text=cell)) for cell in cells))


def link(env: BuildEnvironment, name: str, words: list[nodes.Node]) -> list[nodes.Node]:
    """A reference to a notebook's page that shows ``words`` (none: its title); words alone if there is no page."""
    if f"notebooks/{name}" not in env.found_docs:
        return [*(words or [nodes.literal(text=name)]), nodes.emphasis(text=" (not in this build)")]
    target = {"refdomain": "std", "reftype": "doc", "reftarget": f"/notebooks/{name}", "refdoc": env.docname}
    reference = addnodes.pending_xref("", **target, refexplicit=bool(words))
    reference += nodes.inline("", "", *(words or [nodes.Text(name)]))
    return [reference]


def link_notebooks(app: Sphinx, document: nodes.document) -> None:
    """Resolve Markdown links to notebooks, which name a source: there it is text, here an executed notebook."""
    for node in list(document.findall(addnodes.pending_xref)):
        match = NOTEBOOK.fullmatch(node["reftarget"])
        if match and node["reftype"] == "myst":
            words = list(node[0].children) if node.astext() else []
            node.parent.replace(node, link(app.env, match[1], words))


def inline(translator, node: nodes.math) -> None:
    translator.body.append(mathml(node, as_block=False))
    raise nodes.SkipNode


def block(translator, node: nodes.math_block) -> None:
    number = node.get("number")
    label = f'<span class="eqno">({number})</span>' if number else ""
    anchor = f' id="equation-{node["label"]}"' if number else ""
    # Reached by the tab key, so that a formula wider than the screen can be scrolled without a mouse.
    translator.body.append(
        f'<div class="math" tabindex="0"{anchor}>{label}{mathml(node, as_block=True)}</div>'
    )
    raise nodes.SkipNode


def mathml(node: nodes.Element, as_block: bool) -> str:
    """The formula, or its source and a warning (an error in our builds) for LaTeX that docutils does not know."""
    try:
        return tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        logging.getLogger(__name__).warning("formula %r: %s", node.astext(), error, location=node)
        return f"<code>{escape(node.astext())}</code>"


def without_live_cells(app: Sphinx, pagename: str, template: str, context: dict, doctree) -> None:
    scripts = context.get("script_files", [])
    about = [f"{script} {getattr(script, 'attributes', {})}".lower() for script in scripts]
    context["script_files"] = [s for s, words in zip(scripts, about, strict=True) if "thebe" not in words]


def setup(app: Sphinx) -> dict:
    app.add_role("page", PageRole())
    app.add_directive("verdicts", Verdicts)
    app.add_directive("answers", Answers)
    app.add_directive("explorer", Explorer)
    app.connect("config-inited", add_scripts)
    app.connect("doctree-read", link_notebooks)
    app.connect("html-page-context", without_live_cells, priority=900)
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
