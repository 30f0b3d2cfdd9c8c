"""What the page on extending says is done to a copy of the library, word for word, and works there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tiny_assets import tiny_corpus, tiny_model_folder

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "book" / "extend.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^(`{3,4})\{code-block\} \w+\n:caption: (.*?)\n(.*?)^\1$", re.DOTALL | re.MULTILINE)
START = """
import torch
from lmcompress.models import load
folder, corpus, place = {folder!r}, {corpus!r}, __import__("pathlib").Path({place!r})
model, tokenizer = load(folder, device="cpu")
batches = [{{"input_ids": torch.randint(3, 128, (4, 16))}}]
"""


def extend(copy):
    """Do to the library in ``copy`` what the page says; the code to try, and the registries with their new lines."""
    tried, lines = [], []
    for _, caption, code in BLOCK.findall(PAGE):
        path, _, registry = caption.partition(", ")
        if caption == "try":
            tried.append(code)
        elif registry:
            file = copy / path
            text = file.read_text(encoding="utf-8")
            assert code.count("\n") == 1
            changed = re.sub(
                rf"(^{registry}: .*? = \{{\n)", lambda m, code=code: m[1] + code, text, count=1, flags=re.M
            )
            assert changed != text, f"no registry {registry} in {path}"
            file.write_text(changed, encoding="utf-8")
            lines.append((path, registry))
        else:
            assert not (copy / path).exists(), f"{path} is there already"
            (copy / path).parent.mkdir(exist_ok=True)
            (copy / path).write_text(code, encoding="utf-8")
    return tried, lines


def test_every_step_works_and_is_one_line(tmp_path):
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    tried, lines = extend(tmp_path)
    assert [registry for _, registry in lines] == ["CRITERIA", "SCORES", "CODEBOOKS", "TASKS"]
    rows = re.findall(r"^\| a .*\| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    assert rows == [("1", "1")] * 4 + [("0", "0")]
    folder, corpus = tiny_model_folder(tmp_path / "llama"), tiny_corpus(tmp_path / "corpus", 600)
    start = START.format(folder=folder, corpus=corpus, place=str(tmp_path))
    surroundings = {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "src"),
        "LMCOMPRESS_ROOT": str(tmp_path),
        "LMCOMPRESS_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([start, *tried])], env=surroundings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
