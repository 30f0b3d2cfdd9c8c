"""``lmcompress redo``: compute published runs again on this machine, and say number by number what came out."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import click

from lmcompress import covered
from lmcompress.cli import options
from lmcompress.errors import ParameterError
from lmcompress.plan import duration


@click.command()
@click.argument("what", metavar="FIGURE|PAGE|KIND|KEY...", nargs=-1, required=True)
@click.option("--profile", default="full", show_default=True, help="The page's runs in config/PROFILE.yaml.")
@click.option("--sample", type=click.IntRange(1), help="Only the first so many runs.")
@click.option("--tolerance", type=options.Amount(), default=0.01, show_default=True, help="Relative.")
@click.option("--estimate", is_flag=True, help="Only say what it would take.")
@click.option("--all", "everything", is_flag=True, help="Print every number, not only those outside.")
def redo(
    what: tuple[str, ...],
    profile: str,
    sample: int | None,
    tolerance: float,
    estimate: bool,
    everything: bool,
) -> None:
    """Compute the published runs of figures (such as 20.1), pages, kinds or keys again, and compare.

    A number is the same (equal bits), within (in the published interval, or closer than the tolerance) or outside.
    Times are not compared. Exit status 1 where a number is outside.
    """
    from tqdm import tqdm

    from lmcompress import records

    found = list({one.key: one for each in what for one in _published(each, profile)}.values())[:sample]
    seconds = sum(record.provenance["seconds"] for record in found)
    devices = ", ".join(sorted({record.provenance["device"] for record in found}))
    memory = max((record.provenance.get("peak_mb") or 0 for record in found), default=0)
    text = f"{len(found)} runs; they took {duration(seconds)} on {devices}"
    click.echo(text + (f" and up to {memory / 1000:.1f} GB" if memory else ""))
    if estimate:
        return
    counts: Counter[str] = Counter()
    with tqdm(total=round(seconds, 1), unit="s", desc="redo", bar_format=_BAR) as bar:
        for old in found:
            new = records.obtain([old.again()], progress=False, force=True)[0]
            bar.update(old.provenance["seconds"])
            for name, verdict, before, after in compared(old.result, new.result, tolerance):
                counts[verdict] += 1
                if everything or verdict == "outside":
                    bar.write(f"{old.key[:12]}  {name}: {verdict}, published {before}, here {after}")
    click.echo(", ".join(f"{counts[verdict]} {verdict}" for verdict in ("same", "within", "outside")))
    if counts["outside"]:
        raise SystemExit(1)


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"  # in units of the published seconds


def _published(what: str, profile: str) -> list[Any]:
    """The published records that ``what`` names. Raises :class:`ParameterError` where there are none."""
    from lmcompress import plans, records

    if re.fullmatch(r"\d\d\.\d+", what):
        from lmcompress.report.opening import runs_of

        found = runs_of(what)
    elif what in records.classes():
        found = records.published_records(what)
    else:
        try:
            found = plans.published(options.notebook_name(what), profile)
        except ParameterError as error:
            if error.field != "notebook":
                raise
            found = (
                [one for one in records.all_records() if one.key.startswith(what)] if len(what) >= 6 else []
            )
            if not found:
                raise ParameterError("what", what, [*options.notebooks(), *records.classes()]) from None
    if not (current := [record for record in found if not record.older]):
        raise ParameterError(
            "what", what, f"something with published runs of today's version; {len(found)} older ones"
        )
    return current


def compared(
    old: object, new: object, tolerance: float, name: str = ""
) -> Iterator[tuple[str, str, object, object]]:
    """``(name, verdict, published, here)`` for every value of two results; names are dotted, times are left out."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys() - covered.FIELDS):
            if "seconds" in key:
                continue
            both, full = (old.get(key), new.get(key)), f"{name}.{key}".lstrip(".")
            if key == "value" and (inside := _interval(old)):
                yield full, _verdict(*both, tolerance, inside), *both
            else:
                yield from compared(*both, tolerance, full)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, both in enumerate(zip(old, new, strict=True)):
            yield from compared(*both, tolerance, f"{name}.{place}".lstrip("."))
    else:
        yield name, _verdict(old, new, tolerance), old, new


def _interval(about: dict[str, Any]) -> tuple[float, float] | None:
    low, high = about.get("low"), about.get("high")
    return (low, high) if isinstance(low, float) and isinstance(high, float) else None


def _verdict(old: Any, new: Any, tolerance: float, inside: tuple[float, float] | None = None) -> str:
    if type(old) is type(new) and old == new:
        return "same"
    if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in (old, new)):
        return "outside"
    if inside and inside[0] <= new <= inside[1]:
        return "within"
    return "within" if math.isclose(old, new, rel_tol=tolerance) else "outside"
