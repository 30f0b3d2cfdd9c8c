"""Every figure of the PERP pages from a few made-up records: what is drawn, what is left out, what captions say."""

import re

import pytest

from lmcompress.records import Record
from lmcompress.report import canvas, perp_figures, perp_tables, reconstruction_tables

PATTERNS = ("30%", "50%", "70%", "2:4")


def record(kind, result, **changes):
    about = {"model": "tiny", "dtype": "bf16", "task": "language", "criterion": "magnitude", "pattern": "50%"}
    about |= {
        "subset": "nothing",
        "steps": 9,
        "rounds": 1,
        "seed": 0,
        "batch": 4,
        "length": 8,
        "fine_tune_steps": 5,
    }
    return Record("", kind, 1, about | changes, {}, result, {"device": "some device"})


def retrained(subset, loss, **changes):
    test = {"nll": [loss, loss + 0.5], "dense": 3.0, "kl": 0.5, "convention": "mean over predicted tokens"}
    result = {"lr": 0.1, "percent": 0.02, "merged": True, "tokens": 64, "tests": {"text": test}}
    return record("retrain", result, subset=subset, **changes)


def reconstructed(granularity, loss, subset="masklora", **changes):
    test = {"nll": [loss, loss + 0.5], "dense": 3.0, "kl": 0.5, "convention": "mean over predicted tokens"}
    blocks = [
        {"before": 0.5, "after": 0.1, "improved": True},
        {"before": 0.4, "after": 0.4, "improved": False},
    ]
    result = {"lr": 0.1, "tokens": 64, "tests": {"text": test}, "blocks": blocks, "reconstruct_seconds": 1.0}
    about = {"subset": subset, "granularity": granularity, "targets": "sparse"}
    return record("reconstruct", result, **about | changes)


def chosen():
    return record("choose_rate", {"lr": 0.1, "trials": []}, subset="norms")


@pytest.fixture(scope="module")
def grid():
    runs = [
        retrained(subset, loss, pattern=pattern)
        for pattern in PATTERNS
        for subset, loss in (("nothing", 6.0), ("norms", 3.5), ("masklora", 3.2), ("full", 3.0))
    ]
    return [*runs, retrained("head", 5.0)]


@pytest.mark.parametrize(
    "draw", [perp_figures.perplexity, perp_figures.close_to_full, perp_figures.recovered]
)
def test_a_grid_is_lines_of_the_subsets_that_were_run_at_most_patterns(grid, draw):
    figure = draw(grid, "text")
    assert set(figure.table["retrained"]) - {"nothing"} >= {"norms", "masklora"}
    assert "head" not in set(figure.table["retrained"])  # run at one pattern only
    assert list(figure.table[perp_figures.PATTERN].unique()) == ["30", "50", "70", "2:4"]
    assert "9 steps of 32 tokens, 1 seed" in figure.caption


def test_what_was_not_pruned_is_a_control_and_not_in_the_comparison(grid):
    control = [
        retrained("norms", 2.9, pattern="0%"),
        retrained("norms", 2.8, pattern="0%", task="classification"),
    ]
    runs = [*grid, *control]
    assert perp_tables.without_pruning(runs) == control[:1]
    assert len(perp_tables.of_task(runs, "language")) == len(grid)


def test_a_caption_counts_the_seeds_of_each_setting(grid):
    again = [retrained("norms", 3.4, pattern="50%", seed=seed) for seed in (1, 2)]
    assert "1 to 3 seeds" in perp_figures.perplexity([*grid, *again], "text").caption


def test_a_subset_has_one_colour_in_all_figures_of_lines(grid):
    def colours(figure):
        return {one for one in re.findall("#[0-9a-f]{6}", figure.svg) if one in canvas.PALETTE}

    norms = [run for run in grid if run.parameters["subset"] == "norms"]
    alone = perp_figures.perplexity(norms, "text")
    assert colours(alone) == {canvas.PALETTE[canvas.METHODS["norms"]]}
    others = perp_figures.close_to_full(grid, "text")  # norms and masklora
    assert colours(others) == colours(alone) | {canvas.PALETTE[canvas.METHODS["masklora"]]}


def test_every_subset_is_shown_at_the_pattern_where_most_were_run(grid):
    figure = perp_figures.every_subset(grid, "text")
    assert set(figure.table["retrained"]) == {"norms", "masklora", "head"}


def test_one_pattern_is_bars(grid):
    figure = perp_figures.perplexity([run for run in grid if run.parameters["pattern"] == "50%"], "text")
    assert set(figure.table["retrained"]) == {"nothing", "norms", "masklora", "head", "full"}


def test_reconstruction_beside_retraining_and_choices_of_rates(grid):
    one = [run for run in grid if run.parameters["pattern"] == "50%"]
    records = [chosen(), *one, reconstructed("block", 3.4), reconstructed("linear", 3.6)]
    methods = perp_figures.methods(records, "text")
    assert {"pruned", "masklora by block", "masklora by linear", "norms retrained"} <= set(
        methods.table["method"]
    )
    assert perp_tables.corpora(records[1:]) == ["text"]
    assert reconstruction_tables.methods(records, "another corpus").empty
    blocks = perp_figures.block_errors(records)
    assert len(blocks.table) == 2 * 2 * 2


def test_what_was_reconstructed_in_few_settings_has_a_table_of_its_own(grid):
    usual = [reconstructed("block", 3.4 + place, pattern=name) for place, name in enumerate(("50%", "70%"))]
    everywhere = [run for run in grid if run.parameters["subset"] != "head"]
    records = [*everywhere, *usual, reconstructed("block", 3.1, "full", pattern="70%")]
    assert "full by block" not in set(perp_figures.methods(records, "text").table["method"])
    assert "full by block" not in reconstruction_tables.levels(records, "text")
    few = reconstruction_tables.few(records, "text")
    assert list(few.columns) == ["method", "70% by magnitude"]
    assert {"full by block", "masklora by block", "pruned"} <= set(few["method"])
    assert few["70% by magnitude"].is_monotonic_increasing
    assert reconstruction_tables.few([*everywhere, *usual], "text").empty


def test_rounds_budgets_speed_and_accuracy(grid):
    several = [retrained("norms", 3.0 + rounds / 10, rounds=rounds) for rounds in (1, 2)]
    assert len(perp_figures.rounds(several, "text").table) == 2
    longer = [retrained("norms", 3.0, steps=steps) for steps in (9, 90)]
    assert "pruned" not in set(
        perp_figures.budgets([*longer, retrained("nothing", 6.0)], "text").table["retrained"]
    )
    timed = [
        record(
            "step_cost",
            {"trainable": 1, "percent": 1.0, "tokens_per_s": s, "seconds_a_step": 1, "peak_bytes": 9},
            subset=n,
        )
        for n, s in (("norms", 20.0), ("full", 10.0))
    ]
    assert "some device" in perp_figures.speed(timed).caption
    hits = {"texts": {"correct": [1, 0, 1, 1], "dense": 0.9}}
    labelled = [
        record(
            "retrain", {"lr": 0.1, "percent": 0.1, "tests": hits}, task="classification", subset=name, test=4
        )
        for name in ("biases", "full")
    ]
    assert list(perp_figures.accuracy(labelled, "texts").table["accuracy"]) == [0.75, 0.75]


def test_tables_leave_out_what_is_unknown(grid):

    html = perp_figures.table(perp_tables.perplexities(grid, "text"), "All runs")
    assert "retrained" in html
    assert "rounds" not in html
