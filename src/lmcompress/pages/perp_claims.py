"""Each claim of PERP (arXiv 2312.15230) with a verdict made of records, by the rule that its text states."""

from collections import Counter
from collections.abc import Sequence
from math import hypot

import pandas as pd
from pydantic import Field

from lmcompress.experiments.perp_study import PerpStudy
from lmcompress.experiments.pruned import SubsetText
from lmcompress.experiments.retrained import ZeroShot
from lmcompress.prune.pattern import parse
from lmcompress.records import Experiment, Record, profile, study_class
from lmcompress.report import cost_tables, perp_tables, rate_tables, reconstruction_tables
from lmcompress.report.html import FAILS, HOLDS, NOT_RUN, PART, verdict_on
from lmcompress.report.perp_tables import accuracies, against_full, corpora, of_task, perplexities

NOTEBOOKS = ("20_retrain_subsets", "21_reconstruction", "22_iterative_or_one_shot", "23_cost_of_retraining")


RATES = "24_learning_rates"


MATCHES = 1.05  # a perplexity within 5 % of full retraining's counts as matching it


Claim = tuple[str, str, str]


Frames = dict[str, pd.DataFrame]  # by test corpus


Cases = dict[str, list[tuple[float, bool]]]  # by test corpus: what was measured, and whether it is as claimed


class Study(PerpStudy):
    """The runs of the other PERP notebooks in ``runs_of`` (a profile), and zero-shot ``tasks`` (lm-eval's name
    -> local asset, or "" for the hub) for the dense model, the pruned one and each of ``zero_shot``.
    """

    runs_of: str = "quick"
    tasks: dict[str, str] = Field(default_factory=dict)
    questions: int | None = None
    zero_shot: tuple[SubsetText, ...] = ("norms", "masklora", "full")

    def experiments(self) -> list[Experiment]:
        found = [
            experiment
            for notebook in NOTEBOOKS
            for experiment in study_class(notebook)(**profile(self.runs_of, notebook)).experiments()
        ]
        if self.tasks:
            cases = [("0%", "nothing"), *(("50%", subset) for subset in ("nothing", *self.zero_shot))]
            for pattern, subset in cases:
                run = self.retrain("magnitude", pattern, subset, self.seeds[0]).model_dump()
                about = {"tests": (), "test": 0, "tasks": self.tasks, "questions": self.questions}
                found.append(ZeroShot(**run | about))
        return experiments_once(found)

    def swept(self) -> list[Experiment]:
        """The runs of the notebook on learning rates in the same profile."""
        return study_class(RATES)(**profile(self.runs_of, RATES)).experiments()


def experiments_once(experiments: Sequence[Experiment]) -> list[Experiment]:
    """Equal runs of several notebooks once."""
    seen: dict[tuple[str, str], Experiment] = {}
    for experiment in experiments:
        seen.setdefault((experiment.kind, experiment.model_dump_json()), experiment)
    return list(seen.values())


def claims(records: Sequence[Record], swept: Sequence[Record] = ()) -> list[Claim]:
    """``(claim, verdict, evidence)`` of every claim; what is measured in perplexity is judged on every test corpus.

    ``records``: of this notebook's study; ``swept``: of the notebook on learning rates.
    """
    language = of_task(records, "language")
    one_shot = usual_steps([record for record in language if record.parameters["rounds"] == 1])
    texts = corpora(one_shot)
    close = {corpus: against_full(one_shot, corpus) for corpus in texts}
    levels = {corpus: perplexities(one_shot, corpus) for corpus in texts}
    return [
        _repairs(close),
        _matches(close),
        _at_best_rates(swept),
        _biases(of_task(records, "classification")),
        _new_biases(close),
        _masklora_at_high_sparsity(levels),
        _masking_in_training(levels),
        _merges(one_shot),
        _reconstruction(records, texts),
        _granularity(records, texts),
        _one_shot(language, texts),
        _memory(records),
        _tiny_share(records),
        _zero_shot(records),
        (
            "A model of 30 billion parameters is retrained in minutes on one GPU",
            NOT_RUN,
            "OPT-30B and a GPU of 80 GB",
        ),
    ]


def usual_steps(records: Sequence[Record]) -> list[Record]:
    """Those with the number of steps that most have: runs of other budgets are for the page about costs."""
    steps = Counter(record.parameters["steps"] for record in records)
    return [record for record in records if record.parameters["steps"] == steps.most_common(1)[0][0]]


