"""A training step with MaskLoRA or ScaleLoRA: ours against the official PERP layers, in OPT models of
random weights.

Each side trains as its authors do: PERP with fp16 weights under autocast and a gradient scaler, ours with
bf16 weights and no autocast; both with fp32 adapters of rank 16 on every Linear of the blocks, AdamW,
clipping at 1 and the same model code, attention kernel and tokens, with and without gradient checkpointing.
Dropout is off.

First the two must agree: same loss and gradients in fp32. The gradients in half precision are compared with
those of fp32 as well, and their errors reported.

*Extra memory* is the peak of a step above that of the same side training only the norm parameters: that
model has the same frozen weights and keeps all activations that any backward pass needs. What is left is
the adapter's: masks, effective weights and layer inputs kept, its parameters with gradients and optimizer
state, temporaries. *Kernel ms* is the time that the GPU works in a step, by torch's profiler; in the rest
it waits. Aim: at least 1.5 times the tokens per second, at most 0.6 times the extra memory.

    git clone https://github.com/ZIB-IOL/PERP
    python benchmarks/adapter_step.py --perp PERP --out records --models opt-1.3b opt-6.7b
"""

import gc
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import bench
import official
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, OPTConfig

from lmcompress.cost import Ceilings, flops, paired, peak_bytes, share_of_peak, synchronize
from lmcompress.models import block_linears, blocks
from lmcompress.prune import mask
from lmcompress.prune.pattern import NofM
from lmcompress.retrain import adapters
from lmcompress.retrain.optimizer import MaskedAdamW

KINDS = ("masklora", "scalelora")
RANK, ALPHA, LR, GIB = 16, 32.0, 1e-4, 2**30
SAME = 1e-3  # relative error of loss and gradients in fp32


def main(argv: list[str] | None = None) -> dict:
    parser = bench.parser(__doc__, "perp")
    parser.add_argument("--models", nargs="+", choices=bench.OPT, default=["opt-1.3b", "opt-6.7b"])
    parser.add_argument("--batch", type=int, default=1, help="windows a step (the official default is 1)")
    parser.add_argument("--length", type=int, default=2048, help="tokens a window")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args(argv)
    if options.tiny:
        options.models, options.length, options.repeats = ["opt-tiny"], 16, 1
    layers = official.load(options.perp, "customLayers")
    checks = [row for name in options.models for row in check(layers, name, options)]
    print(bench.table(checks))
    on_gpu = torch.device(options.device).type == "cuda"
    limit = bench.machine(options.device) if on_gpu else None  # memory and rates are told of a GPU only
    # left to itself, torch may give the two sides different kernels
    same = sdpa_kernel(SDPBackend.FLASH_ATTENTION) if on_gpu else nullcontext()
    with same:
        rows = [row for name in options.models for row in compare(layers, name, options, limit)]
    ratios = compared(rows)
    print(bench.table(ratios))
    return bench.finish(
        "adapter_step",
        options,
        rows,
        ratios=ratios,
        checks=checks,
        ceilings=limit,
        agrees=all(row["agrees"] for row in checks),
    )


def compared(rows: list[dict]) -> list[dict]:
    """Ours over official: with equal checkpointing, and ours without against the official default with it."""
    found = {(row["model"], row["adapter"], row["checkpointing"], row["code"]): row for row in rows}
    ratios = []
    for model, adapter in dict.fromkeys((row["model"], row["adapter"]) for row in rows):
        for mine, other in ((False, False), (True, True), (False, True)):
            ours = found[model, adapter, mine, "ours"]
            theirs = found[model, adapter, other, "official"]
            ratios.append(
                {
                    "model": model,
                    "adapter": adapter,
                    "ours checkpointing": mine,
                    "official checkpointing": other,
                    "tokens/s ratio": ours["tokens/s"] / theirs["tokens/s"],
                    "peak ratio": over(ours["peak GiB"], theirs["peak GiB"]),
                    "extra ratio": over(ours["extra GiB"], theirs["extra GiB"]),
                }
            )
    return ratios


def over(ours: float | None, theirs: float | None) -> float | None:
    """Ratio of two memory figures, which a CPU does not have."""
    return None if ours is None or not theirs else ours / theirs


