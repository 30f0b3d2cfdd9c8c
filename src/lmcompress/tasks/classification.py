"""Classification: say the class of every text, by an encoder that was fine-tuned for it; judged by accuracy."""

from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from lmcompress import data as corpora
from lmcompress import evaluate
from lmcompress.experiments.fine_tune import classifier

Batches = list[dict[str, Tensor]]


def load(model: str, data: str, length: int, steps: int, dtype: str = "fp32", batch: int = 0) -> Any:
    """The encoder ``model`` with a head, fine-tuned for ``steps`` steps in fp32, and its tokenizer."""
    return classifier(model, data, length, steps)


def texts(
    data: str,
    tokenizer: PreTrainedTokenizerBase,
    split: str,
    length: int,
    batch: int,
    number: int | None,
    seed: int,
) -> Batches:
    """``number`` texts of at most ``length`` tokens with their labels."""
    return corpora.classification(data, tokenizer, split, length, batch, number, seed)


def reference(dense: nn.Module, texts: Batches, batch: int) -> float:
    """The accuracy of the dense model."""
    return evaluate.accuracy(dense, texts).value


def judge(model: nn.Module, dense: float, texts: Batches, batch: int) -> dict[str, Any]:
    """Accuracy with its 95 % interval, and which texts were right."""
    found = evaluate.accuracy(model, texts)
    return {
        "accuracy": found.value,
        "low": found.low,
        "high": found.high,
        "correct": found.correct.int().tolist(),
        "dense": dense,
    }