def _counted(claim: str, what: str, found: Cases, word: str, needs: str) -> Claim:
    """A claim on several settings: on each corpus the range of what was measured and in how many it is ``word``."""
    if not found:
        return claim, NOT_RUN, needs
    parts = []
    for corpus, cases in found.items():
        values, good = zip(*cases, strict=True)
        counted = f"{word} in {sum(good)} of {len(good)} settings"
        parts.append(f"{min(values):.3g} to {max(values):.3g} on {corpus}, {counted}")
    every = [good for cases in found.values() for _, good in cases]
    return claim, verdict_on(every), f"{what}: {'; '.join(parts)}"


def _rows(frames: Frames, subset: str) -> Frames:
    """The rows of ``subset``; corpora without any are left out."""
    found = {corpus: frame[frame["subset"] == subset] for corpus, frame in frames.items() if len(frame)}
    return {corpus: rows for corpus, rows in found.items() if len(rows)}


def _repairs(close: Frames) -> Claim:
    claim = "Magnitude pruning to 50 % ruins a model, and retraining its norms alone repairs most of it"
    shares, parts = [], []
    for corpus, rows in _rows(close, "norms").items():
        at = rows[(rows["pattern"] == "50%") & (rows["criterion"] == "magnitude")]
        for _, row in at.iterrows():
            shares.append((row["recovered"], row["recovered low"]))
            interval = f"{row['recovered low']:.0%} to {row['recovered high']:.0%}"
            parts.append(f"{row['recovered']:.0%} ({interval}) on {corpus}")
    if not shares:
        return claim, NOT_RUN, "`norms` and `full` at 50 %"
    whole, most = all(low >= 0.9 for _, low in shares), any(share >= 0.5 for share, _ in shares)
    evidence = f"of the loss that full retraining wins back, norms win back {' and '.join(parts)}"
    return claim, HOLDS if whole else PART if most else FAILS, evidence + "; rule: 90 %, in part 50 %"


def _matches(close: Frames) -> Claim:
    claim = "0.01 to 0.05 % of the parameters (here: the norms) match full retraining at various sparsities"
    return _near_full(claim, _rows(close, "norms"), "`norms` and `full` at several patterns")


def _at_best_rates(swept: Sequence[Record]) -> Claim:
    claim = "Our question: do the norms match full retraining where each has its best learning rate?"
    pruned = [record for record in swept if parse(record.parameters["pattern"]).sparsity > 0]
    frames = {corpus: rate_tables.best(pruned, corpus).dropna() for corpus in corpora(pruned)}
    return _near_full(claim, _rows(frames, "norms"), "several learning rates for `norms` and `full`")


def _near_full(claim: str, frames: Frames, needs: str) -> Claim:
    """Whether a subset comes near full retraining in every setting of ``frames``, in some, or in none."""
    found = {corpus: [(one, one <= MATCHES) for one in rows["times full"]] for corpus, rows in frames.items()}
    return _counted(claim, "perplexity over that of full retraining", found, f"at most {MATCHES}", needs)


def _biases(labelled: Sequence[Record]) -> Claim:
    claim = "Biases alone are enough (on a model that has them)"
    frame = accuracies(labelled, corpora(labelled)[0]) if labelled else pd.DataFrame()
    if frame.empty or not {"biases", "full"} <= set(frame["subset"]):
        return claim, NOT_RUN, "a classifier with `biases` and `full`"
    wide = frame.pivot(index="pattern", columns="subset", values=["accuracy", "high"])
    wide = wide.dropna(subset=[("accuracy", "biases"), ("accuracy", "full")])
    biases, full = wide["accuracy", "biases"], wide["accuracy", "full"]
    matched = biases >= full - 0.01
    open_ = wide["high", "biases"] >= full  # too few texts to tell
    each = ", ".join(f"{pattern}: {biases[pattern]:.3f} and {full[pattern]:.3f}" for pattern in wide.index)
    verdict = HOLDS if matched.all() else PART if (matched | open_).any() else FAILS
    rule = "rule: within 0.01; in part where it is at some patterns, or the interval reaches full retraining"
    return claim, verdict, f"accuracy with biases and with all: {each}; {rule}"


def _new_biases(close: Frames) -> Claim:
    claim = "Our question: does it carry over to a model without biases, given new ones?"
    return _near_full(claim, _rows(close, "new-biases"), "`new-biases` and `full`")