def pruned_model(
    name: str, dtype: torch.dtype, device: str, blocks: int | None = None
) -> tuple[nn.Module, dict]:
    """An OPT of random weights (the same for every dtype but for rounding), pruned to 2:4, and its masks.

    The masks come from the fp32 values, and dropped weights are exact zeros; kept ones never are, since the
    largest two of four are kept: the official code takes its mask from the zeros.
    """
    shape = bench.OPT[name] | ({} if blocks is None else {"num_hidden_layers": blocks})
    tiny = {"vocab_size": 128, "max_position_embeddings": 64} if name == "opt-tiny" else {}
    config = OPTConfig(**shape, word_embed_proj_dim=shape["hidden_size"], dropout=0.0, **tiny)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.config.use_cache = False
    masks = {}
    with torch.no_grad():
        for number, (layer, linear) in enumerate(block_linears(model).items()):
            generator = torch.Generator(device).manual_seed(number)
            weight = 0.02 * torch.randn(linear.weight.shape, generator=generator, device=device)
            kept = mask.mask(weight.abs(), NofM(2, 4))
            linear.weight.copy_(weight * kept)
            masks[layer] = kept.cpu()
    return model.train().requires_grad_(False), masks


class Side:
    """One way of training: how adapters are attached and removed, and what one step is."""

    def __init__(self, name: str, model: nn.Module, masks: dict[str, Tensor], layers, half: bool):
        self.name, self.model, self.masks, self.layers, self.half = name, model, masks, layers, half

    def attach(self, kind: str) -> dict[str, nn.Parameter]:
        """Put adapters of ``kind`` on; parameters by ``layer.a`` and ``layer.b``."""
        if self.name == "ours":
            return adapters.attach(self.model, kind, RANK, ALPHA, self.masks)
        found = {}
        for name, linear in block_linears(self.model).items():
            layer = official.lora_layer(self.layers, kind, linear, RANK, ALPHA)
            self.model.set_submodule(name, layer)
            found[f"{name}.a"] = layer.lora_layer.lora_A["default"].weight
            found[f"{name}.b"] = layer.lora_layer.lora_B["default"].weight
        return found

    def detach(self) -> None:
        """Plain Linears again."""
        for name, layer in list(self.model.named_modules()):
            if isinstance(layer, adapters.AdaptedLinear):
                self.model.set_submodule(name, layer.bare())
            elif isinstance(layer, official.LoraLayer):
                self.model.set_submodule(name.removesuffix(".lora_layer"), layer.base_layer)

    def loss(self, tokens: Tensor) -> Tensor:
        """Loss under the side's own rules of precision."""
        if self.name == "ours" or not self.half:
            return self.model(input_ids=tokens, labels=tokens).loss
        kind = torch.device(tokens.device).type
        with torch.autocast(kind, dtype=torch.float16 if kind == "cuda" else torch.bfloat16):
            return self.model(input_ids=tokens, labels=tokens).loss

    def stepper(self, parameters: dict[str, nn.Parameter], tokens: Tensor) -> Callable[[], None]:
        """A function that does one optimizer step on ``parameters``."""
        for value in parameters.values():
            value.requires_grad_(True)
            if self.name == "official":
                value.data = value.data.float()  # as PERP does with all that it trains
        if self.name == "ours":
            optimizer = MaskedAdamW(parameters, {}, lr=LR, steps=10**6, warmup=0.0)

            def step() -> None:
                self.loss(tokens).backward()
                optimizer.collect()
                optimizer.step(0)

            return step
        adam = torch.optim.AdamW(parameters.values(), lr=LR, weight_decay=0.0)
        scaler = torch.amp.GradScaler(tokens.device.type, enabled=tokens.is_cuda)

        def official_step() -> None:
            scaler.scale(self.loss(tokens)).backward()
            scaler.unscale_(adam)
            nn.utils.clip_grad_norm_(parameters.values(), 1.0)
            scaler.step(adam)
            scaler.update()
            adam.zero_grad()

        return official_step


def random_start(parameters: dict[str, nn.Parameter], kind: str) -> dict[str, Tensor]:
    """Adapters as after some training: at the start B = 0, so that A would have no gradient to compare."""
    level = RANK**-0.5 if kind == "scalelora" else 0.0
    return {
        name: level + bench.seeded(tuple(value.shape), number, "cpu") * 0.02
        for number, (name, value) in enumerate(parameters.items())
    }


def check(layers, name: str, options) -> list[dict]:
    """Loss and gradients of both sides on two blocks: in fp32 they must agree; in half precision, errors."""
    rows = []
    for kind in KINDS:
        loss, gradient = gradients("official", layers, name, kind, False, options.device)
        for half in (False, True):
            loss_error, errors = 0.0, {}
            for side in ("official", "ours"):
                found, own = gradients(side, layers, name, kind, half, options.device)
                loss_error = abs(found - loss) / loss
                errors[side] = float((own - gradient).norm() / gradient.norm())
            close = errors["ours"] < (0.1 if half else SAME) and loss_error < (0.01 if half else SAME)
            rows.append(
                {
                    "model": f"{name}, 2 blocks",
                    "adapter": kind,
                    "precision": "half" if half else "fp32",
                    "loss error of ours": loss_error,
                    "gradient error of ours": errors["ours"],
                    "gradient error of official": errors["official"],
                    "agrees": close,
                }
            )
    return rows


