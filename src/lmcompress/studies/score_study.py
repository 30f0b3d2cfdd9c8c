"""What the notebooks on scores share: which layers, which formats, and the experiments that these stand
for.
"""

from collections.abc import Sequence
from typing import Literal

from lmcompress.studies.cptquant import SubjectStudy, seeds_of
from lmcompress.studies.scoring import Per, Score, Truth, check_score
from lmcompress.studies.subjects import FineTuned


class ScoreStudy(SubjectStudy):
    """``per``: what is scored. ``widths``, ``group``, ``symmetric``: the formats whose cost is foreseen and
    measured.
    """

    language_per: Per = "block"
    classifier_per: Per = "linear"
    widths: tuple[int, ...] = (2, 3, 4)
    language_widths: tuple[int, ...] = (3,)
    group: int | Literal["row", "tensor"] = 128
    symmetric: bool = False
    seeds: tuple[int, ...] = (0,)

    def truths(self) -> list[Truth]:
        """One for each model."""
        return [Truth(**on, **self.formats(on), windows=count) for on, count in self.subjects()]

    def scores(self, language: Sequence[str], classifier: Sequence[str]) -> list[Score]:
        """The scores named for each model, of every seed."""
        found = []
        for on, count in self.subjects():
            for name in language if on["task"] == "language" else classifier:
                check_score(name)
                about = {**on, **self.formats(on), "score": name, "windows": count}
                found += [Score(**about, seed=seed) for seed in seeds_of(name, self.seeds)]
        return found

    def fine_tuned(self) -> list[FineTuned]:
        """The classifier, if there is one."""
        return [
            FineTuned(**on, test=count) for on, count in self.subjects() if on["task"] == "classification"
        ]

    def formats(self, on: dict) -> dict:
        """Layers, widths and formats for one model."""
        language = on["task"] == "language"
        per = self.language_per if language else self.classifier_per
        widths = self.language_widths if language else self.widths
        return {"per": per, "widths": widths, "group": self.group, "symmetric": self.symmetric}
