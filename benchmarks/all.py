"""Run every benchmark on one GPU (about five minutes) and write one JSON record each.

``--checkouts`` is a folder with clones of the official codes under their own names: ``PERP``, ``wanda``,
``sparsegpt``. What is missing there, or a missing ``--documents``, is said and left out. Ends with status 1
when a benchmark failed or its checks did not agree.

    mkdir official && cd official
    git clone https://github.com/ZIB-IOL/PERP
    git clone https://github.com/locuslab/wanda
    git clone https://github.com/IST-DASLab/sparsegpt
    cd .. && python benchmarks/all.py --checkouts official --documents documents.txt --out records
"""

import argparse
import gc
import sys
import time
import traceback
from pathlib import Path

import adapter_kernels
import adapter_step
import agreement
import bench  # noqa: F401  (puts src on the path)
import nm_mask
import reconstruction
import torch
import useful_tokens

FOLDERS = {"perp": "PERP", "wanda": "wanda", "sparsegpt": "sparsegpt"}
BENCHMARKS = {
    "agreement": (agreement.main, ("wanda", "sparsegpt")),
    "nm_mask": (nm_mask.main, ("perp",)),
    "adapter_kernels": (adapter_kernels.main, ()),
    "adapter_step": (adapter_step.main, ("perp",)),
    "reconstruction": (reconstruction.main, ("perp",)),
    "useful_tokens": (useful_tokens.main, ()),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkouts", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--documents", type=Path, help="text file, one document a line, for useful_tokens")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--tiny", action="store_true", help="small shapes: does it run, not how fast")
    options = parser.parse_args(argv)
    told = {}
    for name in options.only:
        start = time.perf_counter()
        told[name] = run(name, options)
        print(f"{name}: {told[name]} ({time.perf_counter() - start:.0f} s)\n", flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    print("\n".join(f"{name}: {what}" for name, what in told.items()))
    return int(any(what in ("failed", "does not agree") for what in told.values()))


def run(name: str, options: argparse.Namespace) -> str:
    """Run one benchmark and say what became of it."""
    function, needs = BENCHMARKS[name]
    arguments = ["--out", str(options.out)] + (["--tiny"] if options.tiny else [])
    for need in needs:
        folder = options.checkouts / FOLDERS[need]
        if not folder.is_dir():
            return f"not run, needs a clone at {folder}"
        arguments += [f"--{need}", str(folder)]
    if name == "useful_tokens":
        if options.documents is None:
            return "not run, needs --documents"
        arguments += ["--documents", str(options.documents)]
    try:
        return "done" if function(arguments).get("agrees", True) else "does not agree"
    except Exception:  # the others are to run all the same
        traceback.print_exc()
        return "failed"


if __name__ == "__main__":
    sys.exit(main())
