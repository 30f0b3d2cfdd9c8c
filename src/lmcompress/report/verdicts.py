"""Verdicts: what is claimed, from where and by which rule is data (``claims/*.yaml``); one rule judges it all.

A claim is judged on cases: settings (a corpus, a pattern, ...) in each of which one number was measured with an
interval. A case is *as claimed* when its whole interval keeps the rule, *against* when its whole interval breaks it,
and *open* otherwise. The level of the intervals is shared among the cases of a claim (Bonferroni: 1 - 0.05 / cases),
so that many settings do not make a verdict by chance.

* holds: every case is as claimed;
* holds in part: some are, and others are not;
* does not hold here: every case is against;
* cannot be told: no case is as claimed, and some are open.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml
from pydantic import Field

from lmcompress.errors import ParameterError
from lmcompress.lazily import lazy
from lmcompress.parameters import Parameters
from lmcompress.report.html import FAILS, HOLDS, NOT_RUN, OPEN, PART

stats = lazy("scipy.stats")

DRAWS = 10_000  # resamplings of windows: enough for the tails of intervals that are shared among 20 cases
PLURALS = {
    HOLDS: "hold",
    PART: "hold in part",
    FAILS: "do not hold here",
    OPEN: "cannot be told here",
    NOT_RUN: "are not run here",
}
SEEDS = 3  # so many seeds are needed before one can say how much they differ


@dataclass(frozen=True)
class Case:
    """One setting of a claim: what it is, the value that was measured, its interval, over how many seeds (None where
    nothing is drawn).
    """

    setting: str
    value: float
    low: float
    high: float
    seeds: int | None = 1


class Rule(Parameters):
    """What the measured value must be: ``at_most`` or ``at_least`` a number (one of the two)."""

    at_most: float | None = None
    at_least: float | None = None

    def says(self, case: Case) -> Literal["as claimed", "against", "open"]:
        """Whether the whole interval of ``case`` keeps the rule, breaks it, or neither."""
        if self.at_most is not None:
            kept, broken = case.high <= self.at_most, case.low > self.at_most
        else:
            least: Any = self.at_least
            kept, broken = case.low >= least, case.high < least
        return "as claimed" if kept else "against" if broken else "open"

    def verdict(self, cases: Sequence[Case]) -> str:
        """What all cases together say (see above)."""
        words = {self.says(case) for case in cases}
        if not words:
            return NOT_RUN
        if "as claimed" not in words:
            return OPEN if "open" in words else FAILS
        return HOLDS if words == {"as claimed"} else PART

    def __str__(self) -> str:
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return f"at least {self.at_least:g}"


class Claim(Parameters):
    """A claim and how it is judged.

    ``claim``: in one sentence; ``origin``: who makes it (``our question`` where nobody does); ``measure``: name of the
    function that measures it; ``quantity``: what it measures, in words; ``needs``: what has to be run for it.
    """

    id: str
    claim: str
    origin: str
    measure: str
    quantity: str
    rule: Rule
    needs: str
    options: dict[str, str | float] = Field(default_factory=dict)
    limits: str = ""


@dataclass(frozen=True)
class Judged:
    """A claim, its verdict and the cases behind it."""

    claim: Claim
    verdict: str
    cases: tuple[Case, ...]
    level: float

    @property
    def measured(self) -> str:
        """The value with its interval, or of several cases the least and the greatest with their settings."""
        if len(self.cases) < 2:
            return "".join(map(written, self.cases))
        ends = [pick(self.cases, key=lambda one: one.value) for pick in (min, max)]
        return " to ".join(f"{written(one)} ({one.setting})" for one in ends)

    @property
    def evidence(self) -> str:
        """How many cases are as claimed, against and open, and the range of what was measured."""
        if not self.cases:
            return self.claim.needs
        words = [self.claim.rule.says(case) for case in self.cases]
        counts = ", ".join(
            f"{words.count(word)} {word}" for word in ("as claimed", "against", "open") if word in words
        )
        few = sorted({drawn for case in self.cases if (drawn := case.seeds or SEEDS) < SEEDS})
        seeds = f"; {' or '.join(map(str, few))} seed a case: says nothing of other seeds" if few else ""
        limits = f". {self.claim.limits}" if self.claim.limits else ""
        rule = f"rule: {self.claim.rule}, {counts} of {len(words)}"
        return f"{self.claim.quantity}: {self.measured}; {rule}{seeds}{limits}"


def written(case: Case) -> str:
    """The value and its interval."""
    return f"{case.value:.3g} [{case.low:.3g}, {case.high:.3g}]"


def read(name: str) -> list[Claim]:
    """The claims in ``claims/NAME.yaml``. Raises :class:`ParameterError` for a claim that is not well formed."""
    text = resources.files("lmcompress.report").joinpath("claims", f"{name}.yaml").read_text(encoding="utf-8")
    found = [Claim(**about) for about in yaml.safe_load(text)]
    for claim in found:
        if (claim.rule.at_most is None) == (claim.rule.at_least is None):
            raise ParameterError("rule", claim.rule, f"at_most or at_least, one of the two ({claim.id})")
    return found


def judge(claim: Claim, measure: Callable[..., Sequence[Case]]) -> Judged:
    """The verdict on a claim; ``measure(level, **options)`` gives its cases with intervals of that level."""
    count = len(measure(0.95, **claim.options))
    level = 1 - 0.05 / max(count, 1)
    cases = tuple(measure(level, **claim.options))
    return Judged(claim, claim.rule.verdict(cases), cases, level)


def judge_all(name: str, measures: Mapping[str, Callable[..., Sequence[Case]]]) -> list[Judged]:
    """The verdict on every claim of ``claims/NAME.yaml``. Raises :class:`ParameterError` for an unknown measure."""
    found = []
    for claim in read(name):
        if claim.measure not in measures:
            raise ParameterError("measure", claim.measure, measures)
        found.append(judge(claim, measures[claim.measure]))
    return found


def claim_rows(judged: Sequence[Judged]) -> list[tuple[str, str, str]]:
    """``(claim, verdict, evidence)`` of every claim, for :func:`lmcompress.report.html.verdicts`."""
    return [(f"{one.claim.claim} ({one.claim.origin})", one.verdict, one.evidence) for one in judged]


def cases_table(judged: Sequence[Judged]) -> pd.DataFrame:
    """Every case behind the verdicts: one row a claim and setting."""
    rows = [
        {
            "claim": one.claim.id,
            "setting": case.setting,
            "value": case.value,
            "low": case.low,
            "high": case.high,
            "seeds": case.seeds,
            "the rule": one.claim.rule.says(case),
        }
        for one in judged
        for case in one.cases
    ]
    return pd.DataFrame(rows)


def widened(value: float, low: float, high: float, level: float) -> tuple[float, float]:
    """Ends of an interval at ``level`` from those at 95 %, each moved as a normal distribution's would be."""
    factor = stats.norm.ppf((1 + level) / 2) / stats.norm.ppf(0.975)
    return value - (value - low) * factor, value + (high - value) * factor


