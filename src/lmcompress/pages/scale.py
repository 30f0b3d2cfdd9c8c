"""What pruning, quantization and retraining take at the sizes of the paper's models: rows of ``benchmarks/at_size.py``
and ``benchmarks/peers.py``.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmcompress.experiments.costs import COUNTED, Architecture, ShareTrained
from lmcompress.experiments.pruned import SubsetText
from lmcompress.files import benchmark
from lmcompress.parameters import Gigabytes, Many, Some
from lmcompress.records import Experiment
from lmcompress.records import Study as Planned
from lmcompress.report import figures
from lmcompress.report.figures import Figure
from lmcompress.report.html import NOT_RUN, Html, not_run, table, verdict_on, verdicts

RANDOM = (
    "Random weights in bf16 in the model's shapes: time and memory do not depend on their values. Blocks that were not "
    "run, and steps, are counted as those that were."
)
NEEDS = "one GPU with 80 GB for six minutes: `python benchmarks/at_size.py --out results/benchmarks`"
BILLIONS = "parameters, billions"
SINGLE = "as memory needs, a window at a time"  # a way of checkpointing

WORDS = {
    "magnitude": "pruning by magnitude",
    "wanda": "by Wanda",
    "sparsegpt": "by SparseGPT",
    "gptq 4bit-g128": "GPTQ to 4 bits",
    "reconstruct biases+norms": "reconstruction with biases and norms",
    "reconstruct masklora": "reconstruction with MaskLoRA",
    "biases+norms": "1,000 steps of retraining biases and norms",
    "masklora": "1,000 steps of MaskLoRA",
    "plain transformers, biases+norms, no optimizer": "the same steps in plain transformers without an optimizer",
}


class Study(Planned):
    """Parameters that each subset trains, counted for ``architectures``; ``cards``: GiB of GPUs to be fitted into."""

    architectures: Many[Architecture] = ("OPT-1.3B", "OPT-2.7B", "OPT-6.7B", "OPT-13B", "OPT-30B")
    counted: Some[SubsetText] = COUNTED
    cards: Many[Gigabytes] = (8, 24, 80)

    def experiments(self) -> list[Experiment]:
        return [ShareTrained(architecture=name, subsets=self.counted) for name in self.architectures]


def rows() -> pd.DataFrame:
    """Rows of the record from the smallest model to the largest; empty where there is none."""
    frame = pd.DataFrame(benchmark("at_size")["rows"])
    if frame.empty:
        return frame
    return frame.assign(**{BILLIONS: frame["parameters"] / 1e9}).sort_values("parameters", kind="stable")


def fastest(frame: pd.DataFrame) -> pd.DataFrame:
    """Of several ways to run a method on a model the one that takes the least time."""
    best = frame.groupby(["model", "method"], sort=False)["minutes"].transform("min")
    return frame[frame["minutes"] == best]


def leanest(frame: pd.DataFrame) -> pd.DataFrame:
    """Of several ways the one that takes the least memory, with all blocks checkpointed; counted where not measured."""
    lean = frame[frame["checkpointing"].isin(["all blocks"]) | frame["checkpointing"].isna()]
    measured = lean["run"].ne("counted").groupby([lean["model"], lean["method"]]).transform("any")
    return lean[lean["run"].ne("counted") | ~measured]


def exponent(parameters: Sequence[float], cost: Sequence[float]) -> float:
    """k of the least-squares fit ``cost = c * parameters^k`` in logarithms; NaN for fewer than three points."""
    if len(parameters) < 3:
        return math.nan
    return float(np.polyfit(np.log(parameters), np.log(cost), 1)[0])


def growth(frame: pd.DataFrame) -> pd.DataFrame:
    """How time and memory of each method grow with the parameters, beside the floor of the time, and its share of the
    ceiling.
    """
    found, lean = [], leanest(frame)
    for method, part in fastest(frame).groupby("method", sort=False):
        share, held = part["share of peak"], lean[lean["method"] == method]
        found.append(
            {
                "method": method,
                "sizes": len(part),
                "minutes grow with parameters to the power": exponent(part["parameters"], part["minutes"]),
                "the floor's": exponent(part["parameters"], part["floor minutes"]),
                "the peak memory's": exponent(held["parameters"], held["peak GiB"]),
                "share of the ceiling low": share.min(),
                "share of the ceiling high": share.max(),
            }
        )
    return pd.DataFrame(found)


def costs(frame: pd.DataFrame) -> Html:
    """Every row, for readers."""
    names = ["model", "method", "checkpointing", "minutes", "floor minutes", "share of peak", "bound by"]
    shown = frame[[*names, "peak GiB", "share of card", "tokens", "run", "of"]].fillna({"checkpointing": "–"})
    return table(shown, f"Minutes, floor and memory, {fastest(frame)['device'].iloc[0]}")


def fits(frame: pd.DataFrame, cards: Sequence[float]) -> pd.DataFrame:
    """The largest measured shape that each method holds on cards of so many GiB, its peak in brackets."""
    found = []
    for method, part in leanest(frame).groupby("method", sort=False):
        row = {"method": method}
        for card in cards:
            inside = part[part["peak GiB"] <= card].sort_values("parameters")
            last = inside.iloc[-1] if len(inside) else None
            how = ", counted" if last is not None and last["run"] == "counted" else ""
            row[f"{card:g} GiB"] = (
                "none that ran" if last is None else f"{last['model']} ({last['peak GiB']:.1f}{how})"
            )
        found.append(row)
    return pd.DataFrame(found)


def time_figure(frame: pd.DataFrame) -> Figure:
    """Minutes against size; where one size ran, minutes and floor of each method as bars."""
    best = fastest(frame)
    caption = (
        f"{best['device'].iloc[0]}. Retraining: 1,000 steps of 2 x 2,048 tokens; methods that calibrate: 128 x 2,048 "
        f"tokens. {RANDOM}"
    )
    if best["model"].nunique() > 1:
        return figures.lines(
            best,
            BILLIONS,
            "minutes",
            "method",
            log="xy",
            title="Minutes by size",
            caption=caption,
            alt="Minutes against billions of parameters, both axes logarithmic, one line for each method: the slopes "
            "are the exponents of the table.",
        )
    named = best.rename(columns={"minutes": "measured", "floor minutes": "floor"})
    tall = named.melt("method", ["measured", "floor"], var_name="time", value_name="minutes")
    return figures.bars(
        tall,
        "method",
        "minutes",
        "time",
        log=True,
        title=f"Minutes, {best['model'].iloc[0]}",
        caption=caption,
        alt="Minutes of each method on a logarithmic axis, beside the floor that the hardware sets: the distance of "
        "the two bars is what could still be gained.",
    )


def memory_figure(frame: pd.DataFrame) -> Figure:
    card = benchmark("at_size").get("card GiB")
    return figures.lines(
        leanest(frame),
        BILLIONS,
        "peak GiB",
        "method",
        log="xy",
        reference={"the card": card} if card else None,
        title="Peak memory by size",
        caption="Retraining holds the whole model, here with all blocks checkpointed; the others hold the blocks that "
        f"are worked on and the activations. {RANDOM}",
        alt="Peak memory on the GPU in GiB against billions of parameters, both axes logarithmic, one line for each "
        "method, with a dashed line at the memory of the card.",
    )


AIMS = {  # method -> minutes for OPT-30B, and GiB
    "magnitude": (20 / 60, 80),
    "wanda": (1.5, 24),
    "sparsegpt": (4, 24),
    "biases+norms": (13, 80),
    "masklora": (1000 * 4096 / 2500 / 60, 80),
    "reconstruct masklora": (10, 24),
}


def aims(frame: pd.DataFrame) -> Html:
    """What was aimed at for OPT-30B on one card, and what came of it."""
    best = fastest(frame[frame["model"] == "OPT-30B"]).set_index("method") if len(frame) else frame
    judged = []
    for method, (minutes, memory) in AIMS.items():
        claim = f"OPT-30B, {method}: {minutes:.2g} minutes within {memory} GiB"
        if method not in best.index:
            judged.append((claim, NOT_RUN, NEEDS))
            continue
        row = best.loc[method]
        good = [row["minutes"] <= minutes, row["peak GiB"] <= memory]
        evidence = f"{row['minutes']:.2f} minutes, {row['peak GiB']:.1f} GiB ({row['of']})"
        judged.append((claim, verdict_on(good), evidence))
    return verdicts(judged)


def answers(frame: pd.DataFrame) -> list[str]:
    """Retraining and pruning of the largest shape, and what a subset saves of the memory of full retraining."""
    last = frame[frame["parameters"] == frame["parameters"].max()]
    name, sentences = last["model"].iloc[0], []
    fast = fastest(last)
    parts = [
        f"{WORDS.get(row['method'], row['method'])} {row['minutes']:.1f}"
        for _, row in fast.sort_values("minutes").iterrows()
    ]
    sentences.append(f"At {name}'s shapes on one {fast['device'].iloc[0]}, in minutes: {', '.join(parts)}.")
    sentences += _price_of_recomputing(last)
    for shape, part in leanest(frame).groupby("model", sort=False):
        peaks = part.set_index("method")["peak GiB"]
        if {"full", "biases+norms"} <= set(peaks.index):
            whole, few = peaks["full"], peaks["biases+norms"]
            said = f"{shape}, all blocks checkpointed: biases and norms take {few:.1f} GiB at most, full retraining"
            sentences.append(f"{said} {whole:.1f}, {whole / few:.1f} times as much.")
    both = []
    peaks = frame[frame["checkpointing"] == "all blocks"].set_index(["model", "method", "run"])["peak GiB"]
    for model, method, run in peaks.index:
        if run == "counted" and (model, method, "scaled") in peaks.index:
            told, seen = peaks[model, method, run], peaks[model, method, "scaled"]
            both.append(f"{model} with {method} {told:.1f} and {seen:.1f}")
    return sentences + (
        [f"GiB counted and measured, where both are known: {', '.join(both)}."] if both else []
    )


def _price_of_recomputing(frame: pd.DataFrame) -> list[str]:
    """What a checkpointed block costs each subset of one model, from its runs with more and with fewer of them, and
    what one window at a time takes instead.
    """
    found = []
    ran = frame[frame["run"].ne("counted")].dropna(subset=["checkpointed"])
    alone = ran["checkpointing"].eq(SINGLE)
    single, ran = ran[alone].set_index("method"), ran[~alone]
    for method, part in ran.groupby("method", sort=False):
        few, many = part.loc[part["checkpointed"].idxmin()], part.loc[part["checkpointed"].idxmax()]
        if few["checkpointed"] < many["checkpointed"]:
            each = (many["minutes"] - few["minutes"]) / (many["checkpointed"] - few["checkpointed"])
            none = few["minutes"] - each * few["checkpointed"]
            found.append(
                f"{few['model']}, {method}: {few['checkpointed']:.0f} blocks are checkpointed for want of memory, each "
                f"of which costs {each:.2f} minutes; a card that holds all activations would need {none:.1f}."
            )
        if method in single.index:
            row = single.loc[method]
            found.append(
                f"{row['model']}, {method}, one window at a time, two of them a step: {row['checkpointed']:.0f} of the "
                f"blocks checkpointed, {row['minutes']:.1f} minutes, {row['share of peak']:.0%} of the ceiling."
            )
    return found


def peers() -> Html:
    """The table of ``benchmarks/peers.py``, or a note that it was not run."""
    found = benchmark("peers")
    if not found["rows"]:
        return not_run("Wanda and SparseGPT beside llm-compressor", "`python benchmarks/peers.py --help`")
    about = found["provenance"]
    settings = about["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in found["peers"].items())
    where = (
        f"{settings['model']}, {settings['windows']} x {settings['length']} tokens, {settings['dtype']}, "
        f"threads: {about['threads']} of a shared machine, so compare processor seconds; {versions}"
    )
    shown = pd.DataFrame(found["rows"])[
        ["method", "pattern", "code", "cpu s", "over ours", "clock s", "zeros"]
    ]
    return table(shown, f"Pruning on a CPU beside other codes ({where})")
