"""Where the time of a training step goes: seconds of kernels by class, and how long the GPU waits for none.

Two steps, each with all that is trained, optimizer included: SmolLM2-135M's shape at 8 x 512 tokens as one recorded
graph (``training_step.py`` times it), and OPT-1.3B's with adapters at 1 x 2,048 from Python (``adapter_step.py``; with
``--perp`` the official layers beside ours). Random weights. *Waiting* is the wall time of a step without the profiler
less the time of its kernels, which follow one another on one stream: launches that came late. A step that waits
cannot be made faster by a faster kernel; one that does not, by nothing else.

    python benchmarks/step_profile.py --out results/benchmarks
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import adapter_step
import bench
import official
import torch
import training_step
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from lmcompress.cost import synchronize, times
from lmcompress.graphs import Recorded
from lmcompress.retrain.batches import Batches
from lmcompress.retrain.optimizer import MaskedAdamW
from lmcompress.retrain.subsets import select
from lmcompress.retrain.train import _backward, _step

CLASSES = {
    "compiled": ("triton_",),  # their names list all that was fused, copies and sums too
    "optimizer": ("adam", "multi_tensor", "lpnorm"),
    "attention": ("flash", "attention", "fmha", "sdpa"),
    "products": ("gemm", "nvjet", "cutlass", "xmma", "cublas", "splitk", "::mm", "::addmm", "::bmm"),
    "adapters' own kernels": ("_effective_weight", "_gradients"),
    "copies": ("memcpy", "memset", "copy", "::fill_", "::zero_"),
    "reductions": ("reduce", "softmax", "nll_loss", "norm"),
}
"""Class of a kernel -> parts of its name in small letters; the first that fits counts, what fits none is
``element by element``."""

STEPS = 5  # under the profiler


def main(argv: list[str] | None = None) -> dict:
    parser = bench.parser(__doc__)
    parser.add_argument("--perp", type=Path, metavar="FOLDER", help=f"checkout of {official.SOURCES['perp']}")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--top", type=int, default=12, help="kernels of a step that are printed")
    options = parser.parse_args(argv)
    rows, kernels = [], {}
    for what, step in steps(options):
        seconds, found = timed(step, options)
        kernels[what] = found.most_common(options.top)
        rows.append(row(what, seconds, found))
        print(bench.table([{"step": what, "ms": ms, "kernel": name[:90]} for name, ms in kernels[what]]))
    return bench.finish("step_profile", options, rows, kernels=kernels)


def steps(options):
    """Name and function of every step; the model of one is freed before the next is made."""
    small = "tiny" if options.tiny else "smollm2-135m"
    way = "graph" if torch.device(options.device).type == "cuda" else "from Python"
    for subset in training_step.SUBSETS:
        yield f"{small}, {subset}, {way}", small_step(subset, small, options)
        adapter_step.release(options.device)
    layers = official.load(options.perp, "customLayers") if options.perp else None
    name, length = ("opt-tiny", 16) if options.tiny else ("opt-1.3b", 2048)
    for side in ("ours", "official") if layers else ("ours",):
        for kind in adapter_step.KINDS:
            half = adapter_step.half_of(side, options.device)
            model, masks = adapter_step.pruned_model(name, half, options.device)
            tokens = torch.randint(3, model.config.vocab_size, (1, length), device=options.device)
            made = adapter_step.Side(side, model, masks, layers, half=True)
            yield f"{name}, {kind}, {side}", made.stepper(made.attach(kind), tokens)
            del model, made
            adapter_step.release(options.device)


def small_step(subset: str, name: str, options) -> Callable[[], object]:
    """A step of ``training_step.py``'s model: replayed on a GPU, from Python on a CPU."""
    shape = (2, 16) if options.tiny else (8, 512)
    model, masks = training_step.pruned_model(name, options.device)
    model.train()
    model.config.use_cache = False
    parameters = select(model, subset, masks=masks, rank=16)
    optimizer = MaskedAdamW(parameters, masks, lr=1e-4, steps=10**6)
    windows = torch.randint(3, model.config.vocab_size, shape)
    batches = [Batches(windows, shape[0], seed=0)[0]]
    if torch.device(options.device).type != "cuda":
        return lambda: _step(model, batches, optimizer)
    optimizer.prepare()
    optimizer.at(0)

    def warm_up(given) -> None:
        _backward(model, given, optimizer)
        optimizer.adam.zero_grad(set_to_none=True)

    replay = Recorded(
        lambda given: _step(model, given, optimizer),
        batches,
        optimizer.stopped.device,
        warm_up=warm_up,
        model=model,
    )
    return lambda: replay(batches)


def timed(step: Callable[[], object], options) -> tuple[float, Counter[str]]:
    """Median seconds of a step without the profiler, and milliseconds of a step by name of the kernel."""
    on_gpu = torch.device(options.device).type == "cuda"
    seconds = times(step, options.device, repeats=options.repeats).median
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as seen:
        for _ in range(STEPS):
            step()
        synchronize(options.device)
    found: Counter[str] = Counter()
    for event in seen.key_averages():
        if on_gpu and (event.device_type != DeviceType.CUDA or event.is_user_annotation):
            continue  # an annotation spans kernels that are counted already
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        found[event.key] += own / 1e3 / STEPS
    return seconds, found


def row(what: str, seconds: float, kernels: Counter[str]) -> dict:
    """One line of the table: milliseconds of a step, by class, and the share of its time without a kernel."""
    classes = dict.fromkeys((*CLASSES, "element by element"), 0.0)
    for name, ms in kernels.items():
        classes[kind_of(name)] += ms
    waiting = max(0.0, 1e3 * seconds - sum(kernels.values()))
    return {"step": what, "ms": 1e3 * seconds, **classes, "waiting": waiting}


def kind_of(name: str) -> str:
    """Class of the kernel ``name``."""
    small = name.lower()
    fitting = (kind for kind, parts in CLASSES.items() if any(part in small for part in parts))
    return next(fitting, "element by element")


if __name__ == "__main__":
    bench.script(main)
