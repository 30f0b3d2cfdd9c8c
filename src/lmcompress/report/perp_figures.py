"""Figures that the PERP pages draw twice: of the runs computed on the spot and of the published ones."""

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import pandas as pd

from lmcompress.records import Record
from lmcompress.report import cost_tables, figures, perp_tables, reconstruction_tables
from lmcompress.report.figures import Figure, Texts
from lmcompress.report.html import Html

PATTERN = "sparsity in %, or zeros n:m"
NAMES = {"pattern": PATTERN, "subset": "retrained", "criterion": "pruned by"}
FEW = 2
INTERVAL = "Error bars: 95 % bootstrap intervals over the test texts and, where there are several, the seeds."


def convention(records: Sequence[Record], corpus: str) -> str:
    """The perplexity convention of the records, the seeds and the budget, for a caption."""
    found = [record for record in records if record.result.get("tests", {}).get(corpus, {}).get("convention")]
    if not found:
        return INTERVAL
    about, test = found[0].parameters, found[0].result["tests"][corpus]
    by_setting: dict[tuple[Any, ...], set[int]] = {}
    for record in found:
        if record.kind == perp_tables.RETRAIN:
            by_setting.setdefault(perp_tables.setting(record), set()).add(record.parameters["seed"])
    counts = [len(seeds) for seeds in by_setting.values()]
    few, many = (min(counts), max(counts)) if counts else (1, 1)
    seeds = f"{many} seed{'s' * (many > 1)}" if few == many else f"{few} to {many} seeds"
    return (
        f"{about['model']}, test split of {corpus}: {test['convention']}. {about['steps']} steps of "
        f"{about['batch'] * about['length']:,} tokens, {seeds}. {INTERVAL}"
    )


def drawn(
    frame: pd.DataFrame, value: str, reference: dict[str, float], log: bool = False, **texts: Unpack[Texts]
) -> Figure:
    """Lines over the patterns, or bars where there is only one; a panel for each criterion if several."""
    frame = frame.rename(columns=NAMES)
    for name in (PATTERN, "retrained"):
        frame[name] = frame[name].cat.remove_unused_categories()
    frame[PATTERN] = frame[PATTERN].cat.rename_categories(lambda text: text.removesuffix("%"))
    panels = "pruned by" if frame["pruned by"].nunique() > 1 else None
    if frame[PATTERN].nunique() > 1:
        reach = frame.groupby("retrained", observed=True)[PATTERN].nunique()
        if reach.max() > FEW:  # what was run at few patterns only is in `every_subset`
            frame = frame[frame["retrained"].isin(reach[reach > FEW].index)]
        options: dict[str, Any] = {"panels": panels, "log": "y" if log else "", "reference": reference}
        return figures.lines(frame, PATTERN, value, "retrained", **options, **texts)
    return figures.bars(frame, "retrained", value, panels=panels, log=log, **texts)


def perplexity(records: Sequence[Record], corpus: str | int = 0) -> Figure:
    """Test perplexity by pattern for every subset, the dense model as a line."""
    corpus = perp_tables.corpus_of(records, corpus)
    frame = perp_tables.perplexities(records, corpus)
    return drawn(
        frame,
        "perplexity",
        {"dense": float(frame["dense"].iloc[0])},
        log=True,
        title=f"Perplexity after pruning and retraining, {corpus}",
        caption=f"Lower is better; dense model: {frame['dense'].iloc[0]:.2f}. {convention(records, corpus)}",
        alt="Test perplexity against the sparsity pattern, one line or bar for each retrained subset, on a "
        "logarithmic scale, so that the collapse without retraining and what each subset repairs can be read.",
    )


def close_to_full(records: Sequence[Record], corpus: str | int = 0) -> Figure:
    """The main figure: perplexity of each subset over that of full retraining, on the same windows."""
    corpus = perp_tables.corpus_of(records, corpus)
    frame = perp_tables.against_full(records, corpus)
    frame = frame[frame["subset"] != "nothing"]
    return drawn(
        frame,
        "times full",
        {"full retraining": 1.0},
        log=True,
        title=f"How close each subset comes to full retraining, {corpus}",
        caption="Perplexity divided by that of retraining all weights from the same pruned model with the same "
        f"steps: 1 is as good, below 1 better. Pairs of runs on the same windows. {convention(records, corpus)}",
        alt="Ratio of the perplexity of each retrained subset to that of full retraining, against the sparsity "
        "pattern, with a line at one where both are equally good.",
    )


