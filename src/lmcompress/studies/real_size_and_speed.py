"""What a mixed-precision model weighs on disk, how good it is after reloading, and how fast real kernels
are.
"""

import tempfile
from collections.abc import Sequence
from typing import Literal

import pandas as pd
import torch
from pydantic import Field
from torch import nn

from lmcompress import figures, models
from lmcompress.allocate.solve import budget_for, exact
from lmcompress.quantize import pack
from lmcompress.quantize.formats import Bits, parse
from lmcompress.quantize.model import quantize_model
from lmcompress.records import Experiment, Record
from lmcompress.studies import kernel_speed
from lmcompress.studies.allocating import Group, Scored, problem_of, widths_of
from lmcompress.studies.cptquant import SubjectStudy, of_kind, perplexity, readable, says, started
from lmcompress.studies.kernel_speed import Kernel, ShapeName, ShapeSpeed, Speed, Timed
from lmcompress.studies.scoring import Per
from lmcompress.studies.subjects import Measured, Palette, measure, outcome

UNIFORM = "uniform"


class Packed(Scored):
    """Quantize to ``average`` bits a weight of the blocks, save, weigh, load, and measure what was loaded.

    ``score`` decides the widths; ``uniform`` gives every layer ``average`` bits (a whole number).
    ``embeddings``: the format of embedding (and tied head), and of a head of its own.
    """

    average: float
    embeddings: str
    method: Literal["rtn", "gptq"] = "rtn"

    def run(self) -> dict:
        subject = self.subject()
        model, test = subject.model, subject.texts("test", self.test)
        dense = measure(model, test)
        formats = self._formats(model, subject) | self._outside(model)
        calibration = subject.texts("calibration", self.windows, self.seed) if self.method == "gptq" else None
        report = quantize_model(model, formats, self.method, calibration, progress=False)
        before = measure(model, test)
        with tempfile.TemporaryDirectory() as folder:
            found = pack.save(model, subject.tokenizer, folder + "/packed", report.quantized)
            loaded, _, _ = pack.load(folder + "/packed")
        after = measure(loaded, test)
        return {
            **outcome(dense, after),
            "dense": outcome(dense, dense),
            "same": _same(before, after),
            "file_bytes": found.bytes,
            "fp16_bytes": found.fp16,
            "over_fp16": found.over_fp16,
            "over_fp32": found.over_fp32,
            "block_bits": _average_bits(report.layers, model),
        }

    def _formats(self, model: nn.Module, subject) -> dict[str, Bits]:
        palette = Palette(model, self.per, self.group, self.symmetric)
        if self.score == UNIFORM:
            return palette.formats(dict.fromkeys(palette.layers, int(self.average)))
        problem = problem_of(palette, subject, self.scores(), self)
        return palette.formats(widths_of(exact(problem, budget_for(self.average, palette.numbers))))

    def _outside(self, model: nn.Module) -> dict[str, Bits]:
        """Formats of the token embedding and of a language head that does not share its matrix."""
        format = parse(self.embeddings)
        embedding, head = model.get_input_embeddings(), models.head(model)
        names = {id(module): name for name, module in model.named_modules()}
        found = {names[id(embedding)]: format}
        if head is not None and head.weight is not embedding.weight:
            found[names[id(head)]] = format
        return found


def _same(before: Measured, after: Measured) -> bool:
    return torch.equal(before.losses, after.losses) and torch.equal(before.right, after.right)


def _average_bits(layers: dict, model: nn.Module) -> float:
    inside = models.block_linears(model)
    numbers = sum(linear.weight.numel() for linear in inside.values())
    return 8 * sum(layers[name].bytes for name in inside) / numbers


