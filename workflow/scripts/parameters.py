"""Write the parameters of one notebook out of a profile, after its Study has accepted them.

    python parameters.py config/quick.yaml 10_pruning_sweep build/quick/parameters/10_pruning_sweep.yaml

The profile's values are refused here, in seconds, by the same class that refuses them inside the notebook. A notebook
of which the library knows nothing (no module ``lmcompress.pages.<name>``) is left to refuse them itself.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import yaml

from lmcompress.errors import ParameterError
from lmcompress.files import atomic_path


def check(notebook: str, values: dict) -> None:
    """Raise the Study's ParameterError for values that it does not take, or that ask for runs that cannot be."""
    if find_spec(f"lmcompress.pages.{notebook.partition('_')[2]}"):
        # Seconds of imports, spared where nothing is to be checked.
        from lmcompress.plans import planned_with

        planned_with(notebook, values)


def main() -> None:
    profile, notebook, output = sys.argv[1:]
    values = (yaml.safe_load(Path(profile).read_text(encoding="utf-8")) or {}).get(notebook) or {}
    try:
        check(notebook, values)
    except ParameterError as error:
        sys.exit(f"Failed: {profile}, {notebook}: {error}")
    with atomic_path(output) as temporary:
        temporary.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main()
