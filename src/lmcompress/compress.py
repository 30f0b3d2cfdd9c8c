"""From a model folder to a model folder: prune, reconstruct, retrain and quantize by a recipe.

Pruning, reconstruction and quantization hold one block in memory at a time; retraining holds the model. Every finished
block is on disk at once, in the folder ``OUT.work``, so that a killed run goes on there. ``OUT`` appears when all is
done: a folder that transformers loads, with the masks as bits and a card that says what was done and what it cost.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from lmcompress import __version__, assets, card, data, fit, model_folder
from lmcompress.blockfiles import keep_all
from lmcompress.errors import ParameterError
from lmcompress.evaluate import perplexity
from lmcompress.files import write_json
from lmcompress.gguf_weights import safetensors_folder
from lmcompress.lazily import callable_module
from lmcompress.loading import open_tokenizer, read_json
from lmcompress.models import DTYPES, block_linears, coverage, default_device
from lmcompress.prune import mask
from lmcompress.prune.criteria import CRITERIA
from lmcompress.prune.mask import Masks
from lmcompress.prune.model import prune_model
from lmcompress.quantize import compressed_tensors
from lmcompress.quantize.model import quantize_model, round_rest
from lmcompress.recipe import Prune, Quantize, Recipe, Reconstruct, Retrain
from lmcompress.retrain import adapters
from lmcompress.retrain.learning_rate import middle
from lmcompress.retrain.reconstruct import reconstruct
from lmcompress.retrain.train import train
from lmcompress.shards import LayerWeights, Shards, bring_whole, open_streamed
from lmcompress.stream import answered
from lmcompress.unbundle import bundled

callable_module(__name__)
SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Compressed:
    """``folder`` that was written; ``results`` of every step by its name, and of ``sizes``; ``card``: its text."""

    folder: Path
    results: dict[str, dict[str, Any]]
    card: str


def compress(
    model: str,
    out: str | Path,
    recipe: Recipe,
    *,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Compressed:
    """Carry out ``recipe`` on ``model`` and write the result to the folder ``out``.

    Parameters
    ----------
    model: an embedded asset, a hub repository or a folder with a causal language model.
    out: must not exist. While the work goes on there is ``OUT.work`` beside it; the same call goes on there.
    recipe: what is done.
    device: where a block is worked on; default: the first GPU, else the CPU.
    progress: print the steps, and blocks done with time left.

    Raises, before any work, :class:`ParameterError` for an ``out`` that exists, too little room on its disk, a recipe
    that does not fit the model, and an ``OUT.work`` of something else or in use;
    :class:`~lmcompress.errors.AssetError` for a model or corpus that cannot be had.
    """
    return _Job(model, Path(out).absolute(), recipe, torch.device(device or default_device()), progress).run()


def check(model: str, out: str | Path, recipe: Recipe) -> int:
    """Refuse what :func:`compress` refuses; else the bytes on the disk that it needs. Nothing is written."""
    return _Job(model, Path(out).absolute(), recipe, torch.device("cpu"), False).needed


class _Job:
    """One call of :func:`compress`: checked when made, carried out by :meth:`run`."""

    def __init__(self, name: str, out: Path, recipe: Recipe, device: torch.device, progress: bool):
        self.name, self.out, self.recipe, self.device, self.progress = name, out, recipe, device, progress
        self.work = out.with_name(f"{out.name}.work")
        if out.exists():
            raise ParameterError("OUT", str(out), "a folder that does not exist yet")
        self.asset = assets.resolve(name, "model")
        self.source = model_folder.plain(safetensors_folder(self.asset), self.asset.sha256)
        self.files: list[Path] = []  # block files of the last step, whose weights count
        self.rest: list[Path] = []  # all but the blocks, where a step has changed it
        self.options: dict[str, Any] = {}  # of the config, where a step has changed it
        self.shell = self.open()
        self.dtype = self.shell.dtype
        self.masks: Masks = {}
        if (self.source / model_folder.MASKS).is_file():
            self.masks = mask.Saved([self.source / model_folder.MASKS])
        self.formats = fit.formats(self.shell, recipe)
        fit.refuse_misfits(self.shell, recipe, self.formats, masked=bool(self.masks))
        if recipe.needs_calibration:
            self.calibration()
        if recipe.retrain:
            self.windows("retraining", recipe.retraining)
        for split in SPLITS if recipe.evaluation else ():
            self.windows(split, recipe.evaluation)
        self.needed = fit.room_needed(self.shell, recipe, self.formats)
        self._refuse_lack_of_room()

    def _refuse_lack_of_room(self) -> None:
        there = sum(file.stat().st_size for file in self.work.rglob("*") if file.is_file())
        free = shutil.disk_usage(next(folder for folder in self.out.parents if folder.is_dir())).free
        if self.needed > free + there:
            told = f"a disk with {self.needed / 2**20:,.0f} MiB of room; there are {free / 2**20:,.0f}"
            raise ParameterError("OUT", str(self.out), told)

    def open(self) -> PreTrainedModel:
        """The model as the steps so far have left it, its blocks on disk."""
        dtype = DTYPES.get(self.recipe.dtype)
        return open_streamed(self.source, dtype, self.device, files=[*self.files, *self.rest], **self.options)

    @cached_property
    def tokenizer(self) -> Any:
        return open_tokenizer(self.source)

    def windows(self, split: str, number: int | None) -> Tensor:
        of = self.recipe
        return data.windows(of.data, self.tokenizer, split, of.length, number, of.seed)

    def calibration(self) -> list[dict[str, Tensor]]:
        return data.batches(self.windows("calibration", self.recipe.calibration), self.recipe.batch)

    def run(self) -> Compressed:
        self.work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.work / ".lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise ParameterError("OUT", str(self.out), "a folder that no other process works on") from None
        with lock:
            self._claim()
            results = self._steps()
            text = self._assemble(results)
        shutil.rmtree(self.work)
        return Compressed(self.out, results, text)

    def _claim(self) -> None:
        """Note what the work is; refuse to go on with other work."""
        about = [__version__, self.recipe.model_dump(mode="json"), self.asset.sha256, self.device.type]
        if self.recipe.needs_calibration or self.recipe.retrain or self.recipe.evaluation:
            about.append(assets.resolve(self.recipe.data, "data").sha256)
        path, claim = self.work / "job.json", {"job": hashlib.sha256(json.dumps(about).encode()).hexdigest()}
        if path.is_file() and read_json(path) != claim:
            told = f"another folder, or without {self.work}: unfinished work on another model or recipe"
            raise ParameterError("OUT", str(self.out), told)
        write_json(path, claim)

    def _steps(self) -> dict[str, dict[str, Any]]:
        """Carry out what is not done yet; the results of all steps."""
        acts: dict[str, Callable[[Path], dict[str, Any]]] = {
            one: partial(getattr(self, f"_{one}"), getattr(self.recipe, one)) for one in self.recipe.steps
        }
        if self.recipe.evaluation:
            acts = {"before": self._evaluate, **acts, "after": self._evaluate}
        results: dict[str, dict[str, Any]] = {}
        earlier: Path | None = None
        for number, (name, act) in enumerate(acts.items()):
            folder = self.work / f"{number}-{name}"
            note = folder.with_suffix(".json")
            if self.progress:
                again = " (done before)" if note.is_file() else ""
                print(f"[{number + 1}/{len(acts)}] {name}{again}", flush=True)
            if not note.is_file():
                started = time.perf_counter()
                found = act(folder)
                write_json(note, found | {"seconds": round(time.perf_counter() - started, 1)})
            results[name] = read_json(note)
            if name in self.recipe.steps:
                earlier = self._move_on(name, folder, earlier)
        return results

    def _move_on(self, name: str, folder: Path, earlier: Path | None) -> Path:
        """What a finished step has left is what the next one starts from; the blocks before it may go."""
        if name == "prune":
            self.masks = mask.Saved(sorted(folder.glob("*masks.safetensors")))
        if name == "quantize":  # packed: read over the blocks that it began with
            return folder
        for path in _blocks_in(earlier) if earlier else ():
            path.unlink()
        self.files = _blocks_in(folder)
        if (folder / "rest.safetensors").is_file():
            self.rest = [folder / "rest.safetensors"]
            self.options = read_json(folder / "options.json")
        return folder

    def _prune(self, chosen: Prune, folder: Path) -> dict[str, Any]:
        model = self.open()
        criterion = CRITERIA[chosen.criterion]
        if criterion.whole:
            bring_whole(model)
        report = prune_model(
            model,
            chosen.criterion,
            chosen.pattern,
            self.calibration() if criterion.by_data else None,
            layers=chosen.layers,
            seed=self.recipe.seed,
            output_errors=False,
            progress=self.progress,
            checkpoint=None if criterion.whole else folder,
        )
        if criterion.whole:
            keep_all(model, folder)
            mask.save(report.masks, folder / model_folder.MASKS)
        return {
            "sparsity": report.sparsity,
            "layers": len(report.layers),
            "share": report.coverage,
            "left": report.left,
        }

    def _reconstruct(self, chosen: Reconstruct, folder: Path) -> dict[str, Any]:
        files, self.files = self.files, []  # the targets come from the dense model
        model = self.open()
        found = reconstruct(
            model,
            self.masks,
            self.calibration(),
            chosen.subset,
            lr=chosen.lr or middle(chosen.subset),
            steps=chosen.steps,
            granularity=chosen.granularity,
            targets=chosen.targets,
            weights=LayerWeights(Shards(files), model),
            seed=self.recipe.seed,
            progress=self.progress,
            checkpoint=folder,
        )
        return {
            "blocks": len(found),
            "improved": sum(block.improved for block in found),
            "before": sum(block.before for block in found) / len(found),
            "after": sum(block.after for block in found) / len(found),
            "share": min(block.coverage for block in found),
        }

    def _retrain(self, chosen: Retrain, folder: Path) -> dict[str, Any]:
        model = self.open()
        bring_whole(model)
        report = train(
            model,
            self.windows("retraining", self.recipe.retraining),
            chosen.subset,
            dict(self.masks),
            lr=chosen.lr or middle(chosen.subset),
            steps=chosen.steps,
            batch_size=chosen.batch,
            checkpointing=chosen.checkpointing,
            seed=self.recipe.seed,
            folder=folder / "training",
            progress=self.progress,
        )
        adapters.merge(model)
        mask.check(model, self.masks)
        keep_all(model, folder)
        others = {name: value.detach().contiguous() for name, value in model_folder.outside(model).items()}
        save_file(others, folder / "rest.safetensors", metadata={"format": "pt"})
        write_json(folder / "options.json", {"tie_word_embeddings": model.config.tie_word_embeddings})
        first, last = report.losses[0], report.losses[-1]
        return {"trainable": report.trainable, "first": first, "last": last, "diverged": report.diverged}

    def _quantize(self, chosen: Quantize, folder: Path) -> dict[str, Any]:
        model = self.open()
        quantize_model(
            model,
            self.formats,
            chosen.method,
            self.calibration() if chosen.method == "gptq" else None,
            masks=self.masks,
            act_order=chosen.act_order,
            scale_dtype=torch.bfloat16 if self.dtype == torch.bfloat16 else torch.float16,
            progress=self.progress,
            checkpoint=folder,
        )
        inside = block_linears(model)
        below = [name for name, format in self.formats.items() if format.bits < 16]
        stored = sum(
            compressed_tensors.stored_bytes(format, inside[name].weight.shape)
            for name, format in self.formats.items()
        )
        unpacked = [layer.weight.numel() for name, layer in inside.items() if name not in self.formats]
        bits = (8 * stored + 16 * sum(unpacked)) / sum(layer.weight.numel() for layer in inside.values())
        share, left = coverage(model, below)
        return {"bits": bits, "layers": len(below), "share": share, "left": left}

    def _evaluate(self, folder: Path) -> dict[str, Any]:
        """Perplexity on validation and test windows of the model as it is now."""
        model, finished, size = self.open(), None, self.recipe.batch
        if folder.name.endswith("after") and self.formats:
            round_rest(model, ())
            finished = compressed_tensors.block_files(self._quantized_folder(), self.formats, {}, forget=True)
        windows = {split: self.windows(split, self.recipe.evaluation) for split in SPLITS}
        batches = [batch for split in SPLITS for batch in data.batches(windows[split], size)]
        with answered(model, batches, finished, progress=self.progress):
            found = {split: perplexity(model, windows[split], size) for split in SPLITS}
        return {
            split: {"perplexity": one.value, "low": one.low, "high": one.high, "convention": one.convention}
            for split, one in found.items()
        }

    def _quantized_folder(self) -> Path:
        return next(path for path in self.work.glob("*-quantize") if path.is_dir())

    def _assemble(self, results: dict[str, dict[str, Any]]) -> str:
        """Write the folder and move it into place; returns its card."""
        model, room = self.open(), self.work / "out"
        shutil.rmtree(room, ignore_errors=True)
        numbers = sum(value.numel() for value in model.parameters())
        last = self._quantized_folder() if self.formats else self.files[0].parent
        about = {"recipe": self.recipe.model_dump(mode="json"), "results": results}
        given: dict[str, Any] = {"masks": self.masks, "formats": self.formats, "about": about}
        with bundled(model):
            model_folder.write(room, model, last, beside=self.source, **given)
        size = sum(path.stat().st_size for path in room.glob("model-*.safetensors"))
        results["sizes"] = {"bytes": size, "half": 2 * numbers, "masks": len(self.masks)}
        text = card.text(self.name, self.asset, self.recipe, results)
        (room / "README.md").write_text(text, encoding="utf-8")
        os.rename(room, self.out)
        return text


def _blocks_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("[0-9][0-9][0-9].safetensors"))
