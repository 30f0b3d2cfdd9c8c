"""What a retraining step costs: parameters, time and memory."""

from __future__ import annotations

import gc
from typing import Annotated, Any, ClassVar, Literal

from lmcompress.errors import ParameterError
from lmcompress.experiments.pruned import SubsetText
from lmcompress.lazily import lazy
from lmcompress.parameters import Count, Length, ModelName, Rank, Some, one_of
from lmcompress.prune.pattern import Unstructured
from lmcompress.records import Experiment

cost = lazy("lmcompress.cost")
magnitude = lazy("lmcompress.prune.magnitude")
mask = lazy("lmcompress.prune.mask")
models = lazy("lmcompress.models")
subsets = lazy("lmcompress.retrain.subsets")
torch = lazy("torch")
train = lazy("lmcompress.retrain.train")
transformers = lazy("transformers")

WARMUP = 2  # steps before the clock starts


def _opt(hidden: int, layers: int, heads: int) -> tuple[str, dict[str, int]]:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    return "OPTConfig", sizes | {"ffn_dim": 4 * hidden, "vocab_size": 50272}


ARCHITECTURES: dict[str, tuple[str, dict[str, int]]] = {
    "OPT-125M": _opt(768, 12, 12),
    "OPT-1.3B": _opt(2048, 24, 32),
    "OPT-2.7B": _opt(2560, 32, 32),
    "OPT-6.7B": _opt(4096, 32, 32),
    "OPT-13B": _opt(5120, 40, 40),
    "OPT-30B": _opt(7168, 48, 56),
    "LLaMA-2-7B": ("LlamaConfig", {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11008}),
    "LLaMA-2-13B": (
        "LlamaConfig",
        {"hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40, "intermediate_size": 13824},
    ),
    "Mistral-7B": ("MistralConfig", {"num_key_value_heads": 8}),
}
"""Shapes of the paper's models, as their authors publish them; nothing is downloaded to count parameters."""


Architecture = Annotated[str, one_of(ARCHITECTURES)]
"""One of :data:`ARCHITECTURES`."""


COUNTED = ("biases", "norms", "biases+norms", "masklora", "biases+norms+head-lora+masklora")
"""Subsets whose share of the parameters pages show."""


class ShareTrained(Experiment):
    """How many parameters each subset trains in one of :data:`ARCHITECTURES`; None where it has none of them."""

    architecture: Architecture
    subsets: Some[SubsetText]
    rank: Rank = 16

    def assets(self) -> list[tuple[str, str]]:
        return []

    def run(self) -> dict[str, Any]:
        name, sizes = ARCHITECTURES[self.architecture]
        config = getattr(transformers, name)(**sizes)
        found: dict[str, Any] = {}
        for subset in self.subsets:
            try:
                counted = subsets.count(config, subset, self.rank)
            except ParameterError:  # the architecture has no such parameters
                found[subset] = None
                continue
            found[subset] = {
                "trainable": counted.trainable,
                "total": counted.total,
                "percent": counted.percent,
            }
        return {"subsets": found}


class StepCost(Experiment):
    """Seconds, tokens per second and peak memory of retraining steps of one subset, on random tokens after
    magnitude pruning to one half. Run it alone on its device: what runs beside it slows it down.
    """

    timed: ClassVar[bool] = True

    model: ModelName
    dtype: Literal["fp32", "bf16"]
    length: Length
    batch: Count
    subset: SubsetText
    steps: Count

    def assets(self) -> list[tuple[str, str]]:
        return [(self.model, "model")]

    def run(self) -> dict[str, Any]:
        model, _ = models.load(self.model, self.dtype)
        weights = {name: layer.weight.detach() for name, layer in models.block_linears(model).items()}
        masks = magnitude.per_matrix(weights, Unstructured(0.5))
        mask.apply(model, masks)
        counted, device = subsets.count(model, self.subset), next(model.parameters()).device
        generator = torch.Generator().manual_seed(0)
        size = (self.batch * 4, self.length)
        windows = torch.randint(model.get_input_embeddings().num_embeddings, size, generator=generator)
        options = {"lr": 1e-6, "batch_size": self.batch, "progress": False}
        train.train(model, windows, self.subset, masks, steps=WARMUP, **options)
        parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        gc.collect()
        with cost.measured(device, self.steps * self.batch * self.length) as found:
            train.train(model, windows, parameters, masks, steps=self.steps, **options)
        return {
            "trainable": counted.trainable,
            "percent": counted.percent,
            "seconds_a_step": found[0].seconds / self.steps,
            "tokens_per_s": found[0].tokens_per_s,
            "peak_bytes": found[0].peak_bytes,
        }
