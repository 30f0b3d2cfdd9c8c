"""CMPQ: correlation between layers as a score. What depth alone makes of it, and what the released code
makes of it.
"""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor

from lmcompress import evaluate, figures
from lmcompress.records import Experiment, Record
from lmcompress.sensitivity import cca
from lmcompress.sensitivity.null import DepthNull, depth_null, ends_contrast
from lmcompress.studies.agreement import agreement, agreement_tables, ranked
from lmcompress.studies.cptquant import by_depth, of_kind, readable, says
from lmcompress.studies.score_study import ScoreStudy
from lmcompress.studies.scoring import Per
from lmcompress.studies.sensitivity_shootout import truth_table
from lmcompress.studies.subjects import OnModel

DISTANCE = "distance alone"
NO_DIFFERENCE = "are not told apart from"
CONTRAST = "ends minus middle (nats)"
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
    counts: tuple[int, ...] = (64, 500, 1000)
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


def distance_alone(records: Sequence[Record]) -> list[Record]:
    """A score for each CMPQ record: what its depth-only null gives every block."""
    found = []
    for record in of_kind(records, "score"):
        if record.parameters["score"] == "CMPQ" and record.parameters["per"] == "block":
            names = by_depth(record.result["per_layer"])
            expected = depth_null(record.result["similarity"]).expected
            result = {
                "per_layer": dict(zip(names, expected, strict=True)),
                "seconds": record.result["seconds"],
            }
            found.append(replace(record, parameters={**record.parameters, "score": DISTANCE}, result=result))
    return found


def null_table(records: Sequence[Record]) -> pd.DataFrame:
    """How much of every measure's pattern over depth a similarity that knows only distance reproduces."""
    rows = [
        (task, score, null.explained, null.contrast, null.expected_contrast)
        for task, score, null in depth_nulls(records)
    ]
    names = ["task", "score", "explained by distance", "ends minus middle", "the same by distance alone"]
    return pd.DataFrame(rows, columns=names)


def contrasts(records: Sequence[Record], bits: int = 3) -> pd.DataFrame:
    """Are the ends really costlier? One row a task: the measured cost of quantizing one of the first and last
    30 % of the layers over that of one in the middle, with its 95 % interval over windows, and the mean of all.

    The width is ``bits`` where it was measured, else the narrowest; the truth of blocks goes before that of
    Linears.
    """
    found = {}
    for record in sorted(of_kind(records, "truth"), key=lambda one: one.parameters["per"] == "block"):
        widths, task = record.parameters["widths"], readable(record.parameters["task"])
        width = bits if bits in widths else min(widths)
        losses = torch.tensor([tried[str(width)] for tried in by_depth(record.result["losses"]).values()])
        increase = losses.double() - torch.tensor(record.result["base"]).double()  # [layers, windows]
        each = torch.tensor([ends_contrast(column) for column in increase.T.tolist()]).double()
        ends = evaluate.bootstrap(each)
        found[task] = (task, width, float(each.mean()), *ends, float(increase.mean()))
    return pd.DataFrame(
        list(found.values()), columns=["task", "bits", CONTRAST, "low", "high", "mean of all layers"]
    )


def verdict(records: Sequence[Record], rows: pd.DataFrame) -> list[str]:
    """For each task: what distance alone explains of CMPQ, how both rank the blocks (``rows``: of
    :func:`agreement`), and whether the ends are really the sensitive ones.
    """
    measured, sentences = contrasts(records).set_index("task"), []
    for task, score, null in depth_nulls(records):
        if score != "CMPQ":
            continue
        sentence = (
            f"{task.capitalize()}: a similarity that depends on distance alone explains {null.explained:.0%} of the "
            f"variance of CMPQ over the blocks. Spearman with the truth at {rows['bits'].min()} bits: "
            f"{ranked(rows, task, ('CMPQ', DISTANCE))}."
        )
        if task in measured.index:
            row = measured.loc[task]
            word = (
                "cost more than" if row["low"] > 0 else "cost less than" if row["high"] < 0 else NO_DIFFERENCE
            )
            sentence += (
                f" Measured at {row['bits']:g} bits, the first and last 30 % {word} the middle: {row[CONTRAST]:+.4f} "
                f"nats a block ({row['low']:+.4f} to {row['high']:+.4f}; all blocks on average "
                f"{row['mean of all layers']:.4f})."
            )
        sentences.append(sentence)
    return sentences


