"""A language model that has biases: zero ones are added and trained with the dense model until they matter.

PERP's central case is retraining biases, and the small models of today have none. What is made here is such a model, on
the way that a trained one would have come by them; :class:`BiasesMatter` measures what they are worth.
"""

from __future__ import annotations

import hashlib
import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from lmcompress import assets
from lmcompress.files import once, project_root
from lmcompress.lazily import lazy
from lmcompress.parameters import CorpusName, Count, Length, ModelName, Sample
from lmcompress.records import Experiment

data = lazy("lmcompress.data")
models = lazy("lmcompress.models")
safetensors = lazy("safetensors.torch")
subsets = lazy("lmcompress.retrain.subsets")
torch = lazy("torch")
train = lazy("lmcompress.retrain.train")

RATES = {"biases": 0.009, "full": 0.0001}
"""Of the two halves of the steps: the biases alone first, then all parameters."""


@lru_cache(maxsize=1)
def with_biases(name: str, dtype: str, texts: str, length: int, batch: int, steps: int) -> Any:
    """``(model, tokenizer)``: the language model ``name`` with a bias on every Linear of its blocks.

    The biases begin at zero and are trained for the first half of ``steps`` on the retraining split of ``texts``
    (``batch`` windows of ``length`` tokens a step), all parameters for the second. Kept in ``build/biased``, under a
    name that holds the hash of everything that went in.
    """
    hashes = [assets.sha256_of(*one) for one in ((name, "model"), (texts, "data"))]
    about = [name, dtype, texts, length, batch, steps, RATES, hashes]
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    folder = project_root() / "build" / "biased" / digest
    model, tokenizer = models.load(name, dtype)
    layers = models.block_linears(model)
    subsets.add_biases(layers)
    for layer in layers.values():  # from here on they are the model's own, not added ones
        layer.bias = torch.nn.Parameter(layer.bias.detach().clone())

    def made(temporary: Path) -> None:
        temporary.mkdir(parents=True, exist_ok=True)
        windows = data.windows(texts, tokenizer, "retraining", length, None, 0) if steps else None
        for subset, lr in RATES.items() if steps else ():
            options = {"lr": lr, "steps": steps // 2, "batch_size": batch, "progress": False}
            train.train(model, windows, subset, **options)
        own = {key: value.detach().clone() for key, value in model.named_parameters()}
        safetensors.save_file(own, temporary / "model.safetensors")

    once(folder, made)
    trained = safetensors.load_file(folder / "model.safetensors")
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(trained[key])
    return model.requires_grad_(True), tokenizer


class BiasesMatter(Experiment):
    """Perplexity on ``test`` windows of the test split: of the model as it comes, with the biases of
    :func:`with_biases`, and with these set to zero again.
    """

    model: ModelName
    data: CorpusName
    dtype: Literal["fp32", "bf16"] = "bf16"
    length: Length
    batch: Count
    steps: Count
    test: Sample

    def assets(self) -> list[tuple[str, str]]:
        return [(self.model, "model"), (self.data, "data")]

    def run(self) -> dict[str, Any]:
        dense, tokenizer = models.load(self.model, self.dtype)
        windows = data.windows(self.data, tokenizer, "test", self.length, self.test, 0)
        found = {"without": self._perplexity(dense, windows)}
        about = (self.model, self.dtype, self.data, self.length, self.batch, self.steps)
        model, _ = with_biases(*about)
        found["with"] = self._perplexity(model, windows)
        biases = [layer.bias for layer in models.block_linears(model).values()]
        kept = [bias.detach().clone() for bias in biases]
        with torch.no_grad():
            for bias in biases:
                bias.zero_()
            found["ablated"] = self._perplexity(model, windows)
            for bias, value in zip(biases, kept, strict=True):
                bias.copy_(value)
        return found | {"biases": sum(bias.numel() for bias in biases)}

    def _perplexity(self, model: Any, windows: Any) -> float:
        return math.exp(train.mean_loss(model, windows, self.batch))
