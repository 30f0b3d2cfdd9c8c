"""``lmcompress assets``: models and corpora that the library knows by name."""

import click


@click.group()
def assets() -> None:
    """List or fetch models and corpora."""


@assets.command("list")
def list_assets() -> None:
    """List the models and corpora with licence and source."""
    from lmcompress.assets import manifest, source_of

    for kind, entries in manifest().items():
        for name, entry in entries.items():
            print(f"{kind:6} {name:16} {entry['licence']:14} {source_of(entry)}  {entry['title']}")


@assets.command()
@click.argument("names", nargs=-1)
def fetch(names: tuple[str, ...]) -> None:
    """Fetch and verify assets: those named, else every embedded one that the quick report needs. What is damaged is
    fetched again.
    """
    from lmcompress.assets import check_name, manifest, resolve

    known = {name: (kind, entry) for kind, entries in manifest().items() for name, entry in entries.items()}
    usual = [name for name, (_, one) in known.items() if "package" in one and one.get("default", True)]
    kinds = {name: known[name][0] if name in known else "model" for name in names or usual}
    for name, kind in kinds.items():
        check_name(name, kind)
    from lmcompress.gguf_weights import safetensors_folder  # takes seconds, which no refusal waits for

    for name, kind in kinds.items():
        asset = resolve(name, kind, again=True)
        print(f"{name} ({asset.licence}): {safetensors_folder(asset) if kind == 'model' else asset.path}")
