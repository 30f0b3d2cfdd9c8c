"""Write the parameters cell of every notebook from its Study: the defaults stand there alone. And put before the first
code a cell that installs the package where it is not, as on Colab; the book does not show it.

    python cells.py [--check] notebooks/*.md

Names, types, values and their order are the Study's; the comment behind a value is the notebook's own, and stays.
``--check``: only say which notebooks differ.
"""

import re
import sys
import typing
from pathlib import Path

from lmcompress.plans import study_class
from lmcompress.records import Study

CELL = re.compile(r"(```\{code-cell\} ipython3\n:tags: \[parameters\]\n)(.*?)(```)", re.DOTALL)
LINE = re.compile(r"(\w+): \w+ = (.*)")


def cell(study: type[Study], before: str) -> str:
    """The lines of the cell; ``before``: what it is now, whose comments are kept."""
    comments = {}
    for line in before.splitlines():
        if match := LINE.fullmatch(line):
            comments[match[1]] = comment(match[2])
    lines = []
    for name, value in study().model_dump(mode="json").items():
        kind = type(value) if value is not None else _some_type(study.model_fields[name].annotation)
        text = repr(value).replace("'", '"')
        lines.append(f"{name}: {kind.__name__} = {text}{comments.get(name, '')}\n")
    return "".join(lines)


def comment(text: str) -> str:
    """The comment behind a value, with the space before it."""
    quoted = ""
    for place, letter in enumerate(text):
        if letter in "\"'":
            quoted = "" if quoted == letter else quoted or letter
        elif letter == "#" and not quoted:
            return "  " + text[place:]
    return ""


def _some_type(annotation: object) -> type:
    """The plain type that a value has where it is not None: ``int`` of ``Annotated[int, ...] | None``."""
    kind = next(one for one in typing.get_args(annotation) if one is not type(None))
    return typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind


INSTALL = """\
```{code-cell} ipython3
:tags: [remove-cell]

import importlib.util

if importlib.util.find_spec("lmcompress") is None:  # on Colab
    get_ipython().run_line_magic("pip", "install --quiet 'lmcompress[run] @ git+https://github.com/lmcompress/lmcompress'")
```

"""


def installing(text: str) -> str:
    """The notebook with the cell that installs the package before its first code."""
    before, fence, after = text.partition("```{code-cell}")
    return text if not fence or INSTALL in text else before + INSTALL + fence + after


def main() -> None:
    check, differ = "--check" in sys.argv, []
    for path in map(Path, (one for one in sys.argv[1:] if one != "--check")):
        text = path.read_text(encoding="utf-8")
        made = CELL.sub(lambda m, path=path: m[1] + cell(study_class(path.stem), m[2]) + m[3], text, count=1)
        made = installing(made)
        if made != text:
            differ.append(str(path))
            if not check:
                path.write_text(made, encoding="utf-8")
    if differ:
        print("a cell", "differs in" if check else "written anew in", *differ)
    sys.exit(bool(check and differ))


if __name__ == "__main__":
    main()