def _lower(claim: str, levels: Frames, first: str, second: str, least: float = 0.0) -> Claim:
    """Whether one subset's perplexity is below another's, on the same pruned models of sparsity ``least`` or more."""
    found = {}
    for corpus, frame in levels.items():
        if frame.empty or not {first, second} <= set(frame["subset"]):
            continue
        wide = frame.pivot_table(
            index=["criterion", "pattern"], columns="subset", values="perplexity", observed=True
        ).dropna(subset=[first, second])
        ratio = (wide[first] / wide[second])[[parse(pattern).sparsity >= least for _, pattern in wide.index]]
        if len(ratio):
            found[corpus] = [(one, one < 1) for one in ratio]
    what, needs = (
        f"perplexity with {first} over that with {second}",
        f"`{first}` and `{second}` on the same pruned models",
    )
    return _counted(claim, what, found, "lower", needs)


def _masklora_at_high_sparsity(levels: Frames) -> Claim:
    claim = "From 60 % on, MaskLoRA repairs more than the norms"
    return _lower(claim, levels, "masklora", "norms", 0.6)


def _masking_in_training(levels: Frames) -> Claim:
    claim = "Masking during training (MaskLoRA) is better than only at the merge (LoRA-Prune)"
    return _lower(claim, levels, "masklora", "lora-prune")


def _merges(one_shot: Sequence[Record]) -> Claim:
    claim = "LoRA-Prune, MaskLoRA and ScaleLoRA merge without losing a zero"
    names = {"lora-prune", "masklora", "scalelora", "scalelora-free"}
    found = [record for record in one_shot if names & set(record.parameters["subset"].split("+"))]
    if not found:
        return claim, NOT_RUN, "any of these adapters"
    merged = [record.result["merged"] for record in found]
    evidence = f"{sum(merged)} of {len(merged)} runs merged, every mask checked afterwards"
    return claim, verdict_on(merged), evidence


def _by_setting(records: Sequence[Record], corpus: str) -> list[pd.DataFrame]:
    """Methods of the reconstruction notebook, a frame for each criterion and pattern that was reconstructed."""
    frame = reconstruction_tables.methods(records, corpus)
    groups = frame.groupby(["criterion", "pattern"], sort=False) if len(frame) else ()
    return [rows for _, rows in groups if rows["method"].str.contains(" by ").any()]


def _reconstruction(records: Sequence[Record], texts: Sequence[str]) -> Claim:
    claim = "Reconstruction with adapters improves the model after magnitude, Wanda and SparseGPT"
    chosen = [record for record in records if record.kind == reconstruction_tables.KIND or _is_pruned(record)]
    found = {}
    for corpus in texts:
        for rows in _by_setting(chosen, corpus):
            pruned = rows.loc[rows["method"] == "pruned", "perplexity"].min()
            best = rows.loc[rows["method"].str.startswith("masklora by"), "perplexity"].min()
            found.setdefault(corpus, []).append((best / pruned, best < pruned))
    what = "perplexity with the best granularity over that of the pruned model"
    return _counted(claim, what, found, "lower", "the reconstruction notebook")


def _is_pruned(record: Record) -> bool:
    about = record.parameters
    return record.kind == "retrain" and about["task"] == "language" and about["subset"] == "nothing"


def _granularity(records: Sequence[Record], texts: Sequence[str]) -> Claim:
    claim = "The granularity of reconstruction hardly matters (follow-up, arXiv 2510.14444)"
    chosen = [
        record
        for record in records
        if record.kind == reconstruction_tables.KIND
        and record.parameters["subset"] == "masklora"
        and record.parameters["targets"] == "sparse"
    ]
    found = {}
    for corpus in texts:
        for rows in _by_setting(chosen, corpus):
            if len(rows) > 1:
                spread = rows["perplexity"].max() / rows["perplexity"].min()
                found.setdefault(corpus, []).append((spread, spread <= MATCHES))
    what = "perplexity of the worst granularity over the best"
    return _counted(claim, what, found, f"at most {MATCHES}", "several granularities")


def _one_shot(language: Sequence[Record], texts: Sequence[str]) -> Claim:
    claim = "One-shot pruning with retraining is as good as iterative pruning"
    found = {}
    for corpus in texts:
        frame = perp_tables.against_one_shot(language, corpus)
        frame = frame.dropna(subset=["times one-shot"]) if len(frame) else frame
        if len(frame):
            found[corpus] = list(zip(frame["times one-shot"], frame["ratio high"] >= 1, strict=True))
    what, word = "perplexity of rounds over one-shot at equal steps", "not below 1 beyond the interval"
    return _counted(claim, what, found, word, "several rounds at equal steps")


