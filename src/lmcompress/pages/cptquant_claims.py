"""What became of each claim of CPTQuant, decided by rules on the records of the other notebooks."""

from collections.abc import Sequence

import pandas as pd

from lmcompress.experiments import allocated
from lmcompress.experiments.released import DottedName
from lmcompress.experiments.score_study import SubjectStudy
from lmcompress.experiments.speeds import KERNELS
from lmcompress.records import Experiment, Record, profile, published, study_class
from lmcompress.report import depth, figures, frontier, size_tables, speed_tables
from lmcompress.report.agreement import agreement, written
from lmcompress.report.html import FAILS, HOLDS, NOT_RUN, PART, VERDICTS, verdict_on
from lmcompress.report.words import estimate, of_kind, readable, says, started

SOURCES = ("30_cmpq", "33_sensitivity_shootout", "34_bit_allocation", "35_real_size_and_speed")


NAMES = {frontier.UNIFORM: "uniform widths"}


class Study(SubjectStudy):
    """The released replacement of layers, tried on both models. The claims are judged on the other
    notebooks' records.
    """

    bits: int = 4
    test: int = 128
    test_windows: int = 8

    def experiments(self) -> list[Experiment]:
        return [
            DottedName(
                **on, bits=self.bits, test=self.test_windows if on["task"] == "language" else self.test
            )
            for on, _ in self.subjects()
        ]


def quick_experiments() -> list[Experiment]:
    """The experiments of the notebooks that the claims are judged on, in the profile ``quick``."""
    found = [run for name in SOURCES for run in study_class(name)(**profile("quick", name)).experiments()]
    return list(dict.fromkeys(found))


def published_evidence() -> list[Record]:
    """The published records of these notebooks, each once, with the kernels of a CPU."""
    of_cpu = published("35_real_size_and_speed", "cpu")
    found = {record.key: record for name in SOURCES for record in published(name)}
    return [*found.values(), *of_cpu]


def claims(records: Sequence[Record]) -> list[tuple[str, str, str]]:
    """``(claim, verdict, evidence)`` for each claim of the paper; all figures come from ``records``."""
    return [
        _compression(records),
        _efficiency(records),
        _best_on(records, "PMPQ", "classification", "11 %"),
        _best_on(records, "TDMPQ", "language modelling", "30 %"),
        _ends(records),
        _scores(records),
    ]


def _compression(records: Sequence[Record]) -> tuple[str, str, str]:
    """Holds: a saved model 4 times smaller than FP16 without a significant loss. In part: only against
    FP32.
    """
    claim = "Up to 4x compression with minimal loss"
    sizes = size_tables.size_table(records)
    if not len(sizes):
        return claim, NOT_RUN, "needs saved models: [real size and speed](35_real_size_and_speed.html)"
    harmless, parts = sizes[sizes["high"] <= 0.05], []
    for task, rows in sizes.groupby("task", sort=False):
        kept = harmless[harmless["task"] == task]
        best = kept.nlargest(1, "times smaller than FP16")
        smallest = [
            f"{one['times smaller than FP16']:.2f} times FP16, {one['than FP32']:.2f} times FP32 ({one['blocks']}, "
            f"embeddings {one['embeddings']})"
            for _, one in best.iterrows()
        ]
        row = size_tables.mixed(rows).iloc[-1]
        parts.append(
            f"{task}: {smallest[0] if smallest else 'none'}; {row['blocks']}: "
            f"{row['times smaller than FP16']:.2f} times FP16, {row['loss increase (nats)']:+.3f} nats "
            f"({row['low']:+.3f} to {row['high']:+.3f})"
        )
    evidence = (
        f"Smallest file whose loss is at most 0.05 nats more (upper end of the 95 % interval), and the mixed one. "
        f"{'. '.join(map(started, parts))}. The paper counts from FP32, without scales and embeddings. "
        "[Files](35_real_size_and_speed.html)"
    )
    ratios = harmless.groupby("task")[["times smaller than FP16", "than FP32"]].max()
    if (ratios["times smaller than FP16"] >= 4).all():
        return claim, HOLDS, evidence
    return claim, PART if (ratios >= 4).to_numpy().any() else FAILS, evidence