def over_seeds(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean of one value a seed; no width with fewer than :data:`SEEDS` seeds."""
    each = np.asarray(values, dtype=float)
    if len(each) < SEEDS:
        return float(each.mean()), float(each.mean())
    reach = stats.t.ppf((1 + level) / 2, len(each) - 1) * each.std(ddof=1) / len(each) ** 0.5
    return float(each.mean() - reach), float(each.mean() + reach)


def tally(judged: Sequence[Judged]) -> str:
    """How many have which verdict, in words."""
    counts = {
        word: sum(one.verdict == word for one in judged) for word in (HOLDS, PART, FAILS, OPEN, NOT_RUN)
    }
    return ", ".join(
        f"{count} {PLURALS[word] if count != 1 else word}" for word, count in counts.items() if count
    )


@lru_cache(maxsize=4)
def _drawn(windows: int) -> np.ndarray:
    """Which windows each sample takes, [DRAWS, windows]."""
    return np.random.default_rng(0).integers(windows, size=(DRAWS, windows))


def interval(
    values: np.ndarray,
    level: float = 0.95,
    transform: Callable[[float], float] = float,
    over: np.ndarray | None = None,
) -> tuple[float, float, float]:
    """Mean of ``values`` [seeds, windows] (over the mean of ``over``, of the same shape) and an interval of it.

    Two things could have come out otherwise: which texts were tested and which seed was drawn. For the first, windows
    are drawn with replacement (percentile bootstrap of the mean over seeds); for the second, with :data:`SEEDS` seeds
    or more, Student's t over the seeds. The wider end of the two counts on either side. ``transform`` (increasing) is
    applied to the value and both ends.
    """
    share: Callable[..., Any] = (
        (lambda part, whole: part) if over is None else (lambda part, whole: part / whole)
    )
    whole = values if over is None else over
    drawn = _drawn(values.shape[1])
    means = values.mean(0)[drawn].mean(1)
    if over is not None:
        means = means / over.mean(0)[drawn].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    value = share(values.mean(), whole.mean())
    if len(values) >= SEEDS:
        least, most = over_seeds(share(values.mean(1), whole.mean(1)), level)
        low, high = min(low, least), max(high, most)
    return transform(float(value)), transform(float(low)), transform(float(high))