def every_subset(records: Sequence[Record], corpus: str | int = 0) -> Figure:
    """Every subset over full retraining, after the first criterion, at the patterns where most were run."""
    corpus = perp_tables.corpus_of(records, corpus)
    frame = perp_tables.against_full(records, corpus)
    frame = frame[(frame["subset"] != "nothing") & (frame["criterion"] == frame["criterion"].iloc[0])]
    number = frame.groupby("pattern", observed=True)["subset"].transform("nunique")
    frame = frame[number == number.max()].rename(columns=NAMES)
    for name in (PATTERN, "retrained"):
        frame[name] = frame[name].cat.remove_unused_categories()
    return figures.bars(
        frame,
        "retrained",
        "times full",
        panels=PATTERN if frame[PATTERN].nunique() > 1 else None,
        log=True,
        title=f"Every subset beside full retraining, {corpus}",
        caption="Perplexity divided by that of retraining all weights: 1 is as good. Pruned by "
        f"{frame['pruned by'].iloc[0]}. {convention(records, corpus)}",
        alt="Bars: for each subset, its perplexity over that of full retraining from the same pruned model.",
    )


def recovered(records: Sequence[Record], corpus: str | int = 0) -> Figure:
    """Share of what full retraining wins back that each subset wins back."""
    corpus = perp_tables.corpus_of(records, corpus)
    frame = perp_tables.against_full(records, corpus)
    frame = frame[frame["subset"] != "nothing"].drop(columns=["low", "high"])
    frame = frame.rename(columns={"recovered low": "low", "recovered high": "high"})
    return drawn(
        frame,
        "recovered",
        {"full retraining": 1.0},
        title=f"Share of the damage repaired, {corpus}",
        caption="(loss pruned - loss retrained) / (loss pruned - loss after full retraining); 1: as much "
        f"as full retraining repairs. {convention(records, corpus)}",
        alt="For each retrained subset and sparsity pattern, the share of the loss that full retraining takes "
        "away which the subset takes away as well.",
    )


def accuracy(records: Sequence[Record], texts: str | int = 0) -> Figure:
    """Test accuracy of the pruned and retrained classifier."""
    texts = perp_tables.corpus_of(records, texts)
    frame = perp_tables.accuracies(records, texts)
    about = records[0].parameters
    return drawn(
        frame,
        "accuracy",
        {"dense": float(frame["dense"].iloc[0])},
        title=f"Accuracy after pruning and retraining, {texts}",
        caption=f"{about['model']} fine-tuned on {texts} for {about['fine_tune_steps']} steps, then pruned by "
        f"magnitude and retrained for {about['steps']} steps of {about['batch']} texts; dense: "
        f"{frame['dense'].iloc[0]:.3f}, {about['test']} test texts. {INTERVAL}",
        alt="Share of test texts that are classified rightly for each retrained subset and sparsity pattern, "
        "beside the dense classifier.",
    )


def methods(records: Sequence[Record], corpus: str | int = 0) -> Figure:
    """Perplexity of the pruned model, of the usual reconstructions and of the retrainings beside them."""
    corpus = perp_tables.corpus_of(records, corpus)
    frame = reconstruction_tables.methods(records, corpus)
    frame = frame[frame["method"].isin(reconstruction_tables.usual(frame))]
    frame = frame.assign(pruned=frame["pattern"] + " by " + frame["criterion"])
    return figures.bars(
        frame,
        "method",
        "perplexity",
        panels="pruned" if frame["pruned"].nunique() > 1 else None,
        log=True,
        title=f"Perplexity after reconstruction, {corpus}",
        caption=f"Lower is better; dense model: {frame['dense'].iloc[0]:.2f}. "
        f"Reconstructions see {frame['texts seen (tokens)'].max():,} tokens at most. {convention(records, corpus)}",
        alt="Test perplexity of the pruned model, after reconstruction at each granularity, and after retraining.",
    )


