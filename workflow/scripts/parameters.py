"""Write the parameters of one notebook out of a profile, after its Study has accepted them.

    python parameters.py config/quick.yaml 10_pruning_sweep build/quick/parameters/10_pruning_sweep.yaml

The profile's values are refused here, in seconds, by the same class that refuses them inside the notebook. A notebook
without a Study (no module ``lmcompress.studies.<name>``) takes any names: papermill warns of those it does not know.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import yaml

from lmcompress.errors import LmcompressError
from lmcompress.files import atomic_path


def accepted(notebook: str, values: dict) -> dict:
    """``values`` as they are, once the Study of ``notebook`` took them; else its ParameterError."""
    module = f"lmcompress.studies.{notebook.partition('_')[2]}"
    if find_spec("lmcompress.studies") and find_spec(module):
        import_module(module).Study(**values)
    return values


def main() -> None:
    profile, notebook, output = sys.argv[1:]
    values = (yaml.safe_load(Path(profile).read_text(encoding="utf-8")) or {}).get(notebook) or {}
    try:
        accepted(notebook, values)
    except LmcompressError as error:
        sys.exit(f"Failed: {profile}, {notebook}: {error}")
    with atomic_path(output) as temporary:
        temporary.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    main()
