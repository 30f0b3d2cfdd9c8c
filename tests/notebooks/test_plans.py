"""The profiles of ``config/`` as a fresh clone finds them: nothing lies in ``data/local``."""

from pathlib import Path

import pytest
import yaml

from lmcompress import assets, plans, records

CONFIG = Path(__file__).resolve().parents[2] / "config"
FILES = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(CONFIG.glob("*.yaml"))
}
PLANS = [
    (profile, notebook)
    for profile, notebooks in FILES.items()
    if isinstance(notebooks, dict)  # paper.yaml is a list of sweeps
    for notebook in notebooks
]


@pytest.mark.parametrize(("profile", "notebook"), PLANS)
def test_a_profile_is_valid_without_local_data(profile, notebook, monkeypatch):
    monkeypatch.setattr(assets, "_local", lambda _name: None)
    planned = plans.planned(notebook, profile)
    assert planned
    known = {kind: set(assets.names(kind)) for kind in ("model", "data")}
    local = {name for experiment in planned for name in getattr(experiment, "tasks", {}).values()}
    named = {
        asset for experiment in planned for asset in experiment.assets() if asset[0] not in local
    }  # of the zero-shot tasks the hub's copies are not files
    assert all(name in known[kind] for name, kind in named)


@pytest.mark.parametrize("notebook", sorted(path.stem for path in CONFIG.parent.glob("notebooks/*.md")))
def test_a_notebook_can_start_with_its_own_defaults(notebook, monkeypatch):
    monkeypatch.setattr(assets, "_local", lambda _name: None)
    for experiment in plans.study_class(notebook)().experiments():
        assert len(records.key_of(experiment)) == 64
