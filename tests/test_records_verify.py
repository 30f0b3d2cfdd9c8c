import json
import math

import pytest
from click.testing import CliRunner
from experiments_for_tests import Doubling

from lmcompress import publish, records
from lmcompress.cli.records import deviation
from lmcompress.cli.records import records as command


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The file of one published record; none is computed here."""
    monkeypatch.setenv("LMCOMPRESS_ROOT", str(tmp_path))
    (tmp_path / "results").mkdir()
    return publish.publish([records.compute(Doubling(value=3))])[0][0]


def test_a_true_record_is_found_equal_and_a_changed_result_different(published):
    good = CliRunner().invoke(command, ["verify", "doubling"])
    assert good.exit_code == 0
    assert "equal bits" in good.output
    published.write_text(published.read_text().replace('"doubled": 6', '"doubled": 7'))
    records._read_lines.cache_clear()
    bad = CliRunner().invoke(command, ["verify", "doubling"])
    assert bad.exit_code == 1
    assert "DIFFERENT" in bad.output
    assert not list(records.build_folder().glob("*/*.json"))


def test_check_names_the_broken_line(published):
    assert CliRunner().invoke(command, ["check"]).exit_code == 0
    published.write_text(published.read_text() + "{\n")
    found = CliRunner().invoke(command, ["check"])
    assert found.exit_code == 1
    assert "line 2" in found.output
    assert "1 broken" in found.output


def test_a_list_has_a_header_or_is_json(published):
    assert "published" in CliRunner().invoke(command, ["list", "doubling", "--limit", "1"]).output
    line = CliRunner().invoke(command, ["list", "--json"]).output
    assert json.loads(line)["result"] == {"doubled": 6}


@pytest.mark.parametrize(
    ("old", "new", "most"),
    [
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.0]}, 0),
        ({"a": [1.0, 2.0]}, {"a": [1.0, 4.0]}, 0.5),
        ({"a": 1}, {"b": 1}, math.inf),
        ({"a": None}, {"a": 1.0}, math.inf),
        ({"a": True}, {"a": 1}, math.inf),
        ({"seconds": 1.0}, {"seconds": 2.0}, 0),
        ({"a": [1]}, {"a": [1, 1]}, math.inf),
    ],
)
def test_deviation(old, new, most):
    assert deviation(old, new) == most
