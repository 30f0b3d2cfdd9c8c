"""Command lines that cannot work: refused at once, with what was wrong, never with a traceback."""

import json
import subprocess
import sys

import pytest

from lmcompress import cli

NOTEBOOK = "10_pruning_sweep"
WRONG = {
    "a command that there is not": ["rnu", NOTEBOOK],
    "an option that there is not": ["--verison"],
    "no notebook": ["run"],
    "two notebooks": ["run", NOTEBOOK, NOTEBOOK],
    "a notebook that there is not": ["run", "10_pruning_swep"],
    "a number that there is not": ["run", "99"],
    "a path that there is not": ["run", "../../etc/passwd"],
    "an empty name": ["run", ""],
    "a name with a zero": ["run", "10\0"],
    "a parameter without a value": ["run", NOTEBOOK, "-p", "length"],
    "a parameter that there is not": ["run", NOTEBOOK, "-p", "lenght", "5"],
    "a text for a number": ["run", NOTEBOOK, "-p", "length", "x"],
    "a list for a number": ["run", NOTEBOOK, "-p", "length", "[1]"],
    "a number without end": ["run", NOTEBOOK, "-p", "share", ".inf"],
    "an impossible sparsity": ["run", NOTEBOOK, "-p", "sparsities", "[1.5]"],
    "an impossible pattern": ["run", NOTEBOOK, "-p", "patterns", "['4:2']"],
    "YAML that does not end": ["run", NOTEBOOK, "-p", "sparsities", "["],
    "YAML that makes an object": ["run", NOTEBOOK, "-p", "length", "!!python/object:os.system {}"],
    "a criterion that there is not": ["run", NOTEBOOK, "-p", "criteria", "[wandaa]"],
    "a model that there is not": ["run", NOTEBOOK, "-p", "model", "no-such-model"],
    "parameters that do not fit": ["run", NOTEBOOK, "-p", "errors_at", "['35%']"],
    "an option of another command": ["run", NOTEBOOK, "--workers", "2"],
    "a file that there is not": ["run", NOTEBOOK, "-f", "{folder}/absent.yaml"],
    "a folder for a file": ["run", NOTEBOOK, "-f", "{folder}"],
    "a file that is not text": ["run", NOTEBOOK, "-f", "{folder}/binary.yaml"],
    "a file that is not YAML": ["run", NOTEBOOK, "-f", "{folder}/broken.yaml"],
    "a file of a list": ["run", NOTEBOOK, "-f", "{folder}/list.yaml"],
    "a file with numbers for names": ["run", NOTEBOOK, "-f", "{folder}/numbers.yaml"],
    "a profile that there is not": ["run", NOTEBOOK, "--profile", "fast"],
    "a profile elsewhere": ["run", NOTEBOOK, "--profile", "../pyproject"],
    "an output that cannot be": ["run", NOTEBOOK, "-o", "/dev/null/out.ipynb"],
    "no notebooks": ["compute"],
    "one notebook of two": ["compute", NOTEBOOK, "20_retrain"],
    "no workers": ["compute", NOTEBOOK, "--workers", "0"],
    "half a worker": ["compute", NOTEBOOK, "--workers", "0.5"],
    "less than one run": ["compute", NOTEBOOK, "--chunk", "-1"],
    "a time that is no number": ["compute", NOTEBOOK, "--seconds", "soon"],
    "a time that is over": ["compute", NOTEBOOK, "--seconds", "-1"],
    "a time that is NaN": ["compute", NOTEBOOK, "--seconds", "nan"],
    "a tolerance without end": ["redo", NOTEBOOK, "--tolerance", "inf"],
    "a negative seed": ["records", "verify", "--seed", "-1"],
    "a kind that there is not": ["compute", NOTEBOOK, "--kind", "prune_model"],
    "an action that there is not": ["records", "shw", "abc"],
    "a record that there is not": ["records", "show", "zzz"],
    "one record for two": ["records", "diff", "abc"],
    "a page to redo that there is not": ["redo", "10_pruning_swep"],
    "nothing to redo": ["redo", ""],
    "a negative tolerance": ["redo", NOTEBOOK, "--tolerance", "-1"],
    "an asset that there is not": ["assets", "fetch", "smollm"],
    "an asset elsewhere": ["assets", "fetch", "../../etc"],
    "no sweep": ["sweep"],
    "a sweep that there is not": ["sweep", "{folder}/absent.yaml"],
    "a sweep of a list": ["sweep", "{folder}/list.yaml"],
    "a sweep of a notebook that there is not": ["sweep", "{folder}/sweep.yaml"],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\x00\xfe")
    (tmp_path / "broken.yaml").write_text("length: [")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "numbers.yaml").write_text("1: 2\n")
    (tmp_path / "sweep.yaml").write_text("notebook: 99_nothing\n")
    return tmp_path


