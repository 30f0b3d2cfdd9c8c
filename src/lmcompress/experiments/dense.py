"""The dense models: their perplexity by convention and length, and the grid that their weights lie on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from lmcompress.errors import ParameterError
from lmcompress.lazily import lazy
from lmcompress.parameters import CorpusName, Count, Flag, Length, ModelName
from lmcompress.records import Experiment

if TYPE_CHECKING:
    import torch

data = lazy("lmcompress.data")
evaluate = lazy("lmcompress.evaluate")
models = lazy("lmcompress.models")
torch = lazy("torch")

CONVENTIONS = {"ours": "perplexity", "GPTQ": "gptq_perplexity"}


class DensePerplexity(Experiment):
    """Perplexity on ``spans`` pieces (None: all) of ``span`` tokens of the test split, cut into windows of ``length``.

    Runs with the same spans read the same text, so that lengths compare. ``bos`` puts the tokenizer's first token
    before every window, whose last token makes room for it; in our convention a tokenizer that sets one does so anyway.
    """

    model: ModelName
    data: CorpusName
    dtype: Literal["fp32", "bf16"]
    convention: Literal["ours", "GPTQ"] = "ours"
    spans: Count | None
    span: Length
    length: Length
    bos: Flag = False

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.span % self.length:
            raise ParameterError("length", self.length, f"a divisor of the span, {self.span}")
        if self.spans == 1 and self.span == self.length:
            raise ParameterError("spans", self.spans, "at least 2 windows: an interval needs two")
        return self

    def assets(self) -> list[tuple[str, str]]:
        return [(self.model, "model"), (self.data, "data")]

    def run(self) -> dict[str, Any]:
        model, tokenizer = models.load(self.model, self.dtype)
        ours = self.convention == "ours"
        bos = "none" if ours else "text"
        windows = data.windows(self.data, tokenizer, "test", self.span, self.spans, bos=bos)
        windows = windows.view(-1, self.length)
        if self.bos or (ours and data.begin(tokenizer)):
            first = tokenizer.bos_token_id
            if first is None:
                raise ParameterError(
                    "bos", self.bos, f"false: the tokenizer of {self.model} has no such token"
                )
            windows = torch.cat([torch.full_like(windows[:, :1], first), windows[:, :-1]], dim=1)
        measure = getattr(evaluate, CONVENTIONS[self.convention])
        found = measure(model, windows, batch_size=max(1, 4096 // self.length))
        return {
            "perplexity": found.value,
            "low": found.low,
            "high": found.high,
            "nll": [round(value, 5) for value in found.nll.tolist()],
            "tokens": found.tokens,
            "convention": found.convention,
            "parameters": model.num_parameters(),
        }


class WeightGrid(Experiment):
    """How many distinct values a group of 32 consecutive weights has, in the first rows of every Linear.

    Weights born in floating point have 32; weights that once were stored in 4 bits have at most 16.
    """

    model: ModelName
    rows: Count = 16

    def assets(self) -> list[tuple[str, str]]:
        return [(self.model, "model")]

    def run(self) -> dict[str, Any]:
        model, _ = models.load(self.model, "fp32", device="cpu")
        counts = torch.cat([self._distinct(linear.weight) for linear in models.block_linears(model).values()])
        return {"histogram": torch.bincount(counts, minlength=33).tolist()}

    def _distinct(self, weight: torch.Tensor) -> torch.Tensor:
        part = weight.detach()[: self.rows, : weight.shape[1] // 32 * 32].reshape(-1, 32)
        ordered = part.sort(dim=1).values
        return 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1)
