"""What a run will take, by the records of earlier ones."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lmcompress.records import Experiment, Record


@dataclass(frozen=True)
class Estimate:
    """``seconds`` and ``megabytes`` of memory (None: no earlier record tells), and the ``device`` they were seen on."""

    seconds: float | None = None
    megabytes: float | None = None
    device: str = ""


def estimate(experiment: Experiment, earlier: Iterable[Record]) -> Estimate:
    """The median over those records of the same kind that agree with ``experiment`` in most parameters; the model
    counts before all others.
    """
    wanted = experiment.model_dump(mode="json")
    alike: dict[tuple, list[Record]] = {}
    for record in earlier:
        if record.kind == experiment.kind:
            same = [name for name, value in wanted.items() if record.parameters.get(name) == value]
            alike.setdefault(("model" in same, len(same)), []).append(record)
    closest = alike[max(alike)] if alike else []
    devices = [record.provenance.get("device") or "" for record in closest]
    return Estimate(
        _median(closest, "seconds"),
        _median(closest, "peak_mb"),
        max(set(devices), key=devices.count, default=""),
    )


def _median(records: Sequence[Record], name: str) -> float | None:
    values = [record.provenance[name] for record in records if record.provenance.get(name) is not None]
    return statistics.median(values) if values else None
