"""Reconstruction of one block: our ``reconstruct`` against the official PERP loop, seconds a block and what
it gains.

Both get the same OPT block (random weights, pruned 2:4 by magnitude), the same calibration windows,
MaskLoRA of rank 16, one window a step, the same number of steps and learning rate. The time of each side is
that of everything a block costs it: dense targets, error before, training, error after, merge (ours also
measures the error on all windows four times during the training and keeps the best state). Activations stay
on the device on both sides, as in the official code. The official loop runs in fp16 with autocast and a
gradient scaler, ours in bf16.

    git clone https://github.com/ZIB-IOL/PERP
    python benchmarks/reconstruction.py --perp PERP --out records
"""

import contextlib
import gc
import io
import time
import types
from statistics import median

import bench
import official
import torch
from torch import nn
from transformers import AutoModelForCausalLM, OPTConfig

from lmcompress.cost import peak_bytes, synchronize
from lmcompress.models import block_linears, blocks
from lmcompress.prune import mask
from lmcompress.prune.pattern import NofM
from lmcompress.retrain.reconstruct import reconstruct

RANK, ALPHA, LR, VOCABULARY = 16, 32.0, 1e-3, 1024


def main(argv: list[str] | None = None) -> dict:
    parser = bench.parser(__doc__, "perp")
    parser.add_argument("--models", nargs="+", choices=bench.OPT, default=["opt-1.3b", "opt-6.7b"])
    parser.add_argument("--windows", type=int, default=32, help="calibration windows")
    parser.add_argument("--length", type=int, default=2048, help="tokens a window")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)
    if options.tiny:
        options.models, options.windows, options.length = ["opt-tiny"], 4, 16
        options.steps, options.repeats = 40, 1
    code = official.load(options.perp, "prune_methods")
    rows = [row for name in options.models for row in compare(code, name, options)]
    return bench.finish("reconstruction", options, rows, agrees=agree(rows))


def agree(rows: list[dict]) -> bool:
    """Both sides remove about the same share of the error, as the same recipe must."""
    return all(
        theirs["gained"] > 0 and abs(ours["gained"] - theirs["gained"]) < 0.1
        for theirs, ours in zip(rows[::2], rows[1::2], strict=True)
    )


def compare(code: types.ModuleType, name: str, options) -> list[dict]:
    """One row a side: median seconds of the block, peak memory, share of the error that went."""
    cuda = torch.device(options.device).type == "cuda"
    dtypes = {
        "official": torch.float16 if cuda else torch.float32,
        "ours": torch.bfloat16 if cuda else torch.float32,
    }
    found: dict[str, list[dict]] = {side: [] for side in dtypes}
    windows = torch.randint(3, VOCABULARY, (options.windows, options.length))
    for turn in range(options.repeats + 1):  # the first is a warm-up: it compiles and allocates
        for side, dtype in dtypes.items():
            result = measured(
                side, code, dense_model(name, dtype, options.device, options.length), windows, options
            )
            if turn:
                found[side].append(result)
    rows = []
    for side, results in found.items():
        seconds = median(result["seconds"] for result in results)
        rows.append(
            {
                "model": name,
                "code": side,
                "s/block": seconds,
                "low": min(result["seconds"] for result in results),
                "high": max(result["seconds"] for result in results),
                "ms/step": 1e3 * seconds / options.steps,
                "peak GiB": max(result["peak"] for result in results) / 2**30,
                "gained": 1 - results[0]["after"] / results[0]["before"],
            }
        )
    return rows


def measured(side: str, code, model: nn.Module, windows: torch.Tensor, options) -> dict:
    """Errors before and after, seconds and peak bytes of one side; on a CPU the peak is the process's."""
    masks = {name: mask.mask(layer.weight.abs(), NofM(2, 4)) for name, layer in block_linears(model).items()}
    gc.collect()
    if torch.device(options.device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(options.device)
    run = run_official if side == "official" else run_ours
    before, after, seconds = run(code, model, masks, windows, options)
    return {"before": before, "after": after, "seconds": seconds, "peak": peak_bytes(options.device)}


def dense_model(name: str, dtype: torch.dtype, device: str, length: int) -> nn.Module:
    """OPT with one block, the same random weights for every dtype but for rounding."""
    shape = bench.OPT[name]
    own = {"num_hidden_layers": 1, "word_embed_proj_dim": shape["hidden_size"], "vocab_size": VOCABULARY}
    config = OPTConfig(**shape | own, dropout=0.0, max_position_embeddings=length)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    model.config.use_cache = False
    return model.to(dtype).eval()


def run_ours(
    _code, model: nn.Module, masks: dict, windows: torch.Tensor, options
) -> tuple[float, float, float]:
    batches = [{"input_ids": window.unsqueeze(0)} for window in windows]
    (report,) = reconstruct(
        model,
        masks,
        batches,
        "masklora",
        lr=LR,
        steps=options.steps,
        rank=RANK,
        alpha=ALPHA,
        store=options.device,
        progress=False,
    )
    return report.before, report.after, report.seconds


def run_official(
    code, model: nn.Module, masks: dict, windows: torch.Tensor, options
) -> tuple[float, float, float]:
    """The part of ``PruneMethod.prune`` that one block goes through, by its own functions in their order."""
    (name,) = blocks(model)
    owner, _, index = name.rpartition(".")
    layers = model.get_submodule(owner)
    inputs = block_inputs(model, windows, options.device)
    layers[int(index)] = layer = official.InTuple(layers[int(index)])
    arguments = types.SimpleNamespace(
        reconstruct_n_samples=len(windows), batch_size=1, n_iterations=options.steps, initial_lr=LR
    )
    settings = types.SimpleNamespace(
        peft_strategy="SelectivePEFT",
        peft_use_bias=False,
        peft_use_ln=False,
        peft_use_lm_head=False,
        peft_use_lora=True,
        lora_r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        lora_type="mask_lora",
    )
    runner = types.SimpleNamespace(config=settings)
    pruner = code.PruneMethod(runner, arguments, "magnitude", model)
    targets = torch.zeros_like(inputs)
    shared = {"args": arguments, "layer": layer, "inps": inputs, "outs": targets}
    none = {"attention_mask": None, "position_ids": None}
    synchronize(options.device)
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code.Utils.get_outputs(**shared, **none)
        for key, kept in masks.items():
            linear = layer.get_submodule("block." + key.removeprefix(f"{name}."))
            linear.weight.data.masked_fill_(~kept, 0)
        before = code.PruneUtils.eval_reconstruction_error(**shared, **none)
        after = pruner.reconstruct_weights(
            layer=layer, inps=inputs, outs=targets, layer_idx=0, n_layers=1, **none
        )
    synchronize(options.device)
    return before, after, time.perf_counter() - start


@torch.no_grad()
def block_inputs(model: nn.Module, windows: torch.Tensor, device: str) -> torch.Tensor:
    """Hidden states [N, T, D] that the first block is given."""
    (block,) = blocks(model).values()
    seen = []
    handle = block.register_forward_pre_hook(lambda _module, given: seen.append(given[0].clone()))
    for window in windows:
        model(input_ids=window.unsqueeze(0).to(device))
    handle.remove()
    return torch.cat(seen)


if __name__ == "__main__":
    bench.script(main)
