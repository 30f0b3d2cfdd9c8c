"""Values that papers report, from ``data/paper``, to be shown beside what was measured here."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmcompress.files import carried
from lmcompress.report import depth
from lmcompress.report.html import number
from lmcompress.report.verdicts import Judged

NOTHING = "–"


def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(carried("data", "paper", f"{name}.csv"), keep_default_na=False)


def wanda_llama2() -> pd.DataFrame:
    """Perplexities of pruned LLaMA-2 models as the authors of Wanda report them, a column a model."""
    values = _read("wanda_llama2")
    wide = values.pivot(index=["pattern", "criterion"], columns="model", values="perplexity")
    order = values[["pattern", "criterion"]].drop_duplicates()
    return wide.loc[
        list(order.itertuples(index=False, name=None)), list(values["model"].unique())
    ].reset_index()


def beside(paper: str, judged: Sequence[Judged]) -> pd.DataFrame:
    """Every number of ``data/paper/PAPER.csv`` beside what was measured here and its verdict, and what keeps the two
    from being compared.

    judged: the claims of that paper; a row of the file names the one that it belongs to, if there is one.
    """
    of = {one.claim.id: one for one in judged}
    rows = []
    for _, row in _read(paper).iterrows():
        found = of.get(row["claim"])
        setting = ", ".join(filter(None, (row["model"], row["data"], row["setting"])))
        rows.append(
            {
                "quantity": row["quantity"],
                "paper": f"{row['value']} {row['unit']}".strip(),
                "setting": setting,
                "source": _linked(row["source"]),
                "here": f"{found.claim.quantity}: {found.measured}" if found and found.cases else NOTHING,
                "verdict": found.verdict if found else NOTHING,
                "why not number by number": row["why"] or NOTHING,
            }
        )
    return pd.DataFrame(rows)


def _linked(source: str) -> str:
    """A source with short links in place of addresses."""
    text = re.sub(r"arXiv (\d{4}\.\d{5})(v\d)?", r"[arXiv \1\2](https://arxiv.org/abs/\1\2)", source)
    issue = r"github\.com/(\S+)/(\S+) issue (\d+)"
    text = re.sub(issue, r"[\2 issue \3](https://github.com/\1/\2/issues/\3)", text)
    return re.sub(r"(?<!/)github\.com/([\w-]+)/([\w.-]+) at", r"[\1](https://github.com/\1/\2) at", text)


def released_scores() -> pd.DataFrame:
    """Do the scores that CPTQuant released put the ends of a model first? Means and p-values of permutations."""
    rows = []
    for names, scores in _read("cptquant_scores").groupby(["score", "model", "data"], sort=False):
        values = scores.sort_values("block")["value"].to_numpy(dtype=float)[:, None]
        found = depth.placed(values, round(0.3 * len(values)))
        highest = np.argsort(-values[:, 0], kind="stable")[:3]
        row = dict(zip(["score", "model", "data"], names, strict=True)) | {"blocks": len(values)}
        mean = number(float(values.mean()))
        row |= {"mean of all": mean, "first and last 30 % minus the middle": found.value, "p": found.p}
        rows.append(row | {"highest three blocks": ", ".join(map(str, highest))})
    return pd.DataFrame(rows)
