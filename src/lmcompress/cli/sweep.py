"""``lmcompress sweep``: the runs of a sweep file, through the workflow."""

import subprocess
import sys
from pathlib import Path

import click

from lmcompress.errors import ParameterError
from lmcompress.files import project_root


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--dry-run", is_flag=True, help="Only print the runs, what is known, and what the rest will take."
)
@click.option("--cores", default="all", show_default=True, help="Processor cores of this machine to use.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[SNAKEMAKE OPTIONS]")
def sweep(file: Path, dry_run: bool, cores: str, options: tuple[str, ...]) -> None:
    """Compute the runs of a YAML grid or a CSV sheet. Goes on where it was stopped."""
    from lmcompress.plan import by_model, listing, plan, summary
    from lmcompress.sweep import read

    experiments, runs_a_job = read(file)
    if dry_run:
        todo = plan(experiments, runs_a_job)
        for line in listing(todo):
            print(line)
        for line in by_model(todo):
            print(line)
        print(summary(todo))
        return
    driver = project_root() / "workflow" / "sweep.py"
    if not driver.is_file():
        raise ParameterError(
            "sweep", str(file), "a checkout with the folder workflow; --dry-run works without"
        )
    limit = () if "--profile" in options else ("--cores", cores)
    words = [sys.executable, str(driver), str(file.resolve()), *limit, *options]
    raise SystemExit(subprocess.run(words, cwd=project_root()).returncode)
