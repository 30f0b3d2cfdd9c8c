"""How good a model is, and how far from its dense self: perplexity, KL divergence, agreement, accuracy.

Every number comes with a 95 % bootstrap interval over windows (or texts), because tokens of one window are
not independent. The windows are non-overlapping pieces of a packed text (see ``data.windows``), all of one
length.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from lmcompress import models
from lmcompress.errors import NumericError, ParameterError
from lmcompress.intervals import bootstrap
from lmcompress.lazily import callable_module
from lmcompress.numbers import exp

callable_module(__name__)

ROWS = {
    "cpu": 64,
    "cuda": 2048,
}  # rows of logits that are in fp32 at one time: 12 MiB at a vocabulary of 49,152, near
# the size of a processor's cache; a GPU wants few large pieces


@dataclass(frozen=True)
class Estimate:
    """Mean over windows and its 95 % bootstrap interval; ``windows`` [N] (fp64, CPU) are the values it
    comes from.
    """

    value: float
    low: float
    high: float
    windows: Tensor

    @classmethod
    def of(cls, windows: Tensor, transform: Callable[[float], float] = float) -> "Estimate":
        """``transform`` (increasing) of the mean of ``windows`` and of the ends of its interval."""
        low, high = map(transform, bootstrap(windows))
        return cls(transform(float(windows.mean())), low, high, windows)


@dataclass(frozen=True)
class Perplexity:
    """``value`` with its 95 % interval, ``nll`` [N] (fp64, nats a token, mean of each window), number of
    predicted ``tokens``, and the ``convention`` in words.
    """

    value: float
    low: float
    high: float
    nll: Tensor
    tokens: int
    convention: str


@dataclass(frozen=True)
class Comparison:
    """A compressed model against its dense reference, on the same tokens.

    ``ratio``: perplexity divided by the dense one; its interval is paired (both on the same drawn windows),
    hence narrower where the two models find the same windows hard. ``kl``: KL(dense || compressed), nats a
    token. ``agreement``: share of positions where both have the same most likely next token.
    """

    perplexity: Perplexity
    ratio: Estimate
    kl: Estimate
    agreement: Estimate


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers with its 95 % interval; ``correct``: bool [N], one for each text."""

    value: float
    low: float
    high: float
    correct: Tensor


@dataclass(frozen=True)
class Reference:
    """What the dense model says about ``windows`` [N, T], made by :func:`reference`.

    ``states`` [N, T, hidden] are the inputs of its head, from which ``logits`` rebuilds what would be 85
    times as large (49,152 logits from 576 numbers). ``weight`` and ``bias`` are copies of the head's;
    ``weight`` is None for a model that changes its logits after the head (scaled or capped), whose
    ``states`` are the logits themselves.
    """

    windows: Tensor
    nll: Tensor
    states: Tensor
    weight: Tensor | None
    bias: Tensor | None

    def logits(self, chosen: slice, device: str | torch.device) -> Tensor:
        """Dense logits [B, T, vocabulary] of the windows ``chosen``."""
        states = self.states[chosen].to(device)
        return states if self.weight is None else F.linear(states, self.weight, self.bias)


def perplexity(model: nn.Module, windows: Tensor, batch_size: int = 8, progress: bool = False) -> Perplexity:
    """Perplexity of a causal model on ``windows`` [N, T] (int64), the one convention of this book.

    exp of the mean negative log-likelihood over the ``N * (T - 1)`` predicted tokens; the first token of a
    window is context only. Cross-entropy is in fp32 whatever the model's dtype. Raises
    :class:`ParameterError` for a model without a causal head and for windows that it cannot read,
    :class:`NumericError` for a loss that is not finite.
    """
    _check(model, windows)
    nll = torch.cat(
        [_nll(logits, batch) for _, batch, logits in _forward(model, windows, batch_size, progress)]
    )
    return _perplexity(nll, windows, "mean over predicted tokens")


