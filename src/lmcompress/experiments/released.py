"""What the released code of CPTQuant does, tried out: its scores, its nulls, its way to replace a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from lmcompress.experiments.scored import calibration
from lmcompress.experiments.subjects import OnModel, measure, outcome
from lmcompress.lazily import lazy
from lmcompress.parameters import Count, Sample, Seed, Some, Width
from lmcompress.tasks import TASKS

if TYPE_CHECKING:
    import torch
    from torch import nn

cca = lazy("lmcompress.sensitivity.cca")
data = lazy("lmcompress.data")
models = lazy("lmcompress.models")
nn = lazy("torch.nn")
pruning = lazy("lmcompress.sensitivity.pruning")
rtn = lazy("lmcompress.quantize.rtn")
sensitivity = lazy("lmcompress.sensitivity.scores")
taylor = lazy("lmcompress.sensitivity.taylor")
torch = lazy("torch")


class CmpqFlaws(OnModel):
    """The released score with few and many texts, and with padding added that a model must not see.

    ``counts``: numbers of texts. ``padding``: tokens added to every text, all masked.
    """

    counts: Some[Count]
    padding: Count
    seed: Seed

    def run(self) -> dict[str, Any]:
        subject = self.subject()
        model, pad = subject.model, subject.tokenizer.pad_token_id or 0
        by_count = {}
        for count in self.counts:
            batches = subject.texts("retraining", count, self.seed)  # the split with enough texts
            by_count[str(count)] = list(cca.cmpq_as_released(model, batches).per_layer.values())
        wider = cca.cmpq_as_released(model, [padded(batch, self.padding, pad) for batch in batches])
        width = model.get_input_embeddings().embedding_dim
        return {"by_count": by_count, "padded": list(wider.per_layer.values()), "features": width}


def padded(batch: dict[str, torch.Tensor], padding: int, pad: int) -> dict[str, torch.Tensor]:
    """The same texts with ``padding`` masked tokens more at the end; labels are left out."""
    ids = batch["input_ids"]
    mask = batch.get("attention_mask", torch.ones_like(ids))
    more = ids.new_full((len(ids), padding), pad)
    return {
        "input_ids": torch.cat([ids, more], 1),
        "attention_mask": torch.cat([mask, torch.zeros_like(more)], 1),
    }


class CmpqChecks(OnModel):
    """Correlations between the two sides of every block: held out, and of tokens in a random order (the
    null).
    """

    windows: Sample
    held_out: Count
    null_draws: Count
    seed: Seed

    def run(self) -> dict[str, Any]:
        subject = self.subject()
        batches = calibration(subject, self.windows, self.seed, enough=True)
        options = {
            "held_out": self.held_out,
            "null_draws": self.null_draws,
            "seed": self.seed,
        }
        found = cca.cmpq(subject.model, batches, **options)
        null = [values["null_mean"] for values in found.detail["null"].values()]
        detail = found.detail
        in_sample = [detail["similarity"][i][i + 1] for i in range(len(null))]
        return {
            "in_sample": in_sample,
            "held_out": list(detail["held_out"].values()),
            "null": null,
            "samples": detail["samples"],
            "features": detail["features"],
        }


class RandomHead(OnModel):
    """The released score of classifiers whose head was never trained, as in the authors' scripts: one for
    each seed.
    """

    fine_tunes: ClassVar[bool] = False

    texts: Count
    seeds: Some[Seed]

    def run(self) -> dict[str, Any]:
        scores, base = [], []
        for seed in self.seeds:
            torch.manual_seed(seed)
            count = len(data.classes(self.data))
            model, tokenizer = models.load(self.model, task="classification", num_labels=count)
            batches = data.classification(
                self.data, tokenizer, "calibration", self.length, TASKS[self.task].batch, self.texts, 0
            )
            found = pruning.pmpq_as_released(model, batches)
            scores.append(list(found.per_layer.values()))
            base.append(found.detail["base"])
        return {"scores": scores, "base": base, "classes": count}


class ReleasedDraws(OnModel):
    """The released score again and again, with other noise: nothing else changes from draw to draw."""

    windows: Count
    draws: Count
    seed: Seed

    def run(self) -> dict[str, Any]:
        subject = self.subject()
        batches = subject.texts("calibration", self.windows, self.seed)
        found = taylor.tdmpq_as_released(subject.model, batches, seed=self.seed, draws=self.draws)
        return {
            "scores": [list(one.per_layer.values()) for one in found],
            "seconds": [one.seconds for one in found],
        }


class DottedName(OnModel):
    """The released way to put a quantized layer into a model, and what the loss says of it.

    The released scripts call ``setattr(model, "encoder.layer.0.….query", quantized)``. A name with dots is
    no path: it registers a new child of that name, and the layer that the model runs stays what it was.
    """

    bits: Width
    test: Sample

    def run(self) -> dict[str, Any]:
        subject = self.subject()
        model, test = subject.model, subject.texts("test", self.test)
        linears, dense = models.block_linears(model), measure(model, test)
        quantized = {
            name: rtn.as_released(layer.weight.detach(), self.bits) for name, layer in linears.items()
        }
        for name, layer in linears.items():
            setattr(model, name, _with_weight(layer, quantized[name]))
        by_name = measure(model, test)
        with sensitivity.changed({layer.weight: quantized[name] for name, layer in linears.items()}):
            in_place = measure(model, test)
        return {
            "by_dotted_name": outcome(dense, by_name),
            "in_place": outcome(dense, in_place),
            "untouched": torch.equal(dense.losses, by_name.losses),
            "layers": len(linears),
        }


def _with_weight(layer: nn.Linear, weight: torch.Tensor) -> nn.Linear:
    made = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    made.weight = nn.Parameter(weight)
    return made
