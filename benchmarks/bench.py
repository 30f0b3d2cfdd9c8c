"""What every benchmark here shares: command line, where it ran, the record and the table."""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src")]  # so that a clone runs without being installed

import official  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

import lmcompress  # noqa: E402
from lmcompress.cost import Times, ceilings, synchronize  # noqa: E402
from lmcompress.experiments.costs import ARCHITECTURES  # noqa: E402
from lmcompress.files import write_json  # noqa: E402

# Sizes of OPT models by name, and of one that only shows that a benchmark runs.
OPT = {name.lower(): sizes for name, (_, sizes) in ARCHITECTURES.items() if name.startswith("OPT-")}
OPT["opt-tiny"] = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def parser(text: str | None, *checkouts: str) -> argparse.ArgumentParser:
    """Command line of one benchmark that needs the ``checkouts`` (keys of ``official.SOURCES``)."""
    made = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in checkouts:
        made.add_argument(
            f"--{name}",
            type=Path,
            required=True,
            metavar="FOLDER",
            help=f"checkout of {official.SOURCES[name]}",
        )
    made.add_argument("--out", type=Path, metavar="FOLDER", help="where to write the JSON record")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--tiny", action="store_true", help="small shapes: does it run, not how fast")
    return made


def finish(name: str, options: argparse.Namespace, rows: list[dict], **more: object) -> dict:
    """Print ``rows`` as a table; write them, with what else there is to say, where it ran and on what
    versions.
    """
    record = {"benchmark": name, "rows": rows, **more, "provenance": provenance(options)}
    print(f"\n{name}, {record['provenance']['device']}")
    print(table(rows))
    if "agrees" in more:
        print(f"agrees: {more['agrees']}")
    if options.out is not None:
        write_json(options.out / f"{name}.json", record)
    return record


def provenance(options: argparse.Namespace) -> dict:
    """Device, versions, commits and the settings of the command line; the checkouts by their public names."""
    device = torch.device(options.device)
    settings = {key: value for key, value in vars(options).items() if not isinstance(value, Path | None)}
    return {
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "lmcompress": lmcompress.__version__,
        },
        "commit": commit(ROOT),
        "official": {
            official.SOURCES[name]: commit(getattr(options, name))
            for name in official.SOURCES
            if getattr(options, name, None) is not None
        },
        "settings": settings,
    }


def commit(folder: Path) -> str | None:
    """Commit that ``folder`` is a checkout of, with ``+changes`` where files differ; None outside of git.

    The variable LMCOMPRESS_COMMIT names ours where it travels without its git folder.
    """
    if folder == ROOT and (given := os.environ.get("LMCOMPRESS_COMMIT")):
        return given
    note = folder / "COMMIT"  # for a copy without its git folder
    if note.is_file():
        return note.read_text().strip()
    git = ["git", "-C", str(folder)]
    try:
        top = subprocess.run([*git, "rev-parse", "--show-toplevel", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    if top.returncode or Path(top.stdout.split("\n")[0]).resolve() != folder.resolve():
        return None
    return top.stdout.split("\n")[1] + ("+changes" if changed.stdout.strip() else "")


def machine(device: str) -> dict:
    """Measured ceilings of the device, for the record."""
    return asdict(ceilings(device, torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32))


def busy(step: Callable[[], None], device: str) -> tuple[float | None, int | None]:
    """Milliseconds that kernels of one step take of the GPU, and how many there are: what is missing to the time of a
    step, the GPU waits for the processor to launch them. None on a CPU.
    """
    if torch.device(device).type != "cuda":
        return None, None
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        step()
        synchronize(device)
    kernels = [one for one in found.key_averages() if one.self_device_time_total > 0]
    return sum(one.self_device_time_total for one in kernels) / 1e3, sum(one.count for one in kernels)


def spread(times: Times) -> dict:
    """Median, least and largest seconds."""
    return {"seconds": times.median, "low": times.low, "high": times.high}


def table(rows: list[dict]) -> str:
    """Rows (dicts of the same keys) as an aligned text table."""
    if not rows:
        return "(nothing)"
    lines = [list(rows[0])] + [[_cell(row.get(key)) for key in rows[0]] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


def seeded(
    shape: tuple[int, ...], seed: int, device: str, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Normal random numbers, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device=device, dtype=dtype)


def script(main: Callable[[list[str] | None], dict]) -> None:
    """Run ``main`` on the command line; a benchmark whose checks fail ends with status 1."""
    sys.exit(0 if main(None).get("agrees", True) else 1)