def gptq_perplexity(
    model: nn.Module, windows: Tensor, batch_size: int = 8, progress: bool = False
) -> Perplexity:
    """Perplexity as the GPTQ, SparseGPT and Wanda codes compute it: ``exp(sum(loss * T) / (N * T))``.

    ``loss`` is a window's mean over its T - 1 predictions, counted as if there were T. The factor cancels,
    so that on the *same* windows this equals :func:`perplexity`; published tables differ from ours by their
    windows: T = 2048 (hence longer contexts and a lower perplexity) and a BOS only at the start of the
    text.
    """
    _check(model, windows)
    count, length = windows.shape
    total, means = 0.0, []
    for _, batch, logits in _forward(model, windows, batch_size, progress):
        means.append(_nll(logits, batch))
        total += float((means[-1] * length).sum())
    estimate = _perplexity(torch.cat(means), windows, "GPTQ/SparseGPT: sum of loss x T over N x T")
    value = exp(total / (count * length))
    return Perplexity(value, estimate.low, estimate.high, estimate.nll, count * length, estimate.convention)


@torch.no_grad()
def reference(model: nn.Module, windows: Tensor, batch_size: int = 8, progress: bool = False) -> Reference:
    """Run the dense model once and keep what :func:`compare` needs, in the model's dtype on the CPU.

    Whether head and states give the model's logits is checked on the first batch; where they do not, the
    logits are kept. Raises as :func:`perplexity` does.
    """
    _check(model, windows)
    head: Any = models.head(model)
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _module, arguments: seen.append(arguments[0].detach()))
    rebuilds, states, nll = True, [], []
    try:
        for start, batch, logits in _forward(model, windows, batch_size, progress):
            state = seen.pop()
            if start == 0:
                rebuilt = F.linear(state, head.weight, head.bias)
                rebuilds = rebuilt.shape == logits.shape and torch.allclose(
                    rebuilt, logits, rtol=1e-3, atol=1e-3
                )
            states.append((state if rebuilds else logits).cpu())
            nll.append(_nll(logits, batch))
    finally:
        handle.remove()
    weight = head.weight.detach().clone() if rebuilds else None
    bias = head.bias.detach().clone() if rebuilds and head.bias is not None else None
    return Reference(windows.clone(), torch.cat(nll), torch.cat(states), weight, bias)


@torch.no_grad()
def compare(
    model: nn.Module, dense: Reference, windows: Tensor, batch_size: int = 8, progress: bool = False
) -> Comparison:
    """Perplexity, KL and top-1 agreement of ``model`` against ``dense``, over the predicting positions of
    all windows.

    ``windows`` must be those of the reference. Raises as :func:`perplexity` does.
    """
    _check(model, windows)
    if not torch.equal(windows.cpu(), dense.windows.cpu()):
        raise ParameterError("windows", tuple(windows.shape), "the windows that the reference was made from")
    losses, kl, agreement = [], [], []
    for start, batch, logits in _forward(model, windows, batch_size, progress):
        before = dense.logits(slice(start, start + len(batch)), logits.device)
        losses.append(_nll(logits, batch))
        kl.append(_by_rows(_divergence, before[:, :-1], logits[:, :-1]))
        agreement.append(_by_rows(_same_choice, before[:, :-1], logits[:, :-1]))
    nll = torch.cat(losses)
    return Comparison(
        _perplexity(nll, windows, "mean over predicted tokens"),
        Estimate.of(nll - dense.nll, exp),
        Estimate.of(torch.cat(kl)),
        Estimate.of(torch.cat(agreement)),
    )


