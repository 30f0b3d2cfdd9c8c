"""What the notebooks on scores share: which layers, which formats, and the experiments that these stand
for.
"""

from collections.abc import Sequence
from typing import Any

from lmcompress.errors import ParameterError
from lmcompress.experiments.scored import TRUTHS, Per, Score, Truth
from lmcompress.experiments.subjects import FineTuned
from lmcompress.parameters import (
    CorpusName,
    Count,
    Flag,
    Group,
    Length,
    ModelOrNone,
    Sample,
    Seed,
    Some,
    Width,
)
from lmcompress.records import Study


class SubjectStudy(Study):
    """Parameters that the CPTQuant notebooks share; an empty ``language`` or ``classifier`` leaves that
    model out.

    ``windows`` and ``text_count``: windows and texts for each of calibration, validation and test.
    """

    language: ModelOrNone = "smollm2-135m"
    corpus: CorpusName = "wikipedia-vital"
    length: Length = 128
    windows: Sample = 4
    classifier: ModelOrNone = "minilm-l6"
    texts: CorpusName = "bbc-news"
    text_length: Length = 32
    text_count: Sample = 32
    fine_tune_steps: Count = 60

    def subjects(self) -> list[tuple[dict[str, Any], int]]:
        """For each model: the fields of :class:`OnModel`, and how many windows or texts are used."""
        found = []
        if self.classifier:
            on: dict[str, Any] = {"model": self.classifier, "data": self.texts, "task": "classification"}
            found.append(({**on, "length": self.text_length, "steps": self.fine_tune_steps}, self.text_count))
        if self.language:
            on = {"model": self.language, "data": self.corpus, "task": "language", "length": self.length}
            found.append((on, self.windows))
        if not found:
            raise ParameterError("language", "", "a model here, or one as classifier")
        return found


BLIND = ("weight error", "ends high", "middle high")


def seeds_of(score: str, seeds: Sequence[int]) -> Sequence[int]:
    """All seeds; only the first for a score that looks at no calibration windows."""
    return seeds[:1] if score in BLIND or score in TRUTHS else seeds


class ScoreStudy(SubjectStudy):
    """``per``: what is scored. ``widths``, ``group``, ``symmetric``: the formats whose cost is foreseen and
    measured.
    """

    language_per: Per = "block"
    classifier_per: Per = "linear"
    widths: Some[Width] = (2, 3, 4)
    language_widths: Some[Width] = (3,)
    group: Group = 128
    symmetric: Flag = False
    seeds: Some[Seed] = (0,)

    def truths(self) -> list[Truth]:
        """One for each model."""
        return [Truth(**on, **self.formats(on), windows=count) for on, count in self.subjects()]

    def scores(self, language: Sequence[str], classifier: Sequence[str]) -> list[Score]:
        """The scores named for each model, of every seed."""
        found = []
        for on, count in self.subjects():
            for name in language if on["task"] == "language" else classifier:
                about = {**on, **self.formats(on), "score": name, "windows": count}
                found += [Score(**about, seed=seed) for seed in seeds_of(name, self.seeds)]
        return found

    def fine_tuned(self) -> list[FineTuned]:
        """The classifier, if there is one."""
        return [
            FineTuned(**on, test=count) for on, count in self.subjects() if on["task"] == "classification"
        ]

    def formats(self, on: dict[str, Any]) -> dict[str, Any]:
        """Layers, widths and formats for one model."""
        language = on["task"] == "language"
        per = self.language_per if language else self.classifier_per
        widths = self.language_widths if language else self.widths
        return {"per": per, "widths": widths, "group": self.group, "symmetric": self.symmetric}
