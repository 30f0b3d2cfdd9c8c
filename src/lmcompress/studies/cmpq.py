"""CMPQ: correlation between layers as a score. What depth alone makes of it, and what the released code
makes of it.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from lmcompress import figures
from lmcompress.records import Experiment, Record
from lmcompress.sensitivity import cca
from lmcompress.sensitivity.null import DepthNull, depth_null, ends_contrast
from lmcompress.studies.cptquant import by_depth, of_kind, readable, says
from lmcompress.studies.score_study import ScoreStudy
from lmcompress.studies.scoring import Per, as_scores
from lmcompress.studies.sensitivity_shootout import agreement_table
from lmcompress.studies.subjects import OnModel

MEASURES = ("CMPQ", "CMPQ, SVCCA", "CMPQ, PWCCA", "CMPQ, CKA")


class CmpqFlaws(OnModel):
    """The released score with few and many texts, and with padding added that a model must not see.

    ``counts``: numbers of texts. ``padding``: tokens added to every text, all masked.
    """

    counts: tuple[int, ...]
    padding: int
    seed: int

    def run(self) -> dict:
        subject = self.subject()
        model, pad = subject.model, subject.tokenizer.pad_token_id or 0
        by_count = {}
        for count in self.counts:
            batches = subject.texts("retraining", count, self.seed)  # the split with enough texts
            by_count[str(count)] = list(cca.cmpq_as_released(model, batches).per_layer.values())
        wider = cca.cmpq_as_released(model, [padded(batch, self.padding, pad) for batch in batches])
        width = model.get_input_embeddings().embedding_dim
        return {"by_count": by_count, "padded": list(wider.per_layer.values()), "features": width}


def padded(batch: dict[str, Tensor], padding: int, pad: int) -> dict[str, Tensor]:
    """The same texts with ``padding`` masked tokens more at the end; labels are left out."""
    ids = batch["input_ids"]
    mask = batch.get("attention_mask", torch.ones_like(ids))
    more = ids.new_full((len(ids), padding), pad)
    return {
        "input_ids": torch.cat([ids, more], 1),
        "attention_mask": torch.cat([mask, torch.zeros_like(more)], 1),
    }


class CmpqChecks(OnModel):
    """Correlations between the two sides of every block: held out, and of tokens in a random order (the
    null).
    """

    windows: int
    held_out: int
    null_draws: int
    seed: int

    def run(self) -> dict:
        subject = self.subject()
        batches = subject.texts("calibration", self.windows, self.seed)
        options = {
            "held_out": self.held_out,
            "null_draws": self.null_draws,
            "seed": self.seed,
            "tokens": 4096,
        }
        found = cca.cmpq(subject.model, batches, **options)
        null = [values["null_mean"] for values in found.detail["null"].values()]
        detail = found.detail
        in_sample = [detail["similarity"][i][i + 1] for i in range(len(null))]
        return {
            "in_sample": in_sample,
            "held_out": list(detail["held_out"].values()),
            "null": null,
            "samples": detail["samples"],
            "features": detail["features"],
        }


class Study(ScoreStudy):
    """CMPQ by four measures and as released, its nulls, and the truth, block by block."""

    classifier_per: Per = "block"
    measures: tuple[str, ...] = MEASURES
    language_measures: tuple[str, ...] = ("CMPQ", "CMPQ, CKA")
    counts: tuple[int, ...] = (64, 500)
    padding: int = 32
    held_out: int = 8
    null_draws: int = 3

    def experiments(self) -> list[Experiment]:
        released = ("CMPQ as released",)
        found: list[Experiment] = [*self.truths()]
        found += self.scores(self.language_measures + released, self.measures + released)
        for on, count in self.subjects():
            if on["task"] == "classification":
                found.append(CmpqFlaws(**on, counts=self.counts, padding=self.padding, seed=0))
                checks = {"held_out": self.held_out, "null_draws": self.null_draws, "seed": 0}
                found.append(CmpqChecks(**on, windows=count, **checks))
        return found


def depth_nulls(records: Sequence[Record]) -> list[tuple[str, str, DepthNull]]:
    """(task, score, its depth-only null) of every CMPQ record that holds its similarities; first seeds."""
    found = {}
    for record in of_kind(records, "score"):
        about = record.parameters
        if about["score"] in MEASURES and "similarity" in record.result:
            null = depth_null(record.result["similarity"])
            found.setdefault((about["task"], about["score"]), (readable(about["task"]), about["score"], null))
    return list(found.values())


def null_table(records: Sequence[Record]) -> pd.DataFrame:
    """How much of every measure's pattern over depth a similarity that knows only distance reproduces."""
    rows = [
        (task, score, null.explained, null.contrast, null.expected_contrast)
        for task, score, null in depth_nulls(records)
    ]
    names = ["task", "score", "explained by depth", "ends minus middle", "ends minus middle by depth alone"]
    return pd.DataFrame(rows, columns=names)