def _efficiency(records: Sequence[Record]) -> tuple[str, str, str]:
    """Holds: every timed kernel decodes twice as fast as 16 bits. In part: one does at some batch."""
    claim = "2x efficiency against FP16"
    speeds = speed_tables.speed_table(records)
    if not len(speeds) or not (speeds["kernel"] == "bf16").any():
        return (
            claim,
            NOT_RUN,
            "needs real kernels on a GPU: [real size and speed](35_real_size_and_speed.html)",
        )
    timed = speed_tables.over_bf16(speeds)
    if not len(timed):
        return claim, NOT_RUN, "only bf16 was timed: [kernels and reasons](35_real_size_and_speed.html)"
    parts = [
        f"{device}, {model}: "
        + "; ".join(_by_batch(kernel, of) for kernel, of in rows.groupby("kernel", sort=False))
        for (device, model), rows in timed.groupby(["device", "model"], sort=False)
    ]
    for device, rows in speeds.groupby("device", sort=False):
        there = set(rows.dropna(subset=["decode tokens/s"])["kernel"])
        if absent := [kernel for kernel in KERNELS if kernel not in there]:
            parts.append(f"Not timed on {device}: {', '.join(absent)}")
    best = timed.loc[timed["over bf16"].idxmax()]
    evidence = (
        f"Decode speed over bf16, at best {estimate(best['over bf16'], best['least'], best['most'])}: "
        f"{best['kernel']}, {best['model']}, batch {best['batch']}. {'. '.join(parts)}. "
        "[Speeds](35_real_size_and_speed.html)"
    )
    return claim, verdict_on(timed["over bf16"] >= 2), evidence


def _by_batch(kernel: str, rows: pd.DataFrame) -> str:
    """Speeds of a kernel over bf16 and the batches that they are at."""
    ratios = ", ".join(f"{ratio:.2f}" for ratio in rows["over bf16"])
    return f"{kernel} {ratios} at batch {', '.join(map(str, rows['batch']))}"


def _best_on(records: Sequence[Record], score: str, task: str, by: str) -> tuple[str, str, str]:
    """Holds: at equal bytes the upper end of the score's 95 % interval is below the other two, uniform
    widths, and 95 % of the random allocations where these were run, at every budget. In part: it is below
    the other two at some budget.
    """
    claim = f"{score} compresses {by} more than the other two on {task}"
    points = frontier.points_table(records) if of_kind(records, "frontier") else pd.DataFrame()
    here = (
        points[(points["task"] == task) & points["budget"].str.startswith("uniform")]
        if len(points)
        else points
    )
    best, beats, parts = [], [], []
    for budget, rows in here.groupby("budget") if len(here) else ():
        at = rows.set_index("how")
        loss = at["loss increase (nats)"]
        if not {"CMPQ", "PMPQ", "TDMPQ", frontier.UNIFORM} <= set(at.index):
            continue
        three, bar = loss[["CMPQ", "PMPQ", "TDMPQ"]].sort_values(), loss[frontier.UNIFORM]
        low, high = at.loc[score, ["low", "high"]]
        shown = [
            f"{name} {value:+.3f}" + (f" ({low:+.3f} to {high:+.3f})" if name == score else "")
            for name, value in three.items()
        ]
        others = loss.reindex([allocated.MEASURED, frontier.UNIFORM]).dropna()
        others = [f"{NAMES.get(name, name)} {value:+.3f}" for name, value in others.items()]
        if frontier.RANDOM in at.index:
            band = at.loc[frontier.RANDOM]
            bar = min(bar, band["low"])
            chance = f"nine tenths {band['low']:+.3f} to {band['high']:+.3f}"
            others.append(f"random widths {band['loss increase (nats)']:+.3f} ({chance})")
        best.append(high < three.drop(score).min())
        beats.append(high < bar)
        parts.append(f"At the bytes of {budget}: {', '.join(shown)}; beside {', '.join(others)}")
    if not parts:
        return claim, NOT_RUN, f"needs the frontier on {task}: [bit allocation](34_bit_allocation.html)"
    verdict = HOLDS if all(best) and all(beats) else PART if any(best) else FAILS
    evidence = f"Loss increase in nats, by one solver. {'. '.join(parts)}. [Frontier](34_bit_allocation.html)"
    return claim, verdict, evidence


