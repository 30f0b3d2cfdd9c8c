"""Language modelling: say the next token of every text; judged by perplexity and by agreement with the dense model."""

import math
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lmcompress import data as corpora
from lmcompress import evaluate, models
from lmcompress.errors import NumericError
from lmcompress.experiments.biased import with_biases


def load(model: str, data: str, length: int, steps: int, dtype: str = "fp32", batch: int = 0) -> Any:
    """The causal language model as it comes, or with biases that were trained for ``steps``; and its tokenizer."""
    return with_biases(model, dtype, data, length, batch, steps) if steps else models.load(model, dtype)


def texts(
    data: str,
    tokenizer: PreTrainedTokenizerBase,
    split: str,
    length: int,
    batch: int,
    number: int | None,
    seed: int,
) -> Tensor:
    """``number`` windows of ``length`` tokens."""
    return corpora.windows(data, tokenizer, split, length, number, seed)


def reference(dense: nn.Module, texts: Tensor, batch: int) -> evaluate.Reference:
    """What the dense model says about the windows."""
    return evaluate.reference(dense, texts, batch)


def judge(model: nn.Module, dense: evaluate.Reference, texts: Tensor, batch: int) -> dict[str, Any]:
    """Perplexity, KL and agreement, each with its 95 % interval, and the loss of every window; None where a loss is not
    finite.
    """
    about = {"dense": math.exp(float(dense.nll.mean()))}
    try:
        found = evaluate.compare(model, dense, texts, batch)
    except NumericError:
        names = ("perplexity", "low", "high", "kl", "kl_low", "kl_high", "agreement", "nll")
        return about | dict.fromkeys(names)
    return about | {
        "perplexity": found.perplexity.value,
        "low": found.perplexity.low,
        "high": found.perplexity.high,
        "kl": found.kl.value,
        "kl_low": found.kl.low,
        "kl_high": found.kl.high,
        "agreement": found.agreement.value,
        "nll": [round(value, 4) for value in found.perplexity.nll.tolist()],
        "convention": found.perplexity.convention,
    }
