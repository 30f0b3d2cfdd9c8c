"""``{library}``: the functions and settings of the library's face, each with its arguments, on a page of the book.

Read from the source, without importing it: the book is built where there is no torch.
"""

import ast
import importlib.util
import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROLE = re.compile(r":\w+:`~?(?:lmcompress\.)?([^`]+)`")
ARGUMENT = re.compile(r"^([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*): ")


class Library(SphinxDirective):
    """A section for each name of ``lmcompress.FACE``: how it is called, what it does, its arguments."""

    def run(self):
        found = []
        for name, module in face().items():
            path = Path(importlib.util.find_spec("lmcompress").origin).parent
            path = path.joinpath(*module.split(".")[1:]).with_suffix(".py")
            self.env.note_dependency(str(path))
            section = nodes.section("", nodes.title(text=name), ids=[f"api-{name.lower().replace('_', '-')}"])
            for text in described(path.read_text(encoding="utf-8"), name):
                self.state.nested_parse(StringList(text.splitlines(), source=path.name), 0, section)
            found.append(section)
        return found


def face() -> dict[str, str]:
    """Name -> module, as ``lmcompress/__init__.py`` writes it."""
    import lmcompress

    return lmcompress.FACE


def described(source: str, name: str) -> list[str]:
    """Parts of Markdown about the function or class ``name``: its head, its text, its arguments.

    Raises ``LookupError`` for a name that the source does not define.
    """
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return [f"```python\n{_head(node)}\n```", *_text(ast.get_docstring(node) or "")]
    raise LookupError(name)


def _head(node: ast.FunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.FunctionDef):
        arguments = ast.unparse(node.args)
        return f"{node.name}({arguments})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")
    fields = [ast.unparse(line) for line in node.body if isinstance(line, ast.AnnAssign)]
    return f"{node.name}({', '.join(fields)})"


def _text(docstring: str) -> list[str]:
    """The paragraphs of a docstring; its arguments, one a line, become a list."""
    lines = ROLE.sub(r"``\1``", docstring).replace("Parameters\n----------\n", "").splitlines()
    parts, arguments = [[]], False
    for line in lines:
        match = ARGUMENT.match(line)
        if match and not line.startswith(" "):
            line, arguments = f"* **{match[1]}**: {line[match.end() :]}", True
            if parts[-1] and not parts[-1][-1].startswith(("* ", "  ")):
                parts.append([])
        elif arguments and line.strip():
            line = f"  {line.strip()}" if line.startswith(" ") else line
        if not line.strip():
            parts.append([])
            arguments = False
        else:
            parts[-1].append(line)
    return ["\n".join(part) for part in parts if part]


def setup(app: Sphinx) -> dict:
    app.add_directive("library", Library)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
