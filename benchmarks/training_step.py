"""A training step of a small model from Python and as one recorded graph, optimizer included.

The model has the shape of SmolLM2-135M and random weights in bf16, half of them pruned at random: speed does
not depend on their values. Both ways start from the same weights, and the losses of all steps are compared:
they may differ by the rounding of bf16 alone.

    python benchmarks/training_step.py --out records
"""

import time

import bench
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig

from lmcompress.cost import ceilings, flops, peak_bytes, share_of_peak
from lmcompress.models import block_linears
from lmcompress.prune import mask
from lmcompress.prune.pattern import parse
from lmcompress.retrain.subsets import select
from lmcompress.retrain.train import train

SHAPES = {
    "smollm2-135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
    },
    "tiny": {
        "vocab_size": 128,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    },
}
SUBSETS = ("norms", "full", "masklora")
SAME = 0.02  # nats between the losses of the two ways at any step


def main(argv: list[str] | None = None) -> dict:
    parser = bench.parser(__doc__)
    parser.add_argument(
        "--model", choices=SHAPES, default="smollm2-135m", help="shape; the weights are random"
    )
    parser.add_argument("--subsets", nargs="+", default=list(SUBSETS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rank", type=int, default=16)
    options = parser.parse_args(argv)
    if options.tiny:
        options.model, options.batch, options.length, options.steps = "tiny", 2, 16, 4
    on_gpu = torch.device(options.device).type == "cuda"
    limit = ceilings(options.device) if on_gpu else None
    rows, losses = [], {}
    for subset in options.subsets:
        trained = None if subset == "full" else "norm" if subset == "norms" else "layers"
        config = LlamaConfig(**SHAPES[options.model], tie_word_embeddings=True)
        operations = flops(config, options.batch, options.length, trained=trained).total if on_gpu else None
        for graph in (False, True, True):  # the second graph finds its compilation
            row, losses[subset, graph] = measure(subset, graph, options)
            if on_gpu:
                row["share of peak rate"] = share_of_peak(operations, row["ms a step"] / 1e3, limit)
            rows.append(row)
            print(row, flush=True)
    differences = {
        subset: max(abs(a - b) for a, b in zip(losses[subset, False], losses[subset, True], strict=True))
        for subset in options.subsets
    }
    print(f"largest difference of a loss: {differences}")
    return bench.finish(
        "training_step",
        options,
        rows,
        differences=differences,
        agrees=max(differences.values()) < SAME,
    )


def measure(subset: str, graph: bool, options) -> tuple[dict, list[float]]:
    """One row of the table, and the losses of the steps."""
    model, masks = pruned_model(options.model, options.device)
    generator = torch.Generator().manual_seed(0)
    shape = (16 * options.batch, options.length)
    windows = torch.randint(3, model.config.vocab_size, shape, generator=generator)
    parameters = select(model, subset, masks=masks, rank=options.rank)
    on_gpu = torch.device(options.device).type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    report = train(
        model,
        windows,
        parameters,
        masks,
        lr=1e-4,
        steps=options.steps,
        batch_size=options.batch,
        progress=False,
        graph=graph,
    )
    seconds = report.seconds / len(report.losses)
    row = {
        "subset": subset,
        "graph": graph,
        "ms a step": 1e3 * seconds,
        "tokens/s": report.tokens_per_s,
        "preparation s": report.preparation,
        "whole call s": time.perf_counter() - start,
        "peak GiB": peak_bytes(options.device) / 2**30 if on_gpu else None,
        "share of peak rate": None,
    }
    return row, report.losses


def pruned_model(name: str, device: str) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A Llama of random weights in bf16, pruned to 50 %, and its masks."""
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPES[name], tie_word_embeddings=True)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    masks = {
        key: mask.mask(linear.weight.abs(), parse("50%")) for key, linear in block_linears(model).items()
    }
    mask.apply(model, masks)
    return model, masks


if __name__ == "__main__":
    bench.script(main)