def gradients(side: str, layers, name: str, kind: str, half: bool, device: str) -> tuple[float, Tensor]:
    """Loss and all adapter gradients, in one vector, of one side with two blocks."""
    dtype = half_of(side, device) if half else torch.float32
    model, masks = pruned_model(name, dtype, device, blocks=2)
    made = Side(side, model, masks, layers, half)
    parameters = made.attach(kind)
    with torch.no_grad():
        for key, value in random_start(parameters, kind).items():
            parameters[key].copy_(value)
    torch.manual_seed(0)
    tokens = torch.randint(3, model.config.vocab_size, (1, min(64, model.config.max_position_embeddings)))
    loss = made.loss(tokens.to(device))
    scale = 1024.0 if half and side == "official" else 1.0  # as its gradient scaler does
    found = torch.autograd.grad(loss * scale, list(parameters.values()))
    return loss.item(), torch.cat([gradient.flatten() / scale for gradient in found]).double()


def half_of(side: str, device: str) -> torch.dtype:
    """The half precision of a side; fp16 has no autocast worth the name on a CPU."""
    return torch.float16 if side == "official" and torch.device(device).type == "cuda" else torch.bfloat16


def compare(layers, name: str, options, limit: dict | None) -> list[dict]:
    """Tokens per second and memory of both sides, with both adapters, with and without checkpointing."""
    device = options.device
    sides, resident = {}, {}
    for side in ("official", "ours"):
        before = held(device)
        model, masks = pruned_model(name, half_of(side, device), device)
        sides[side] = Side(side, model, masks, layers, half=True)
        resident[side] = held(device) - before
    config = sides["ours"].model.config
    tokens = torch.randint(3, config.vocab_size, (options.batch, options.length), device=device)
    counted = flops(config, options.batch, options.length, trained="layer_norm")
    weights = sum(linear.weight.numel() for linear in block_linears(sides["ours"].model).values())
    operations = counted.total + 2 * tokens.numel() * weights  # and dY^T X for every adapted weight
    ceilings = None if limit is None else Ceilings(**limit)
    rows = []
    for checkpointing in (False, True):
        base = {}
        for side, made in sides.items():
            set_checkpointing(made, checkpointing)
            norms = {key: value for key, value in made.model.named_parameters() if "layer_norm" in key}
            base[side], _ = peak(lambda made=made, norms=norms: made.stepper(norms, tokens), device)
            made.model.requires_grad_(False)
        for kind in KINDS:
            steps, peaks = {}, {}
            for side, made in sides.items():
                peaks[side], steps[side] = peak(
                    lambda made=made, kind=kind: made.stepper(made.attach(kind), tokens), device
                )
            times = paired(steps, device, options.repeats)
            works = {side: bench.busy(step, device) for side, step in steps.items()}
            steps.clear()
            for side, made in sides.items():
                made.detach()
                seconds = times[side].median
                rows.append(
                    {
                        "model": name,
                        "adapter": kind,
                        "checkpointing": checkpointing,
                        "code": side,
                        "tokens/s": tokens.numel() / seconds,
                        "ms": 1e3 * seconds,
                        "ms low": 1e3 * times[side].low,
                        "ms high": 1e3 * times[side].high,
                        "kernel ms": works[side][0],
                        "kernels": works[side][1],
                        "peak GiB": (resident[side] + peaks[side]) / GIB if limit else None,
                        "extra GiB": (peaks[side] - base[side]) / GIB if limit else None,
                        "share of peak rate": ceilings and share_of_peak(operations, seconds, ceilings),
                    }
                )
    sides.clear()
    release(device)
    return rows


def held(device: str) -> int:
    """Bytes that tensors take of the GPU now; 0 on a CPU, where nothing is told of memory."""
    release(device)
    return torch.cuda.memory_allocated(device) if torch.device(device).type == "cuda" else 0


def release(device: str) -> None:
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def peak(make: Callable[[], Callable[[], None]], device: str) -> tuple[int, Callable[[], None]]:
    """Most bytes that ``step = make()`` and a call of it take beyond what was held before, and the step.

    Measured at the second call: the first allocates the optimizer's state.
    """
    before = held(device)
    step = make()
    step()
    release(device)
    synchronize(device)
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    step()
    synchronize(device)
    return peak_bytes(device) - before, step


def set_checkpointing(side: Side, on: bool) -> None:
    """Recompute the activations of every block in the backward pass, the same way for both sides."""
    for block in blocks(side.model).values():
        if on:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        else:
            vars(block).pop("forward", None)


if __name__ == "__main__":
    bench.script(main)