def _ends(records: Sequence[Record]) -> tuple[str, str, str]:
    """Holds: measured, the ends cost more than the middle beyond the interval on every model. In part: on some."""
    claim = "The first and last 30 % of the layers are the sensitive ones"
    if not of_kind(records, "truth"):
        return claim, NOT_RUN, "needs the measured truth: [CMPQ](30_cmpq.html)"
    found = depth.contrasts(records)
    parts = [
        f"{row['task']}, {row['bits']} bits: {row[depth.CONTRAST]:+.4f} nats ({row['low']:+.4f} to {row['high']:+.4f}; "
        f"all layers on average {row['mean of all layers']:.4f})"
        for _, row in found.iterrows()
    ]
    nulls = {task: null.explained for task, score, null in depth.depth_nulls(records) if score == "CMPQ"}
    nulls = [f"{share:.0%} of CMPQ's pattern ({task})" for task, share in nulls.items()]
    alone = f". Distance alone explains {' and '.join(nulls)}" if nulls else ""
    return (
        claim,
        verdict_on(found["low"] > 0),
        f"Measured, ends minus middle. {'. '.join(map(started, parts))}{alone}. [Depth](30_cmpq.html)",
    )


def _scores(records: Sequence[Record]) -> tuple[str, str, str]:
    """Holds: the intervals of all three are above 0 on every model. In part: some are."""
    claim = "CMPQ, PMPQ and TDMPQ tell which layers are sensitive"
    if not of_kind(records, "truth"):
        return claim, NOT_RUN, "needs the truth: [shootout](33_sensitivity_shootout.html)"
    names = ("CMPQ", "PMPQ", "TDMPQ")
    chosen = [one for one in records if one.kind == "truth" or one.parameters.get("score") in names]
    chosen = [one for one in chosen if 3 in one.parameters["widths"]]
    table = agreement(chosen) if of_kind(chosen, "truth") else pd.DataFrame()
    table = table[table["bits"] == 3].dropna(subset=["Spearman"]) if len(table) else table
    if not len(table):
        return claim, NOT_RUN, "needs the scores: [shootout](33_sensitivity_shootout.html)"
    parts = [
        f"{task}, {layers}: " + ", ".join(f"{row['score']} {written(row)}" for _, row in rows.iterrows())
        for (task, layers), rows in table.groupby(["task", "layers"], sort=False)
    ]
    evidence = f"Spearman with the truth at 3 bits. {'. '.join(map(started, parts))}."
    return claim, verdict_on(table["low"] > 0), f"{evidence} [Shootout](33_sensitivity_shootout.html)"


def dotted_table(records: Sequence[Record]) -> pd.DataFrame:
    """Loss increase when layers are "replaced" by their dotted names, and when they really are."""
    rows = [
        (
            readable(record.parameters["task"]),
            record.result["layers"],
            record.parameters["bits"],
            record.result["by_dotted_name"]["increase"],
            record.result["in_place"]["increase"],
        )
        for record in of_kind(records, "dotted_name")
    ]
    names = [
        "task",
        "layers",
        "bits",
        "loss increase (nats), by dotted name",
        "loss increase (nats), in place",
    ]
    return pd.DataFrame(rows, columns=names)


def dotted_pieces(records: Sequence[Record]) -> list:
    """The table of the released replacement."""
    return [figures.table(dotted_table(records), "Layers replaced as in the released scripts, and really")]


def pieces(records: Sequence[Record]) -> list:
    """How many claims met which verdict, and the table of verdicts."""
    judged = claims(records)
    counts = {word: sum(verdict == word for _, verdict, _ in judged) for word in VERDICTS}
    parts = [f"{word}: {count}" for word, count in counts.items()]
    return [
        says([f"Verdicts on {len(judged)} claims. {started(', '.join(parts))}."]),
        figures.verdicts(judged),
    ]