def _memory(records: Sequence[Record]) -> Claim:
    claim = "Retraining a tiny subset takes a fraction of the memory and time of full retraining"
    frame = cost_tables.costs([record for record in records if record.kind == "step_cost"])
    if frame.empty or not {"norms", "full"} <= set(frame["subset"]):
        return claim, NOT_RUN, "timed steps of `norms` and `full`"
    rows = frame.set_index("subset")
    memory = rows.loc["norms", "peak memory (GiB)"] / rows.loc["full", "peak memory (GiB)"]
    speed = rows.loc["norms", "tokens/s"] / rows.loc["full", "tokens/s"]
    evidence = (
        f"norms: {memory:.2f} of the peak memory, {speed:.2f} times the tokens a second; rule: 0.5 and 1.5"
    )
    return claim, verdict_on([memory <= 0.5, speed >= 1.5]), evidence


def _tiny_share(records: Sequence[Record]) -> Claim:
    claim = "Biases or norms are 0.01 to 0.05 % of OPT-2.7B to 30B"
    frame = cost_tables.trained_shares(records)
    models = ("OPT-2.7B", "OPT-6.7B", "OPT-13B", "OPT-30B")
    chosen = (
        frame[frame["model"].isin(models) & frame["subset"].isin(["biases", "norms"])]
        if len(frame)
        else frame
    )
    if chosen.empty:
        return claim, NOT_RUN, "counted parameters"
    good = chosen["percent"].between(0.005, 0.05)  # 0.01 as rounded
    each = ", ".join(f"{row['model']} {row['subset']} {row['percent']:.4f}" for _, row in chosen.iterrows())
    return claim, verdict_on(good), f"percent: {each}"


def _zero_shot(records: Sequence[Record]) -> Claim:
    claim = "Zero-shot accuracy comes back, too"
    found = zero_shot_table(records)
    if found.empty:
        return claim, NOT_RUN, "zero-shot tasks in the parameter `tasks`"
    accuracy, error = (
        found.pivot(index="task", columns="state", values=v) for v in ("accuracy", "standard error")
    )
    if not {"dense", "pruned", "norms", "full"} <= set(accuracy):
        return claim, NOT_RUN, "the dense model, the pruned one, `norms` and `full`"

    def above(task: str, state: str, other: str) -> bool:
        """By more than twice the error of the difference (as of independent questions, so with some reserve)."""
        errors = error.loc[task, state], error.loc[task, other]
        return bool(accuracy.loc[task, state] - accuracy.loc[task, other] > 2 * hypot(*errors))

    telling = [task for task in accuracy.index if above(task, "dense", "pruned")]
    each = [
        f"{task}: " + ", ".join(f"{state} {value:.3f}" for state, value in row.dropna().items())
        for task, row in accuracy.iterrows()
    ]
    silent = ", ".join(task for task in accuracy.index if task not in telling)
    evidence = "; ".join(each) + (f"; {silent} cannot tell dense from pruned" if silent else "")
    if not telling:
        return claim, NOT_RUN, evidence + ": needs more questions"
    repaired = {
        state: sum(above(task, state, "pruned") for task in telling)
        for state in accuracy
        if state not in ("dense", "pruned")
    }
    whole = not any(above(task, "full", "norms") for task in telling)
    verdict = (
        HOLDS if repaired["norms"] == len(telling) and whole else PART if any(repaired.values()) else FAILS
    )
    gained = ", ".join(f"{state} {count} of {len(telling)}" for state, count in repaired.items())
    rule = "rule: norms beyond two standard errors above pruned and not below full; in part, if any subset is above"
    return claim, verdict, f"{evidence}. Above pruned on the others: {gained}; {rule}"


def zero_shot_table(records: Sequence[Record]) -> pd.DataFrame:
    """Accuracy and standard error of every task for the dense, pruned and retrained models."""
    rows = []
    for record in records:
        if record.kind != ZeroShot.kind:
            continue
        about = record.parameters
        state = (
            about["subset"]
            if about["subset"] != "nothing"
            else "dense"
            if about["pattern"] == "0%"
            else "pruned"
        )
        rows += [
            {"task": task, "state": state, "accuracy": found["accuracy"], "standard error": found["error"]}
            | {"questions": found["questions"]}
            for task, found in record.result["tasks"].items()
        ]
    return pd.DataFrame(rows)
