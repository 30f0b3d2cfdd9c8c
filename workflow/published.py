"""Make the book from known records alone: no notebook computes, and neither torch nor Snakemake is needed.

    python workflow/published.py [--cores 2]

``make book`` calls this. Each page shows its published run and says what was not computed on this machine.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from driver import alone

SCRIPTS = Path(__file__).parent / "scripts"
OUT = Path("build/published")
BOOK = Path("build/book")


def execute(name: str, parameters: dict) -> int:
    """Execute ``notebooks/NAME.md`` as it stands in the quick profile; returns the exit code of that process."""
    given = OUT / "parameters" / f"{name}.yaml"
    given.write_text(yaml.safe_dump(parameters), encoding="utf-8")
    command = [sys.executable, SCRIPTS / "execute.py", f"notebooks/{name}.md", given, OUT / f"{name}.ipynb"]
    with open(OUT / "logs" / f"{name}.log", "w") as log:
        code = subprocess.run(command, stderr=log, env=os.environ | {"LMCOMPRESS_READ_ONLY": "1"}).returncode
    if code:
        print(Path(log.name).read_text().strip().rpartition("\n")[2], f"(see {log.name})", flush=True)
    return code


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--cores", default="all", help="notebooks executed side by side")
    cores = options.parse_args().cores
    start = time.monotonic()
    profile = yaml.safe_load(Path("config/quick.yaml").read_text(encoding="utf-8")) or {}
    names = sorted(path.stem for path in Path("notebooks").glob("*.md"))
    with alone(Path("build"), "report"):
        for folder in ("logs", "parameters"):
            (OUT / folder).mkdir(parents=True, exist_ok=True)
        workers = os.cpu_count() if cores == "all" else int(cores)
        with ThreadPoolExecutor(workers) as pool:
            codes = list(pool.map(lambda name: execute(name, profile.get(name) or {}), names))
        if any(codes):
            sys.exit(f"The book was not made: {sum(map(bool, codes))} of {len(codes)} notebooks failed.")
        print(f"{time.strftime('%H:%M:%S')} building the book", flush=True)
        with open("build/book.log", "w") as log:
            command = [sys.executable, SCRIPTS / "book.py", OUT, BOOK]
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
        if code:
            sys.exit(
                f"The book was not made; see build/book.log. {Path(log.name).read_text().splitlines()[-1]}"
            )
    print(
        f"The book took {time.monotonic() - start:.0f} s. Open {(BOOK / '_build/html/index.html').resolve()}"
    )


if __name__ == "__main__":
    main()