def block_errors(records: Sequence[Record]) -> Figure:
    """Relative error of every block's output before and after, of the first criterion and pattern."""
    frame = reconstruction_tables.block_errors(records)
    first = frame.iloc[0]
    frame = frame[(frame["criterion"] == first["criterion"]) & (frame["pattern"] == first["pattern"])]
    return figures.lines(
        frame,
        "block",
        "relative error",
        "state",
        panels="method" if frame["method"].nunique() > 1 else None,
        log="y",
        title=f"Error of every block, {first['pattern']} by {first['criterion']}",
        caption="Squared difference of the block's output from its target over the squared target, on the calibration "
        "texts, before the block is trained and after. First seed.",
        alt="Relative error against the number of the block, one line before and one after reconstruction.",
    )


def rounds(records: Sequence[Record], corpus: str | int = 0) -> Figure:
    """Perplexity by the number of rounds of pruning and retraining."""
    corpus = perp_tables.corpus_of(records, corpus)
    frame = perp_tables.against_one_shot(records, corpus).rename(columns=NAMES)
    frame["rounds"] = frame["rounds"].astype(str)
    return figures.lines(
        frame,
        "rounds",
        "perplexity",
        "retrained",
        panels=PATTERN if frame[PATTERN].nunique() > 1 else None,
        log="y",
        title=f"Rounds of pruning and retraining at equal steps, {corpus}",
        caption=f"1 round is one-shot pruning. {convention(records, corpus)}",
        alt="Test perplexity against the number of rounds, one line for each retrained subset.",
    )


def speed(records: Sequence[Record]) -> Figure:
    """Tokens per second of every subset's steps."""
    about = records[0].parameters
    return figures.bars(
        cost_tables.costs(records).rename(columns=NAMES),
        "retrained",
        "tokens/s",
        title="Tokens retrained on per second",
        caption=f"{about['model']} in {about['dtype']}, {about['batch']} windows of {about['length']} tokens a step, "
        f"{about['steps']} steps, {records[0].provenance['device']}.",
        alt="Bars of the training speed of each subset, full retraining among them.",
    )


def budgets(records: Sequence[Record], corpus: str | int = 0) -> Figure:
    """Perplexity by the number of steps."""
    corpus = perp_tables.corpus_of(records, corpus)
    frame = perp_tables.perplexities(records, corpus)
    pruned = frame.loc[frame["subset"] == "nothing", "perplexity"]
    frame = frame[frame["subset"] != "nothing"].rename(columns=NAMES)
    reference = {"dense": float(frame["dense"].iloc[0])}
    return figures.lines(
        frame,
        "steps",
        "perplexity",
        "retrained",
        log="xy",
        reference=reference | ({"pruned": float(pruned.iloc[0])} if len(pruned) else {}),
        title=f"What a larger budget buys, {corpus}",
        caption=f"The numbers of steps are on the axis. {convention(records, corpus).split('. ', 1)[0]}. {INTERVAL}",
        alt="Test perplexity against the number of retraining steps for each subset, between the pruned and the dense "
        "model.",
    )


def table(frame: pd.DataFrame, caption: str) -> Html:
    """A table of the page with the columns' reader names; what is the same everywhere stands in the caption, but for
    the number of rounds.
    """
    if "rounds" in frame and frame["rounds"].nunique() == 1:
        frame = frame.drop(columns="rounds")
    return figures.varied(frame.rename(columns=NAMES), caption)


def tabled(
    frame: Callable[..., pd.DataFrame], caption: str, missing: str = "", show: Callable[..., Html] = table
) -> Callable[..., Html]:
    """:func:`lmcompress.report.html.tabled` of ``frame(runs, corpus)``; the corpus, whose name is ``{}`` in the
    caption, is given to it by name or place.
    """
    made = figures.tabled(frame, caption, missing, show)

    def of_corpus(records: Sequence[Record], corpus: str | int = 0) -> Html:
        return made(records, perp_tables.corpus_of(records, corpus))

    return of_corpus
