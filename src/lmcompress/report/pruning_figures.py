"""Figures of the pruning sweep. Each takes the records and draws a table of :mod:`pruning_tables`."""

from collections.abc import Sequence

from lmcompress.records import Record
from lmcompress.report import figures, pruning_tables
from lmcompress.report.html import number


def perplexity(records: Sequence[Record]) -> figures.Figure:
    """Perplexity of every criterion at every pattern, on a logarithmic axis."""
    found = pruning_tables.sweep(records).dropna(subset="perplexity")
    worst = found.loc[found["perplexity"].idxmax()]
    return figures.lines(
        found[found["kind"] == "unstructured"],
        "sparsity (%)",
        "perplexity",
        "criterion",
        log="y",
        reference={"dense": pruning_tables.dense(records)},
        title="Perplexity after pruning",
        caption=f"{pruning_tables.about(records)} Bars: 95 % bootstrap interval over windows. Logarithmic axis.",
        alt=f"Perplexity rises with sparsity for every criterion; the highest of all patterns is "
        f"{number(worst['perplexity'])} for {worst['criterion']} at {worst['pattern']}, "
        f"the dense model has {number(pruning_tables.dense(records))}.",
    )


def patterns(records: Sequence[Record]) -> figures.Figure:
    """What the pattern costs: KL to the dense model for all patterns of the sparsities that N:M patterns have."""
    found = pruning_tables.sweep(records).dropna(subset="perplexity")
    shares = found[found["kind"] == "N:M"]["sparsity (%)"].unique()
    found = found[found["sparsity (%)"].isin(shares)] if len(shares) else found
    best = found.loc[found["KL (nats a token)"].idxmin()]
    return figures.bars(
        found,
        "criterion",
        "KL (nats a token)",
        "pattern",
        ends=(),  # those of the table are the perplexity's
        title="The same number of zeros, in different places",
        caption=f"{pruning_tables.about(records)} KL divergence from the dense model: 0 would be no change.",
        alt=f"Bars of KL for each criterion and pattern; the shortest is {best['criterion']} at {best['pattern']}.",
    )


def by_depth(records: Sequence[Record], pattern: str) -> figures.Figure:
    """Relative output error of the Linears, block by block."""
    found = pruning_tables.by_depth(records, pattern)
    worst = found.loc[found["relative output error"].idxmax()]
    return figures.lines(
        found,
        "block",
        "relative output error",
        "criterion",
        log="y",
        title=f"Error of the layers by depth, {pattern} pruned",
        caption="Squared error of a Linear's output over its squared size, mean over the Linears of a block, on the "
        "calibration inputs that it sees in the model pruned so far.",
        alt=f"One line for each criterion over the blocks; the largest error is that of {worst['criterion']} in block "
        f"{worst['block']}.",
    )


def inputs(records: Sequence[Record]) -> figures.Figure:
    """How much larger the largest input feature is than the median one."""
    found = pruning_tables.inputs(records)
    worst = found.loc[found["largest / median"].idxmax()]
    return figures.lines(
        found,
        "block",
        "largest / median",
        "input of",
        log="y",
        title="Outlier features",
        caption="Norm of the largest input feature over the norm of the median one, for each Linear of the dense "
        "model, on the calibration windows. 1 would be: all features alike.",
        alt=f"The ratio by block for each kind of Linear, up to {number(worst['largest / median'])} at the "
        f"input of {worst['input of']} in block {worst['block']}.",
    )


def few_columns(records: Sequence[Record]) -> figures.Figure:
    """Perplexity when a few input features are spared or dropped."""
    found = pruning_tables.few_columns(records)
    worst = found.loc[found["perplexity"].idxmax()]
    return figures.bars(
        found,
        "treatment",
        "perplexity",
        log=True,
        title="A few features, spared or dropped",
        caption=f"Spare: magnitude pruning as in the first bar, with the same number of zeros, that may not touch the "
        f"weights on these inputs. Drop: only these weights are zero. "
        f"Dense: {number(pruning_tables.dense(records))}.",
        alt=f"Five bars of perplexity; the longest, {number(worst['perplexity'])}, is: {worst['treatment']}.",
    )


def cost(records: Sequence[Record]) -> figures.Figure:
    """Seconds to prune the model."""
    found = pruning_tables.costs(records)
    slowest = found.loc[found["seconds"].idxmax()]
    return figures.bars(
        found,
        "criterion",
        "seconds",
        "part",
        title="Time to prune the model",
        caption="Wall time, mean over patterns and seeds, of runs without layer errors. Passes: the calibration "
        "windows through the model, with statistics. Decisions: masks and updates of the weights.",
        alt=f"Two bars for each criterion; the longest is {slowest['part']} of {slowest['criterion']}.",
    )
