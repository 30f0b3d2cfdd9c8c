"""Compress language models, measure what it costs, and redo what the book shows."""

import sys

import click

from lmcompress.cli import assets, compress, compute, records, redo, run, sweep
from lmcompress.errors import LmcompressError, ParameterError


class _EveryAction(click.Group):
    """Its help lists the actions of the groups within, too: nothing that the program can do is hidden."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name, command in self.commands.items():
            inner = command.commands if isinstance(command, click.Group) else {}
            actions = {f"{name} {action}": one for action, one in inner.items()} or {name: command}
            rows += [(title, one.get_short_help_str(limit=90)) for title, one in actions.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=_EveryAction, help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lmcompress")
def app() -> None:
    pass


# One line a command or group of commands; each has a module of its own here.
for command in (
    run.run,
    compute.compute,
    compress.compress,
    compress.export,
    sweep.sweep,
    redo.redo,
    records.records,
    assets.assets,
):
    app.add_command(command)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 for a run that failed, 2 for what was refused before any work."""
    try:
        app(arguments, prog_name="lmcompress")
    except SystemExit as end:
        return int(end.code or 0)
    except ParameterError as error:
        print(f"lmcompress: {error}", file=sys.stderr)
        return 2
    except (LmcompressError, OSError) as error:
        print(f"lmcompress: {error}", file=sys.stderr)
        return 1
    return 0
