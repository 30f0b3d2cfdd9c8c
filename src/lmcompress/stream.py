"""The one block-by-block driver: capture a block's inputs, let a visitor act on the block, pass the outputs
on.

Wanda, SparseGPT, GPTQ, reconstruction and the sensitivities all need "the inputs of this layer in the model
as compressed so far". Here a model is walked once, block by block, so that only one block has to be on the
GPU. The blocks of a model that :func:`lmcompress.shards.open_streamed` opened come from disk for their turn.

The blocks are called with *all* the arguments that the model itself gives them (masks, position embeddings,
...), captured per block by one pass through the model with the blocks short-circuited.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lmcompress.blockfiles import BlockFiles
from lmcompress.errors import NumericError, ParameterError
from lmcompress.models import blocks, linears
from lmcompress.shards import is_streamed
from lmcompress.stats import all_finite


class Statistic(Protocol):
    """What a Linear's inputs are accumulated into (see ``stats.py``)."""

    def update(self, x: Tensor) -> None: ...


S = TypeVar("S", bound=Statistic)


@dataclass(frozen=True)
class _Call:
    """Arguments with which the model calls one block on one batch; the hidden states are the first of
    them.
    """

    rest: tuple[Any, ...]
    keywords: dict[str, Any]


class BlockVisit:
    """One block and its inputs, as a visitor sees it.

    ``index``, ``name`` (full module name), ``module``; ``inputs``: list over batches of [B, T, D] on the
    compressed stream; ``dense_inputs`` and ``dense_outputs``: the same on the untouched model (with
    ``keep_dense``; outputs also without propagation), else None; ``token_masks``: list of bool [B, T] (True
    = a real token) or None without padding. Calling the visit, ``visit(i, x)``, runs the block as it now is
    on hidden states ``x`` with the arguments of batch i.
    """

    def __init__(self, index: int, name: str, module: nn.Module, calls: list[_Call], device: torch.device):
        self.index, self.name, self.module, self.device = index, name, module, device
        self.inputs: list[Tensor] = []
        self.dense_inputs: list[Tensor] | None = None
        self.dense_outputs: list[Tensor] | None = None
        self.token_masks: list[Tensor] | None = None
        self._calls = calls

    def __call__(self, batch: int, hidden: Tensor) -> Tensor:
        """Output [B, T, D] of the block on ``hidden`` [B, T, D], on the compute device."""
        call = self._calls[batch]
        rest, keywords = _to(call.rest, self.device), _to(call.keywords, self.device)
        output = self.module(hidden.to(self.device), *rest, **keywords)
        return output[0] if isinstance(output, tuple) else output

    def run(self, inputs: list[Tensor] | None = None) -> Iterator[Tensor]:
        """Outputs of the block as it now is, batch by batch, on ``inputs`` (default: the compressed
        stream).
        """
        for batch, hidden in enumerate(self.inputs if inputs is None else inputs):
            yield self(batch, hidden)

    def statistics(
        self,
        make: Callable[[nn.Linear], S],
        names: list[str] | None = None,
        inputs: list[Tensor] | None = None,
    ) -> dict[str, S]:
        """One statistic per Linear (name within the block) over the inputs it sees; padding tokens are left
        out.

        ``make(linear)`` builds an empty one for inputs of its width. Linears that are always given the very same
        tensor (query, key and value; gate and up) share one. Raises :class:`NumericError` with the layer's
        name on a non-finite input, when all batches have been seen: nothing waits for the device before.

        A block ends at the input of its last Linear, whose product nobody needs (a third of those of an OPT), unless
        one of them was called twice in the first batch.
        """
        layers = linears(self.module)
        layers = layers if names is None else {name: layers[name] for name in names}
        found = {name: make(layer) for name, layer in layers.items()}
        current: list[Tensor | None] = [None]
        latest: dict[
            str, Tensor
        ] = {}  # the input of each Linear that has a statistic of its own, in this batch
        leader: dict[str, str | None] = {}  # whose statistic a Linear shares, None for one of its own
        bad: dict[str, Tensor] = {}
        called: list[str] = []  # in this batch
        stops = False

        def hook(name: str) -> Callable[..., Any]:
            def collect(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
                take(arguments[0])
                called.append(name)
                if stops and len(set(called)) == len(layers):
                    raise Reached

            def take(x: Tensor) -> None:
                keep = current[0]
                if name not in leader:
                    leader[name] = next((own for own, seen in latest.items() if seen is x), None)
                if (own := leader[name]) is not None:
                    if latest.get(own) is not x:
                        raise NumericError(f"{self.name}.{name}", f"not always the input of {own}")
                    return
                latest[name], x = x, x.detach()
                finite = all_finite(x)
                bad[name] = ~finite | bad[name] if name in bad else ~finite
                found[name].update(x if keep is None else x.reshape(*keep.shape, -1)[keep.to(x.device)])

            return collect

        handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
        try:
            with torch.no_grad():
                for batch, hidden in enumerate(self.inputs if inputs is None else inputs):
                    current[0] = self.token_masks[batch] if self.token_masks is not None else None
                    latest.clear()
                    called.clear()
                    with suppress(Reached):
                        self(batch, hidden)
                    stops = stops or (batch == 0 and len(set(called)) == len(called))
        finally:
            latest.clear()
            for handle in handles:
                handle.remove()
        flags = torch.stack(list(bad.values())).tolist() if bad else []
        for name, is_bad in zip(bad, flags, strict=True):
            if is_bad:
                raise NumericError(f"{self.name}.{name}", "non-finite input")
        return {name: found[leader.get(name) or name] for name in found}


@torch.no_grad()
def stream(
    model: nn.Module,
    batches: list[dict[str, Tensor]],
    visit: Callable[[BlockVisit], dict[str, Any]],
    *,
    propagate: bool = True,
    keep_dense: bool = False,
    store: str | torch.device = "cpu",
    device: str | torch.device | None = None,
    progress: bool = True,
    checkpoint: str | Path | BlockFiles | None = None,
    settings: object = None,
) -> list[dict[str, Any]]:
    """Walk the blocks in order; ``visit`` changes each in place and returns a JSON-able dict. Returns those
    dicts.

    ``batches``: model keyword arguments (``input_ids`` [B, T], perhaps ``attention_mask`` [B, T]). With
    ``propagate`` a block sees the outputs of the compressed blocks before it, otherwise those of the dense
    ones; ``keep_dense`` offers both. Activations rest on ``store``; a block is moved to ``device``
    (default: where the model is) for its turn only. With ``checkpoint`` (a folder) every finished block is
    saved, and a later call with the same arguments replays the finished ones instead of visiting them.
    ``settings`` (JSON-able): what ``visit`` depends on besides the inputs; a checkpoint of others is refused.
    ``visit`` runs without gradients unless it enables them.

    A model whose blocks are on disk needs a ``checkpoint``, which is where the changed blocks are; it may be
    walked without batches, when ``visit`` needs no inputs.
    """
    if not batches and not is_streamed(model):
        raise ParameterError("batches", batches, "at least one batch")
    if is_streamed(model) and checkpoint is None:
        raise ParameterError("checkpoint", checkpoint, "a folder for the blocks of a model that is on disk")
    home = _home(model)
    device = torch.device(device or home)
    hidden, calls, _ = _capture(model, batches, store)
    inputs, dense = hidden, hidden
    token_masks = None
    if any("attention_mask" in batch and not bool(batch["attention_mask"].all()) for batch in batches):
        token_masks = [batch["attention_mask"].bool().cpu() for batch in batches]
    saved = checkpoint if isinstance(checkpoint, BlockFiles | None) else BlockFiles(checkpoint)
    if saved is not None:
        saved.claim(model, hidden, [propagate, keep_dense, settings])
    results = []
    found = blocks(model)
    for index, (name, module) in enumerate(
        tqdm(found.items(), desc="blocks", disable=not progress, leave=False)
    ):
        with _placed(model, index, module, device):
            block = BlockVisit(index, name, module, calls[index], device)
            block.inputs, block.token_masks = inputs, token_masks
            if keep_dense or not propagate:
                block.dense_inputs = dense
                block.dense_outputs = [output.to(store) for output in block.run(dense)]
                dense = block.dense_outputs
            result = None if saved is None else saved.restore(index, name, module)
            if result is None:
                result = visit(block)
                if saved is not None:
                    saved.keep(index, name, module, result)
            results.append(result)
            inputs = [output.to(store) for output in block.run()] if propagate else dense
    return results


@contextmanager
@torch.no_grad()
def answered(
    model: nn.Module,
    batches: list[dict[str, Tensor]],
    finished: BlockFiles | None = None,
    *,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Iterator[None]:
    """Inside, ``model`` answers ``batches``, in this order, one call each, with one block in memory at a time.

    The blocks have run before: what ends them, head and loss, is what the calls do. ``finished`` (blocks that a walk
    has left) takes the place of the model's own blocks.
    """
    home = _home(model)
    device = torch.device(device or home)
    hidden, calls, returns_tuple = _capture(model, batches, "cpu")
    found = blocks(model)
    for index, (name, module) in enumerate(tqdm(found.items(), "blocks", disable=not progress, leave=False)):
        with _placed(model, index, module, device):
            if finished is not None:
                finished.restore(index, name, module)
            block = BlockVisit(index, name, module, calls[index], device)
            hidden = [output.cpu() for output in block.run(hidden)]
    answers = iter(hidden)

    def answer(index: int, _original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*arguments: Any, **keywords: Any) -> Any:
            first = arguments[0] if arguments else keywords["hidden_states"]
            output = next(answers).to(first) if index == len(found) - 1 else first
            return (output,) if returns_tuple else output

        return forward

    with replaced_forward(list(found.values()), answer), _no_cache(model):
        yield


def _home(model: nn.Module) -> torch.device:
    """Where the model is, or what of it is in memory."""
    return next(value.device for value in model.parameters() if not value.is_meta)


@contextmanager
def _placed(model: Any, index: int, module: nn.Module, device: torch.device) -> Iterator[None]:
    """The block on ``device`` for its turn: read from its shards, or moved from where the model is."""
    if is_streamed(model):
        with model.block_weights.placed(index, device):
            yield
        return
    home = _home(model)
    module.to(device)
    yield
    module.to(home)


class Reached(Exception):
    """Raised inside a model, where the rest of it need not run; carries the ``output`` that was wanted, if any."""

    def __init__(self, output: Any = None):
        super().__init__()
        self.output = output


def _capture(
    model: nn.Module, batches: list[dict[str, Any]], store: Any
) -> tuple[list[Tensor], list[list[_Call]], bool]:
    """Inputs of the first block per batch, per block and batch the other arguments of its call, and whether
    a block returns a tuple.
    """
    modules = list(blocks(model).values())
    hidden: list[Tensor] = []
    calls: list[list[_Call]] = [[] for _ in modules]
    if not batches:
        return hidden, calls, False
    device = _home(model)
    returns_tuple: list[bool] = []

    def short_circuit(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*arguments: Any, **keywords: Any) -> Any:
            first, rest = (arguments[0], arguments[1:]) if arguments else (keywords.pop("hidden_states"), ())
            if not returns_tuple:
                returns_tuple.append(isinstance(original(first, *rest, **keywords), tuple))
            if index == 0:
                hidden.append(first.detach().to(store))
            calls[index].append(_Call(rest, keywords))
            if index == len(modules) - 1:
                raise Reached
            return (first,) if returns_tuple[0] else first

        return forward

    with _placed(model, 0, modules[0], device), replaced_forward(modules, short_circuit), _no_cache(model):
        for batch in batches:
            try:
                model(**{key: value.to(device) for key, value in batch.items()})
            except Reached:
                continue
    return hidden, calls, returns_tuple[0]


@contextmanager
def replaced_forward(
    modules: list[nn.Module], wrap: Callable[[int, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Inside, each module does what ``wrap(its number, its own forward)`` does."""
    for index, module in enumerate(modules):
        module.forward = wrap(index, module.forward)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


@contextmanager
def _no_cache(model: Any) -> Iterator[None]:
    """A key-value cache among the captured arguments would grow at every replay."""
    config = model.config
    before = getattr(config, "use_cache", None)
    config.use_cache = False
    try:
        yield
    finally:
        config.use_cache = before


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, (tuple, list)):
        return type(value)(_to(item, device) for item in value)
    if isinstance(value, dict):
        return {key: _to(item, device) for key, item in value.items()}
    return value
