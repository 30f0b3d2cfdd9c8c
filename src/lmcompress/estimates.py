"""What a run will take, by the records of earlier ones and by what each method was measured to take at size."""

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lmcompress.files import benchmark
from lmcompress.records import Experiment, Record


@dataclass(frozen=True)
class Estimate:
    """``seconds`` and ``megabytes`` of memory (None: no earlier record tells), and the ``device`` they were seen on."""

    seconds: float | None = None
    megabytes: float | None = None
    device: str = ""


def estimate(experiment: Experiment, earlier: Iterable[Record]) -> Estimate:
    """The median over those records of the same kind that agree with ``experiment`` in most parameters; the model
    counts before all others. Without a record of the same model, pruning and retraining are taken from the measurements
    :func:`at_size`, and other kinds from records of another model, scaled by the work: parameters, as the names state
    them (``opt-1.3b``), times tokens. Where a name states none there is no estimate, and of their memory never.
    """
    wanted = experiment.model_dump(mode="json")
    alike: dict[tuple[Any, ...], list[Record]] = {}
    for record in earlier:
        if record.kind == experiment.kind:
            same = [name for name, value in wanted.items() if record.parameters.get(name) == value]
            alike.setdefault(("model" in same, len(same)), []).append(record)
    closest = alike[max(alike)] if alike else []
    if not any(record.parameters.get("model") == wanted.get("model") for record in closest) and (
        (found := at_size(wanted)).seconds is not None
    ):
        return found
    devices = [record.provenance.get("device") or "" for record in closest]
    alike_model = [record.parameters.get("model") == wanted.get("model") for record in closest]
    factors = [
        1.0 if one else _ratio(wanted, of.parameters) for one, of in zip(alike_model, closest, strict=True)
    ]
    return Estimate(
        _median(closest, "seconds", factors),
        _median(closest, "peak_mb", [1.0 if one else None for one in alike_model]),
        max(set(devices), key=devices.count, default=""),
    )


def at_size(parameters: dict[str, Any]) -> Estimate:
    """Pruning and retraining, without evaluation, by ``results/benchmarks/at_size.json``: the row of the method whose
    model is closest in size, in proportion to parameters and tokens. Empty where the file has no row for them.
    """
    subset, whole, found = parameters.get("subset"), size(parameters), []
    tokens = (parameters.get("batch") or 1) * (parameters.get("length") or 1)
    trained = {"full": "full", "nothing": ""}.get(
        str(subset), "masklora" if "lora" in str(subset) else "biases+norms"
    )
    if "granularity" in parameters:
        trained = f"reconstruct {trained}"
        tokens = parameters["calibration"] * parameters["length"]  # of a walk over the blocks
    else:
        tokens *= (parameters.get("steps") or 0) * (len(parameters.get("rates") or ()) or 1)
    calibrated = (parameters.get("calibration") or 0) * (parameters.get("length") or 1)
    for method, seen in ((parameters.get("criterion"), calibrated), (trained if subset else "", tokens)):
        rows = [row for row in _measured() if row["method"] == method] if whole and method else []
        if method and not rows:
            return Estimate()
        if rows:
            row = min(rows, key=lambda one: abs(math.log(one["parameters"] / whole)))
            share = seen / row["tokens"] if row["tokens"] else 1.0
            found.append((row["minutes"] * 60 * whole / row["parameters"] * share, row["device"]))
    return Estimate(sum(one for one, _ in found), None, found[-1][1]) if found else Estimate()


def _measured() -> list[dict[str, Any]]:
    return [row for row in benchmark("at_size")["rows"] if row.get("minutes")]


def size(parameters: dict[str, Any]) -> float | None:
    """Parameters of the model as its name states them: ``facebook/opt-1.3b`` 1.3e9, ``mixtral-8x7b`` 56e9."""
    found = re.search(r"(?:(\d+)x)?(\d+(?:\.\d+)?)([mb])(?![a-z])", str(parameters.get("model", "")).lower())
    if not found:
        return None
    return int(found[1] or 1) * float(found[2]) * {"m": 1e6, "b": 1e9}[found[3]]


def work(parameters: dict[str, Any]) -> float | None:
    """Parameters times tokens: of a window, or of all steps at all rates that are tried."""
    steps = (
        (parameters.get("steps") or 0)
        * (parameters.get("batch") or 1)
        * (len(parameters.get("rates") or ()) or 1)
    )
    found = size(parameters)
    return found and found * (parameters.get("length") or 1) * max(steps, 1)


def _ratio(wanted: dict[str, Any], had: dict[str, Any]) -> float | None:
    this, that = work(wanted), work(had)
    return this / that if this and that else None


def _median(records: Sequence[Record], name: str, factors: Sequence[float | None]) -> float | None:
    values = [
        record.provenance[name] * factor
        for record, factor in zip(records, factors, strict=True)
        if record.provenance.get(name) is not None and factor is not None
    ]
    return statistics.median(values) if values else None