def truth_contrasts(records: Sequence[Record], bits: int = 3) -> dict[str, tuple[int, float, float]]:
    """Task -> (width, measured increase of the first and last 30 % of the layers over the middle, mean of
    all layers).

    The width is ``bits`` where it was measured, else the narrowest; the truth of blocks goes before that of
    Linears.
    """
    found = {}
    for record in sorted(of_kind(records, "truth"), key=lambda one: one.parameters["per"] == "block"):
        widths = record.parameters["widths"]
        width = bits if bits in widths else min(widths)
        values = list(by_depth(as_scores(record).at(width)).values())
        found[readable(record.parameters["task"])] = (width, ends_contrast(values), sum(values) / len(values))
    return found


def verdict(records: Sequence[Record]) -> list[str]:
    """For each task: what depth alone explains of CMPQ, and whether the ends are really the sensitive
    ones.
    """
    truths, sentences = truth_contrasts(records), []
    for task, score, null in depth_nulls(records):
        if score != "CMPQ":
            continue
        sentence = (
            f"{task.capitalize()}: a similarity that depends on distance alone explains {null.explained:.0%} of the "
            f"variance of CMPQ over the blocks; first and last 30 % score {null.contrast:+.4f} above the middle, "
            f"{null.expected_contrast:+.4f} by distance alone"
        )
        if task in truths:
            bits, contrast, level = truths[task]
            sentence += (
                f"; measured at {bits} bits the ends cost {contrast:+.4f} nats more (mean {level:.4f})"
            )
        sentences.append(sentence + ".")
    return sentences


def flaw_table(records: Sequence[Record]) -> pd.DataFrame:
    """What the released code's choices do to its own scores."""
    rows = []
    for record in of_kind(records, "cmpq_flaws"):
        task, result = readable(record.parameters["task"]), record.result
        for count, scores in result["by_count"].items():
            what = f"{count} texts for {result['features']} features"
            rows.append((task, what, min(scores), max(scores)))
        what = f"{count} texts, {record.parameters['padding']} masked tokens added to each"
        rows.append((task, what, min(result["padded"]), max(result["padded"])))
    return pd.DataFrame(
        rows, columns=["task", "released CMPQ with", "least of the blocks", "most of the blocks"]
    )


def check_table(records: Sequence[Record]) -> pd.DataFrame:
    """Correlations of the two sides of each block: in sample, held out, and of shuffled tokens."""
    rows = []
    for record in of_kind(records, "cmpq_checks"):
        result = record.result
        values = zip(result["in_sample"], result["held_out"], result["null"], strict=True)
        rows += [(readable(record.parameters["task"]), block, *three) for block, three in enumerate(values)]
    names = [
        "task",
        "block",
        "mean CCA in sample",
        "first correlations held out",
        "mean CCA of shuffled tokens",
    ]
    return pd.DataFrame(rows, columns=names)


def pieces(records: Sequence[Record]) -> list:
    """Sentences, the scores over depth beside their null, the flaws, and the agreement with the truth."""
    rows = [
        (task, depth, series, value)
        for task, score, null in depth_nulls(records)
        if score == "CMPQ"
        for series, values in (("CMPQ", null.scores), ("distance alone", null.expected))
        for depth, value in enumerate(values)
    ]
    found: list = [says(verdict(records))]
    if rows:
        found.append(
            figures.lines(
                pd.DataFrame(rows, columns=["task", "block", "what", "1 - mean correlation"]),
                "block",
                "1 - mean correlation",
                "what",
                panels="task",
                title="CMPQ over depth, and what distance alone makes of it",
                caption="Each block's score beside that of a matrix in which every similarity is replaced by the "
                "mean over all pairs as far apart. Where the two agree, the layers themselves contribute nothing.",
                alt="Lines over the blocks, one panel a task: CMPQ and its depth-only null.",
            )
        )
        found.append(figures.table(null_table(records), "What depth alone explains, by measure"))
    for frame, caption in (
        (
            flaw_table(records),
            "The released code: too few texts give 0 everywhere, and masked tokens move the score",
        ),
        (
            check_table(records),
            "Is there anything in these correlations? Held out, and against shuffled tokens",
        ),
    ):
        if len(frame):
            found.append(figures.table(frame, caption))
    bits = min(min(record.parameters["widths"]) for record in of_kind(records, "truth"))
    for width in sorted({min(record.parameters["widths"]) for record in of_kind(records, "truth")} | {bits}):
        chosen = [record for record in records if width in record.parameters.get("widths", ())]
        found.append(
            figures.table(agreement_table(chosen, width), f"Rank agreement with the truth at {width} bits")
        )
    return found
