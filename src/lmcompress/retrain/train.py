"""The retraining loop: AdamW on a chosen subset of a pruned model, resumable, with the masks checked on the
way.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lmcompress.errors import ParameterError
from lmcompress.graphs import Recorded, recordable
from lmcompress.models import blocks
from lmcompress.prune import mask
from lmcompress.retrain.batches import Batch, Batches, in_order, tokens
from lmcompress.retrain.checkpoint import Checkpoint, fingerprint
from lmcompress.retrain.loss import chunked
from lmcompress.retrain.names import Subset
from lmcompress.retrain.optimizer import MaskedAdamW
from lmcompress.retrain.recompute import Recomputed, require_mode
from lmcompress.retrain.subsets import select

RECENT = 10  # steps whose mean loss is compared with the start
DIVERGED_BY = 2.0  # nats above the first loss that count as divergence


@dataclass
class TrainReport:
    """What a training did.

    ``losses``: mean loss of every step (nats); ``evaluations``: ``(steps done, value)`` of the hook;
    ``tokens_per_s``: real tokens trained on per second, evaluation excluded; ``seconds`` of the steps alone,
    and ``preparation`` before them (compiling and recording a step as a graph);
    ``trainable``: number of trained values; ``diverged``: stopped early because a loss or gradient was not
    finite, or because the mean of the last losses rose above the first; ``recomputed``: number of checkpointed blocks.
    """

    lr: float
    steps: int
    trainable: int
    losses: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    preparation: float = 0.0
    diverged: bool = False
    recomputed: int = 0

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


def train(
    model: nn.Module,
    windows: Tensor | list[Batch],
    what: str | Subset | dict[str, nn.Parameter],
    masks: Mapping[str, Tensor] | None = None,
    *,
    lr: float,
    steps: int,
    batch_size: int = 8,
    accumulation: int = 1,
    warmup: float = 0.1,
    clip: float | None = 1.0,
    checkpointing: bool | str = False,
    seed: int = 0,
    evaluate: Callable[[nn.Module], float] | None = None,
    evaluate_every: int | None = None,
    check_masks: bool = False,
    folder: str | Path | None = None,
    save_every: int = 100,
    progress: bool = True,
    graph: bool = True,
) -> TrainReport:
    """Train ``what`` of ``model`` in place on causal windows [N, T] or ready batches with labels.

    ``what``: a subset (then :func:`~lmcompress.retrain.subsets.select` freezes the rest; adapters stay
    attached until they are merged) or the parameters that it returned. Linear warm-up over the share
    ``warmup`` of the steps, then linear decay; ``accumulation`` batches of ``batch_size`` windows make one
    step; the gradient norm is clipped to ``clip``. The model computes in its own dtype; trained parameters of
    half precision are kept as fp32 copies and rounded into the model after every step, so that what was
    trained is what is evaluated and saved.

    ``evaluate(model)`` is called in eval mode every ``evaluate_every`` steps and at the end. Masks (Linear
    name -> bool, True = kept) are asserted at every evaluation and at the end, after every step with
    ``check_masks``. With ``folder`` the state is saved every ``save_every`` steps; the same call after a
    kill, on a model prepared in the same way, continues there and gives the same result as an uninterrupted
    run on the same machine.

    ``checkpointing``: the activations of each block are recomputed in the backward pass; ``"auto"``: of as many
    blocks as memory needs, found in the first step. The gradients are the same.

    On a GPU, where all batches have one shape and nothing is recomputed, the whole step is one CUDA graph with
    compiled blocks, and losses are read every :data:`RECENT` steps; with ``graph=False`` the same step runs from
    Python. The losses of the two differ by rounding only.

    Raises :class:`ParameterError` before any work for bad parameters or a folder of another run, and
    :class:`~lmcompress.errors.NumericError` when a mask is broken. Divergence is reported, not raised.
    Recipe: PERP (arXiv 2312.15230), with packed windows instead of padded documents.
    """
    _refuse(lr=lr, steps=steps, accumulation=accumulation, warmup=warmup, save_every=save_every)
    require_mode(checkpointing)
    if evaluate_every is not None and (evaluate is None or evaluate_every < 1):
        raise ParameterError(
            "evaluate_every", evaluate_every, "at least 1, together with an evaluate function"
        )
    masks = masks or {}
    batches = Batches(windows, batch_size, seed)
    mask.check(model, masks)
    parameters = what if isinstance(what, dict) else select(model, what, masks=masks, seed=seed)
    report = TrainReport(lr, steps if parameters else 0, sum(value.numel() for value in parameters.values()))
    optimizer: Any = (
        MaskedAdamW(parameters, masks, lr=lr, steps=steps, warmup=warmup, clip=clip) if parameters else None
    )
    settings = [lr, steps, batch_size, accumulation, warmup, clip, seed]
    devices = list({value.device for value in model.parameters() if value.is_cuda})
    with torch.random.fork_rng(devices), _training(model, checkpointing) as recomputed, ExitStack() as using:
        torch.manual_seed(seed)
        saved: Any = Checkpoint(folder, fingerprint(model, parameters, windows, settings)) if folder else None
        if saved and optimizer:
            saved.load(optimizer, report)
        step: Callable[..., Tensor] = _step
        if optimizer and graph and not checkpointing and batches.recordable and recordable(model):
            step = _recorded(model, optimizer, [batches[number] for number in range(accumulation)], report)
        elif devices:
            using.enter_context(chunked(model))
        bar = tqdm(
            total=report.steps,
            initial=len(report.losses),
            desc="retraining",
            disable=not progress,
            leave=False,
        )
        done, unread = len(report.losses), []
        while done < report.steps and not report.diverged:
            start = time.perf_counter()
            chosen = [batches[number] for number in range(done * accumulation, (done + 1) * accumulation)]
            optimizer.at(done)
            found = step(model, chosen, optimizer)
            unread.append((found if step is _step else found.clone(), sum(map(tokens, chosen))))
            recomputed.stepped()
            done += 1
            evaluating_now = evaluate_every is not None and done % evaluate_every == 0 and done < steps
            saving = saved is not None and done % save_every == 0
            if step is _step or len(unread) == RECENT or done == report.steps or evaluating_now or saving:
                bar.update(len(unread))
                _read(unread, report)
                bar.set_postfix_str(f"loss {report.losses[-1]:.3f}, {report.tokens_per_s:.0f} tokens/s")
            report.seconds += time.perf_counter() - start
            if check_masks:
                mask.check(model, masks)
            if evaluating_now:
                _evaluate(model, masks, evaluate, report)
            if saving:
                saved.save(optimizer, report)
        report.recomputed = recomputed.count
        del step  # frees the memory of the graph
        bar.close()
        mask.check(model, masks)
        if evaluate and (not report.evaluations or report.evaluations[-1][0] != len(report.losses)):
            _evaluate(model, masks, evaluate, report)
        if saved and optimizer:
            saved.save(optimizer, report)
    return report


def _step(model: nn.Module, batches: list[Batch], optimizer: MaskedAdamW) -> Tensor:
    """One optimizer step on ``batches``; returns its loss and the norm of its gradient, [2] on the device."""
    total = _backward(model, batches, optimizer)
    return torch.stack([total, optimizer.update().to(total)])


def _backward(model: nn.Module, batches: list[Batch], optimizer: MaskedAdamW) -> Tensor:
    """Gradients of the mean loss over ``batches``, collected; returns that loss (fp64)."""
    total = torch.zeros((), dtype=torch.float64, device=optimizer.stopped.device)
    for batch in batches:
        loss = batch_loss(model, batch) / len(batches)
        loss.backward()
        optimizer.collect()
        total += loss.detach().to(total)
    return total


def _recorded(
    model: nn.Module, optimizer: MaskedAdamW, batches: list[Batch], report: TrainReport
) -> Callable[[nn.Module, list[Batch], MaskedAdamW], Tensor]:
    """:func:`_step` recorded as a graph, for batches of the shapes of ``batches``; as it is where a model cannot
    be recorded.
    """
    start = time.perf_counter()
    optimizer.prepare()

    def warm_up(batches: list[Batch]) -> None:
        _backward(model, batches, optimizer)
        optimizer.adam.zero_grad(set_to_none=True)

    try:
        replay = Recorded(
            lambda batches: _step(model, batches, optimizer),
            batches,
            optimizer.stopped.device,
            warm_up=warm_up,
            model=model,
        )
    except RuntimeError as error:
        warnings.warn(f"a step of {type(model).__name__} cannot be a CUDA graph: {error}", stacklevel=3)
        optimizer.adam.zero_grad(set_to_none=True)
        return _step
    report.preparation += time.perf_counter() - start
    return lambda _model, batches, _optimizer: replay(batches)


def _read(unread: list[tuple[Tensor, int]], report: TrainReport) -> None:
    """Write the steps in ``unread`` ([2] as :func:`_step` gives it, tokens) into ``report``, and empty it.

    Steps after the one that diverged changed nothing that anyone will use, and are left out.
    """
    for (loss, norm), count in zip(
        torch.stack([found for found, _ in unread]).tolist(), [count for _, count in unread], strict=True
    ):
        report.losses.append(loss)
        report.tokens += count
        recent = report.losses[-RECENT:]
        risen = len(recent) == RECENT and sum(recent) / RECENT > report.losses[0] + DIVERGED_BY
        report.diverged = risen or not (math.isfinite(loss) and math.isfinite(norm))
        if report.diverged:
            break
    unread.clear()


def batch_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The model's own loss (nats, mean over predicted tokens or examples) on a batch with labels."""
    device = next(model.parameters()).device
    return model(**{key: value.to(device) for key, value in batch.items()}).loss


