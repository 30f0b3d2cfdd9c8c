"""What every claim of PERP (arXiv 2312.15230) is judged by: the measures that ``claims/perp.yaml`` names.

Two subsets are compared each at its own learning rate, chosen on the validation split of the corpus that was retrained
on, after the same pruning and with the same number of steps (records of kind ``tuned``). No other comparison of subsets
is judged.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lmcompress.files import benchmark
from lmcompress.numbers import exp
from lmcompress.prune.pattern import parse
from lmcompress.records import Record
from lmcompress.report.perp_tables import Losses, corpora
from lmcompress.report.verdicts import Case, Judged, interval, judge_all
from lmcompress.report.words import remembered

PAPER_MODELS = ("OPT-2.7B", "OPT-6.7B", "OPT-13B", "OPT-30B")
Level = float


class Evidence:
    """The records behind the verdicts, by setting, and one measure a method: ``(level, **options) -> cases``."""

    def __init__(self, records: Sequence[Record]):
        self.records = list(records)
        self.tuned = [record for record in records if record.kind == "tuned"]
        self.language = [record for record in self.tuned if record.parameters["task"] == "language"]
        self.retrained = [
            record
            for record in records
            if record.kind == "retrain" and record.parameters["task"] == "language"
        ]

    @staticmethod
    def _pruning(about: dict[str, Any]) -> tuple[str, str]:
        return about["criterion"], about["pattern"]

    def losses(self, subset: str, corpus: str, rank: int = 16) -> dict[tuple[str, str], Losses]:
        """Pruning -> losses of the runs of ``subset``, each at its own rate; of ``nothing``, of the pruned model."""
        found: dict[tuple[str, str], Losses] = defaultdict(dict)
        for record in [*self.language, *(self.retrained if subset == "nothing" else ())]:
            about, pruning = record.parameters, self._pruning(record.parameters)
            right = (about["subset"], about.get("rank", 16)) == (subset, rank if subset != "nothing" else 16)
            nll = record.result["tests"].get(corpus, {}).get("nll")
            if (
                right
                and about.get("rounds", 1) == 1
                and parse(about["pattern"]).sparsity > 0
                and nll is not None
            ):
                found[pruning][about["seed"]] = np.array(nll)
        return found

    def corpora(self) -> list[str]:
        """The corpora that the runs were evaluated on."""
        return corpora(self.language or self.retrained)

    def measures(self) -> dict[str, Callable[..., list[Case]]]:
        """Name -> measure."""
        names = "contender recovered near_full ranks biases lower merged reconstructed granularity zero_shot one_shot"
        return {name: getattr(self, name) for name in (*names.split(), "memory", "minutes", "share")}

    def _ratios(
        self,
        level: Level,
        first: dict[tuple[str, str], Losses],
        second: dict[tuple[str, str], Losses],
        corpus: str,
        pair: Callable[..., Any],
    ) -> list[Case]:
        """Perplexity of ``first`` over ``second`` in every setting of ``first`` and the one of ``second`` that ``pair``
        names for it.
        """
        cases = []
        for pruning, own in first.items():
            for other in pair(pruning):
                name = f"{pruning[1]} by {pruning[0]}" + (f" to {other[0]}" if other != pruning else "")
                cases += difference(f"{name}, {corpus}", own, second.get(other, {}), level, exp)
        return cases

    def contender(self, level: Level, subset: str) -> list[Case]:
        """Magnitude with ``subset`` retrained against Wanda and SparseGPT with nothing retrained."""

        def rivals(pruning: tuple[str, str]) -> list[tuple[str, str]]:
            return [(name, pruning[1]) for name in ("wanda", "sparsegpt") if pruning[0] == "magnitude"]

        return [
            case
            for corpus in self.corpora()
            for case in self._ratios(
                level, self.losses(subset, corpus), self.losses("nothing", corpus), corpus, rivals
            )
        ]

    def lower(self, level: Level, first: str, second: str, least: float) -> list[Case]:
        """One subset's perplexity over another's, after prunings of sparsity ``least`` or more."""
        same = lambda pruning: [pruning] if parse(pruning[1]).sparsity >= least else []  # noqa: E731
        return [
            case
            for corpus in self.corpora()
            for case in self._ratios(
                level, self.losses(first, corpus), self.losses(second, corpus), corpus, same
            )
        ]

    def near_full(self, level: Level, subset: str) -> list[Case]:
        """A subset's perplexity over that of full retraining."""
        return self.lower(level, subset, "full", 0.0)

    def ranks(self, level: Level, least: float, most: float) -> list[Case]:
        """MaskLoRA of the ranks that train ``least`` to ``most`` percent, over full retraining."""
        share = {
            record.parameters["rank"]: record.result["percent"]
            for record in self.language
            if record.parameters["subset"] == "masklora"
        }
        cases = []
        for corpus in self.corpora():
            full = self.losses("full", corpus)
            for rank in sorted(rank for rank, percent in share.items() if least <= percent <= most):
                own = self.losses("masklora", corpus, rank)
                found = self._ratios(level, own, full, corpus, lambda pruning: [pruning])
                cases += [replace(case, setting=f"rank {rank}, {case.setting}") for case in found]
        return cases

    def recovered(self, level: Level, subset: str, pattern: str, criterion: str) -> list[Case]:
        """Share of the loss that full retraining wins back which ``subset`` wins back."""
        cases = []
        for corpus in self.corpora():
            states = ("nothing", subset, "full")
            pruned, own, full = (self.losses(one, corpus).get((criterion, pattern), {}) for one in states)
            seeds = sorted(own.keys() & full.keys())
            # magnitude draws nothing: one for all seeds
            before = pruned.get(0) if criterion == "magnitude" else None
            there = [seed for seed in seeds if seed in pruned or before is not None]
            if there:
                start = [pruned.get(seed, before) for seed in there]
                gained = np.stack([a - own[seed] for a, seed in zip(start, there, strict=True)])
                whole = np.stack([a - full[seed] for a, seed in zip(start, there, strict=True)])
                cases.append(Case(f"{pattern}, {corpus}", *interval(gained, level, over=whole), len(there)))
        return cases

    def biases(self, level: Level) -> list[Case]:
        """Accuracy of classifiers with biases minus that with all parameters, text by text."""
        hits: dict[tuple[Any, ...], dict[str, Losses]] = defaultdict(lambda: defaultdict(dict))
        for record in self.tuned:
            about = record.parameters
            if about["task"] == "classification" and parse(about["pattern"]).sparsity > 0:
                for corpus, found in record.result["tests"].items():
                    key = (corpus, about["criterion"], about["pattern"])
                    hits[key][about["subset"]][about["seed"]] = np.array(found["correct"], dtype=float)
        cases = []
        for (corpus, criterion, pattern), by_subset in hits.items():
            name = f"{pattern} by {criterion}, {corpus}"
            cases += difference(name, by_subset["biases"], by_subset["full"], level)
        return cases

    def merged(self, _level: Level) -> list[Case]:
        """Share of the adapters' runs that merged."""
        names = {"lora-prune", "masklora", "scalelora", "scalelora-free"}
        runs = [*self.language, *self.retrained]
        found = [record for record in runs if names & set(record.parameters["subset"].split("+"))]
        share = float(np.mean([record.result["merged"] for record in found])) if found else 0.0
        return [Case(f"{len(found)} runs", share, share, share, None)] if found else []

    def _reconstructions(self, corpus: str) -> dict[tuple[str, str], dict[str, Losses]]:
        """Pruning -> granularity -> losses after reconstruction with MaskLoRA towards the sparse stream."""
        found: dict[tuple[str, str], dict[str, Losses]] = defaultdict(lambda: defaultdict(dict))
        for record in self.records:
            about = record.parameters
            if record.kind == "reconstruct" and (about["subset"], about["targets"]) == ("masklora", "sparse"):
                nll = record.result["tests"].get(corpus, {}).get("nll")
                if nll is not None:
                    found[self._pruning(about)][about["granularity"]][about["seed"]] = np.array(nll)
        return found

    def reconstructed(self, level: Level) -> list[Case]:
        """Perplexity after reconstruction of blocks over that of the pruned model."""
        cases = []
        for corpus in self.corpora():
            blocks = {
                key: one["block"] for key, one in self._reconstructions(corpus).items() if "block" in one
            }
            cases += self._ratios(
                level, blocks, self.losses("nothing", corpus), corpus, lambda pruning: [pruning]
            )
        return cases

    def granularity(self, level: Level) -> list[Case]:
        """Perplexity of the worst granularity over that of the best."""
        cases = []
        for corpus in self.corpora():
            for pruning, by_granularity in self._reconstructions(corpus).items():
                if len(by_granularity) < 2:
                    continue
                seeds = sorted(set.intersection(*map(set, by_granularity.values())))
                mean = {name: np.mean([one[seed] for seed in seeds]) for name, one in by_granularity.items()}
                worst, best = (by_granularity[pick(mean, key=mean.__getitem__)] for pick in (max, min))
                shared = {seed: worst[seed] for seed in seeds}
                cases += difference(f"{pruning[1]} by {pruning[0]}, {corpus}", shared, best, level, exp)
        return cases

    def one_shot(self, level: Level) -> list[Case]:
        """Perplexity of several rounds over that of one, at equal steps and rates."""
        found: dict[tuple[Any, ...], dict[int, Losses]] = defaultdict(lambda: defaultdict(dict))
        for record in self.retrained:
            about = record.parameters
            for corpus in self.corpora():
                nll = record.result["tests"].get(corpus, {}).get("nll")
                if nll is not None and about["subset"] != "nothing":
                    how = about["subset"], about["steps"], record.result["lr"]
                    key = (*self._pruning(about), *how, corpus)
                    found[key][about["rounds"]][about["seed"]] = np.array(nll)
        cases = []
        for (criterion, pattern, subset, _steps, _rate, corpus), by_rounds in found.items():
            for rounds in sorted(by_rounds.keys() - {1}):
                name = f"{rounds} rounds, {subset}, {pattern} by {criterion}, {corpus}"
                cases += difference(name, by_rounds[rounds], by_rounds[1], level, exp)
        return cases

    def zero_shot(self, level: Level, first: str, second: str) -> list[Case]:
        """Difference in accuracy, question by question; tasks on which dense and pruned do not differ say nothing."""
        hits: dict[str, dict[str, Losses]] = defaultdict(lambda: defaultdict(dict))
        for record in self.tuned:
            about = record.parameters
            if about["criterion"] == "magnitude":
                for task, found in record.result["tasks"].items():
                    hits[task][state(about)][about["seed"]] = np.array(found["hits"], dtype=float)
        cases = []
        for task, by_state in hits.items():
            if self._tells(by_state) and {first, second} <= by_state.keys():
                one = next(iter(by_state[second].values()))  # what draws nothing was run once
                seeds = sorted(by_state[first])
                beside = {seed: by_state[second].get(seed, one) for seed in seeds}
                cases += difference(task, by_state[first], beside, level)
        return cases

    @staticmethod
    def _tells(by_state: dict[str, Losses]) -> bool:
        """Whether the dense model answers more questions of the task than the pruned one, beyond chance."""
        if not {"dense", "pruned"} <= by_state.keys():
            return False
        dense, pruned = (next(iter(by_state[name].values())) for name in ("dense", "pruned"))
        return interval((dense - pruned)[None])[1] > 0

    def memory(self, _level: Level) -> list[Case]:
        """Peak memory of retraining a subset over that of full retraining (same batch, all checkpointed)."""
        peaks: dict[tuple[str, bool], dict[str, float]] = defaultdict(dict)
        for row in benchmark("at_size")["rows"]:
            if row["checkpointing"] == "all blocks":
                peaks[row["model"], row["run"] == "counted"][row["method"]] = row["peak GiB"]
        return [
            _exact(f"{model}, {subset}{', counted' if counted else ''}", own[subset] / own["full"])
            for (model, counted), own in peaks.items()
            for subset in ("biases+norms", "masklora")
            if own.keys() >= {"full", subset}
        ]

    def minutes(self, _level: Level) -> list[Case]:
        """Minutes for 1,000 steps of retraining at the shapes of OPT-30B, at the fastest way that the device holds."""
        taken: dict[tuple[str, str], float] = {}
        for row in benchmark("at_size")["rows"]:
            retrained = row["method"] in ("biases+norms", "masklora") and row["run"] != "counted"
            if row["model"] == "OPT-30B" and retrained:
                key = row["device"], row["method"]
                taken[key] = min(row["minutes"], taken.get(key, np.inf))
        return [_exact(f"{method}, {device}", value) for (device, method), value in taken.items()]

    def share(self, _level: Level) -> list[Case]:
        """Percent of the parameters of the paper's models."""
        cases = []
        for record in self.records:
            if record.kind == "share_trained" and record.parameters["architecture"] in PAPER_MODELS:
                for subset in ("biases", "norms"):
                    if found := record.result["subsets"].get(subset):
                        percent = found["percent"]
                        name = f"{record.parameters['architecture']}, {subset}"
                        cases.append(_exact(name, percent))
        return cases


def _exact(setting: str, value: float) -> Case:
    """A case that nothing is drawn for."""
    return Case(setting, value, value, value, None)


def state(about: dict[str, Any]) -> str:
    """What a record's model is: dense, pruned, or what was retrained."""
    if about["subset"] != "nothing":
        return about["subset"]
    return "dense" if parse(about["pattern"]).sparsity == 0 else "pruned"


def difference(
    setting: str, own: Losses, other: Losses, level: Level, transform: Callable[[float], float] = float
) -> list[Case]:
    """The case that ``own`` minus ``other`` makes, over the seeds that both have; none where they share none."""
    seeds = sorted(own.keys() & other.keys())
    if not seeds:
        return []
    apart = np.stack([own[seed] - other[seed] for seed in seeds])
    return [Case(setting, *interval(apart, level, transform), len(seeds))]


@remembered
def judged(records: Sequence[Record]) -> list[Judged]:
    """The verdict on every claim of ``claims/perp.yaml``; ``records``: of the study of page 29."""
    return judge_all("perp", Evidence(records).measures())
