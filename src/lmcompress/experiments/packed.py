"""A model compressed, saved and read back: real bytes and what they cost in loss."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import model_validator

from lmcompress import covered
from lmcompress.allocate.solve import budget_for, exact
from lmcompress.errors import ParameterError
from lmcompress.experiments.allocated import Scored, problem_of, refuse_below_least, widths_of
from lmcompress.experiments.scored import SCORES, TRUTHS
from lmcompress.experiments.subjects import Measured, Palette, measure, outcome
from lmcompress.lazily import lazy
from lmcompress.parameters import Average, FormatText, one_of
from lmcompress.quantize.formats import WIDTHS, Bits, parse

if TYPE_CHECKING:
    from torch import nn

models = lazy("lmcompress.models")
nn = lazy("torch.nn")
pack = lazy("lmcompress.quantize.pack")
quantize_model = lazy("lmcompress.quantize.model")
torch = lazy("torch")

UNIFORM = "uniform"


class Packed(Scored):
    """Quantize to ``average`` bits a weight of the blocks, save, weigh, load, and measure what was loaded.

    ``score`` decides the widths; ``uniform`` gives every layer ``average`` bits (a whole number).
    ``embeddings``: the format of embedding (and tied head), and of a head of its own.
    """

    score: Annotated[str, one_of((*SCORES, *TRUTHS, UNIFORM))]
    average: Average
    embeddings: FormatText
    method: Literal["rtn", "gptq"] = "rtn"

    @model_validator(mode="after")
    def _reaches_its_average(self) -> Self:
        if self.score == UNIFORM and self.average not in WIDTHS:
            raise ParameterError("average", self.average, WIDTHS)
        refuse_below_least((self.average,) if self.score != UNIFORM else (), self.widths)
        return self

    def run(self) -> dict[str, Any]:
        subject = self.subject()
        model, test = subject.model, subject.texts("test", self.test)
        dense = measure(model, test)
        formats = self._formats(model, subject) | self._outside(model)
        calibration = subject.texts("calibration", self.windows, self.seed) if self.method == "gptq" else None
        report = quantize_model.quantize_model(model, formats, self.method, calibration, progress=False)
        before = measure(model, test)
        with tempfile.TemporaryDirectory() as folder:
            found = pack.save(model, subject.tokenizer, folder + "/packed", report.quantized)
            loaded, _, _ = pack.load(folder + "/packed")
        after = measure(loaded, test)
        return {
            **outcome(dense, after),
            "dense": outcome(dense, dense),
            "same": _same(before, after),
            "file_bytes": found.bytes,
            "fp16_bytes": found.fp16,
            "over_fp16": found.over_fp16,
            "over_fp32": found.over_fp32,
            "block_bits": _average_bits(report.layers, model),
            **covered.field(model, report.layers),
        }

    def _formats(self, model: nn.Module, subject: Any) -> dict[str, Bits]:
        palette = Palette(model, self.per, self.like)
        if self.score == UNIFORM:
            return palette.formats(dict.fromkeys(palette.layers, int(self.average)))
        problem = problem_of(palette, subject, self.scores(), self)
        return palette.formats(widths_of(exact(problem, budget_for(self.average, palette.numbers))))

    def _outside(self, model: Any) -> dict[str, Bits]:
        """Formats of the token embedding and of a language head that does not share its matrix."""
        format = parse(self.embeddings)
        embedding, head = model.get_input_embeddings(), models.head(model)
        names = {id(module): name for name, module in model.named_modules()}
        found = {names[id(embedding)]: format}
        if head is not None and head.weight is not embedding.weight:
            found[names[id(head)]] = format
        return found


def _same(before: Measured, after: Measured) -> bool:
    return torch.equal(before.losses, after.losses) and torch.equal(before.right, after.right)


def _average_bits(layers: dict[str, Any], model: nn.Module) -> float:
    inside = models.block_linears(model)
    numbers = sum(linear.weight.numel() for linear in inside.values())
    return 8 * sum(layers[name].bytes for name in inside) / numbers
