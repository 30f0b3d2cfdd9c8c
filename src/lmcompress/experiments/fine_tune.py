"""A classifier for the studies: an encoder fine-tuned here on labelled texts, once for each set of
parameters.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lmcompress import assets
from lmcompress.files import once, project_root
from lmcompress.lazily import lazy

data = lazy("lmcompress.data")
models = lazy("lmcompress.models")
torch = lazy("torch")
train = lazy("lmcompress.retrain.train")


def classifier(name: str, texts: str, length: int, steps: int, lr: float = 1e-4, size: int = 16) -> Any:
    """``(model, tokenizer)``: the encoder ``name`` with a new head, all of it trained on the retraining
    split.

    The same parameters give the same weights on the same kind of machine. Kept in ``build/classifiers``,
    under a name that holds the hash of everything that went in.
    """
    about = [
        name,
        texts,
        length,
        steps,
        lr,
        size,
        *(assets.sha256_of(*one) for one in ((name, "model"), (texts, "data"))),
    ]
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    folder = project_root() / "build" / "classifiers" / digest

    def fine_tune(temporary: Path) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # of the head
            count = len(data.classes(texts))
            model, tokenizer = models.load(name, task="classification", num_labels=count)
        batches = data.classification(texts, tokenizer, "retraining", length, size)
        train.train(model, batches, "full", lr=lr, steps=steps, progress=False)
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)

    once(folder, fine_tune)
    return models.load(str(folder), task="classification")
