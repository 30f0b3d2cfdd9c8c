"""What a reader of CPTQuant's verdicts needs to know beside them: sentences and tables, made of records."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lmcompress.experiments.scored import MEASURED
from lmcompress.lazily import lazy
from lmcompress.records import Record
from lmcompress.report import figures, frontier
from lmcompress.report.agreement import agreement_table, truths
from lmcompress.report.cptquant_evidence import Evidence, added, costs
from lmcompress.report.frontier import INCREASE
from lmcompress.report.words import of_kind
from lmcompress.sensitivity.agreement import ceiling

stats = lazy("scipy.stats")

AT = 0.05  # nats at which bytes are compared


def headlines(records: Sequence[Record]) -> list[str]:
    """What a reader should not miss."""
    return _told(records, (beaten_by_uniform, seconds, cmpq_is_uniform, gptq_and_rounding))


def caveats(records: Sequence[Record]) -> pd.DataFrame:
    """How far chance, the noise of the truth and adding up carry, data by data."""
    return pd.DataFrame({"what to know": _told(records, (chance_is_a_straw_man, curse, halves))})


def _told(records: Sequence[Record], tellers: Sequence[Any]) -> list[str]:
    by_data = Evidence(records).by_data
    return [sentence for tell in tellers for data, found in by_data.items() for sentence in tell(data, found)]


def beaten_by_uniform(data: str, records: Sequence[Record]) -> Iterator[str]:
    """Budgets at which rounding all layers to one width beats every score and the measured costs."""
    points = frontier.points_table(records) if of_kind(records, "frontier") else pd.DataFrame()
    points = points[points["kind"].isin(["frontier", "uniform_format"])] if len(points) else points
    for budget in sorted(set(points["budget"])) if len(points) else ():
        here = points[points["budget"] == budget].set_index("how")[INCREASE]
        chosen = here.drop([name for name in here.index if _no_score(name)])
        truths = {name: loss for name, loss in chosen.items() if frontier.is_truth(name)}
        scores = chosen.drop(list(truths))
        if frontier.UNIFORM in here and len(scores) and here[frontier.UNIFORM] < scores.min():
            best, least = scores.idxmin(), here[frontier.UNIFORM]
            worse = [f" and the {name} ({loss:+.3f})" for name, loss in truths.items() if loss > least]
            better = [f"the {name} ({loss:+.3f})" for name, loss in truths.items() if loss <= least]
            yield (
                f"On {data}, at the bytes of {budget}, uniform rounding to nearest ({least:+.3f} "
                f"nats) beats every score (the best, {best}: {scores[best]:+.3f})"
                + "".join(worse)
                + (f", but not {' and '.join(better)}." if better else ".")
            )


def _no_score(name: str) -> bool:
    return name.startswith("uniform") or name.endswith(", GPTQ")


def seconds(data: str, records: Sequence[Record]) -> Iterator[str]:
    """Where PMPQ takes longer than to measure what it foretells."""
    for truth in fewest_windows(of_kind(records, "truth")):
        per = truth.parameters["per"]
        taken = [
            one.result["seconds"]
            for one in of_kind(records, "score")
            if one.parameters["score"] == "PMPQ" and one.parameters["per"] == per
        ]
        if taken and np.mean(taken) > truth.result["seconds"]:
            widths = len(truth.parameters["widths"])
            yield (
                f"On {data} PMPQ takes more seconds than the truth itself: {np.mean(taken):.0f} for one score a "
                f"{per}, {truth.result['seconds']:.0f} to measure each {per} at {widths} widths."
            )


def fewest_windows(truths: Sequence[Record]) -> list[Record]:
    """Of each granularity the record of the fewest windows: what costs the fewest seconds."""
    order = sorted(truths, key=lambda one: -one.parameters.get("windows", 0))
    return list({one.parameters["per"]: one for one in order}.values())


def cmpq_is_uniform(data: str, records: Sequence[Record]) -> Iterator[str]:
    """Budgets at which the exact solver gives CMPQ's layers one width, and why."""
    found = [one for one in of_kind(records, "frontier") if one.parameters["score"] == "CMPQ"]
    same = sorted(
        {
            point["budget"]
            for record in found
            for point in record.result["points"]
            if point["budget"].startswith("uniform") and len(set(point["choice"])) == 1
        }
    )
    scores = [one for one in of_kind(records, "score") if one.parameters["score"] == "CMPQ"]
    scores = [one for one in scores if not found or one.parameters["per"] == found[0].parameters["per"]]
    if same and scores:
        spread = max(
            max(values) / min(values) for one in scores if min(values := one.result["per_layer"].values()) > 0
        )
        yield (
            f"On {data} CMPQ at the bytes of {' and '.join(same)} is uniform widths to the last digit. Its scores "
            f"differ by a factor of {spread:.2f} at most, and a bit less makes the squared rounding error about 4 "
            "times as large: no exchange of bits between two layers is worth it, whichever layer CMPQ puts first."
        )


