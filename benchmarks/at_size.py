"""Pruning, quantization, reconstruction and retraining at the shapes of OPT-1.3B to OPT-30B: minutes and memory on one
device, beside what the device could do at best.

Weights are random, in bf16: speed and memory do not depend on their values. A row is **measured** where the whole job
ran, and **scaled** where a part of it did: blocks cost the same each, and so do steps. Methods that walk the blocks
hold no more of a model than the blocks that are measured, as they do when the blocks come from disk; reading those is
not in these times. Retraining holds the whole model. ``share of peak`` is the useful work (matrix products, a
recomputed forward pass not counted; for magnitude the bytes of the weights, read and written once) over what the
device does in that time at its measured ceiling.

    python benchmarks/at_size.py --out records
    python benchmarks/at_size.py --count --out records        # on any machine: memory alone
    python benchmarks/at_size.py --join one/at_size.json other/at_size.json --out records    # of runs of some shapes
"""

import gc
import json
import math
from pathlib import Path

import bench
import counted
import plain
import torch
from torch import nn
from transformers import AutoModelForCausalLM, OPTConfig

from lmcompress.cost import Ceilings, flops, measured
from lmcompress.experiments.costs import ARCHITECTURES
from lmcompress.models import block_linears
from lmcompress.prune.mask import Masks
from lmcompress.prune.model import prune_model
from lmcompress.quantize.model import quantize_model
from lmcompress.retrain.local import CHECKS
from lmcompress.retrain.reconstruct import reconstruct
from lmcompress.retrain.subsets import select
from lmcompress.retrain.train import train

TINY = {
    "hidden_size": 32,
    "ffn_dim": 64,
    "num_attention_heads": 4,
    "word_embed_proj_dim": 32,
    "num_hidden_layers": 4,
}
SHAPES = {name: sizes for name, (_, sizes) in ARCHITECTURES.items() if name.startswith("OPT-")}
SHAPES["OPT-tiny"] = {**TINY, "vocab_size": 128}
WALKS = ("wanda", "sparsegpt", "gptq 4bit-g128", "reconstruct biases+norms", "reconstruct masklora")
SUBSETS = ("biases+norms", "masklora", "full")
PLAIN = "plain transformers, biases+norms, no optimizer"
METHODS = ("magnitude", *WALKS, *SUBSETS, PLAIN)
MODES = ("as memory needs", "as memory needs, a window at a time", "all blocks")  # of checkpointing
STEPS = 1000  # of a retraining: PERP's own
TRAINED = {  # parameters whose products a backward pass needs; adapters need those of the weights they are on
    "biases+norms": r"\.bias$|norm", "masklora": r"layers\..*weight$", "full": "", PLAIN: r"\.bias$|norm",
}  # fmt: skip
GIB = 2**30


def main(argv: list[str] | None = None) -> dict:
    parser = bench.parser(__doc__)
    parser.add_argument(
        "--shapes",
        nargs="+",
        choices=SHAPES,
        default=["OPT-1.3B", "OPT-2.7B", "OPT-6.7B", "OPT-13B", "OPT-30B"],
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--blocks", type=int, default=2, help="blocks of a walk that are measured")
    parser.add_argument("--windows", type=int, default=128, help="calibration windows of a walk")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=2, help="windows a training step")
    parser.add_argument("--local-steps", type=int, default=200, help="steps of reconstruction a block")
    parser.add_argument("--train-steps", type=int, default=6, help="training steps that are measured")
    parser.add_argument(
        "--join", nargs="+", type=Path, default=[], help="run nothing: one record of these, in order"
    )
    parser.add_argument(
        "--count", action="store_true", help="run nothing: count the memory of retraining (counted.py)"
    )
    options = parser.parse_args(argv)
    if options.join:
        return joined(options)
    if options.tiny:
        options.shapes, options.windows, options.length = ["OPT-tiny"], 4, 16
        options.local_steps, options.train_steps = 4, 2
    on_gpu = torch.device(options.device).type == "cuda"
    limit = Ceilings(**bench.machine(options.device)) if on_gpu else None
    rows, failed = [], []
    for shape in options.shapes:
        for job in (counts,) if options.count else (walks, trainings):
            for row in job(shape, options, limit):
                failed += [row] if "error" in row else []
                rows += [] if "error" in row else [row]
                print(row, flush=True)
                release()
    card = torch.cuda.get_device_properties(options.device).total_memory / GIB if on_gpu else None
    about = {"card GiB": card, "ceilings": vars(limit) if limit else None, "out of memory or failed": failed}
    return bench.finish("at_size", options, rows, **about)


