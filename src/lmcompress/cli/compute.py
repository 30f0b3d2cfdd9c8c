"""``lmcompress compute``: the records of notebooks, in processes of this machine."""

import time
from pathlib import Path

import click

from lmcompress.cli import options
from lmcompress.errors import ParameterError


@click.command()
@click.argument("notebooks", nargs=-1, required=True, metavar="NOTEBOOK...")
@options.parameters
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    help="Processes side by side (default 1); at most one a GPU.",
)
@click.option(
    "--chunk",
    type=click.IntRange(1),
    default=1,
    help="Runs that a process takes at a time (default 1): neighbours share a pruned model.",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    help="Only records of this kind: timings, say, want a machine for themselves. Repeatable.",
)
@click.option("--seconds", type=options.Amount(), help="Start no new run after so many seconds.")
@click.option("--force", is_flag=True, help="Compute also what is known.")
@click.option("--check", is_flag=True, help="Only check the parameters, and count the runs.")
def compute(
    notebooks: tuple[str, ...],
    parameter: tuple[tuple[str, str], ...],
    file: Path | None,
    profile: str | None,
    workers: int,
    chunk: int,
    kinds: tuple[str, ...],
    seconds: float | None,
    force: bool,
    check: bool,
) -> None:
    """Compute the records of notebooks without Jupyter. Goes on where it was stopped."""
    from lmcompress import pool

    found = [one for name in notebooks for one in options.study(name, parameter, file, profile)[2]]
    if unknown := sorted(set(kinds) - {one.kind for one in found}):
        raise ParameterError("kind", unknown[0], sorted({one.kind for one in found}))
    wanted = [one for one in found if not kinds or one.kind in kinds]
    runs = list({(one.kind, one.model_dump_json()): one for one in wanted}.values())
    if check:
        print(f"{len(runs)} runs")
        return
    groups = [runs[start : start + chunk] for start in range(0, len(runs), chunk)]
    end = None if seconds is None else time.time() + seconds
    done = failed = left = 0
    for outcome in pool.run_all(groups, workers, end, force):
        about = f"{outcome.experiment.kind} {outcome.experiment.model_dump_json()}"
        if outcome.retried:
            state = f"{outcome.error}; tried once more"
        elif outcome.error:
            failed, state = failed + 1, f"failed: {outcome.error}"
        elif outcome.seconds is None:
            left, state = left + 1, "left for later"
        else:
            done, state = done + 1, f"{outcome.seconds:.1f} s"
        place = f"[{done + failed + left}/{len(runs)}]"
        print(f"{place} {about}: {state}", flush=True)
    print(f"{done} records, {failed} failed, {left} left for later")
    if failed:
        raise SystemExit(1)
