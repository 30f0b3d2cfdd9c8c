"""``lmcompress compress`` and ``lmcompress export``: model folders that transformers loads."""

from pathlib import Path

import click

from lmcompress.cli import options


@click.command()
@click.argument("model")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--recipe", "file", type=click.Path(path_type=Path), help="A YAML file of the recipe.")
@click.option("--prune", help="CRITERION:PATTERN, such as wanda:2:4 or sparsegpt:50%.")
@click.option("--reconstruct", help="SUBSET:STEPS, such as masklora:100.")
@click.option("--retrain", help="SUBSET:STEPS, such as norms:200.")
@click.option("--quantize", help="BITS:GROUP:METHOD, such as 4:128 or 4:128:gptq.")
@click.option(
    "-p",
    "--parameter",
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    help="Any other of the recipe's values, such as evaluation 16 or calibration 128. Repeatable.",
)
@click.option("--device", help="Where a block is worked on; default: the first GPU, else the CPU.")
@click.option("--check", is_flag=True, help="Only check that it can be done, and print the recipe.")
def compress(
    model: str,
    out: Path,
    file: Path | None,
    parameter: tuple[tuple[str, str], ...],
    device: str | None,
    check: bool,
    **steps: str | None,
) -> None:
    """Prune, reconstruct, retrain and quantize MODEL in any combination; write a folder OUT that transformers loads.

    One block is in memory at a time, but for retraining. A killed call goes on where it was.
    """
    import yaml

    from lmcompress.assets import check_name
    from lmcompress.recipe import Recipe, short

    given = options.read_yaml(file, "a recipe") if file else {}
    given |= {step: short(step, text) for step, text in steps.items() if text is not None}
    recipe = Recipe(**given | dict(parameter))
    check_name(model, "model")
    from lmcompress import compress as work  # takes seconds, which no refusal waits for

    if check:
        needed = work.check(model, out, recipe)
        print(f"# needs up to {needed / 2**20:,.0f} MiB on the disk of {out}")
        print(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), end="")
        return
    done = work.compress(model, out, recipe, device=device)
    print(done.card)
    print(done.folder)


@click.command()
@click.argument("key")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--point", type=click.IntRange(0), help="Which of the record's points, from 0, where it has several."
)
def export(key: str, out: Path, point: int | None) -> None:
    """Make the model of a record again and write it to a folder OUT that transformers loads."""
    from lmcompress.records import by_key

    by_key(key)
    from lmcompress.export import export as write  # takes seconds, which no refusal waits for

    print(write(key, out, point))
