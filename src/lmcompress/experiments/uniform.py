"""The same format in all layers: what mixed widths have to beat, by rounding and by GPTQ."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from lmcompress.experiments.allocated import outcomes
from lmcompress.experiments.scored import Per
from lmcompress.experiments.subjects import OnModel, Palette
from lmcompress.lazily import lazy
from lmcompress.parameters import Flag, Group, Length, Sample, Seed, Some, Width
from lmcompress.quantize.formats import Bits

predict = lazy("lmcompress.allocate.predict")
rtn = lazy("lmcompress.quantize.rtn")


class UniformFormat(OnModel):
    """The same format in all layers: what mixed widths have to beat."""

    covers: ClassVar[bool] = True

    method: Literal["rtn", "gptq"]
    widths: Some[Width]
    group: Group
    symmetric: Flag
    windows: Sample
    seed: Seed
    test: Sample
    per: Per = "block"

    def run(self) -> dict[str, Any]:
        subject = self.subject()
        palette = Palette(subject.model, self.per, self.like)
        choices = [dict.fromkeys(palette.layers, width) for width in self.widths]
        return outcomes(subject, self, choices, palette)


class OriginGrid(OnModel):
    """What rounding costs on the very grid that the weights came from, beside an ordinary one of the same
    width.

    GGUF's Q4_1 has groups of 32 inputs, affine, 16 values a group. Weights from such a file lie on that grid.
    """

    test: Sample

    def run(self) -> dict[str, Any]:
        subject, rows = self.subject(), {}
        for format in (Bits(4, 32, False), Bits(4, 128, False)):
            errors = predict.relative_errors(subject.model, rtn.quantizer(format), (4,), "block")
            rows[str(format)] = sum(error["4"] for error in errors.values()) / len(errors)
        return {"relative_error": rows}


class CalibratedGptq(UniformFormat):
    """The same format in all layers by GPTQ with the calibration of its authors: ``windows`` of ``window`` tokens,
    whatever ``length`` the test windows have. ``act_order``: columns from the largest input to the smallest.
    """

    window: Length
    act_order: Flag
