"""What the pages of the CPTQuant notebooks share: the parameters that name models and texts, and how things
are called.
"""

import math
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Literal

from lmcompress.errors import ParameterError
from lmcompress.html import Html, not_run, provenance
from lmcompress.parameters import CorpusName, ModelName
from lmcompress.records import Record, Study


class SubjectStudy(Study):
    """Parameters that the CPTQuant notebooks share; an empty ``language`` or ``classifier`` leaves that
    model out.

    ``windows`` and ``text_count``: windows and texts for each of calibration, validation and test.
    """

    language: ModelName | Literal[""] = "smollm2-135m"
    corpus: CorpusName = "wikipedia-vital"
    length: int = 256
    windows: int = 4
    classifier: ModelName | Literal[""] = "minilm-l6"
    texts: CorpusName = "bbc-news"
    text_length: int = 64
    text_count: int = 128
    fine_tune_steps: int = 60

    def subjects(self) -> list[tuple[dict, int]]:
        """For each model: the fields of :class:`OnModel`, and how many windows or texts are used."""
        found = []
        if self.classifier:
            on = {"model": self.classifier, "data": self.texts, "task": "classification"}
            found.append(({**on, "length": self.text_length, "steps": self.fine_tune_steps}, self.text_count))
        if self.language:
            on = {"model": self.language, "data": self.corpus, "task": "language", "length": self.length}
            found.append((on, self.windows))
        if not found:
            raise ParameterError("language", "", "a model here, or one as classifier")
        return found


def seeds_of(score: str, seeds: Sequence[int]) -> Sequence[int]:
    """All seeds; only the first for a score that looks at no calibration windows."""
    return seeds[:1] if score in ("measured truth", "weight error", "ends high", "middle high") else seeds


def readable(task: str) -> str:
    """How a task is called in figures."""
    return {"language": "language modelling", "classification": "classification"}[task]


def perplexity(loss: float | None) -> float | None:
    """exp of a loss in nats; None stays None."""
    return None if loss is None else math.exp(min(loss, 700.0))


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


def by_depth(table: dict[str, float]) -> dict[str, float]:
    """A table of layers in their order in the model: block 2 before block 10.

    Records are written with sorted names, in which ``layers.10`` stands before ``layers.2``. Linears of one
    block stay in alphabetical order.
    """
    return dict(sorted(table.items(), key=lambda item: [int(n) for n in re.findall(r"\d+", item[0])]))


def started(text: str) -> str:
    """As the beginning of a sentence; names inside keep their capitals."""
    return text[0].upper() + text[1:]


def estimate(value: float, low: float, high: float, to: str = " to ") -> str:
    """A correlation with its interval, in a sentence or a cell; a dash for the unknown. ``to``: between the ends."""
    return "–" if math.isnan(value) else f"{value:.2f} ({low:.2f}{to}{high:.2f})"


def of_kind(records: Sequence[Record], kind: str) -> list[Record]:
    """Records of one kind of experiment."""
    return [record for record in records if record.kind == kind]


def says(sentences: Sequence[str]) -> Html:
    """Sentences that were made of records, as paragraphs of the page."""
    return Html("".join(f"<p><strong>{escape(sentence)}</strong></p>" for sentence in sentences))


def page(
    records: Sequence[Record],
    make: Callable[[Sequence[Record]], list],
    what: str,
    needs: str = "one GPU for some minutes: `make full`, or the profile `full` of this notebook",
) -> list:
    """What a notebook shows of ``records``: the pieces that ``make`` returns and the run block; or ``what`` was
    not run, and what that ``needs``.
    """
    if not records:
        return [not_run(what, needs)]
    return [*make(records), provenance(records)]
