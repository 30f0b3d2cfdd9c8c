"""Build the book: its sources and the executed notebooks together in a fresh folder, rendered by jupyter-book.

    python book.py build/quick/notebooks build/book

The folder is fresh each time because Sphinx reports a page's warnings only when it reads the page anew, and warnings
are errors here.
"""

import shutil
import subprocess
import sys
from pathlib import Path


def assemble(executed: Path, folder: Path) -> None:
    """Lay out ``folder`` as the book's root: _config.yml, _toc.yml, book/ and notebooks/*.ipynb with outputs."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy2(name, folder)
    shutil.copytree("book", folder / "book", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "notebooks").mkdir()
    for notebook in sorted(Path("notebooks").glob("*.md")):
        shutil.copy2(executed / f"{notebook.stem}.ipynb", folder / "notebooks")


def main() -> None:
    executed, folder = map(Path, sys.argv[1:])
    assemble(executed, folder)
    program = str(Path(sys.executable).with_name("jupyter-book"))
    command = [program, "build", str(folder), "-n", "-W", "--keep-going"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout)
    if done.returncode:
        complaints = [line for line in done.stdout.splitlines() if "WARNING" in line or "ERROR" in line]
        print(
            f"Failed: {len(complaints)} warnings, the first: {complaints[0] if complaints else 'see above'}"
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