def flaw_table(records: Sequence[Record]) -> pd.DataFrame:
    """What the released code's choices do to its own scores."""
    rows = []
    for record in of_kind(records, "cmpq_flaws"):
        about, result = record.parameters, record.result
        for count in about["counts"]:
            scores = result["by_count"][str(count)]
            rows.append((f"{count} texts for {result['features']} features", min(scores), max(scores)))
        padded = f"{about['counts'][-1]} texts, {about['padding']} masked tokens added to each"
        rows.append((padded, min(result["padded"]), max(result["padded"])))
    return pd.DataFrame(rows, columns=["released CMPQ with", "least of the blocks", "most of the blocks"])


def check_table(records: Sequence[Record]) -> pd.DataFrame:
    """Correlations of the two sides of each block: in sample, of shuffled tokens, and held out."""
    rows = []
    for record in of_kind(records, "cmpq_checks"):
        result = record.result
        values = zip(result["in_sample"], result["null"], result["held_out"], strict=True)
        rows += [(block, *three) for block, three in enumerate(values)]
    names = ["block", "mean CCA", "mean CCA of shuffled tokens", "first correlations, held out"]
    return pd.DataFrame(rows, columns=names)


def pieces(records: Sequence[Record]) -> list:
    """Sentences, the scores over depth beside their null, the truth over depth, the flaws, and the agreement
    with the truth.
    """
    rows = [
        (task, depth, series, value)
        for task, score, null in depth_nulls(records)
        if score == "CMPQ"
        for series, values in (("CMPQ", null.scores), ("distance alone", null.expected))
        for depth, value in enumerate(values)
    ]
    ranks = agreement([*records, *distance_alone(records)])
    found: list = [says(verdict(records, ranks))]
    if rows:
        found.append(
            figures.lines(
                pd.DataFrame(rows, columns=["task", "block", "what", "1 - mean correlation"]),
                "block",
                "1 - mean correlation",
                "what",
                panels="task",
                own_axes=True,
                title="CMPQ over depth, and what distance alone makes of it",
                caption="Each block's score beside that of a matrix in which every similarity is replaced by the "
                "mean over all pairs as far apart. Where the two agree, the layers themselves contribute nothing.",
                alt="Lines over the blocks, one panel a task: CMPQ and its depth-only null.",
            )
        )
    found.append(_truth_figure(records))
    found += agreement_tables(records, ranks)
    if rows:
        caption = (
            "What distance alone explains, by measure: share of the variance over the blocks (below 0: it foresees "
            "less than the mean would), and the score of the first and last 30 % of the blocks minus the middle's"
        )
        found.append(figures.table(null_table(records), caption))
    flaws, checks = flaw_table(records), check_table(records)
    if len(flaws):
        found.append(figures.table(flaws, "The released code on the classifier: one vector a text"))
    if len(checks):
        caption = "Is there anything in these correlations? Input and output of each block of the classifier"
        found.append(figures.table(checks, caption))
    return found


def _truth_figure(records: Sequence[Record]) -> figures.Figure:
    """The measured cost over depth, at the two narrowest widths, which stand out from the noise."""
    truth = truth_table(records)
    bits = truth["width"].str.removesuffix(" bits").astype(int)
    shown = truth[bits.isin(sorted(bits.unique())[:2])]
    return figures.lines(
        shown.rename(columns={"layer": "block"}),
        "block",
        "loss increase (nats)",
        "width",
        panels="task",
        own_axes=True,
        title="The truth over depth: what quantizing one block alone costs",
        caption="Mean over the windows or texts of the validation split.",
        alt="Lines over the blocks, one a width and panel a task: the measured increase of the loss.",
    )
