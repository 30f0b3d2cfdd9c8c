"""Execute one notebook with papermill. The executed notebook appears only when every cell succeeded.

    python execute.py notebooks/00_dense_baseline.md parameters.yaml build/quick/notebooks/00_dense_baseline.ipynb

Standard error is the log: what the cells print, as they print it, and after a failure which cell failed and why. The
partly executed notebook is then left beside the place of the whole one.
"""

import logging
import sys
import time
from pathlib import Path

import jupytext
import papermill
import yaml
from follow import follow_driver
from papermill.exceptions import PapermillExecutionError


def execute(source: Path, parameters: Path, output: Path) -> None:
    """Execute ``source`` (.md or .ipynb) in the current folder and move the result to ``output``."""
    partial = output.with_suffix(".partial.ipynb")
    papermill.execute_notebook(
        jupytext.read(source),
        str(partial),
        parameters=yaml.safe_load(parameters.read_text(encoding="utf-8")),
        kernel_name="python3",
        log_output=True,
        progress_bar=False,
    )
    partial.replace(output)


def say(text: str) -> None:
    """A line for whoever waits."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def main() -> None:
    source, parameters, output = map(Path, sys.argv[1:])
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    follow_driver()
    start = time.monotonic()
    say(f"{source.stem} started")
    try:
        execute(source, parameters, output)
    except PapermillExecutionError as error:
        logging.error("%s\nThe cells that ran: %s", error, output.with_suffix(".partial.ipynb"))
        first = error.source.strip().partition("\n")[0]
        logging.error("Failed at [%s] %s: %s: %s", error.exec_count, first, error.ename, error.evalue)
    except Exception as error:
        # A kernel that dies is often one that ran out of memory: fewer cores run fewer notebooks side by side.
        logging.exception("outside of the cells")
        logging.error("Failed outside of the cells: %s: %s", type(error).__name__, error)
    else:
        say(f"{source.stem} done in {time.monotonic() - start:.0f} s")
        return
    say(f"{source.stem} failed")
    sys.exit(1)


if __name__ == "__main__":
    main()
