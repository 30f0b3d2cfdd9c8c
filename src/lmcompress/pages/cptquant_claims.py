"""What became of each claim of CPTQuant (arXiv 2412.03599), judged on the records of the other notebooks."""

from collections.abc import Sequence
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from lmcompress.experiments.released import DottedName
from lmcompress.experiments.score_study import SubjectStudy
from lmcompress.parameters import Sample, Width
from lmcompress.plans import profile, published, study_class
from lmcompress.records import Experiment, Record
from lmcompress.report import cptquant_facts, depth, figures, reported, verdicts
from lmcompress.report.cptquant_evidence import Evidence
from lmcompress.report.html import VERDICTS
from lmcompress.report.words import of_kind, readable, says, started

SOURCES = ("30_cmpq", "31_pmpq", "33_sensitivity_shootout", "34_bit_allocation", "35_real_size_and_speed")
OF_TASKS = ("33_sensitivity_shootout", "34_bit_allocation")  # published for a second classification task, too


class Study(SubjectStudy):
    """The released replacement of layers, tried on both models; and the claims, judged on the runs of the other
    notebooks in ``runs_of`` (a profile; an empty one leaves them out).
    """

    runs_of: Annotated[str, Field(pattern=r"^[\w-]{0,100}$")] = ""
    bits: Width = 4
    test: Sample = 128
    test_windows: Sample = 8

    def experiments(self) -> list[Experiment]:
        runs_of(self.runs_of)  # refuses a profile that there is not
        return [
            DottedName(
                **on, bits=self.bits, test=self.test_windows if on["task"] == "language" else self.test
            )
            for on, _ in self.subjects()
        ]


def runs_of(name: str) -> list[Experiment]:
    """The experiments of the notebooks that the claims are judged on, in the profile ``name``; none without a name."""
    sources = SOURCES if name else ()
    found = [run for one in sources for run in study_class(one)(**profile(name, one)).experiments()]
    return list(dict.fromkeys(found))


def published_evidence() -> list[Record]:
    """The published records of these notebooks, each once, with the second classification task and a CPU's kernels."""
    found = [record for name in SOURCES for record in published(name)]
    found += [record for name in OF_TASKS for record in published(name, "sst2")]
    return list(
        {record.key: record for record in [*found, *published("35_real_size_and_speed", "cpu")]}.values()
    )


def judged(records: Sequence[Record]) -> list[verdicts.Judged]:
    """The verdict on every claim of ``claims/cptquant.yaml``; ``records``: of the other notebooks."""
    return verdicts.judge_all("cptquant", Evidence(records).measures())


def claims(records: Sequence[Record]) -> list[tuple[str, str, str]]:
    """``(claim, verdict, evidence)`` of every claim."""
    return verdicts.claim_rows(judged(records))


def counted(records: Sequence[Record]) -> str:
    """How many claims have which verdict."""
    found = judged(records)
    return f"Of {len(found)} claims and questions on CPTQuant, by published runs: {verdicts.tally(found)}."


def dotted_table(records: Sequence[Record]) -> pd.DataFrame:
    """Loss increase when layers are "replaced" by their dotted names, and when they really are."""
    rows = [
        (
            readable(record.parameters["task"]),
            record.result["layers"],
            record.parameters["bits"],
            record.result["by_dotted_name"]["increase"],
            record.result["in_place"]["increase"],
        )
        for record in of_kind(records, "dotted_name")
    ]
    names = [
        "task",
        "layers",
        "bits",
        "loss increase (nats), by dotted name",
        "loss increase (nats), in place",
    ]
    return pd.DataFrame(rows, columns=names)


def dotted_pieces(records: Sequence[Record]) -> list[Any]:
    """The table of the released replacement."""
    return [figures.table(dotted_table(records), "Layers replaced as in the released scripts, and really")]


def pieces(records: Sequence[Record]) -> list[Any]:
    """How many claims met which verdict, the table of verdicts, what stands out, and what decides."""
    found = judged(records)
    counts = {word: sum(one.verdict == word for one in found) for word in VERDICTS}
    parts = [f"{word}: {count}" for word, count in counts.items()]
    tables = {
        "Paper beside here: every number of the paper, its logs and its code that can be cited": (
            reported.beside("cptquant", found)
        ),
        "The scores that the authors released: do they put the ends first?": reported.released_scores(),
        "How far chance, the noise of the truth and adding up carry": cptquant_facts.caveats(records),
        "Are the ends costlier? Mean measured cost (nats), with p-values of permutations of the blocks": (
            depth.ends_table(records)
        ),
        "Every case behind the verdicts, with the interval that decides": verdicts.cases_table(found),
    }
    return [
        says([f"Verdicts on {len(found)} claims. {started(', '.join(parts))}."]),
        figures.verdicts(verdicts.claim_rows(found)),
        says(cptquant_facts.headlines(records)),
        *cptquant_facts.equal_loss_pieces(records),
        *figures.tables(tables),
    ]
