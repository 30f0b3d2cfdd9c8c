"""The models that the CPTQuant notebooks compress, their texts, and how good they are before and after.

Two kinds: a causal language model as it comes, and an encoder fine-tuned here as a classifier. Both start
from values that half precision can hold, so that "dense" means FP16 everywhere in these notebooks; the
arithmetic is fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import model_validator

from lmcompress.errors import ParameterError
from lmcompress.intervals import bootstrap
from lmcompress.lazily import lazy
from lmcompress.parameters import CorpusName, Length, ModelName, Sample, Whole
from lmcompress.quantize.formats import Bits, stored_bytes
from lmcompress.records import Experiment
from lmcompress.tasks import TASKS, TaskName

if TYPE_CHECKING:
    import torch
    from torch import nn

data = lazy("lmcompress.data")
model_losses = lazy("lmcompress.sensitivity.losses")
nn = lazy("torch.nn")
quantize_model = lazy("lmcompress.quantize.model")
rtn = lazy("lmcompress.quantize.rtn")
sensitivity = lazy("lmcompress.sensitivity.scores")
torch = lazy("torch")

Batches = list[dict[str, "torch.Tensor"]]


@dataclass(frozen=True)
class Subject:
    """A model (fp32 arithmetic, values of half precision) and what its texts are read with."""

    model: Any
    tokenizer: Any
    data: str
    task: str
    length: int

    def texts(self, split: str, count: int, seed: int = 0, batch: int = 0) -> Batches:
        """``count`` windows of ``length`` tokens, or texts of at most ``length`` tokens with their labels; ``batch`` at
        a time (0: as the task has it).
        """
        task = TASKS[self.task]
        batch = batch or task.batch
        found = task.functions.texts(self.data, self.tokenizer, split, self.length, batch, count, seed)
        return data.batches(found, batch) if isinstance(found, torch.Tensor) else found


class OnModel(Experiment):
    """Parameters of every experiment here: which model, on which texts. ``steps``: of a classifier's
    fine-tuning.
    """

    fine_tunes: ClassVar[bool] = True
    shares: ClassVar[tuple[str, ...]] = (
        "model",
        "data",
        "task",
        "length",
        "steps",
    )  # the fine-tuned classifier

    model: ModelName
    data: CorpusName
    task: TaskName
    length: Length
    steps: Whole = 0

    @model_validator(mode="after")
    def _tuned_where_it_classifies(self) -> Self:
        if (TASKS[self.task].tuned and self.fine_tunes) != bool(self.steps):
            raise ParameterError(
                "steps", self.steps, "at least 1 where a classifier is fine-tuned, 0 elsewhere"
            )
        return self

    def assets(self) -> list[tuple[str, str]]:
        return [(self.model, "model"), (self.data, "data")]

    @property
    def like(self) -> Bits:
        """Groups and symmetry of the formats, of a run that has the fields ``group`` and ``symmetric``."""
        own: Any = self
        return Bits(8, own.group, own.symmetric)

    def subject(self) -> Subject:
        """The model, loaded; a classifier is fine-tuned first where that was not done on this machine."""
        load = TASKS[self.task].functions.load
        model, tokenizer = load(self.model, self.data, self.length, self.steps)
        quantize_model.round_rest(model, ())
        return Subject(model, tokenizer, self.data, self.task, self.length)


class FineTuned(OnModel):
    """Fine-tune the classifier that the other experiments compress, and say how good it is on held-out
    texts.
    """

    task: TaskName = "classification"
    test: Sample

    def run(self) -> dict[str, Any]:
        subject = self.subject()
        found = measure(subject.model, subject.texts("test", self.test))
        return {**level(found), "classes": len(data.classes(self.data)), "texts": len(found.losses)}


@dataclass(frozen=True)
class Measured:
    """``losses`` [N] (fp64, nats): mean of each window or text; ``right`` [N]: share of its predictions that
    hold.
    """

    losses: torch.Tensor
    right: torch.Tensor


def measure(model: nn.Module, batches: Batches) -> Measured:
    """Loss and hits of every window or text. Padding does not count."""
    losses, right = [], []
    for batch in batches:
        with torch.no_grad():
            logits, targets, weights = model_losses.predictions(model, batch)
        counts = weights.sum(1).clamp(min=1)
        losses.append(model_losses.mean_losses(logits, targets, weights).double().cpu())
        right.append((((logits.argmax(-1) == targets) * weights).sum(1) / counts).double().cpu())
    return Measured(torch.cat(losses), torch.cat(right))


def level(found: Measured) -> dict[str, float]:
    """Mean loss and share of right predictions, each with its 95 % bootstrap interval over windows or
    texts.
    """
    loss, right = bootstrap(found.losses), bootstrap(found.right)
    return {
        "loss": float(found.losses.mean()),
        "loss_low": loss[0],
        "loss_high": loss[1],
        "right": float(found.right.mean()),
        "right_low": right[0],
        "right_high": right[1],
    }


def outcome(dense: Measured, now: Measured) -> dict[str, float | None]:
    """:func:`level` of a compressed model and its loss increase over the dense one, pairs of one window kept
    together.

    A collapsed model's loss may be beyond what fp32 holds; it is None then, and so is what is made of it.
    """
    if not torch.isfinite(now.losses).all():
        names = ("loss", "loss_low", "loss_high", "right", "right_low", "right_high")
        return dict.fromkeys((*names, "increase", "low", "high"))
    difference = now.losses - dense.losses
    low, high = bootstrap(difference)
    return {**level(now), "increase": float(difference.mean()), "low": low, "high": high}


class Palette:
    """What the layers of a model look like at each width, and what they take on disk.

    ``layers``: scored layer (block or Linear) -> its Linears; ``like``: groups and symmetry of the formats. Weights
    read back are made when first asked for.
    """

    def __init__(self, model: nn.Module, per: str, like: Bits):
        self.layers = sensitivity.layer_groups(model, per)
        self.numbers = sum(
            linear.weight.numel() for inside in self.layers.values() for linear in inside.values()
        )
        linears = [name for inside in self.layers.values() for name in inside]
        self.rest_bytes = 2 * sum(value.numel() for value in quantize_model.rest(model, linears).values())
        self._format = like.at
        self._quantizer = rtn.quantizer(like)
        self._made: dict[tuple[str, int], torch.Tensor] = {}

    def bytes(self, layer: str, bits: int) -> int:
        """Bytes of a layer at a width: packed codes, scales and zero points."""
        return sum(
            stored_bytes(tuple(l.weight.shape), self._format(bits)) for l in self.layers[layer].values()
        )

    def formats(self, bits: dict[str, int]) -> dict[str, Bits]:
        """Linear -> format for a width a layer."""
        return {name: self._format(bits[layer]) for layer, inside in self.layers.items() for name in inside}

    def weights(self, bits: dict[str, int]) -> dict[nn.Parameter, torch.Tensor]:
        """Weight -> its values at a width a layer, for ``sensitivity.scores.changed``."""
        return {
            linear.weight: self._weight(name, linear, bits[layer])
            for layer, inside in self.layers.items()
            for name, linear in inside.items()
        }

    def _weight(self, name: str, linear: nn.Linear, bits: int) -> torch.Tensor:
        if (name, bits) not in self._made:
            self._made[name, bits] = self._quantizer(linear.weight.detach(), bits)
        return self._made[name, bits]

    def sizes(self, bits: dict[str, int]) -> dict[str, float]:
        """``bytes`` of the layers, ``bits`` each of their weights takes, ``model_bytes`` with all else in
        FP16.
        """
        paid = sum(self.bytes(layer, bits[layer]) for layer in self.layers)
        return {"bytes": paid, "bits": 8 * paid / self.numbers, "model_bytes": paid + self.rest_bytes}
