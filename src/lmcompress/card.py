"""The card of a compressed model: what was done, what it saved and what it cost, for README.md beside the weights."""

from typing import Any

import yaml

from lmcompress import __version__, covered
from lmcompress.assets import Asset
from lmcompress.recipe import Recipe
from lmcompress.records import Record


def text(name: str, asset: Asset, recipe: Recipe, results: dict[str, dict[str, Any]]) -> str:
    """The card as Markdown.

    Parameters
    ----------
    name: of the model that was compressed, as given.
    asset: that model; its licence and hash are named.
    recipe: what was done.
    results: of every step by its name, as :class:`lmcompress.compress.Compressed` has them.
    """
    steps = {key: value for key, value in recipe.model_dump(mode="json").items() if value is not None}
    parts = [
        "---\nlibrary_name: transformers\ntags: [compressed, lmcompress]\n---",
        f"# {_short(name)}, compressed",
        f"Made by lmcompress {__version__} from `{_short(name)}` ({asset.source}, licence: {asset.licence}, sha256 of "
        f"its files `{asset.sha256[:16]}`).",
        "## Recipe\n\n```yaml\n" + yaml.safe_dump(steps, sort_keys=False).strip() + "\n```",
        "## What it saves\n\n" + "\n".join(f"* {line}" for line in _savings(results)),
    ]
    if "before" in results:
        parts.append("## What it costs\n\n" + _perplexities(results))
    if notes := _notes(recipe, results):
        parts.append("## How it went\n\n" + "\n".join(f"* {line}" for line in notes))
    return "\n\n".join(parts) + "\n"


def of_record(record: Record, point: int | None, packed: bool, read_back: bool) -> str:
    """The card of a record's model as Markdown.

    Parameters
    ----------
    record: what was run, and what came out.
    point: which of its points, where it has several.
    packed: whether the weights are stored in the compressed-tensors format.
    read_back: whether they are stored as they read after quantization, in 16 or 32 bits.
    """
    result = record.result if point is None else {**record.result, **record.result["points"][point]}
    estimates = {key: value for key, value in result.items() if isinstance(value, dict) and "value" in value}
    plain = {key: value for key, value in result.items() if isinstance(value, int | float | str)} | estimates
    where = {key: record.provenance[key] for key in ("date", "device", "commit")}
    parts = [
        "---\nlibrary_name: transformers\ntags: [compressed, lmcompress]\n---",
        f"# {record.kind.replace('_', ' ')} {record.key[:12]}",
        f"Made again by lmcompress {__version__} from the parameters of the record `{record.key[:12]}`; the numbers "
        "are those of the record.",
        _yaml("Parameters", record.parameters | ({} if point is None else {"point": point})),
        _yaml(
            "Result", plain | ({"tests": _levels(record.result["tests"])} if "tests" in record.result else {})
        ),
        _yaml("Recorded", where),
    ]
    parts += [f"**The method {told}.**" for told in covered.sentences([record.result])]
    if packed:
        parts.append("Quantized weights are stored in the compressed-tensors format.")
    if read_back:
        parts.append(
            "Quantized weights are stored as they read, unpacked: compressed-tensors cannot hold all of their formats. "
            "The files are no smaller for it."
        )
    return "\n\n".join(parts) + "\n"


def _yaml(title: str, values: dict[str, Any]) -> str:
    return f"## {title}\n\n```yaml\n{yaml.safe_dump(values, sort_keys=False).strip()}\n```"


def _levels(tests: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        corpus: {key: value for key, value in found.items() if isinstance(value, int | float)}
        for corpus, found in tests.items()
    }


def _short(name: str) -> str:
    """A local folder by its last part alone: where it lies on someone's disk is nobody's business."""
    return name.rstrip("/").rpartition("/")[2] if name.startswith(("/", "~", ".")) else name


def _savings(results: dict[str, dict[str, Any]]) -> list[str]:
    sizes = results["sizes"]
    found = [
        f"{sizes['bytes'] / 1e6:,.1f} MB of weights on disk; {sizes['half'] / 1e6:,.1f} MB with 16 bits a number "
        f"({sizes['half'] / sizes['bytes']:.2f} times as much)"
    ]
    if pruned := results.get("prune"):
        found += _not_all("pruning", pruned)
        found.append(
            f"{pruned['sparsity']:.2%} of the weights of {pruned['layers']} Linears are zero; these Linears hold "
            f"{pruned['share']:.1%} of the matrices in the blocks"
        )
        found.append(
            "the zeros are stored as any other number and save no bytes here; `masks.safetensors` says which "
            "weights were pruned, one bit each"
        )
    if packed := results.get("quantize"):
        found += _not_all("packing", packed)
        found.append(
            f"{packed['bits']:.2f} bits a weight, scales counted, over all Linears of the blocks; {packed['layers']} "
            f"of them, with {packed['share']:.1%} of the matrices in the blocks, are below 16 bits"
        )
        if packed["left"]:
            found.append("what packing does not reach is stored in 16 bits: the format has Linears alone")
    return found


def _not_all(step: str, result: dict[str, Any]) -> list[str]:
    told = covered.told(result["share"], result["left"])
    return [f"**{step} {told}**"] if told else []


def _perplexities(results: dict[str, dict[str, Any]]) -> str:
    rows = ["| windows | before | after |", "| --- | --- | --- |"]
    for split in ("validation", "test"):
        before, after = (results[when][split] for when in ("before", "after"))
        cells = (
            f"{one['perplexity']:.3f} ({one['low']:.3f} to {one['high']:.3f})" for one in (before, after)
        )
        rows.append(f"| {split} | {' | '.join(cells)} |")
    return "\n".join(rows) + f"\n\nPerplexity with a 95 % interval over windows: {before['convention']}."


def _notes(recipe: Recipe, results: dict[str, dict[str, Any]]) -> list[str]:
    found = []
    if done := results.get("reconstruct"):
        found.append(
            f"{done['improved']} of {done['blocks']} blocks came closer to the dense one; mean relative error of "
            f"their outputs {done['before']:.4f} before, {done['after']:.4f} after"
        )
        found += [f"**reconstruction {told}**" for told in [covered.told(done["share"])] if told]
    if done := results.get("retrain"):
        ends = " and diverged" if done["diverged"] else ""
        found.append(
            f"{done['trainable']:,} values were retrained{ends}; the loss of a step went from {done['first']:.3f} to "
            f"{done['last']:.3f} nats a token"
        )
    seconds = {name: one["seconds"] for name, one in results.items() if "seconds" in one}
    found.append("seconds: " + ", ".join(f"{name} {value:,.1f}" for name, value in seconds.items()))
    return found
