"""A folder with the shapes of OPT-6.7B and random bf16 weights, compressed by the command ``lmcompress compress``:
seconds, peak memory, bytes; then loaded by transformers.

Time and memory do not depend on the values of the weights, so random ones stand in for those of the hub; the blocks
hold the same random numbers, each shifted by a row. Needs 30 GB on the disk of ``--room``.

    python benchmarks/compress_folder.py --out records --room /tmp
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench
import torch
import transformers
from accelerate import init_empty_weights
from safetensors.torch import save_file

from lmcompress.assets import resolve
from lmcompress.gguf_weights import safetensors_folder
from lmcompress.loading import open_tokenizer
from lmcompress.model_folder import outside
from lmcompress.models import blocks

RECIPES = {
    "magnitude 2:4": ("--prune", "magnitude:2:4"),
    "4 bits, groups of 128": ("--quantize", "4:128"),
    "magnitude 2:4, then 4 bits": ("--prune", "magnitude:2:4", "--quantize", "4:128"),
    "Wanda 2:4, 256 tokens": ("--prune", "wanda:2:4", "-p", "calibration", "2", "-p", "length", "128"),
}
WITHOUT_TEXTS = tuple(RECIPES)[:3]
SHAPES = {
    "opt-6.7b": bench.OPT["opt-6.7b"] | {"word_embed_proj_dim": 4096},
    "tiny": {
        "hidden_size": 128, "ffn_dim": 256, "num_hidden_layers": 3, "num_attention_heads": 4,
        "word_embed_proj_dim": 128, "vocab_size": 512,
    },
}  # fmt: skip
# Run in a process of its own: what the operating system says of its memory is then of the command alone.
COMMAND = """
import json, resource, sys, time
from lmcompress.cli import main
started = time.perf_counter()
status = main(sys.argv[2:])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
json.dump({"status": status, "seconds": time.perf_counter() - started, "peak_bytes": peak}, open(sys.argv[1], "w"))
"""


def main(argv: list[str] | None = None) -> dict:
    parser = bench.parser(__doc__)
    parser.add_argument("--room", type=Path, help="a folder with room (default: the system's for such)")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES)
    options = parser.parse_args(argv)
    shape = "tiny" if options.tiny else "opt-6.7b"
    recipes = options.recipes or (WITHOUT_TEXTS if options.tiny else list(RECIPES))
    with tempfile.TemporaryDirectory(dir=options.room) as room:
        source = make(Path(room) / shape, SHAPES[shape])
        rows = [compressed(source, Path(room), shape, name, options.device) for name in recipes]
    return bench.finish("compress_folder", options, rows, agrees=all(row["loads"] for row in rows))


def make(folder: Path, shape: dict) -> Path:
    """A model folder, one shard a block, as large models come; with SmolLM2's tokenizer where the words suffice."""
    config = transformers.OPTConfig(**shape, architectures=["OPTForCausalLM"], dtype="bfloat16")
    with init_empty_weights(include_buffers=False):
        model = transformers.OPTForCausalLM(config)
    model.tie_weights()
    folder.mkdir()
    config.save_pretrained(folder)
    if config.vocab_size > 49152:
        open_tokenizer(safetensors_folder(resolve("smollm2-135m", "model"))).save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)

    def drawn(values) -> dict:
        return {
            name: (0.02 * torch.randn(value.shape, generator=generator)).bfloat16() for name, value in values
        }

    first, where = None, {}
    parts = [("others", outside(model).items())]
    parts += [(name, block.state_dict().items()) for name, block in blocks(model).items()]
    for index, (name, values) in enumerate(parts):
        if index == 0:
            tensors = drawn(values)
        else:
            first = first or drawn(values)
            tensors = {f"{name}.{key}": value.roll(index, 0).contiguous() for key, value in first.items()}
        file = f"model-{index + 1:05d}-of-{len(parts):05d}.safetensors"
        save_file(tensors, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def compressed(source: Path, room: Path, shape: str, recipe: str, device: str) -> dict:
    """One run of the command, and what transformers makes of the result: a forward pass of its first blocks."""
    out, note = room / "out", room / "note.json"
    words = ["compress", str(source), str(out), *RECIPES[recipe], "-p", "evaluation", "0", "--device", device]
    here = {**os.environ, "PYTHONPATH": str(bench.ROOT / "src")}
    call = [sys.executable, "-c", COMMAND, str(note), *words]
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL, env=here)
    told = json.loads(note.read_text())
    if told.pop("status"):
        raise SystemExit(f"the command failed: {' '.join(words)}")
    size = sum(path.stat().st_size for path in out.glob("model-*.safetensors"))
    dense = sum(path.stat().st_size for path in source.glob("model-*.safetensors"))
    started = time.perf_counter()
    loads, zeros = first_blocks(out)
    row = {
        "shape": shape,
        "recipe": recipe,
        "dense_bytes": dense,
        "bytes": size,
        "masks_bytes": sum(path.stat().st_size for path in out.glob("masks.safetensors")),
        **told,
        "loads": loads,
        "zeros": zeros,
        "load_seconds": time.perf_counter() - started,
    }
    shutil.rmtree(out)
    print(json.dumps(row), flush=True)
    return row


@torch.no_grad()
def first_blocks(folder: Path, layers: int = 2) -> tuple[bool, float]:
    """Whether transformers loads the folder with its first blocks alone and gives finite logits; share of zeros there.

    The others would not fit beside it in a small memory; their tensors are in the files just the same.
    """
    config = transformers.AutoConfig.from_pretrained(folder, num_hidden_layers=layers)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, config=config, dtype="auto")
    logits = model(torch.arange(3, 19)[None]).logits
    weights = [block.fc1.weight for block in blocks(model).values()]
    zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    return bool(torch.isfinite(logits).all()), zeros


if __name__ == "__main__":
    main()
