"""Load a model, find its blocks and Linear layers by structure, untie its head.

Nothing here knows a model family by name: a block list is the ``nn.ModuleList`` of equal modules that holds
the most Linear weights, which is the stack of transformer blocks in decoders and encoders alike.
"""

import re
from collections.abc import Iterable
from typing import Any

import torch
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from lmcompress import assets
from lmcompress.errors import NumericError, ParameterError
from lmcompress.gguf_weights import safetensors_folder
from lmcompress.loading import open_model, open_tokenizer
from lmcompress.unbundle import as_linears, left

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TASKS = {
    "causal": transformers.AutoModelForCausalLM,
    "encoder": transformers.AutoModel,
    "classification": transformers.AutoModelForSequenceClassification,
}
PROBE = {False: (2, 32), True: (8, 512)}  # windows and tokens of the look at causality: as runs read them


def default_device() -> torch.device:
    """The first GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(
    name: str,
    dtype: str = "fp32",
    device: str | torch.device | None = None,
    task: str = "causal",
    **options: object,
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """Model (eval mode) and tokenizer of an embedded asset, a hub repository or a folder.

    name: of an asset, ``owner/name[@revision]`` on the hub, or a folder. Weights come from safetensors or GGUF, never
        from pickles, and no code of a repository is run.
    dtype: fp32 or bf16, of the weights in memory.
    device: where the model goes; default: the first GPU, else the CPU.
    task: ``causal`` (next-token head), ``encoder`` (hidden states) or ``classification`` (new random head of
        ``num_labels`` outputs, drawn from torch's global generator).
    options: values of the config that take the place of its own.

    Raises :class:`ParameterError` for an unknown dtype or task, :class:`~lmcompress.errors.AssetError` for a model
    that cannot be had or whose files lack a weight, have one too many or one that is not finite (see
    :func:`~lmcompress.loading.open_model`), and :class:`NumericError` for a causal model that sees later tokens.
    """
    if dtype not in DTYPES:
        raise ParameterError("dtype", dtype, DTYPES)
    if task not in TASKS:
        raise ParameterError("task", task, TASKS)
    folder = safetensors_folder(assets.resolve(name, "model"))
    model: Any = as_linears(open_model(folder, TASKS[task], DTYPES[dtype], **options))
    model = model.to(device or default_device())
    return causal(model) if task == "causal" else model, open_tokenizer(folder)


def causal(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """``model``, with an attention that is causal on its device: plain where the fused one lets a token see later ones.

    Raises :class:`NumericError` where the plain attention leaks, too.
    """
    if not _leaks(model):
        return model
    model.set_attn_implementation("eager")
    if _leaks(model):
        raise NumericError(
            type(model).__name__, "predictions change with later tokens: this is not a causal model"
        )
    return model


@torch.no_grad()
def _leaks(model: transformers.PreTrainedModel) -> bool:
    """Whether other tokens in the second half of some windows change what the model computes in the first half."""
    where, config = next(model.parameters()).device, model.config.get_text_config()
    count, length = PROBE[where.type == "cuda"]
    length = min(length, getattr(config, "max_position_embeddings", None) or length)
    one = torch.arange(count * length, device=where).view(count, length) * 7 % config.vocab_size
    other, half = one.clone(), length // 2
    other[:, half:] = (one[:, half:] + 1) % config.vocab_size
    body = getattr(model, model.base_model_prefix)
    first, second = (body(input_ids=ids, use_cache=False)[0][:, :half].float() for ids in (one, other))
    return bool((first - second).abs().max() > 0.1 * first.std())


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Full module name -> transformer block, in order of execution; :class:`ParameterError` without any."""
    best: tuple[int, str, nn.ModuleList] | None = None
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len({type(child) for child in module}) != 1:
            continue
        layers = (one for one in module.modules() if isinstance(one, (nn.Linear, Conv1D)))
        weights = sum(layer.weight.numel() for layer in layers)
        if weights and (best is None or weights > best[0]):
            best = (weights, name, module)
    if best is None:
        raise ParameterError(
            "model", type(model).__name__, "a model with a list of equal blocks that hold Linear layers"
        )
    return {f"{best[1]}.{index}": block for index, block in enumerate(best[2])}


def linears(module: nn.Module, prefix: str = "") -> dict[str, nn.Linear]:
    """Name (after ``prefix`` and a dot) -> Linear, for every Linear in ``module``, in definition order."""
    start = f"{prefix}." if prefix else ""
    return {start + name: child for name, child in module.named_modules() if isinstance(child, nn.Linear)}


def block_linears(model: nn.Module, pattern: str | None = None) -> dict[str, nn.Linear]:
    """Full name -> Linear inside the blocks; ``pattern`` is a regular expression searched in the full name.

    Embeddings, head, norms, pooler and the projections around the blocks are never among them.
    Raises :class:`ParameterError` when the pattern is not a regular expression or matches no layer.
    """
    found = {
        full: linear for name, block in blocks(model).items() for full, linear in linears(block, name).items()
    }
    if pattern is None:
        return found
    try:
        chosen = {name: linear for name, linear in found.items() if re.search(pattern, name)}
    except re.error as error:
        raise ParameterError("layers", pattern, f"a regular expression ({error})") from error
    if not chosen:
        kinds = sorted({re.sub(r"^.*?\.\d+\.", "", name) for name in found})
        raise ParameterError(
            "layers", pattern, "a regular expression that matches some of " + ", ".join(kinds)
        )
    return chosen


def coverage(model: nn.Module, layers: Iterable[str]) -> tuple[float, dict[str, int]]:
    """How much of the blocks the ``layers`` (full names) are: their share of all weights in the blocks' matrices, and
    the matrices that are left, with the number of their weights.
    """
    inside = blocks(model)
    matrices = [one for block in inside.values() for one in block.parameters() if one.ndim >= 2]
    rest = left(inside, set(layers))
    total = sum(one.numel() for one in matrices)
    return 1 - sum(rest.values()) / total, rest


def head(model: Any) -> nn.Linear | None:
    """The Linear that produces the logits over the vocabulary, or None for a model without one."""
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return output if isinstance(output, nn.Linear) else None


def untie_head(model: Any) -> bool:
    """Give a head that shares the embedding's matrix its own copy. True when it was tied (the model grew)."""
    output, embedding = head(model), model.get_input_embeddings()
    if output is None or output.weight is not embedding.weight:
        return False
    output.weight = nn.Parameter(output.weight.detach().clone(), requires_grad=output.weight.requires_grad)
    model.config.tie_word_embeddings = False
    return True
