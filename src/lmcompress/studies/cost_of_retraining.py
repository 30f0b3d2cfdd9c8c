"""What retraining costs: parameters, memory, tokens per second; and what a larger budget buys."""

import gc
from collections.abc import Sequence

import pandas as pd
import torch
from transformers import LlamaConfig, MistralConfig, OPTConfig, PretrainedConfig

from lmcompress import cost, models
from lmcompress.errors import ParameterError
from lmcompress.models import block_linears
from lmcompress.parameters import PatternText
from lmcompress.prune import magnitude, mask
from lmcompress.prune.pattern import Unstructured
from lmcompress.records import Experiment, Record
from lmcompress.retrain.subsets import count
from lmcompress.retrain.train import train
from lmcompress.studies.perp import SubsetText
from lmcompress.studies.perp_study import PerpStudy, with_rates

WARMUP = 2  # steps before the clock starts


def _opt(hidden: int, layers: int, heads: int) -> OPTConfig:
    return OPTConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        ffn_dim=4 * hidden,
        vocab_size=50272,
    )


ARCHITECTURES: dict[str, PretrainedConfig] = {
    "OPT-125M": _opt(768, 12, 12),
    "OPT-1.3B": _opt(2048, 24, 32),
    "OPT-2.7B": _opt(2560, 32, 32),
    "OPT-6.7B": _opt(4096, 32, 32),
    "OPT-13B": _opt(5120, 40, 40),
    "OPT-30B": _opt(7168, 48, 56),
    "LLaMA-2-7B": LlamaConfig(hidden_size=4096, num_hidden_layers=32, intermediate_size=11008),
    "LLaMA-2-13B": LlamaConfig(
        hidden_size=5120, num_hidden_layers=40, num_attention_heads=40, intermediate_size=13824
    ),
    "Mistral-7B": MistralConfig(num_key_value_heads=8),
}
"""Shapes of the paper's models, as their authors publish them; nothing is downloaded to count parameters."""


class ShareTrained(Experiment):
    """How many parameters each subset trains in one of :data:`ARCHITECTURES`; None where it has none of them."""

    architecture: str
    subsets: tuple[SubsetText, ...]
    rank: int = 16

    def assets(self) -> list[tuple[str, str]]:
        return []

    def run(self) -> dict:
        config = ARCHITECTURES[self.architecture]
        found = {}
        for subset in self.subsets:
            try:
                counted = count(config, subset, self.rank)
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

    model: str
    dtype: str
    length: int
    batch: int
    subset: SubsetText
    steps: int

    def assets(self) -> list[tuple[str, str]]:
        return [(self.model, "model")]

    def run(self) -> dict:
        model, _ = models.load(self.model, self.dtype)
        weights = {name: layer.weight.detach() for name, layer in block_linears(model).items()}
        masks = magnitude.per_matrix(weights, Unstructured(0.5))
        mask.apply(model, masks)
        counted, device = count(model, self.subset), next(model.parameters()).device
        generator = torch.Generator().manual_seed(0)
        size = (self.batch * 4, self.length)
        windows = torch.randint(model.get_input_embeddings().num_embeddings, size, generator=generator)
        options = {"lr": 1e-6, "batch_size": self.batch, "progress": False}
        train(model, windows, self.subset, masks, steps=WARMUP, **options)
        parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        gc.collect()
        with cost.measured(device, self.steps * self.batch * self.length) as found:
            train(model, windows, parameters, masks, steps=self.steps, **options)
        return {
            "trainable": counted.trainable,
            "percent": counted.percent,
            "seconds_a_step": found[0].seconds / self.steps,
            "tokens_per_s": found[0].tokens_per_s,
            "peak_bytes": found[0].peak_bytes,
        }


class Study(PerpStudy):
    """Steps of every subset timed (``timed_steps`` each), the parameters of the paper's models counted, and
    retraining repeated with every number of steps in ``budgets``.
    """

    pattern: PatternText = "50%"
    subsets: tuple[SubsetText, ...] = ("norms", "new-biases", "masklora", "full")
    timed_steps: int = 3
    architectures: tuple[str, ...] = tuple(ARCHITECTURES)
    counted: tuple[SubsetText, ...] = (
        "biases",
        "norms",
        "biases+norms",
        "masklora",
        "biases+norms+head-lora+masklora",
    )
    budgets: tuple[int, ...] = ()
    budget_subsets: tuple[SubsetText, ...] = ("norms", "full")

    def experiments(self) -> list[Experiment]:
        same = self.model_dump(include={"model", "dtype", "length", "batch"})
        found: list = [ShareTrained(architecture=name, subsets=self.counted) for name in self.architectures]
        found += [StepCost(**same, subset=subset, steps=self.timed_steps) for subset in self.subsets]
        runs = [
            self.retrain("magnitude", self.pattern, subset, seed, steps=steps)
            for seed in self.seeds
            for steps in self.budgets
            for subset in self.budget_subsets
        ]
        pruned = [self.retrain("magnitude", self.pattern, "nothing", seed) for seed in self.seeds]
        return [*found, *with_rates([*(pruned if runs else ()), *runs])]


def costs(records: Sequence[Record]) -> pd.DataFrame:
    """One row a subset: parameters, tokens per second, seconds a step, peak memory; ``of full``: tokens per
    second over those of full retraining.
    """
    rows = [
        {
            "subset": record.parameters["subset"],
            "trained": record.result["trainable"],
            "trained %": record.result["percent"],
            "tokens/s": record.result["tokens_per_s"],
            "seconds a step": record.result["seconds_a_step"],
            "peak memory (GiB)": record.result["peak_bytes"] / 2**30,
        }
        for record in records
        if record.kind == "step_cost"
    ]
    frame = pd.DataFrame(rows)
    full = {row["subset"]: row["tokens/s"] for row in rows}.get("full")
    return frame.assign(**{"times full": frame["tokens/s"] / full}) if full else frame


def trained_shares(records: Sequence[Record]) -> pd.DataFrame:
    """Percentage of the parameters that each subset trains, by architecture."""
    rows = [
        {"model": record.parameters["architecture"], "subset": subset, "percent": found and found["percent"]}
        for record in records
        if record.kind == "share_trained"
        for subset, found in record.result["subsets"].items()
    ]
    return pd.DataFrame(rows)
