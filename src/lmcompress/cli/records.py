"""``lmcompress records``: list, show, compare, redo, check, verify and publish records."""

import json
import math
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click
import yaml

from lmcompress import covered
from lmcompress.cli import options
from lmcompress.errors import ParameterError
from lmcompress.parameters import Yaml
from lmcompress.records import Record


@click.group()
def records() -> None:
    """Look at records, redo them, publish them."""


@records.command("list")
@click.argument("kind", required=False)
@click.option("--page", help="Only what this notebook's page asks for in config/full.yaml.")
@click.option(
    "-p",
    "--parameter",
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    help="Only runs with this parameter. Repeatable.",
)
@click.option("--here", is_flag=True, help="Only what this machine computed.")
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="One record a line, as JSON.")
def list_records(
    kind: str | None,
    page: str | None,
    parameter: Sequence[tuple[str, str]],
    here: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    """List all records, or those of a kind, with their results."""
    from lmcompress import plans
    from lmcompress import records as known

    if kind is not None:
        known.experiment_class(kind)
    found = plans.published(options.notebook_name(page)) if page else known.all_records()
    wanted = [(name, yaml.load(value, Yaml)) for name, value in parameter]
    names = {name for record in found for name in record.parameters}
    for name, _ in wanted:
        if name not in names:
            raise ParameterError("parameter", name, sorted(names))
    found = [
        record
        for record in found
        if kind in (None, record.kind)
        and all(record.parameters.get(name, ...) == value for name, value in wanted)
        and (record.computed_here or not here)
    ][:limit]
    lines = [json.dumps(asdict(record), sort_keys=True) if as_json else _line(record) for record in found]
    head = [] if as_json else [_COLUMNS.format("key", "kind", "where", "seconds", "result", "parameters")]
    text = "".join(f"{line}\n" for line in [*head, *lines])
    (click.echo_via_pager if sys.stdout.isatty() and not as_json else print)(text.removesuffix("\n"))


_COLUMNS = "{:12}  {:14}  {:9}  {:>9}  {:44}  {}"


def _line(record: Record) -> str:
    where, seconds = "here" if record.computed_here else "published", f"{record.provenance['seconds']:.1f} s"
    result = ", ".join(f"{name} {value:.4g}" for name, value in _numbers(record.result))
    parameters = ", ".join(f"{name} {value}" for name, value in record.parameters.items())
    short = result if len(result) <= 44 else result[:43] + "…"
    return _COLUMNS.format(record.key[:12], record.kind, where, seconds, short, parameters)


def _numbers(result: dict[str, Any], name: str = "") -> Iterator[tuple[str, float]]:
    """What a result is judged by, then its other single numbers; ends of intervals and times are left out."""
    order = ("perplexity", "kl", "accuracy", "right", "increase", "loss")
    for key in sorted(result, key=lambda key: order.index(key) if key in order else len(order)):
        value = result[key]
        if isinstance(value, dict):
            yield from _numbers(value, name if key == "value" else key)
        elif type(value) in (int, float) and not key.endswith(("low", "high", "seconds", "dense")):
            yield (name if key == "value" else key), value


@records.command()
def check() -> None:
    """Name every broken line of results/; exit status 1 where there is one."""
    from lmcompress import records as known

    read = [known.read_lines(path) for path in sorted(known.results_folder().glob("*.jsonl"))]
    broken = [error for _, errors in read for error in errors]
    for error in broken:
        print(error)
    print(f"{sum(len(good) for good, _ in read)} records, {len(broken)} broken lines")
    if broken:
        raise SystemExit(1)


@records.command()
@click.argument("kind", required=False)
@click.option("--sample", type=click.IntRange(1), help="so many, drawn at random; default: all")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--tolerance", type=options.Amount(), default=1e-6, show_default=True, help="relative")
def verify(kind: str | None, sample: int | None, seed: int, tolerance: float) -> None:
    """Compute published records again and compare; exit status 1 where one differs. Nothing is kept."""
    from lmcompress import records as known

    names = known.published_kinds()
    if kind is not None:
        known.experiment_class(kind)
        names = [name for name in names if name == kind]
    found = [record for name in names for record in known.published_records(name) if not record.older]
    found = [record for record in found if not known.experiment_class(record.kind).timed]
    if sample is not None and sample < len(found):
        found = random.Random(seed).sample(found, sample)
    differ = 0
    for old in found:
        new = known.compute(old.again())
        most = deviation(old.result, new.result)
        differ += most > tolerance
        said = "equal bits" if most == 0 else f"largest relative deviation {most:.3g}"
        verdict = "DIFFERENT: " if most > tolerance else ""
        runs = " / ".join(
            f"{one.provenance['device']}, {one.provenance.get('threads')} threads" for one in (old, new)
        )
        print(f"{old.key[:12]}  {old.kind}  {verdict}{said}  ({runs})")
    print(f"{len(found)} computed again, {differ} different; timings and older versions are left out")
    if differ:
        raise SystemExit(1)


def deviation(old: Any, new: Any) -> float:
    """The largest of :func:`deviations`."""
    return max(deviations(old, new), default=0.0)


def deviations(old: Any, new: Any) -> list[float]:
    """The relative deviation of every number and text of a result from that of another; infinite where they differ in
    anything but a number. What is named seconds is a time and is left out; so is a coverage that an older run did not
    record.
    """
    if (
        isinstance(old, dict)
        and isinstance(new, dict)
        and old.keys() == new.keys() - (covered.FIELDS - old.keys())
    ):
        pairs = [(old[name], new[name]) for name in old if "seconds" not in name]
        return [one for pair in pairs for one in deviations(*pair)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [one for pair in zip(old, new, strict=True) for one in deviations(*pair)]
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (old, new))
    if numbers and old != new:
        return [abs(old - new) / max(abs(old), abs(new))]
    return [0.0 if (type(old) is type(new) and old == new) or numbers else math.inf]


@records.command()
@click.argument("key")
def show(key: str) -> None:
    """Print a record."""
    from lmcompress import records as known

    record = known.by_key(key)
    print(json.dumps(asdict(record) | {"older": record.older}, indent=1, sort_keys=True))


@records.command()
@click.argument("first", metavar="KEY")
@click.argument("second", metavar="KEY")
def diff(first: str, second: str) -> None:
    """Print what differs between two records."""
    from lmcompress import records as known

    old, new = (_flat(known.by_key(key)) for key in (first, second))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            print(f"{name}: {old.get(name)!r} -> {new.get(name)!r}")


def _flat(record: Record) -> dict[str, Any]:
    """The record's leaves by dotted name."""
    found, waiting = {}, [("", asdict(record))]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict) and value:
            waiting += [(f"{name}.{key}" if name else str(key), inner) for key, inner in value.items()]
        else:
            found[name] = value
    return found


