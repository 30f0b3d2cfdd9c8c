"""Wanda and SparseGPT on a real small model on the CPU: this library, llm-compressor and the classes of the official
codes, one after the other in one run.

The machine may be shared, so that what is compared is the processor time of the process (all threads), beside the time
on the clock. Loading is not in it. The official codes do not run with today's transformers: their classes are driven by
this library's walk over the blocks, which does what their loops do (a forward pass with their hooks, the decision, a
forward pass of what is left). llm-compressor runs in an interpreter of its own.

    python -m venv peer && peer/bin/pip install "llmcompressor==0.14.*"
    python benchmarks/peers.py --wanda wanda --sparsegpt sparsegpt --llmcompressor peer/bin/python --out records
"""

import contextlib
import io
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import bench
import official
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from lmcompress import data
from lmcompress.models import block_linears, linears, load
from lmcompress.prune.model import prune_model
from lmcompress.stream import BlockVisit, stream

METHODS = ("wanda", "sparsegpt")
# Run by the interpreter that has llm-compressor; given the folder of model and windows, the method, the file of results
COMMAND = """
import json, sys, time
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from transformers import AutoModelForCausalLM
import llmcompressor, transformers
folder, method, sparsity, structure, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
windows = torch.load(folder + "/windows.pt")
dataset = Dataset.from_dict({"input_ids": windows.tolist(), "attention_mask": torch.ones_like(windows).tolist()})
modifier = {"wanda": WandaPruningModifier, "sparsegpt": SparseGPTModifier}[method]
recipe = [modifier(sparsity=float(sparsity), mask_structure=structure, targets=["Linear"], ignore=["re:.*lm_head"])]
start, clock = time.process_time(), time.perf_counter()
oneshot(model=model, dataset=dataset, recipe=recipe, num_calibration_samples=len(windows),
        max_seq_length=windows.shape[1], shuffle_calibration_samples=False)
spent = {"cpu s": time.process_time() - start, "clock s": time.perf_counter() - clock}
inside = [module.weight for name, module in model.named_modules()
          if isinstance(module, torch.nn.Linear) and "lm_head" not in name]
zeros = sum(int((weight == 0).sum()) for weight in inside) / sum(weight.numel() for weight in inside)
versions = {"llmcompressor": llmcompressor.__version__, "transformers": transformers.__version__}
json.dump({**spent, "zeros": zeros, "versions": versions}, open(out, "w"))
"""


def main(argv: list[str] | None = None) -> dict:
    parser = bench.parser(__doc__)
    for name in ("wanda", "sparsegpt"):
        parser.add_argument(f"--{name}", type=Path, help=f"checkout of {official.SOURCES[name]}")
    parser.add_argument("--llmcompressor", type=Path, help="interpreter that has llm-compressor")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--corpus", default="wikipedia-vital")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--patterns", nargs="+", choices=("50%", "2:4"), default=["50%", "2:4"])
    options = parser.parse_args(argv)
    options.device = "cpu"
    if options.tiny:
        options.windows, options.length = 4, 16
    rows, versions = [], {}
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), options)
        for method in METHODS:
            for pattern in options.patterns:
                spent = {"ours": ours(folder, method, pattern)}
                if getattr(options, method) is not None:
                    spent["official class"] = theirs(folder, method, pattern, getattr(options, method))
                if options.llmcompressor is not None:
                    spent["llm-compressor"] = peer(folder, method, pattern, options.llmcompressor)
                    versions = spent["llm-compressor"].pop("versions")
                for code, found in spent.items():
                    ratio = found["cpu s"] / spent["ours"]["cpu s"]
                    rows.append(
                        {"method": method, "pattern": pattern, "code": code, **found, "over ours": ratio}
                    )
                    print(rows[-1], flush=True)
    return bench.finish("peers", options, rows, peers=versions)


def prepare(folder: Path, options) -> None:
    """A model folder with the calibration windows in it."""
    if options.tiny:
        small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = LlamaForCausalLM(LlamaConfig(**small, vocab_size=128))
        windows = torch.randint(3, 128, (options.windows, options.length))
    else:
        model, tokenizer = load(options.model, options.dtype, device="cpu")
        tokenizer.save_pretrained(folder)
        windows = data.windows(options.corpus, tokenizer, "calibration", options.length, options.windows)
    model.save_pretrained(folder)
    torch.save(windows, folder / "windows.pt")


def opened(folder: str) -> tuple[nn.Module, list[dict]]:
    model = LlamaForCausalLM.from_pretrained(folder, dtype="auto").eval()
    return model, [{"input_ids": window[None]} for window in torch.load(Path(folder) / "windows.pt")]


@contextlib.contextmanager
def clocked(model: nn.Module):
    """Fills the dict that it gives with the times of the body and the share of zeros after it."""
    found: dict = {}
    start, clock = time.process_time(), time.perf_counter()
    yield found
    found |= {"cpu s": time.process_time() - start, "clock s": time.perf_counter() - clock}
    weights = [linear.weight for linear in block_linears(model).values()]
    found["zeros"] = sum(int((weight == 0).sum()) for weight in weights) / sum(map(torch.numel, weights))


def ours(folder: str, method: str, pattern: str) -> dict:
    model, batches = opened(folder)
    with clocked(model) as found:
        prune_model(model, method, pattern, batches, output_errors=False, progress=False)
    return found


def theirs(folder: str, method: str, pattern: str, checkout: Path) -> dict:
    """The official class: one a Linear, fed by hooks; for Wanda with the selection of the official loop."""
    made = (
        official.load(checkout, "lib.layerwrapper").WrappedGPT
        if method == "wanda"
        else official.load(checkout, "sparsegpt").SparseGPT
    )
    model, batches = opened(folder)

    def visit(block: BlockVisit) -> dict:
        wrapped = {name: made(layer) for name, layer in linears(block.module).items()}
        handles = [
            one.layer.register_forward_hook(
                lambda _layer, given, out, one=one: one.add_batch(given[0].data, out.data)
            )
            for one in wrapped.values()
        ]
        for _ in block.run():
            pass
        for handle in handles:
            handle.remove()
        for one in wrapped.values():
            n, m = (2, 4) if pattern == "2:4" else (0, 0)
            if method == "sparsegpt":
                one.fasterprune(0.5, prunen=n, prunem=m)
                continue
            weight = one.layer.weight.data
            scores = weight.abs() * one.scaler_row.reshape((1, -1)).sqrt()
            dropped = torch.zeros_like(scores, dtype=torch.bool)
            if n:
                for start in range(0, scores.shape[1], m):
                    least = scores[:, start : start + m].float().topk(n, dim=1, largest=False)[1]
                    dropped.scatter_(1, start + least, True)
            else:
                order = scores.sort(dim=-1, stable=True)[1]
                dropped.scatter_(1, order[:, : int(scores.shape[1] * 0.5)], True)
            weight[dropped] = 0
        return {}

    with official.on_cpu_too(), contextlib.redirect_stdout(io.StringIO()), clocked(model) as found:
        stream(model, batches, visit, progress=False)
    return found


def peer(folder: str, method: str, pattern: str, python: Path) -> dict:
    """llm-compressor in its own interpreter."""
    out = Path(folder) / "peer.json"
    structure = "2:4" if pattern == "2:4" else "0:0"
    arguments = [str(python), "-c", COMMAND, folder, method, "0.5", structure, str(out)]
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(arguments, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"llm-compressor: {done.stderr[-2000:]}")
    return json.loads(out.read_text())


if __name__ == "__main__":
    bench.script(main)
