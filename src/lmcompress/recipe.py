"""What is done to a model, as one typed value: prune, reconstruct, retrain and quantize, in this order, each or not.

A YAML file of it is a mapping of these names; the short way writes a step as text, ``wanda:2:4`` or ``norms:200``.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from lmcompress.errors import ParameterError
from lmcompress.parameters import (
    CorpusName,
    Count,
    Flag,
    FormatText,
    Length,
    Parameters,
    PatternText,
    Rate,
    Seed,
)
from lmcompress.prune.criteria import CRITERIA, CriterionName
from lmcompress.retrain.names import parse as parse_subset
from lmcompress.retrain.names import require_inside

STEPS = ("prune", "reconstruct", "retrain", "quantize")


def _subset(text: str) -> str:
    subset = parse_subset(text)
    for name in ("new-biases", "lora", "head-lora", "nothing"):
        if name in subset.names:
            raise ParameterError("subset", text, "one whose result the model's own config describes, merged")
    return str(subset)


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ParameterError("layers", text, f"a regular expression ({error})") from None
    return text


SubsetText = Annotated[str, AfterValidator(_subset)]
"""A subset of :mod:`lmcompress.retrain.subsets` that leaves a model of the same architecture."""
Expression = Annotated[str, AfterValidator(_expression)]
"""A regular expression."""


class Prune(Parameters):
    """``layers``: a regular expression on full names of Linears; default: every Linear in the blocks."""

    criterion: CriterionName = "wanda"
    pattern: PatternText = "2:4"
    layers: Expression | None = None


class Reconstruct(Parameters):
    """``steps``: of each block; ``lr``: None is the middle of the subset's grid."""

    subset: SubsetText = "masklora"
    steps: Count = 100
    granularity: Literal["block", "attention-and-mlp", "linear"] = "block"
    targets: Literal["sparse", "dense"] = "sparse"
    lr: Rate | None = None

    @model_validator(mode="after")
    def _inside(self) -> Self:
        require_inside(self.subset, self.granularity, self.targets)
        return self


class Retrain(Parameters):
    """``steps`` of ``batch`` windows each; the model is in memory as a whole for this."""

    subset: SubsetText = "norms"
    steps: Count = 200
    batch: Count = 8
    lr: Rate | None = None
    checkpointing: Flag | Literal["auto"] = False


class Quantize(Parameters):
    """The Linears of the blocks to ``format``, those that match a regular expression in ``layers`` to that one's (the
    first that matches counts). Embeddings, head and norms stay in 16 bits.
    """

    format: FormatText = "4bit-g128"
    layers: dict[Expression, FormatText] = {}
    method: Literal["rtn", "gptq"] = "rtn"
    act_order: Flag = False


class Recipe(Parameters):
    """The steps, and the texts that they use.

    ``data``: a corpus, with ``calibration`` windows of ``length`` tokens for criteria, reconstruction and GPTQ, and
    ``retraining`` windows (None: all). ``evaluation``: windows each of the validation and the test split for the
    perplexity before and after; 0 leaves it out. ``batch``: windows at a time. ``dtype``: of the weights, ``auto`` is
    that of the folder.
    """

    prune: Prune | None = None
    reconstruct: Reconstruct | None = None
    retrain: Retrain | None = None
    quantize: Quantize | None = None
    data: CorpusName = "wikipedia-vital"
    length: Length = 512
    calibration: Count = 32
    retraining: Count | None = None
    evaluation: Annotated[int, Field(ge=0, le=10**6, strict=True)] = 8
    batch: Count = 8
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    seed: Seed = 0

    @model_validator(mode="after")
    def _some_step(self) -> Self:
        if not self.steps:
            raise ParameterError("recipe", "no step", f"at least one of {', '.join(STEPS)}")
        if self.reconstruct and not self.prune:
            raise ParameterError(
                "reconstruct", self.reconstruct.subset, "a recipe that prunes: it undoes that damage"
            )
        if self.evaluation == 1:
            raise ParameterError("evaluation", 1, "0, or at least 2 windows: an interval needs two")
        return self

    @property
    def steps(self) -> tuple[str, ...]:
        """Names of the steps, in their order."""
        return tuple(name for name in STEPS if getattr(self, name))

    @property
    def needs_calibration(self) -> bool:
        """Whether a step looks at the inputs of the layers."""
        by_data = self.prune and CRITERIA[self.prune.criterion].by_data
        return bool(by_data or self.reconstruct or (self.quantize and self.quantize.method == "gptq"))


def short(step: str, text: str) -> dict[str, Any]:
    """The fields of a step from its short spelling.

    ``wanda:2:4`` (criterion:pattern), ``masklora:100`` and ``norms:200`` (subset:steps), ``4:128:gptq`` or
    ``4bit-g128-asym`` (bits:group:method). Raises :class:`ParameterError` for too many parts.
    """
    head, _, tail = text.partition(":")
    if step == "prune":
        return {"criterion": head} | ({"pattern": tail} if tail else {})
    if step in ("reconstruct", "retrain"):
        return {"subset": head} | ({"steps": tail} if tail else {})
    parts = text.split(":")
    found = {"method": parts.pop()} if parts[-1] in ("rtn", "gptq") else {}
    if not parts:
        return found
    if len(parts) > 2:
        raise ParameterError(
            "quantize", text, "bits:group:method, such as 4:128:gptq, or a format such as 4bit-g128"
        )
    width = f"{parts[0]}bit" if parts[0].isdecimal() else parts[0]
    return found | {"format": width if len(parts) == 1 else f"{width}-g{parts[1]}"}
