import subprocess
import sys

from lmcompress import provenance


def test_a_process_names_its_commit_code_versions_device_and_threads(monkeypatch):
    about = provenance.here()
    assert about["versions"]["torch"]
    assert about["device"]
    assert about["threads"] >= 1
    assert len(about["code"]) == 16
    provenance.commit.cache_clear()
    monkeypatch.setenv("LMCOMPRESS_COMMIT", "abc123")
    assert provenance.commit() == "abc123"
    provenance.commit.cache_clear()


WITHOUT_TORCH = """
import sys, importlib, importlib.abc, pkgutil

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("torch", "transformers", "safetensors", "accelerate", "datasets", "lm_eval"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
from lmcompress import plans, records
from lmcompress.experiments import kinds
from lmcompress.files import project_root
import lmcompress.cli

assert len(kinds()) > 25
for room in ("report", "pages", "experiments"):
    package = importlib.import_module(f"lmcompress.{room}")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"lmcompress.{room}.{module.name}")
for path in sorted((project_root() / "notebooks").glob("*.md")):
    for profile in ("quick", "full"):
        study = plans.study_class(path.stem)(**plans.profile(profile, path.stem))
        assert study.experiments(), path.stem
    plans.published(path.stem)
print("without torch")
"""


def test_parameters_records_report_and_pages_need_no_torch():
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True)
    assert done.stdout.strip() == "without torch", done.stderr[-2000:]