def chance_is_a_straw_man(data: str, records: Sequence[Record]) -> Iterator[str]:
    """How many layers the random allocations put at the fewest bits, which no sensible score would."""
    for band in of_kind(records, "random_band"):
        least = min(band.parameters["widths"])
        for budget in dict.fromkeys(point["budget"] for point in band.result["points"]):
            lists = [point["choice"] for point in band.result["points"] if point["budget"] == budget]
            counts = [choice.count(least) for choice in lists]
            yield (
                f"On {data} the random allocations at the bytes of {budget} put {min(counts)} to {max(counts)} of "
                f"{len(lists[0])} layers at {least} bits: to beat them says little. The claims on depths above permute "
                "a score's own widths instead."
            )
            return


def gptq_and_rounding(data: str, records: Sequence[Record]) -> Iterator[str]:
    """Uniform widths by GPTQ that lose more than by rounding, and whether more calibration mends it."""
    formats = [one for one in of_kind(records, "uniform_format") if isinstance(one.parameters["group"], int)]
    rounded = {
        width: point["increase"]
        for one in formats
        if one.parameters["method"] == "rtn"
        for width, point in zip(one.parameters["widths"], one.result["points"], strict=True)
    }
    for one in formats:
        about = one.parameters
        for width, point in zip(about["widths"], one.result["points"], strict=True):
            worse = about["method"] == "gptq" and point["increase"] > rounded.get(width, point["increase"])
            if worse and rounded[width] > AT:  # below that there is nothing to mend
                tokens = about["windows"] * about["length"]
                yield (
                    f"On {data} GPTQ to {width} bits ({point['increase']:+.3f} nats) is worse than rounding to nearest "
                    f"({rounded[width]:+.3f}): it was calibrated on {tokens:,} tokens ({about['windows']} windows of "
                    f"{about['length']}), where its authors take 128 windows of 2,048.{_calibrated(records, width)}"
                )


def _calibrated(records: Sequence[Record], width: int) -> str:
    """A sentence: what GPTQ costs at ``width`` with the most windows; nothing where it was not run."""
    found = of_kind(records, "calibrated_gptq")
    most = max((one.parameters["windows"] for one in found), default=0)
    points = frontier.seed_points([one for one in found if one.parameters["windows"] == most])
    here = points[points["budget"] == f"uniform {width} bits"] if len(points) else points
    parts = [
        f"{row['how'].removeprefix('uniform, GPTQ, ')} {row[INCREASE]:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        for _, row in here.iterrows()
    ]
    return f" With {', with '.join(parts)}." if parts else ""


