"""What a mixed-precision model weighs on disk, how good it is after reloading, and how fast real kernels
are.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lmcompress.experiments.packed import UNIFORM, Packed
from lmcompress.experiments.score_study import SubjectStudy
from lmcompress.experiments.scored import Per, ScoreOrTruth
from lmcompress.experiments.speeds import Kernel, ShapeName, ShapeSpeed, Speed, Timed
from lmcompress.parameters import Average, Count, Flag, FormatText, Group, Many, Sample, Some, Width
from lmcompress.records import Experiment, Record
from lmcompress.report import figures, speed_tables
from lmcompress.report.html import Html
from lmcompress.report.opening import Answer, claimed
from lmcompress.report.size_tables import mixed, size_table
from lmcompress.report.words import estimate, of_kind, says, started

LITTLE = 0.05  # nats; what the claim on compression allows, too


class Study(SubjectStudy):
    """Packed files of both models at several widths, and the speed of real kernels on the language model.

    ``packings``: further pairs of a score and the average bits that its widths are chosen for.
    """

    language_per: Per = "block"
    classifier_per: Per = "linear"
    score: ScoreOrTruth = "TDMPQ, Fisher"
    widths: Some[Width] = (2, 3, 4, 8)
    language_widths: Some[Width] = (3, 4, 8)
    group: Group = 128
    symmetric: Flag = False
    average: Average = 4.0
    packings: Many[tuple[ScoreOrTruth, Average]] = ()
    uniform: Many[Width] = (16, 4)
    embeddings: Many[FormatText] = ("8bit",)
    gptq: Flag = False
    test: Sample = 128
    test_windows: Sample = 8
    kernels: Many[Kernel] = ()
    speed_batches: Some[Count] = (1, 32)
    prompt: Count = 128
    new_tokens: Count = 64
    compile: Flag = True
    compilations: Count = 1
    shapes: Many[ShapeName] = ()
    shape_batches: Some[Count] = (1, 8, 32)

    def experiments(self) -> list[Experiment]:
        found: list[Experiment] = []
        for on, count in self.subjects():
            language = on["task"] == "language"
            common: dict[str, Any] = {
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
                for score, average in ((self.score, self.average), *self.packings):
                    found.append(Packed(**common, score=score, average=average, embeddings=embeddings))
                if self.gptq:
                    mixed: dict[str, Any] = {
                        "score": self.score,
                        "average": self.average,
                        "embeddings": embeddings,
                    }
                    found.append(Packed(**common, **mixed, method="gptq"))
        return [*found, *self._speeds()]

    def _speeds(self) -> list[Timed]:
        on: dict[str, Any] = {
            "model": self.language,
            "data": self.corpus,
            "length": self.length,
            "test": self.test_windows,
        }
        times = {"prompt": self.prompt, "new_tokens": self.new_tokens, "compile": self.compile}
        found: list[Timed] = []
        for compilation in range(self.compilations):
            for kernel in self.kernels:
                how: dict[str, Any] = {"kernel": kernel, "compilation": compilation} | times
                if self.language:
                    found += [Speed(**on, **how, batch=batch) for batch in self.speed_batches]
                for shape in self.shapes:
                    found += [ShapeSpeed(shape=shape, **how, batch=batch) for batch in self.shape_batches]
        return found


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
    return sentences + speed_tables.verdict(speed_tables.speed_table(records))


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


def answer(records: Sequence[Record]) -> Answer:
    """How much smaller the best mixed file is, what the fastest kernel gains, and the verdict on the paper's claim.
    Raises ``LookupError`` where the runs are missing.
    """
    sizes = size_table(records)
    if not len(sizes) or not len(mixed(sizes)):
        raise LookupError("saved models with mixed widths")
    parts, chosen = [], mixed(sizes)
    little = chosen[
        chosen["high"] <= LITTLE
    ]  # the claim is on little loss: a smaller file that loses more is none
    bounded = set(little["task"]) == set(chosen["task"])
    for task, rows in (little if bounded else chosen).groupby("task", sort=False):
        row = rows.sort_values("file MB").iloc[0]
        more = f"{row['loss increase (nats)']:+.3f} nats, {row['low']:+.3f} to {row['high']:+.3f}"
        parts.append(f"{row['times smaller than FP16']:.2f} times smaller than FP16 ({task}, {more})")
    limit = f" that adds at most {LITTLE} nats, interval and all," if bounded else ""
    said = f"The smallest file of mixed widths{limit} is {' and '.join(parts)}"
    speeds = speed_tables.speed_table(records)
    ratios = speed_tables.over_bf16(speeds) if len(speeds) else speeds
    if len(ratios):
        best = ratios.loc[ratios["over bf16"].idxmax()]
        value = estimate(best["over bf16"], best["least"], best["most"])
        said += (
            f"; the fastest kernel, {best['kernel']} on {best['model']} at batch {best['batch']}, decodes {value} "
            "times as fast as bf16"
        )
    return claimed(f"{said}.", "cptquant", "compression", records)


def files_figure(records: Sequence[Record]) -> figures.Figure:
    """Bytes of the file against what they cost."""
    return figures.scatter(
        size_table(records),
        "file MB",
        "loss increase (nats)",
        "blocks",
        panels="task",
        own_axes=True,
        title="What the file weighs and what that costs",
        caption="Everything in the file counts: scales, zero points, embeddings, head; every choice of widths "
        "for the blocks is there once for each format of the embeddings. Loss on the test split "
        "after reloading, over the FP16 model; bars are paired 95 % intervals.",
        alt="Points: megabytes of the file against loss increase, one colour a choice of widths.",
    )


def files(records: Sequence[Record]) -> list[Any]:
    """A table of the files of each model."""
    sizes = size_table(records)
    return [_files(task, rows) for task, rows in sizes.groupby("task", sort=False)]


def sentences(records: Sequence[Record]) -> Html:
    """What the runs say on files and kernels."""
    return says(verdict(records))


def timed(records: Sequence[Record]) -> list[Record]:
    """The timed kernels."""
    return [record for record in records if record.kind in (Speed.kind, ShapeSpeed.kind)]


def saved(records: Sequence[Record]) -> list[Record]:
    """The saved models."""
    return of_kind(records, "packed")


def speeds(records: Sequence[Record]) -> list[Any]:
    """Table and figure of the timed kernels."""
    return speed_tables.pieces(speed_tables.speed_table(records))


def pieces(records: Sequence[Record]) -> list[Any]:
    """Sentences, tables and figures of a few runs: for what one machine computed."""
    found: list[Any] = [sentences(records)]
    if saved(records):
        found += [*files(records), files_figure(records)]
    if timed(records):
        return found + speeds(records)
    what = "tokens per second of int8, int4 and 2:4 kernels at batch 1 and 32"
    return [*found, figures.not_run(what, "a CUDA GPU with torchao: `-p kernels [bf16,int8,int4,2:4]`")]


def _files(task: str, rows: pd.DataFrame) -> Any:
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
