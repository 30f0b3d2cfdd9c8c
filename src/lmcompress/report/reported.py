"""Values that papers report, from ``data/paper``, to be shown beside what was measured here."""

import pandas as pd

from lmcompress.files import project_root


def wanda_llama2() -> pd.DataFrame:
    """Perplexities of pruned LLaMA-2 models as the authors of Wanda report them, a column a model."""
    values = pd.read_csv(project_root() / "data" / "paper" / "wanda_llama2.csv")
    wide = values.pivot(index=["pattern", "criterion"], columns="model", values="perplexity")
    order = values[["pattern", "criterion"]].drop_duplicates()
    return wide.loc[
        list(order.itertuples(index=False, name=None)), list(values["model"].unique())
    ].reset_index()
