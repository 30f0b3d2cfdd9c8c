"""What several commands take: a notebook by any of its names, and parameters from a profile, a file and ``-p``."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from lmcompress import parameters as typed
from lmcompress.errors import ParameterError
from lmcompress.files import carried
from lmcompress.records import Experiment, Study


def parameters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options ``-p``, ``--file`` and ``--profile`` for a command; it takes them as these names."""
    for option in reversed(
        (
            click.option(
                "-p",
                "--parameter",
                nargs=2,
                multiple=True,
                metavar="NAME VALUE",
                help="A parameter; the value is YAML. Repeatable.",
            ),
            click.option("-f", "--file", type=click.Path(path_type=Path), help="A YAML file of parameters."),
            click.option(
                "--profile",
                help="Start from config/PROFILE.yaml: quick (the default, what `make report` shows), full, sst2 "
                "or cpu; none: start from the notebook's own defaults.",
            ),
        )
    ):
        command = option(command)
    return command


def notebooks() -> list[str]:
    """The full names of all notebooks."""
    return sorted(path.stem for path in carried("notebooks").glob("*.md"))


class Amount(click.FloatRange):
    """A finite number of at least 0. A range of click's own lets NaN pass."""

    def __init__(self) -> None:
        super().__init__(0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = super().convert(value, param, ctx)
        return found if math.isfinite(found) else self.fail(f"{value} is no finite number.", param, ctx)


def notebook_name(given: str) -> str:
    """The full name of a notebook, ``34_bit_allocation``, from that, its path, ``bit_allocation`` or ``34``.

    Raises :class:`ParameterError` with the closest name for one that there is not.
    """
    there = notebooks()
    stem = Path(given).stem
    for name in there:
        if stem in (name, name.partition("_")[2], name.partition("_")[0]):
            return name
    raise ParameterError("notebook", given, there or "a checkout with the folder notebooks")


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML file; ``what`` it is of goes into the refusal."""
    try:
        found = typed.read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ParameterError("file", str(path), f"a YAML file of {what} ({error})") from None
    return typed.named(found or {}, f"{path}, of {what}")


def study(
    notebook: str, parameter: Sequence[tuple[str, str]], file: Path | None, profile: str | None
) -> tuple[Study, dict[str, Any], list[Experiment]]:
    """``(study, given parameters, experiments)`` of a notebook: profile, then file, then single parameters.

    Raises :class:`ParameterError` for what cannot run, also where the parameters ask for no run at all.
    """
    from lmcompress import plans

    name = notebook_name(notebook)
    if profile is None:  # an installed package without a checkout has no profiles
        profile = "quick" if carried("config", "quick.yaml").is_file() else "none"
    given = {} if profile == "none" else plans.profile(profile, name)
    if file:
        given = given | read_yaml(file, "parameters")
    given = given | dict(parameter)
    made = plans.study_class(name)(**given)
    return made, given, made.experiments()
