"""Run the workflow of one profile, then say where the report is and what each notebook took.

    python workflow/report.py quick --cores 2 [any other option of snakemake]

``make report`` and ``make full`` call this. Exit code: Snakemake's.
"""

import csv
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BOOK = Path("build/book/_build/html/index.html")


@contextmanager
def alone() -> Iterator[None]:
    """Refuse a second run in the same checkout. The operating system frees the lock when this process dies."""
    Path("build").mkdir(exist_ok=True)
    with open("build/.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("Another report is being made in this folder; wait for it or stop it.")
        yield


def snakemake(profile: str, options: list[str]) -> int:
    """Run the workflow; return Snakemake's exit code."""
    snakefile = Path(__file__).with_name("Snakefile")
    command = [sys.executable, "-m", "snakemake", *options, "--snakefile", str(snakefile)]
    command += ["--config", f"profile={profile}"]
    if "--profile" not in options and "--resources" not in options:  # this machine's own limits
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        command += ["--resources", f"mem_mb={memory}", "gpu=1"]
    return subprocess.run(command).returncode


def seconds(profile: str) -> dict[str, float]:
    """{notebook: seconds of its latest complete execution}, from Snakemake's benchmark files."""
    found = {}
    for path in sorted(Path(f"build/{profile}/seconds").glob("*.tsv")):
        with path.open() as file:
            found[path.stem] = float(next(csv.DictReader(file, delimiter="\t"))["s"])
    return found


def failures(since: float) -> Iterator[str]:
    """Log and last line of every step that failed after the time ``since``."""
    for log in sorted(Path("build").rglob("*.log")):
        lines = log.read_text(errors="replace").splitlines() if log.stat().st_mtime >= since else []
        if lines and lines[-1].startswith("Failed"):
            yield f"{log}\n    {lines[-1]}"


def main() -> None:
    profile, *options = sys.argv[1:]
    with alone():
        start = time.time()
        code = snakemake(profile, options)
    if code:
        print("\nThe report was not made. Failed steps:", *failures(start), sep="\n  ")
        print("What succeeded is kept: after mending, the same command goes on from here.")
        sys.exit(code)
    print(f"\n{'notebook':<32}{'seconds':>9}")
    for name, value in seconds(profile).items():
        print(f"{name:<32}{value:>9.1f}")
    print(f"{'this call of make':<32}{time.time() - start:>9.1f}")
    if BOOK.exists():
        print(f"\nOpen {BOOK.resolve()}")


if __name__ == "__main__":
    main()
