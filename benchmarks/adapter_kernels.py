"""The fused kernels of the adapters against the same work in plain torch operations, and against the
bandwidth.

The *floor* is the time that the bytes which must move (each matrix read or written once) take at the rate
of a large copy, measured in the same run; *share* is floor over measured. Each kernel is first compared
with float64. Needs no official code, but a GPU with Triton.

    python benchmarks/adapter_kernels.py --out records
"""

import bench
import torch

from lmcompress.cost import paired
from lmcompress.prune.bits import pack
from lmcompress.retrain import adapters, fused

SHAPES = ((2048, 2048), (8192, 2048), (4096, 4096), (16384, 4096), (4096, 16384))
RANK, SCALE = 16, 2.0
WITHIN = 0.01  # relative error: rounding to bf16


def main(argv: list[str] | None = None) -> dict:
    options = bench.parser(__doc__).parse_args(argv)
    if fused.triton is None or torch.device(options.device).type != "cuda":
        return bench.finish("adapter_kernels", options, [], note="not run: needs Triton and a GPU")
    limit = bench.machine(options.device)
    rows = [
        row
        for shape in (SHAPES[:1] if options.tiny else SHAPES)
        for scaling in (False, True)
        for row in compare(*shape, scaling, options, limit)
    ]
    return bench.finish(
        "adapter_kernels", options, rows, ceilings=limit, agrees=all(row["agrees"] for row in rows)
    )


def compare(rows: int, columns: int, scaling: bool, options, limit: dict) -> list[dict]:
    """One row for the effective weight and one for the gradients."""
    half = torch.bfloat16
    mask = bench.seeded((rows, columns), 0, options.device) > 0
    weight = bench.seeded((rows, columns), 1, options.device, half) * mask
    product = bench.seeded((rows, columns), 2, options.device, half)
    a, b = bench.seeded((RANK, columns), 3, options.device), bench.seeded((rows, RANK), 4, options.device)
    kept, scale = (None, None) if scaling else (mask, SCALE)
    packed = None if scaling else pack(mask)
    low = b.to(half).double() @ a.to(half).double()
    wide = weight.double()
    exact_weight = wide * low if scaling else wide + SCALE * mask * low
    h = product.double() * (wide if scaling else SCALE * mask)
    exact_gradients = b.to(half).double().T @ h, h @ a.to(half).double().T
    bits = 0 if scaling else 1 / 8
    shape = (rows, columns)
    return [
        row(
            "effective weight",
            shape,
            scaling,
            lambda: (fused.effective_weight(weight, a, b, packed, scale),),
            lambda: (plainly(adapters.effective_weight, weight, a, b, kept, scale),),
            (exact_weight,),
            4 + bits,
            options,
            limit,
        ),
        row(
            "gradients",
            shape,
            scaling,
            lambda: fused.gradients(product, weight, a, b, packed, scale),
            lambda: plainly(adapters.low_rank_gradients, product.clone(), weight, a, b, kept, scale),
            exact_gradients,
            (4 if scaling else 2) + bits,
            options,
            limit,
        ),
    ]


def row(what, shape, scaling, ours, plain, exact, bytes_each, options, limit) -> dict:
    """Times, floor and worst error of one kernel."""
    errors = [
        float((found.double() - true).norm() / true.norm()) for found, true in zip(ours(), exact, strict=True)
    ]
    times = paired({"fused": ours, "plain": plain}, options.device, repeats=30, warmup=5)
    floor = bytes_each * shape[0] * shape[1] / limit["copy_bytes_per_s"]
    return {
        "kernel": what,
        "shape": f"{shape[0]}x{shape[1]}",
        "adapter": "scalelora" if scaling else "masklora",
        "fused us": 1e6 * times["fused"].median,
        "plain us": 1e6 * times["plain"].median,
        "floor us": 1e6 * floor,
        "share": floor / times["fused"].median,
        "error": max(errors),
        "agrees": max(errors) < WITHIN,
    }


def plainly(function, *arguments):
    """``function`` with the kernels switched off."""
    before, fused.triton = fused.triton, None
    try:
        return function(*arguments)
    finally:
        fused.triton = before


if __name__ == "__main__":
    bench.script(main)
