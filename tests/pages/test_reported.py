from lmcompress.report import reported


def test_reported_values_keep_their_place():
    table = reported.wanda_llama2().set_index(["pattern", "criterion"])
    assert list(table.columns) == ["LLaMA-2-7B", "LLaMA-2-13B", "LLaMA-2-70B"]
    assert table.loc[("none", "dense"), "LLaMA-2-7B"] == 5.12
    assert table.loc[("2:4", "magnitude"), "LLaMA-2-7B"] == 54.59
    assert table.loc[("2:4", "wanda"), "LLaMA-2-70B"] == 5.16
    assert len(table) == 10