@torch.no_grad()
def accuracy(model: nn.Module, batches: list[dict[str, Tensor]], progress: bool = False) -> Accuracy:
    """Share of texts whose label is the classifier's first choice.

    ``batches``: model keyword arguments with ``labels`` [B]. Raises :class:`ParameterError` for batches
    without labels and fewer than 2 texts.
    """
    if not batches or any("labels" not in batch for batch in batches):
        raise ParameterError("batches", f"{len(batches)} batches", "at least one batch, each with labels [B]")
    device, training, right = next(model.parameters()).device, model.training, []
    model.eval()
    try:
        for batch in tqdm(batches, desc="texts", disable=not progress, leave=False):
            inputs = {key: value.to(device) for key, value in batch.items() if key != "labels"}
            right.append(model(**inputs).logits.argmax(-1).cpu() == batch["labels"].cpu())
    finally:
        model.train(training)
    correct = torch.cat(right)
    low, high = bootstrap(correct)
    return Accuracy(float(correct.double().mean()), low, high, correct)


def _check(model: Any, windows: Tensor) -> None:
    if models.head(model) is None or not model.can_generate():
        raise ParameterError("model", type(model).__name__, "a causal language model")
    if windows.ndim != 2 or windows.dtype != torch.int64 or windows.shape[0] < 2 or windows.shape[1] < 2:
        found = f"{windows.dtype} {tuple(windows.shape)}"
        raise ParameterError(
            "windows", found, "int64 token ids [N, T], at least 2 windows of at least 2 tokens"
        )
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and windows.shape[1] > longest:
        raise ParameterError(
            "windows", tuple(windows.shape), f"at most {longest} tokens a window for this model"
        )
    vocabulary = model.get_input_embeddings().num_embeddings
    if int(windows.min()) < 0 or int(windows.max()) >= vocabulary:
        raise ParameterError("windows", int(windows.max()), f"token ids from 0 to {vocabulary - 1}")


@torch.no_grad()
def _forward(
    model: nn.Module, windows: Tensor, batch_size: int, progress: bool
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Number of the first window, the batch [B, T] and its logits [B, T, vocabulary]; dropout is off
    meanwhile.
    """
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        starts = range(0, len(windows), batch_size)
        for start in tqdm(starts, desc="windows", unit="batch", disable=not progress, leave=False):
            batch = windows[start : start + batch_size].to(device)
            yield start, batch, model(input_ids=batch, use_cache=False).logits
    finally:
        model.train(training)


def _nll(logits: Tensor, batch: Tensor) -> Tensor:
    """Mean negative log-likelihood of each window [B] (fp64, CPU)."""
    return _by_rows(
        lambda rows, targets: F.cross_entropy(rows.float(), targets, reduction="none"),
        logits[:, :-1],
        batch[:, 1:],
    )


def _divergence(dense: Tensor, compressed: Tensor) -> Tensor:
    before, after = (F.log_softmax(rows.float(), dim=-1) for rows in (dense, compressed))
    return torch.linalg.vecdot(before.exp(), before - after)


def _same_choice(dense: Tensor, compressed: Tensor) -> Tensor:
    first, second = (rows.float().argmax(-1) for rows in (dense, compressed))  # bf16 is slow in argmax
    return (first == second).float()


def _by_rows(each: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor) -> Tensor:
    """Mean over the positions of ``each``, computed for some positions (:data:`ROWS`) at a time; [B, P, ...] ->
    [B] (fp64).
    """
    rows = ROWS.get(first.device.type, ROWS["cpu"])
    pieces = zip(first.flatten(0, 1).split(rows), second.flatten(0, 1).split(rows), strict=True)
    values = torch.cat([each(*piece) for piece in pieces])
    return values.double().cpu().view(first.shape[:2]).mean(1)


def _perplexity(nll: Tensor, windows: Tensor, mean: str) -> Perplexity:
    if not torch.isfinite(nll).all():
        raise NumericError("head", f"loss of window {int((~torch.isfinite(nll)).nonzero()[0])} is not finite")
    count, length = windows.shape
    first = int(windows[0, 0])
    begins = f"each begins with token {first}" if bool((windows[:, 0] == first).all()) else "no BOS added"
    convention = f"{mean}, {count} non-overlapping windows of {length} tokens, {begins}"
    low, high = bootstrap(nll)
    return Perplexity(exp(float(nll.mean())), exp(low), exp(high), nll, count * (length - 1), convention)
