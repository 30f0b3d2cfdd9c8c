"""``lmcompress records``: list, show, compare, redo and publish records."""

import json
from dataclasses import asdict

import click

from lmcompress.cli import options


@click.group()
def records() -> None:
    """Look at records, redo them, publish them."""


@records.command("list")
@click.argument("kind", required=False)
def list_records(kind: str | None) -> None:
    """List all records, or those of a kind."""
    from lmcompress import records as known

    for record in known.all_records():
        if kind in (None, record.kind):
            about = json.dumps(record.parameters, sort_keys=True)
            where = record.provenance
            print(f"{record.key[:12]}  {record.kind}  {where['seconds']:.1f} s  {where['device']}  {about}")


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


def _flat(record) -> dict:
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
    from lmcompress import records as known

    wanted = [
        (one.kind, one.model_dump(mode="json"))
        for name in notebooks
        for one in known.planned(options.notebook_name(name), profile)
    ]
    found = [record for record in known.computed_records() if (record.kind, record.parameters) in wanted]
    files, left_out = known.publish(found)
    for path in files:
        print(path)
    if left_out:
        print(f"{len(left_out)} of {len(found)} records left out: they are of an older version of their kind")
