"""The model of a record as a folder that transformers loads."""

from pathlib import Path
from typing import Any

from lmcompress import card, model_folder, records
from lmcompress.errors import ParameterError
from lmcompress.experiments.rebuilt import rebuild
from lmcompress.quantize import compressed_tensors
from lmcompress.unbundle import origins


def export(key: str, out: str | Path, point: int | None = None) -> Path:
    """Make the model of a record again and write it, with its masks, tokenizer and a card.

    Parameters
    ----------
    key: the beginning of the record's key.
    out: must not exist.
    point: which of the record's points, where it has several (an allocation a budget).

    Codes are stored in the compressed-tensors format where it can hold all of them, else the values that they read as.
    Raises :class:`ParameterError` for a key of no record, a record of no model (see
    :func:`~lmcompress.experiments.rebuilt.rebuild`), and an ``out`` that exists; before any work.
    """
    out = Path(out)
    if out.exists():
        raise ParameterError("OUT", str(out), "a folder that does not exist yet")
    record = records.by_key(key)
    made: Any = rebuild(record, point)
    packs = not any(f"{name}.weight" in origins(made.model) for name in made.quantized)
    quantized = made.quantized if packs and all(map(_holds, made.quantized.values())) else {}
    text = card.of_record(record, point, bool(quantized), bool(made.quantized) and not quantized)
    about = {"record": record.key, "kind": record.kind, "point": point}
    model_folder.save(
        made.model, made.tokenizer, out, masks=made.masks, quantized=quantized, card=text, about=about
    )
    return out


def _holds(value: Any) -> bool:
    try:
        compressed_tensors.check(value.format, value.shape, "")
    except ParameterError:
        return False
    return True
