"""What stands at the two ends of a notebook's page: the answer of the published runs, and what this machine found."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, ClassVar

from lmcompress import plans
from lmcompress import records as store
from lmcompress.errors import ParameterError
from lmcompress.estimates import estimate
from lmcompress.files import carried
from lmcompress.plan import duration
from lmcompress.records import Record
from lmcompress.report import cptquant_evidence, perp_evidence, verdicts
from lmcompress.report.html import VERDICTS, Html, coverage, folded, not_run
from lmcompress.report.run_card import Cited, cited, provenance


@dataclass(frozen=True)
class Answer:
    """What runs say on the page's question.

    sentence: with numbers and intervals, made of the runs.
    claim: what is judged, in words.
    verdict: one of ``VERDICTS``, by a rule on the runs.
    counts: in how many cases, if there are several.
    """

    sentence: str
    claim: str
    verdict: str
    counts: str = ""

    def _repr_html_(self) -> str:
        return (
            f'<div class="lm-answer"><p><strong>{escape(self.sentence)}</strong></p>'
            f"<p><em>{escape(self.claim)}</em> {VERDICTS[self.verdict]} {self.verdict}{escape(self.counts)}</p></div>"
        )


def claimed(
    sentence: str, paper: str, names: str | Sequence[str], records: Sequence[Record], words: str = ""
) -> Answer:
    """``sentence`` with the verdict on a claim of ``claims/PAPER.yaml``, or on several of one rule together, which
    ``words`` then says. Raises ``LookupError`` where the runs have no case of it.
    """
    evidence = {"perp": perp_evidence, "cptquant": cptquant_evidence}[paper].Evidence(records).measures()
    names = (names,) if isinstance(names, str) else names
    judged = [verdicts.judge(one, evidence[one.measure]) for one in verdicts.read(paper) if one.id in names]
    claim, cases = judged[0].claim, [case for one in judged for case in one.cases]
    if not cases:
        raise LookupError(claim.needs)
    good = sum(claim.rule.says(case) == "as claimed" for case in cases)
    counts = f" ({good} of {len(cases)} cases)" if len(cases) > 1 else ""
    return Answer(sentence, words or f"{claim.claim} ({claim.origin}).", claim.rule.verdict(cases), counts)


Answers = Callable[[Sequence[Record]], Answer]  # raises LookupError where runs that it needs are missing


class Page:
    """A notebook's page: what its published runs say, figure by figure, and what this machine finds.

    notebook: its name, such as ``20_retrain_subsets``.
    profile: of ``config/``, whose published runs are shown.
    """

    figures: ClassVar[dict[str, list[Record]] | None] = (
        None  # where only the runs of each figure are asked for
    )

    def __init__(self, notebook: str, profile: str = "full"):
        self.notebook, self.profile = notebook, profile
        self.published = plans.published(notebook, profile)

    def answer(self, answer: Answers) -> Html:
        """The answer of the published runs; or that there are none, and how to compute them."""
        try:
            said = answer(self.published)._repr_html_()
        except LookupError as missing:
            return not_run(f"the published runs of this page ({missing})", self._needs())
        return Html(said)

    def show(
        self, number: str, make: Callable[..., Any], of: Callable[..., Any] = list, **options: object
    ) -> Cited | Html:
        """Figure or table ``number`` of the published runs, which can be cited; nothing where there are no runs at all.

        make: called with the runs and ``options``, gives the figure or table.
        of: picks the runs out of all of the page.
        """
        runs = of(self.published)
        if Page.figures is not None:
            Page.figures[number] = runs
        if not self.published or Page.figures is not None:
            return Html("")
        try:
            return cited(number, make(runs, **options), runs)
        except LookupError as missing:
            return not_run(f"Figure {number} ({missing})", self._needs())

    def pieces(self, number: str, make: Callable[..., list[Any]], of: Callable[..., Any] = list) -> Html:
        """Several figures and tables, numbered from ``number`` on; sentences between them stay as they are.

        make: called with the runs that ``of`` picks, gives the pieces.
        """
        runs, (page, place) = of(self.published), number.split(".")
        if Page.figures is not None:
            Page.figures[number] = runs
        if Page.figures is not None or not self.published:
            return Html("")
        if not runs:
            return not_run(f"Figure {number}", self._needs())
        shown: list[Any] = []
        at = int(place)
        for piece in make(runs):
            if isinstance(piece, Html) and "<caption>" not in piece:
                shown.append(piece)
            else:
                shown.append(cited(f"{page}.{at}", piece, runs))
                at += 1
        return Html("".join(piece._repr_html_() for piece in shown))

    def all_records(self) -> Html:
        """The run block of all published runs of the page, which can be downloaded."""
        return provenance(self.published) if self.published else Html("")

    def here(
        self, records: Sequence[Record], answer: Answers, make: Callable[[Sequence[Record]], list[Any]]
    ) -> Html:
        """What the runs of this machine say, folded away under whether they agree with the published ones.

        records: of the page's parameters.
        make: gives the figures and tables to show of them.
        """
        mine, theirs = _try(answer, records), _try(answer, self.published)
        read = sum(not record.computed_here for record in records)
        if read == len(records):
            word = "not computed (the runs with these parameters are published ones)"
        elif read:
            word = (
                f"computed in part ({read} of {len(records)} runs with these parameters are published ones)"
            )
        elif mine is None:
            word = "computed; these runs are too few for the question"
        elif theirs is None:
            word = f"{mine.verdict}; there is no published run to compare with"
        elif mine.verdict == theirs.verdict:
            word = f"agrees ({mine.verdict})"
        else:
            word = f"differs ({mine.verdict} here, {theirs.verdict} in the published run)"
        pieces = [*([mine] if mine else []), *make(records), provenance(records)]
        return folded(f"On this machine: {word}", pieces)

    def time(self) -> Html:
        """How long the published runs took, what the notebook's own parameters are expected to take, and which of the
        planned runs are not published.
        """
        seconds = sum(record.provenance["seconds"] for record in self.published)
        devices = " and ".join(sorted({record.provenance["device"] for record in self.published}))
        parts = (
            [f"{len(self.published)} published runs took {duration(seconds)} on {devices}"] if seconds else []
        )
        known = [one for one in store.all_records() if "NVIDIA" not in one.provenance["device"]]
        expected: list[Any] = [
            estimate(one, known).seconds for one in plans.study_class(self.notebook)().experiments()
        ]
        if expected and None not in expected:
            parts.append(f"the parameters below take about {duration(sum(expected))} on a CPU")
        said = f'<p class="lm-time"><em>Time:</em> {escape("; ".join(parts) or "no run tells")}.</p>'
        return Html(said + coverage(self.notebook, self.profile))

    def _needs(self) -> str:
        return f"a GPU, and `lmcompress compute {self.notebook} --profile {self.profile}`"


CELL = re.compile(r"^```\{code-cell\} ipython3\n((?:^:[^\n]*\n)*)(.*?)^```$", re.MULTILINE | re.DOTALL)


def runs_of(number: str) -> list[Record]:
    """The published runs of a figure or table, such as ``20.1``: what the notebook's cells before its parameters make
    it of; nothing is drawn. Raises :class:`ParameterError` for a figure that there is not.
    """
    found = sorted(carried("notebooks").glob(f"{number.partition('.')[0]}_*.md"))
    Page.figures = {}
    try:
        variables: dict[str, Any] = {}
        for tags, code in CELL.findall(found[0].read_text(encoding="utf-8")) if found else ():
            if "parameters" in tags:
                break
            exec(compile(code, str(found[0]), "exec"), variables)
        places = {int(name.split(".")[1]): runs for name, runs in Page.figures.items() if runs}
        first = max((at for at in places if at <= int(number.partition(".")[2])), default=None)
        if first is None:
            raise ParameterError("figure", number, sorted(Page.figures) or "page and place, such as 20.1")
        return places[first]
    finally:
        Page.figures = None


def _try(answer: Answers, records: Sequence[Record]) -> Answer | None:
    try:
        return answer(records)
    except LookupError:
        return None