@pytest.mark.parametrize("words", WRONG.values(), ids=WRONG)
def test_is_refused_in_words(words, folder, capsys, monkeypatch):
    for name in ("papermill.execute_notebook", "lmcompress.pool.run_all"):  # refused means: before any work
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("work was begun"))
    assert cli.main([word.replace("{folder}", str(folder)) for word in words]) in (1, 2)
    said = capsys.readouterr()
    assert said.out == ""
    last = said.err.splitlines()[-1]
    assert last.startswith(("lmcompress: ", "Error: ")), said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (WRONG["a command that there is not"], "Did you mean 'run'?"),
        (WRONG["a notebook that there is not"], "did you mean 10_pruning_sweep?"),
        (WRONG["a parameter that there is not"], "did you mean length?"),
        (WRONG["a criterion that there is not"], "wanda"),
        (WRONG["a kind that there is not"], "did you mean pruned_model?"),
        (WRONG["an action that there is not"], "Did you mean 'show'?"),
        (WRONG["an asset that there is not"], "expected smollm2-135m"),
    ],
)
def test_the_word_that_was_meant_is_named(words, meant, capsys):
    cli.main(words)
    assert meant in capsys.readouterr().err


WITHOUT_TORCH = """
import sys
from lmcompress import cli
for words in {words}:
    assert cli.main(words) == 2, words
    assert "torch" not in sys.modules, words
for page in ("10", "29", "34"):
    assert cli.main(["run", page, "--check"]) == 0
assert not {{"torch", "scipy.stats"}} & {{*sys.modules}}
"""


def test_a_refusal_does_not_wait_for_torch():
    refused = [
        ["run", "10", "-p", "lenght", "5"],
        ["compress", "smolm2", "OUT", "--quantize", "4:128"],
        ["compress", "smollm2-135m", "OUT", "--quantize", "4:129x"],
        ["export", "no key", "OUT"],
        ["assets", "fetch", "smolm2"],
        ["redo", "20_retrain_subset"],
        ["compute", "99"],
        ["sweep", "absent.yaml"],
        ["records", "list", "-p", "criterium", "wanda"],
    ]
    code = WITHOUT_TORCH.format(words=refused)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_first_help_shows_every_action(capsys):
    cli.main(["--help"])
    said = capsys.readouterr().out
    for group in cli.app.commands.values():
        for action in getattr(group, "commands", {}):
            assert f"{group.name} {action}" in said
    shown = {line.strip().partition("  ")[0] for line in said.splitlines()}
    assert {"run", "redo", "sweep", "records list"} <= shown


def test_records_are_listed_with_results_and_filtered(capsys):
    words = ["records", "list", "--page", "10", "-p", "criterion", "wanda", "-p", "pattern", "2:4"]
    assert cli.main(words) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["key", "kind", "where", "seconds", "result", "parameters"]
    assert cli.main([*words, "--json"]) == 0
    (record,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert len(lines) == 1
    assert lines[0].startswith(record["key"][:12])
    assert f"perplexity {record['result']['perplexity']['value']:.4g}, kl " in lines[0]
    assert cli.main(["records", "list", "--here", "--page", "10"]) == 0