def joined(options) -> dict:
    """One record of several, each of other shapes; where they ran is under ``parts``."""
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in options.join]
    options.join = []
    about = {
        "card GiB": parts[0]["card GiB"],
        "ceilings": parts[0]["ceilings"],
        "out of memory or failed": [row for part in parts for row in part["out of memory or failed"]],
        "parts": [part["provenance"] for part in parts],
    }
    return bench.finish("at_size", options, [row for part in parts for row in part["rows"]], **about)


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def config_of(shape: str, layers: int | None = None) -> OPTConfig:
    """The config of a shape, with all of its blocks or the first ``layers``."""
    config = OPTConfig(**SHAPES[shape], dropout=0.0)
    config.num_hidden_layers = layers or config.num_hidden_layers
    return config


def random_model(shape: str, device: str, layers: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config_of(shape, layers), dtype=torch.bfloat16).eval()


def counts(shape: str, options, _limit: None):
    """Rows of the memory alone, without a device that could hold it."""
    for method in (name for name in ("biases+norms", "full") if name in options.methods):
        peak = counted.peak(config_of(shape), method, options.batch, options.length)
        found = row(
            shape, method, options, None, math.nan, peak, work=0, tokens=0, run="counted", of="two steps"
        )
        yield found | {
            "peak GiB": peak / GIB,
            "minutes": None,
            "device": "none",
            "checkpointing": "all blocks",
        }


def row(shape: str, method: str, options, limit: Ceilings | None, seconds: float, peak: int, **about) -> dict:
    """One row of the record: ``seconds`` of the whole job, ``peak`` bytes; ``about``: see below."""
    work, bound = about.pop("work"), about.pop("bound", "matrix products")
    rate = limit and (limit.matmul_flops_per_s if bound == "matrix products" else limit.copy_bytes_per_s)
    on_gpu = limit is not None
    return {
        "model": shape,
        "parameters": parameters_of(shape),
        "method": method,
        "device": torch.cuda.get_device_name(options.device) if on_gpu else "CPU",
        "minutes": seconds / 60,
        "floor minutes": work / rate / 60 if on_gpu else None,
        "share of peak": work / rate / seconds if on_gpu else None,
        "bound by": bound,
        "peak GiB": peak / GIB if on_gpu else None,
        "share of card": peak / torch.cuda.get_device_properties(options.device).total_memory
        if on_gpu
        else None,
        "checkpointing": None,
        "checkpointed": None,
        **about,
    }


def parameters_of(shape: str) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(shape))
    return sum(value.numel() for value in model.parameters())


# Methods that walk the blocks


def walks(shape: str, options, limit: Ceilings | None):
    """Rows of the methods that see one block at a time."""
    whole = config_of(shape).num_hidden_layers
    scale = whole / options.blocks
    windows = torch.randint(3, config_of(shape).vocab_size, (options.windows, options.length))
    batches = [{"input_ids": window[None]} for window in windows]
    for method in (name for name in WALKS if name in options.methods):
        masks = None
        for layers, given in (
            (1, batches[:2]),
            (options.blocks, batches),
        ):  # the first compiles, and does not count
            model = random_model(shape, options.device, layers)
            if method.startswith("reconstruct"):
                masks = prune_model(model, "magnitude", "50%").masks
            release()
            with measured(options.device) as cost:
                walk(method, model, masks, given, options)
        yield row(
            shape,
            method,
            options,
            limit,
            cost[0].seconds * scale,
            cost[0].peak_bytes,
            work=scale * operations(method, model, options),
            tokens=options.windows * options.length,
            run="scaled",
            of=f"{options.blocks} of {whole} blocks, {cost[0].seconds:.1f} s",
        )
        del model, masks


def walk(method: str, model: nn.Module, masks: Masks | None, batches: list[dict], options) -> None:
    """The work that is measured."""
    quiet = {"store": options.device, "progress": False}
    if method.startswith("gptq"):
        quantize_model(
            model, dict.fromkeys(block_linears(model), method.split()[1]), "gptq", batches, **quiet
        )
    elif masks is None:
        prune_model(model, method, "50%", batches, output_errors=False, **quiet)
    else:
        reconstruct(model, masks, batches, method.split()[1], lr=1e-4, steps=options.local_steps, **quiet)


