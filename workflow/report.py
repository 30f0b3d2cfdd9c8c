"""Run the workflow of one profile, then say where the report is and what each notebook took.

    python workflow/report.py quick --cores 2 [any other option of snakemake]

``make report`` and ``make full`` call this. Exit code: Snakemake's.
"""

import csv
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from driver import alone, complaint, duration, snakemake

BOOK = Path("build/book/_build/html/index.html")
LOG = Path("build/snakemake.log")


def seconds(profile: str) -> dict[str, float]:
    """{notebook: seconds of its latest complete execution}, from Snakemake's benchmark files."""
    found = {}
    for path in sorted(Path(f"build/{profile}/seconds").glob("*.tsv")):
        with path.open() as file:
            found[path.stem] = float(next(csv.DictReader(file, delimiter="\t"))["s"])
    return found


class Progress:
    """The line that stands while the report is made: notebooks done of all, which are at work, time left."""

    def __init__(self, profile: str):
        self.folder, self.start = Path(f"build/{profile}"), time.time()
        self.waiting: int | None = None  # notebooks that Snakemake is about to execute

    def __call__(self) -> str:
        if self.waiting is None:
            self.waiting = scheduled()
        if self.waiting is None:
            return "checking what is to be done"
        states = {log.stem: self._state(log) for log in self._logs()}
        at_work, failed, ready = (
            [name for name in states if states[name] == state] for state in ("running", "failed", "done")
        )
        done = len(ready)
        line = f"notebooks: {done} of {self.waiting} done"
        if failed:
            line += f", failed: {', '.join(failed)}"
        if at_work:
            line += f", running: {', '.join(at_work)}"
        if left := self._left(done, len(failed), len(at_work)):
            line += f"; about {duration(left)} left"
        return line if done + len(failed) < self.waiting else line + "; then the book"

    def _logs(self) -> list[Path]:
        logs = sorted((self.folder / "logs").glob("*.log"))
        return [log for log in logs if "." not in log.stem and log.stat().st_mtime >= self.start]

    def _state(self, log: Path) -> str:
        output = self.folder / "notebooks" / f"{log.stem}.ipynb"
        if output.exists() and output.stat().st_mtime >= self.start:
            return "done"
        return "failed" if last_line(log).startswith("Failed") else "running"

    def _left(self, done: int, failed: int, at_work: int) -> float | None:
        """Seconds to go, to the nearest ten, by the pace so far; a notebook at work counts as half done."""
        waiting = self.waiting - done - failed
        if not done or waiting <= 0:
            return None
        pace = (time.time() - self.start) / (done + 0.5 * at_work)
        return max(10, round(pace * (waiting - 0.5 * at_work), -1))


def scheduled() -> int | None:
    """How many notebooks Snakemake is about to execute, once it has said so in its log."""
    text = LOG.read_text(errors="replace") if LOG.exists() else ""
    stats = re.search(r"^total +\d+$", text, re.MULTILINE)
    count = re.search(r"^notebook +(\d+)$", text[: stats.end()], re.MULTILINE) if stats else None
    return int(count[1]) if count else 0 if stats else None


def last_line(log: Path) -> str:
    return (log.read_text(errors="replace").splitlines() or [""])[-1]


def failures(since: float) -> Iterator[str]:
    """Log and last line of every step that failed after the time ``since``."""
    for log in sorted(Path("build").rglob("*.log")):
        if log.stat().st_mtime >= since and last_line(log).startswith("Failed"):
            yield f"{log}\n    {last_line(log)}"


def main() -> None:
    profile, *options = sys.argv[1:]
    start = time.time()
    with alone(Path("build"), "report") as lock:
        code = snakemake("Snakefile", {"profile": profile}, options, lock, LOG, Progress(profile))
    if code:
        found = list(failures(start)) or [f"{LOG}\n  {complaint(LOG)}"]
        print("\nThe report was not made. Failed steps:", *found, sep="\n  ")
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