class Study(SubjectStudy):
    """Packed files of both models at several widths, and the speed of real kernels on the language model."""

    language_per: Per = "block"
    classifier_per: Per = "linear"
    score: str = "TDMPQ, Fisher"
    widths: tuple[int, ...] = (2, 3, 4, 8)
    language_widths: tuple[int, ...] = (3, 4, 8)
    group: Group = 128
    symmetric: bool = False
    average: float = 4.0
    uniform: tuple[int, ...] = (16, 8, 4)
    embeddings: tuple[str, ...] = ("16bit", "8bit")
    gptq: bool = False
    test: int = 128
    test_windows: int = 8
    kernels: tuple[Kernel, ...] = ()
    speed_batches: tuple[int, ...] = (1, 32)
    prompt: int = 128
    new_tokens: int = 64
    compile: bool = True
    compilations: int = Field(default=1, ge=1)
    shapes: tuple[ShapeName, ...] = ()
    shape_batches: tuple[int, ...] = (1, 8, 32)

    def experiments(self) -> list[Experiment]:
        found: list[Experiment] = []
        for on, count in self.subjects():
            language = on["task"] == "language"
            common = {
                **on,
                "per": self.language_per if language else self.classifier_per,
                "widths": self.language_widths if language else self.widths,
                "group": self.group,
                "symmetric": self.symmetric,
                "windows": count,
                "seed": 0,
                "test": self.test_windows if language else self.test,
            }
            if 16 in self.uniform:
                found.append(Packed(**common, score=UNIFORM, average=16, embeddings="16bit"))
            for embeddings in self.embeddings:
                for bits in self.uniform:
                    if bits != 16:
                        found.append(Packed(**common, score=UNIFORM, average=bits, embeddings=embeddings))
                found.append(Packed(**common, score=self.score, average=self.average, embeddings=embeddings))
                if self.gptq:
                    mixed = {"score": self.score, "average": self.average, "embeddings": embeddings}
                    found.append(Packed(**common, **mixed, method="gptq"))
        return [*found, *self._speeds()]

    def _speeds(self) -> list[Timed]:
        on = {"model": self.language, "data": self.corpus, "length": self.length, "test": self.test_windows}
        times = {"prompt": self.prompt, "new_tokens": self.new_tokens, "compile": self.compile}
        found: list[Timed] = []
        for compilation in range(self.compilations):
            for kernel in self.kernels:
                how = {"kernel": kernel, "compilation": compilation} | times
                if self.language:
                    found += [Speed(**on, **how, batch=batch) for batch in self.speed_batches]
                for shape in self.shapes:
                    found += [ShapeSpeed(shape=shape, **how, batch=batch) for batch in self.shape_batches]
        return found


def size_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row a saved model: bytes of the file, how many times smaller than FP16, quality after reloading."""
    rows = []
    for record in of_kind(records, "packed"):
        about, result = record.parameters, record.result
        language = about["task"] == "language"
        rows.append(
            {
                "task": readable(about["task"]),
                "blocks": _blocks(about),
                "embeddings": about["embeddings"],
                "bits a block weight": result["block_bits"],
                "file MB": result["file_bytes"] / 1e6,
                "times smaller than FP16": result["over_fp16"],
                "than FP32": result["over_fp32"],
                "perplexity": perplexity(result["loss"]) if language else None,
                "accuracy": None if language else result["right"],
                "accuracy low": None if language else result["right_low"],
                "accuracy high": None if language else result["right_high"],
                "loss increase (nats)": result["increase"],
                "low": result["low"],
                "high": result["high"],
                "same after reloading": result["same"],
            }
        )
    return pd.DataFrame(rows)


def _blocks(about: dict) -> str:
    """How a table calls the formats of the blocks."""
    if about["average"] == 16:
        return "FP16"
    if about["score"] == UNIFORM:
        return f"uniform {about['average']:g} bits"
    return f"{about['average']:g} bits by {about['score']}" + (
        " with GPTQ" if about["method"] == "gptq" else ""
    )


def mixed(sizes: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`size_table` in which a score decided the widths, biggest file first."""
    chosen = sizes[~sizes["blocks"].str.contains("uniform|FP16")]
    return chosen.sort_values("times smaller than FP16", kind="stable")


def verdict(records: Sequence[Record]) -> list[str]:
    """For each task: how much smaller than FP16 the mixed model's file is, what it costs, and what uniform widths
    cost; what was the same after reloading; how fast each kernel is beside bf16.
    """
    sizes = size_table(records)
    sentences = (
        [_mixed_file(task, rows) for task, rows in sizes.groupby("task", sort=False)] if len(sizes) else []
    )
    if len(sizes):
        same, count = int(sizes["same after reloading"].sum()), len(sizes)
        sentences.append(
            f"{'All' if same == count else f'{same} of'} {count} saved models give, bit for bit, the same losses after "
            "reloading as before saving."
        )
    return sentences + kernel_speed.verdict(kernel_speed.speed_table(records))