def operations(method: str, model: nn.Module, options) -> int:
    """Useful operations in the matrix products of a walk over the blocks of ``model``."""
    layers = block_linears(model).values()
    weights, tokens = sum(layer.weight.numel() for layer in layers), options.windows * options.length
    passed = 2 * tokens * weights
    ends = (
        2
        * tokens
        * sum(layer.weight.numel() for name, layer in block_linears(model).items() if "fc2" in name)
    )
    if method.startswith("reconstruct"):
        products = (
            3 if "masklora" in method else 2
        )  # of a step with a weight; norms and biases need no dY^T X
        passes = CHECKS + 5  # targets, before, start of the training, its checks, after, outputs
        return passes * passed + 2 * products * options.local_steps * options.length * weights
    if method == "wanda":
        return 2 * passed - ends  # the pass for the statistics ends at the input of the last Linear
    inputs = {(name.split(".")[-1], layer.in_features) for name, layer in block_linears(model).items()}
    shared = sum(width**2 for name, width in inputs if name not in ("k_proj", "v_proj"))  # those of q_proj
    return 2 * passed - ends + 2 * tokens * shared * options.blocks


# Retraining


def trainings(shape: str, options, limit: Ceilings | None):
    """Rows of magnitude pruning and of the subsets, in a model that is whole: as fast as memory allows, and with all
    blocks checkpointed, which takes the least memory.
    """
    wanted = [name for name in ("magnitude", *SUBSETS, PLAIN) if name in options.methods]
    if not wanted:
        return
    model = random_model(shape, options.device)
    weights = sum(linear.weight.numel() for linear in block_linears(model).values())
    release()
    with measured(options.device) as cost:
        masks = prune_model(model, "magnitude", "50%").masks
    yield row(
        shape,
        "magnitude",
        options,
        limit,
        cost[0].seconds,
        cost[0].peak_bytes,
        bound="bandwidth",
        work=4 * weights,
        tokens=0,
        run="measured",
        of="the whole model on the device",
    )
    windows = torch.randint(3, model.config.vocab_size, (8 * options.batch, options.length))
    for method in (name for name in wanted if name != "magnitude"):
        once = flops(config_of(shape), options.batch, options.length, trained=TRAINED[method] or None).total
        for checkpointing in ("all blocks",) if method == PLAIN else MODES:
            about = {"checkpointing": checkpointing}
            release()
            try:
                seconds, peak, recomputed = step(model, masks, windows, method, checkpointing, options)
            except torch.OutOfMemoryError as error:
                yield {"model": shape, "method": method, **about, "error": str(error)[:200]}
                continue
            finally:
                restored(model, method)
            yield row(
                shape,
                method,
                options,
                limit,
                seconds * STEPS,
                peak,
                work=once * STEPS,
                tokens=STEPS * options.batch * options.length,
                run="scaled",
                of=f"{options.train_steps} of {STEPS} steps",
                checkpointed=recomputed,
                **about,
            )


def step(
    model: nn.Module, masks: Masks, windows, method: str, checkpointing: str, options
) -> tuple[float, int, int]:
    """Seconds of a step (the first ones left out), peak bytes, and how many blocks were checkpointed."""
    if method == PLAIN:
        return plain.step(model, windows, options)
    single = checkpointing.endswith("a window at a time")
    how = {
        "lr": 1e-5,
        "batch_size": 1 if single else options.batch,
        "accumulation": options.batch if single else 1,
        "checkpointing": checkpointing == "all blocks" or "auto",
        "progress": False,
        "graph": False,
    }
    with measured(options.device) as cost:
        parameters = select(model, method, masks=masks)
        (
            _,
            first,
            later,
        ) = (  # the very first compiles; in each, the first step finds out how much memory there is
            train(model, windows, parameters, masks, steps=steps, **how)
            for steps in (2, 1, 1 + options.train_steps)
        )
        del parameters
    return (later.seconds - first.seconds) / options.train_steps, cost[0].peak_bytes, later.recomputed


def restored(model: nn.Module, method: str) -> None:
    """The model without adapters, its weights as they are."""
    from lmcompress.retrain.adapters import adapted_layers

    for name, layer in adapted_layers(model).items():
        model.set_submodule(name, layer.bare())
    model.zero_grad()
    release()


if __name__ == "__main__":
    bench.script(main)
