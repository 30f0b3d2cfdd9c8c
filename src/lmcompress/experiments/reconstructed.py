"""Runs that reconstruct a pruned model block by block, and the choice of their learning rate."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import model_validator

from lmcompress import covered
from lmcompress.experiments.pruned import Evaluated, OnPruned, SubsetText
from lmcompress.experiments.retrained import _finite, _rate, chosen
from lmcompress.lazily import lazy
from lmcompress.parameters import Count, PatternOrNone, Rate
from lmcompress.retrain.names import require_inside

learning_rate = lazy("lmcompress.retrain.learning_rate")
mask = lazy("lmcompress.prune.mask")
reconstruct = lazy("lmcompress.retrain.reconstruct")
train = lazy("lmcompress.retrain.train")


class Reconstruct(Evaluated):
    """Prune, reconstruct block by block, evaluate; see :func:`lmcompress.retrain.reconstruct.reconstruct`.

    ``steps``: of each block. ``lr`` None: the rate of least validation loss after magnitude pruning to
    ``rate_pattern``, or with an empty one the middle of the subset's grid.
    """

    subset: SubsetText
    granularity: Literal["block", "attention-and-mlp", "linear"]
    targets: Literal["sparse", "dense"] = "sparse"
    steps: Count
    lr: Rate | None = None
    rate_pattern: PatternOrNone = ""

    @model_validator(mode="after")
    def _inside(self) -> Self:
        require_inside(self.subset, self.granularity, self.targets)
        return self

    def rate_run(self) -> ChooseReconstructionRate | None:
        """As in :class:`Retrain`."""
        if self.lr is not None or not self.rate_pattern:
            return None
        same = self.model_dump(include=set(OnPruned.model_fields))
        about = {"criterion": "magnitude", "pattern": self.rate_pattern, "seed": 0}
        about |= {"subset": self.subset, "granularity": self.granularity, "steps": self.steps}
        return ChooseReconstructionRate(**same | about)

    def run(self) -> dict[str, Any]:
        lr = self.lr or _rate(self.subset, self.rate_run())
        model, report = reconstructed(self, self.subset, self.granularity, self.targets, self.steps, lr)
        return {
            "lr": lr,
            "trainable": sum(block.trainable for block in report),
            "blocks": [
                {"before": block.before, "after": block.after, "improved": block.improved} for block in report
            ],
            "reconstruct_seconds": sum(block.seconds for block in report),
            "tokens": self.calibration * self.length,
            "tests": self.evaluate(model),
            **covered.field(model, self.pruned_weights()[0]),
        }


class ChooseReconstructionRate(OnPruned):
    """The learning rate of a reconstruction, by validation loss (see :class:`ChooseRate`)."""

    subset: SubsetText
    granularity: Literal["block", "attention-and-mlp", "linear"]
    steps: Count

    @model_validator(mode="after")
    def _inside(self) -> Self:
        require_inside(self.subset, self.granularity)
        return self

    def run(self) -> dict[str, Any]:
        validation = self.texts("validation", self.validation)

        def tried(rates: Sequence[float]) -> list[dict[str, Any]]:
            trials = []
            for lr in rates:
                model, report = reconstructed(self, self.subset, self.granularity, "sparse", self.steps, lr)
                improved = any(block.improved for block in report)
                loss = _finite(train.mean_loss(model, validation, self.batch)) if improved else None
                trials.append({"lr": lr, "loss": loss, "diverged": not improved})
            return trials

        return chosen(tried, learning_rate.grid(self.subset))


def reconstructed(of: OnPruned, subset: str, granularity: str, targets: str, steps: int, lr: float) -> Any:
    """``(model, reports per block)`` of a fresh reconstruction, masks checked."""
    masks, weights = of.pruned_weights()
    model = copy.deepcopy(of.dense()[0])
    report = reconstruct.reconstruct(
        model,
        masks,
        of.calibration_batches(),
        subset,
        lr=lr,
        steps=steps,
        granularity=granularity,
        targets=targets,
        weights=weights,
        seed=of.seed,
        store=next(model.parameters()).device,
        progress=False,
    )
    mask.check(model, masks)
    return model, report
