"""What a notebook stands for in a profile of ``config``: its Study, the runs that it plans, and which are published.

No torch.
"""

import importlib
import re
from pathlib import Path
from typing import Any

from lmcompress.errors import ParameterError
from lmcompress.files import carried
from lmcompress.parameters import named, read_yaml
from lmcompress.records import Experiment, Record, Study, published_records, worth


def profile(name: str, notebook: str) -> dict[str, Any]:
    """Parameters of a notebook (``NN_name``) in ``config/NAME.yaml``. Raises :class:`ParameterError` for a profile
    that there is not.
    """
    path = carried("config", f"{name}.yaml")
    if not path.is_file():
        there = sorted(other.stem for other in carried("config").glob("*.yaml"))
        raise ParameterError("profile", name, there or "a checkout with the folder config")
    try:
        given = read_yaml(path.read_text(encoding="utf-8")) or {}
    except ValueError as error:
        raise ParameterError("profile", str(path), f"a YAML file ({error})") from None
    if not isinstance(given, dict):
        raise ParameterError(
            "profile", name, "a mapping of notebooks; a list of sweeps is for lmcompress sweep"
        )
    return named(given.get(notebook) or {}, f"{name}, {notebook}")


def study_class(notebook: str) -> type[Study]:
    """The :class:`Study` of a notebook: ``10_pruning_sweep`` (or its path) is ``lmcompress.pages.pruning_sweep``."""
    name = re.sub(r"^\d+_", "", Path(notebook).stem)
    try:
        study: type[Study] = importlib.import_module(f"lmcompress.pages.{name}").Study
        return study
    except ModuleNotFoundError as error:
        if error.name != f"lmcompress.pages.{name}":
            raise
        folder = Path(__file__).with_name("pages")
        there = sorted(
            path.stem for path in folder.glob("*.py") if "class Study" in path.read_text(encoding="utf-8")
        )
        raise ParameterError("notebook", notebook, there) from None


def planned(notebook: str, in_profile: str = "full") -> list[Experiment]:
    """The experiments of a notebook in a profile."""
    return planned_with(notebook, profile(in_profile, notebook))


def planned_with(notebook: str, parameters: object) -> list[Experiment]:
    """The experiments of a notebook with these parameters. Raises :class:`ParameterError` for what cannot run."""
    return study_class(notebook)(**named(parameters, notebook)).experiments()


def published(notebook: str, in_profile: str = "full") -> list[Record]:
    """The published records of a notebook: those of its :func:`planned` experiments that are in ``results/``.

    They are found by kind and parameters, so that a page shows them where the assets (WikiText, say) are not at hand.
    Look at :attr:`Record.older` before you call one up to date.
    """
    return [record for experiment in planned(notebook, in_profile) for record in _published(experiment)]


def coverage(notebook: str, in_profile: str = "full") -> dict[str, tuple[int, int]]:
    """Kind -> how many of the :func:`planned` experiments are published, and how many there are."""
    counts: dict[str, tuple[int, int]] = {}
    for experiment in planned(notebook, in_profile):
        done, all_of_them = counts.get(experiment.kind, (0, 0))
        counts[experiment.kind] = (done + len(_published(experiment)), all_of_them + 1)
    return counts


def _published(experiment: Experiment) -> list[Record]:
    parameters = experiment.model_dump(mode="json")
    found = [record for record in published_records(experiment.kind) if record.parameters == parameters]
    return sorted(found, key=worth)[-1:]