def _quality(row: pd.Series) -> str:
    if row["task"] == "language modelling":
        level = f"perplexity {row['perplexity']:.2f}"
    else:
        level = f"accuracy {row['accuracy']:.3f} ({row['accuracy low']:.3f} to {row['accuracy high']:.3f})"
    increase = f"{row['loss increase (nats)']:+.3f} nats ({row['low']:+.3f} to {row['high']:+.3f})"
    return f"{level}, {increase}"


def _mixed_file(task: str, rows: pd.DataFrame) -> str:
    smallest = mixed(rows)
    smallest = smallest[smallest["file MB"] == smallest["file MB"].min()]
    row = smallest.iloc[0]
    sentence = (
        f"{task.capitalize()}: with {row['bits a block weight']:.2f} bits a weight in the blocks and embeddings in "
        f"{row['embeddings']} the file is {row['times smaller than FP16']:.2f} times smaller than FP16 "
        f"({row['than FP32']:.2f} times smaller than FP32), with {_quality(row)} over FP16 after reloading"
    )
    uniform = rows[rows["blocks"].str.contains("uniform") & (rows["embeddings"] == row["embeddings"])]
    uniform = uniform[uniform["file MB"] >= row["file MB"]].sort_values("file MB")
    if len(uniform):
        near = uniform.iloc[0]
        word = (
            "better"
            if near["high"] < row["low"]
            else "worse"
            if near["low"] > row["high"]
            else "not told apart"
        )
        more = near["file MB"] / row["file MB"] - 1
        sentence += f". {started(near['blocks'])}, a file {more:.1%} larger, is {word}: {_quality(near)}"
    for _, other in smallest.iloc[1:].iterrows():
        sentence += f". {started(other['blocks'])}, as large: {_quality(other)}"
    return sentence + "."


def pieces(records: Sequence[Record]) -> list:
    """Sentences, a table and a figure of the files of each model, and the table of speeds or what it needs."""
    sizes, speeds = size_table(records), kernel_speed.speed_table(records)
    found: list = [says(verdict(records))]
    for task, rows in sizes.groupby("task", sort=False) if len(sizes) else ():
        found.append(_files(task, rows))
    if len(sizes):
        found.append(
            figures.scatter(
                sizes,
                "file MB",
                "loss increase (nats)",
                "blocks",
                low="low",
                high="high",
                panels="task",
                own_axes=True,
                title="What the file weighs and what that costs",
                caption="Everything in the file counts: scales, zero points, embeddings, head; every choice of widths "
                "for the blocks is there once for each format of the embeddings. Loss on the test split "
                "after reloading, over the FP16 model; bars are paired 95 % intervals.",
                alt="Points: megabytes of the file against loss increase, one colour a choice of widths.",
            )
        )
    if len(speeds):
        found += kernel_speed.pieces(speeds)
    else:
        what = "tokens per second of int8, int4 and 2:4 kernels at batch 1 and 32"
        found.append(figures.not_run(what, "a CUDA GPU with torchao: `-p kernels [bf16,int8,int4,2:4]`"))
    return found


def _files(task: str, rows: pd.DataFrame):
    rows = rows.sort_values("file MB", ascending=False, kind="stable")
    shown = rows[["blocks", "embeddings", "bits a block weight", "file MB", "times smaller than FP16"]].round(
        2
    )
    if task == "language modelling":
        shown["perplexity"] = rows["perplexity"]
    else:
        shown["accuracy"] = [
            f"{row['accuracy']:.3f} ({row['accuracy low']:.3f}\u00a0to\u00a0{row['accuracy high']:.3f})"
            for _, row in rows.iterrows()
        ]
    shown["loss increase (nats)"] = [
        f"{row['loss increase (nats)']:.4f} ({row['low']:.4f}\u00a0to\u00a0{row['high']:.4f})"
        for _, row in rows.iterrows()
    ]
    shown = shown.rename(columns={"embeddings": "embed\u00addings"})  # may break there
    return figures.table(shown, f"Saved files, {task}: quality after reloading, with 95 % intervals")
