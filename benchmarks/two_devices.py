"""Training a model whose blocks lie on two GPUs, beside the same model on one: are the losses the same?

An OPT of random weights in bf16 is pruned by magnitude to 50 % and trained for a few steps, once on one GPU and once
dispatched over two by accelerate, with the same tokens. A hidden state is copied between the GPUs once a pass, and one
GPU waits while the other computes: two GPUs hold a larger model here, they do not train faster.

    python benchmarks/two_devices.py --out results/benchmarks
"""

import gc

import bench
import torch
from accelerate import dispatch_model, infer_auto_device_map
from adapter_step import SHAPES
from torch import nn
from transformers import AutoModelForCausalLM, OPTConfig

from lmcompress.errors import ParameterError
from lmcompress.prune.model import prune_model
from lmcompress.retrain.train import train

METHODS = ("biases+norms", "masklora")
SAME = 1e-3  # relative difference of losses; bf16 rounds to 4e-3
BATCH, GIB = 2, 2**30


def main(argv: list[str] | None = None) -> dict:
    parser = bench.parser(__doc__)
    parser.add_argument("--model", choices=SHAPES, default="opt-1.3b")
    parser.add_argument("--length", type=int, default=2048, help="tokens a window")
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args(argv)
    if torch.cuda.device_count() < 2:
        raise ParameterError("device", f"{torch.cuda.device_count()} GPUs", "a machine of two or more GPUs")
    generator = torch.Generator().manual_seed(0)
    windows = torch.randint(3, 50000, (BATCH * options.steps, options.length), generator=generator)
    rows = [row(options, method, gpus, windows) for method in METHODS for gpus in (1, 2)]
    one, two = ([row["losses"] for row in rows if row["GPUs"] == gpus] for gpus in (1, 2))
    far = max(abs(a - b) / abs(a) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True))
    return bench.finish("two_devices", options, rows, largest_difference=far, agrees=far < SAME)


def row(options, method: str, gpus: int, windows: torch.Tensor) -> dict:
    """Train by ``method`` with the model on ``gpus`` GPUs."""
    model = random_model(options.model)
    masks = prune_model(model, "magnitude", "50%", progress=False).masks
    if gpus == 2:
        half = sum(value.numel() * value.element_size() for value in model.parameters()) // 2
        where = infer_auto_device_map(
            model, max_memory={0: half, 1: 60 * GIB}, no_split_module_classes=model._no_split_modules
        )
        model = dispatch_model(model, where)
    for device in range(2):
        torch.cuda.reset_peak_memory_stats(device)
    result = train(
        model,
        windows,
        method,
        masks,
        lr=1e-4,
        steps=options.steps,
        batch_size=BATCH,
        progress=False,
        graph=False,
    )
    peaks = [torch.cuda.max_memory_allocated(device) / GIB for device in range(2)]
    blocks = [
        sum(next(block.parameters()).device.index == device for block in model.model.decoder.layers)
        for device in range(2)
    ]
    del model, masks
    gc.collect()
    torch.cuda.empty_cache()
    return {
        "method": method,
        "GPUs": gpus,
        "blocks": blocks,
        "tokens/s": result.tokens_per_s,
        "peak GiB": peaks,
        "losses": result.losses,
    }


def random_model(name: str) -> nn.Module:
    """An OPT of the shape ``name`` with random weights in bf16 on the first GPU, the same every time."""
    config = OPTConfig(**SHAPES[name], word_embed_proj_dim=SHAPES[name]["hidden_size"], dropout=0.0)
    torch.manual_seed(0)
    with torch.device("cuda:0"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


if __name__ == "__main__":
    bench.script(main)