@torch.no_grad()
def mean_loss(model: nn.Module, windows: Tensor | list[Batch], batch_size: int = 8) -> float:
    """Mean loss over all windows or batches (weighted by windows or examples), in eval mode."""
    total = count = 0.0
    with evaluating(model):
        for batch in in_order(windows, batch_size):
            total += batch_loss(model, batch).item() * len(batch["labels"])
            count += len(batch["labels"])
    return total / count


def _evaluate(model: nn.Module, masks: Mapping[str, Tensor], evaluate: Any, report: TrainReport) -> None:
    mask.check(model, masks)
    with evaluating(model), torch.no_grad():
        report.evaluations.append((len(report.losses), float(evaluate(model))))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, the earlier mode after."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


@contextmanager
def _training(model: Any, checkpointing: bool | str) -> Iterator[Recomputed]:
    """Training mode without a key-value cache, and the activations of blocks recomputed if asked."""
    before, cache = model.training, getattr(model.config, "use_cache", None)
    recomputed = Recomputed(list(blocks(model).values()), checkpointing)
    model.train()
    model.config.use_cache = False
    try:
        yield recomputed
    finally:
        recomputed.end()
        model.config.use_cache = cache
        model.train(before)


def _refuse(**values: float) -> None:
    """Refuse the numbers that no training can have."""
    for name in ("steps", "accumulation", "save_every"):
        if isinstance(values[name], bool) or not isinstance(values[name], int) or values[name] < 1:
            raise ParameterError(name, values[name], "a whole number of at least 1")
    if not 0 < values["lr"] < math.inf:
        raise ParameterError("lr", values["lr"], "a positive number")
    if not 0 <= values["warmup"] < 1:
        raise ParameterError("warmup", values["warmup"], "a share of the steps in [0, 1)")
