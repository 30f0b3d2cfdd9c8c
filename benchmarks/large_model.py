"""Pruning at the shapes of OPT-30B on one GPU: a few of its 48 blocks are measured, the others are counted.

Weights are random, in bf16 (speed and memory do not depend on their values). Every block costs the same, so
the time of the whole model is that of the measured blocks times 48 over their number; embeddings and head
take part in no method here. Beside each time stands its floor: what the forward passes alone take at the
measured rate of matrix products.

    python benchmarks/large_model.py --out records
"""

import gc

import bench
import torch
from torch import nn
from transformers import AutoModelForCausalLM, OPTConfig

from lmcompress.cost import Ceilings, measured
from lmcompress.models import block_linears
from lmcompress.prune.model import prune_model

SHAPES = {
    "opt-30b": {"hidden_size": 7168, "ffn_dim": 28672, "num_attention_heads": 56, "blocks": 48},
    "opt-6.7b": {"hidden_size": 4096, "ffn_dim": 16384, "num_attention_heads": 32, "blocks": 32},
    "tiny": {"hidden_size": 32, "ffn_dim": 64, "num_attention_heads": 4, "blocks": 4},
}
CRITERIA = ("magnitude", "wanda", "sparsegpt")
GIB = 2**30


def main(argv: list[str] | None = None) -> dict:
    parser = bench.parser(__doc__)
    parser.add_argument("--model", choices=SHAPES, default="opt-30b")
    parser.add_argument("--blocks", type=int, default=2, help="blocks that are measured")
    parser.add_argument("--windows", type=int, default=128)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--criteria", nargs="+", choices=CRITERIA, default=list(CRITERIA))
    options = parser.parse_args(argv)
    if options.tiny:
        options.model, options.windows, options.length = "tiny", 4, 16
    on_gpu = torch.device(options.device).type == "cuda"
    limit = bench.machine(options.device) if on_gpu else None
    rows = [row(criterion, options, limit) for criterion in options.criteria]
    return bench.finish("large_model", options, rows, ceilings=limit)


def row(criterion: str, options, limit: dict | None) -> dict:
    """Seconds and memory of one criterion."""
    model, tokens = random_model(options), options.windows * options.length
    whole = SHAPES[options.model]["blocks"]
    windows = torch.randint(3, model.config.vocab_size, (options.windows, options.length))
    batches = [{"input_ids": window[None]} for window in windows] if criterion != "magnitude" else None
    if options.device != "cpu":
        torch.cuda.empty_cache()
    with measured(options.device) as cost:
        report = prune_model(
            model, criterion, "50%", batches, output_errors=False, store=options.device, progress=False
        )
    weights = sum(linear.weight.numel() for linear in block_linears(model).values())
    passes = 0 if criterion == "magnitude" else 2
    floor = None
    if limit is not None:
        rates = Ceilings(**limit)
        products = 2 * tokens * weights * passes / rates.matmul_flops_per_s
        floor = (products or 2 * weights / rates.copy_bytes_per_s) * whole / options.blocks
    seconds = cost[0].seconds
    found = {
        "criterion": criterion,
        "blocks": options.blocks,
        "seconds": seconds,
        "seconds of all blocks": seconds * whole / options.blocks,
        "floor s": floor,
        "decisions s": sum(layer.seconds for layer in report.layers.values()),
        "peak GiB": cost[0].peak_bytes / GIB if limit else None,
        "peak less weights GiB": (cost[0].peak_bytes - 2 * weights) / GIB if limit else None,
        "sparsity": report.sparsity,
    }
    del model, report
    gc.collect()
    return found


def random_model(options) -> nn.Module:
    """The first blocks of an OPT of random weights."""
    shape = {key: value for key, value in SHAPES[options.model].items() if key != "blocks"}
    small = {"vocab_size": 128} if options.model == "tiny" else {}
    config = OPTConfig(
        **shape,
        **small,
        num_hidden_layers=options.blocks,
        word_embed_proj_dim=shape["hidden_size"],
        dropout=0.0,
    )
    torch.manual_seed(0)
    with torch.device(options.device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


if __name__ == "__main__":
    bench.script(main)