@records.command()
@click.argument("key")
def redo(key: str) -> None:
    """Compute a record again, and print what differs."""
    from lmcompress import records as known

    old = known.by_key(key)
    new = known.obtain([old.again()], force=True)[0]
    print(f"computed again as {new.key[:12]} in {new.provenance['seconds']} s on {new.provenance['device']}")
    before, after = _flat(old), _flat(new)
    for name in sorted(name for name in before.keys() | after.keys() if name.startswith("result")):
        if before.get(name) != after.get(name):
            print(f"{name}: {before.get(name)!r} -> {after.get(name)!r}")


@records.command()
@click.argument("notebooks", nargs=-1, required=True, metavar="NOTEBOOK...")
@click.option("--profile", default="full", show_default=True, help="config/PROFILE.yaml")
def publish(notebooks: tuple[str, ...], profile: str) -> None:
    """Merge the computed records of a profile into results/."""
    from lmcompress import plans
    from lmcompress import publish as publisher
    from lmcompress import records as known

    wanted = [
        (one.kind, one.model_dump(mode="json"))
        for name in notebooks
        for one in plans.planned(options.notebook_name(name), profile)
    ]
    found = [record for record in known.computed_records() if (record.kind, record.parameters) in wanted]
    files, left_out = publisher.publish(found)
    for path in files:
        print(path)
    if left_out:
        print(f"{len(left_out)} of {len(found)} records left out: they are of an older version of their kind")