def curse(data: str, records: Sequence[Record]) -> Iterator[str]:
    """What the measured costs promise for the widths that they choose, and what these cost; and how far adding up
    costs of single layers carries.
    """
    for truth in sorted(of_kind(records, "truth"), key=lambda one: one.parameters.get("windows", 0)):
        per, table = truth.parameters["per"], costs(truth)
        points = [
            (one, point)
            for one in records
            if one.kind in ("frontier", "random_band")
            and one.parameters["per"] == per
            and one.parameters["method"] == "rtn"
            for point in one.result["points"]
            if point["budget"].startswith("uniform") and point["increase"] is not None
        ]
        for one, point in points:
            same = one.parameters.get("windows") == truth.parameters.get("windows")
            if one.parameters.get("score") == MEASURED and same:
                each = np.concatenate(list(table.values()))
                yield (
                    f"On {data}, at the bytes of {point['budget']}, the costs measured on "
                    f"{truth.parameters.get('windows')} windows or texts promise "
                    f"{point['predicted']:+.3f} nats and cost {point['increase']:+.3f}: the lowest of noisy numbers "
                    f"were chosen (winner's curse; {(each < 0).sum()} of {len(each)} measured costs are below 0), and "
                    "costs do not add up."
                )
        for budget in sorted({point["budget"] for _, point in points}):
            here = [point for _, point in points if point["budget"] == budget]
            if len(here) > 5:
                pairs = [(added(table, point["choice"]), point["increase"]) for point in here]
                rank = stats.spearmanr(pairs).statistic
                yield (
                    f"Over the {len(here)} allocations on {data} at the bytes of {budget}, the added-up costs of "
                    f"single layers (from {truth.parameters.get('windows')} windows or texts) and the measured loss "
                    f"have a rank correlation of {rank:.2f}."
                )


def halves(data: str, records: Sequence[Record]) -> Iterator[str]:
    """How well a perfect score could rank the layers, given the noise of the truth."""
    for truth in truths(records):
        per = truth.parameters["per"]
        scores = [one for one in of_kind(records, "score") if one.parameters["per"] == per]
        layers = f"{len(truth.result['losses'])} {'blocks' if per == 'block' else 'Linears'}"
        rows = agreement_table([truth, *scores[:1]], 3) if 3 in truth.parameters["widths"] else pd.DataFrame()
        for _, row in rows.iterrows():
            if (own := row["truth's own"]) > 0:
                yield (
                    f"On {data}, {layers} at 3 bits, the truth on one half of {truth.parameters.get('windows')} "
                    f"windows or texts has a rank correlation of {own:.2f} with the other half, so that a perfect "
                    f"score would reach about {ceiling(own):.2f}."
                )


def equal_loss_pieces(records: Sequence[Record]) -> list[Any]:
    """Bits and bytes at which every way to choose widths costs :data:`AT` nats, as a table and a figure."""
    rows = []
    for data, points in Evidence(records).points().items():
        per_bit = (points["MB"] / points["bits"]).median()
        found = frontier.equal_loss(points, AT)
        rows.append(found.assign(data=data, MB=found["bits"] * per_bit))
    rows = [one for one in rows if len(one)]
    if not rows:
        return []
    rows.sort(key=len, reverse=True)  # the fullest data set gives the order of the bars
    frame = pd.concat(rows).rename(columns={"bits": "bits a weight", "MB": "MB of the blocks' Linears"})
    title = f"Bits a weight, scales counted, at +{AT:g} nats"
    return [
        figures.table(
            frame[["data", "how", "bits a weight", "low", "high", "MB of the blocks' Linears", "seeds"]],
            f"{title}: fewer is better. Interpolated between budgets by the logarithm of the loss; intervals cover "
            "test windows and, with three seeds, calibration windows",
        ),
        figures.bars(
            frame[["data", "how", "bits a weight", "low", "high"]].replace(np.inf, np.nan),
            "how",
            "bits a weight",
            panels="data",
            title=title,
            caption="The paper's own quantity, bytes at equal loss. A way to choose widths that is missing costs less "
            "than that at the fewest bits that were tried, or more at the most.",
            alt="Horizontal bars, one a way to choose widths and panel a data set: bits a weight at equal loss.",
        ),
    ]
