import json
import multiprocessing
import os
from dataclasses import replace

import experiments_for_tests as experiments
import pytest
from experiments_for_tests import Doubling
from filelock import FileLock

from lmcompress import plans, provenance, publish, records
from lmcompress.errors import ParameterError
from lmcompress.files import project_root

RESULTS = project_root() / "results"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """An empty project folder for the records of a test."""
    monkeypatch.setenv("LMCOMPRESS_ROOT", str(tmp_path))
    return tmp_path


def runs(log):
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def test_no_published_record_is_older_than_its_kind():
    lines = [line for file in RESULTS.glob("*.jsonl") for line in file.read_text().splitlines()]
    found = [records.read(line, "results") for line in lines]
    assert len(found) > 1000
    assert not [record.key for record in found if record.older]


def test_the_same_key_is_read_and_not_computed_again(project):
    log = project / "log"
    wanted = [Doubling(value=1, log=str(log)), Doubling(value=2, log=str(log))]
    first = records.obtain(wanted)
    assert [record.result for record in first] == [{"doubled": 2}, {"doubled": 4}]
    assert records.obtain(wanted) == first
    assert runs(log) == [1, 2]
    records.obtain(wanted[:1], force=True)
    assert runs(log) == [1, 2, 1]


def test_a_record_says_where_it_comes_from(project):
    record = records.obtain([Doubling(value=3)])[0]
    assert record.kind == "doubling"
    assert record.parameters == {"value": 3, "log": "", "corpus": None}
    assert {"commit", "code", "versions", "device", "threads", "date", "seconds"} <= record.provenance.keys()
    assert record.provenance["command"] == f"lmcompress records redo {record.key[:12]}"
    assert record.again() == Doubling(value=3)
    assert record.version == 1
    assert not record.older
    assert record.computed_here
    assert records.by_key(record.key[:8]) == record


def test_the_key_depends_on_parameters_assets_and_version_and_not_on_code(project, monkeypatch):
    (project / "corpus.txt").write_text("one")
    corpus = str(project / "corpus.txt")
    base = records.key_of(Doubling(value=1, corpus=corpus))
    assert records.key_of(Doubling(value=2, corpus=corpus)) != base
    (project / "corpus.txt").write_text("two")
    assert records.key_of(Doubling(value=1, corpus=corpus)) != base
    (project / "corpus.txt").write_text("one")
    assert records.key_of(Doubling(value=1, corpus=corpus)) == base
    monkeypatch.setattr(provenance, "code", lambda: "changed")
    monkeypatch.setattr(provenance, "device", lambda: "another")
    assert records.key_of(Doubling(value=1, corpus=corpus)) == base
    monkeypatch.setattr(Doubling, "version", 2)
    assert records.key_of(Doubling(value=1, corpus=corpus)) != base


def test_the_key_of_a_timing_depends_on_the_device(monkeypatch):
    monkeypatch.setattr(Doubling, "timed", True)
    base = records.key_of(Doubling())
    monkeypatch.setattr(provenance, "device", lambda: "another")
    assert records.key_of(Doubling()) != base


def test_a_failed_run_leaves_nothing_and_the_others_are_kept(project):
    log = project / "log"
    wanted = [
        Doubling(value=1, log=str(log)),
        Doubling(value=-1, log=str(log)),
        Doubling(value=2, log=str(log)),
    ]
    with pytest.raises(RuntimeError, match="negative"):
        records.obtain(wanted)
    assert len(records.computed_records()) == 1
    records.obtain([wanted[0], wanted[2]])
    assert runs(log) == [1, 2]


def test_a_result_that_is_no_number_is_refused(project, monkeypatch):
    monkeypatch.setattr(Doubling, "run", lambda self: {"doubled": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        records.obtain([Doubling()])
    assert not records.computed_records()


def _obtain_in(folder, log):
    os.environ["LMCOMPRESS_ROOT"] = str(folder)
    records.obtain([Doubling(value=5, log=log)], progress=False)


def test_two_processes_do_not_compute_the_same_record_twice(project):
    context = multiprocessing.get_context("fork")
    log = project / "log"
    both = [context.Process(target=_obtain_in, args=(project, str(log))) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert runs(log) == [5]


def test_what_another_process_computes_is_left_for_the_end(project, monkeypatch):
    log, run = project / "log", Doubling.run
    first, second = (Doubling(value=value, log=str(log)) for value in (1, 2))
    path = project / "build" / "records" / "doubling" / f"{records.key_of(first)}.lock"
    path.parent.mkdir(parents=True)
    other = FileLock(path)  # of the other process, which gives up while the second run computes
    other.acquire()

    def release_and_run(self):
        other.release(force=True)
        return run(self)

    monkeypatch.setattr(Doubling, "run", release_and_run)
    found = records.obtain([first, second])
    assert runs(log) == [2, 1]
    assert [record.result["doubled"] for record in found] == [2, 4]


def like(record, version=1, **changes):
    """A whole record as another run would have left it."""
    made = replace(record, version=version, **changes)
    return replace(made, key=records.hashed(made.kind, made.version, made.parameters, made.assets))


def test_published_records_are_found_without_computing_and_are_not_computed_here(project):
    record = records.obtain([Doubling(value=7)])[0]
    (path,), left_out = publish.publish([record])
    assert path == project / "results" / "doubling.jsonl"
    assert left_out == []
    assert records.published_records("doubling") == [record]
    for file in (project / "build").rglob("*.json"):
        file.unlink()
    assert records.obtain([Doubling(value=7)]) == [record]
    assert not record.computed_here


def test_of_two_runs_of_the_same_parameters_the_later_is_published(project):
    record = records.obtain([Doubling(value=7)])[0]
    older = like(
        record, result={"doubled": 13}, provenance=record.provenance | {"date": "2020-01-01T00:00:00"}
    )
    publish.publish([record, older])
    assert records.published_records("doubling") == [record]
    publish.publish([older])
    assert records.published_records("doubling") == [record]


def test_a_run_of_an_older_version_is_not_published_and_gives_way_to_a_newer_one(project, monkeypatch):
    old = records.obtain([Doubling(value=7)])[0]
    publish.publish([old])
    monkeypatch.setattr(Doubling, "version", 2)
    assert old.older
    later = like(old, provenance=old.provenance | {"date": "2999-01-01T00:00:00"})
    assert publish.publish([later]) == ([], [later])
    assert records.published_records("doubling") == [old]
    new = records.obtain([Doubling(value=7)])[0]
    assert (new.version, new.key == old.key) == (2, False)
    publish.publish([new])
    assert records.published_records("doubling") == [new]


def broken(text, record):
    about = json.loads(text)
    yield text[: len(text) // 2]
    yield ""
    yield "null"
    yield "[]"
    yield json.dumps(about | {"experiment": "os:system"})
    for name in about:
        yield json.dumps({key: value for key, value in about.items() if key != name})
        for other in (None, True, 7, "text", [], {}):
            if about[name] != other:
                yield json.dumps(about | {name: other})
    yield json.dumps(about | {"parameters": record.parameters | {"value": 9}})
    yield json.dumps(about | {"version": 2})
    yield "\x00" + text


def test_a_broken_record_is_named_and_counts_as_absent(project):
    log = project / "log"
    record = records.obtain([Doubling(value=7, log=str(log))])[0]
    path = project / "build" / "records" / "doubling" / f"{record.key}.json"
    texts = [text for text in broken(path.read_text(), record) if '"result": {}' not in text]
    assert len(texts) > 44
    for text in texts:
        with pytest.raises(records.BrokenRecord, match=r"^here is no record: "):
            records.read(text, "here")
    path.write_text(texts[0])
    with pytest.warns(UserWarning, match=f"{path} is no record"):
        assert records.computed_records() == []
    with pytest.warns(UserWarning, match="is no record"):
        assert records.obtain([Doubling(value=7, log=str(log))])[0].result == record.result
    assert runs(log) == [7, 7]


def test_a_broken_line_is_named_by_its_number_and_the_others_are_read(project):
    record = records.obtain([Doubling(value=7)])[0]
    (path,), _ = publish.publish([record])
    path.write_bytes(path.read_bytes() + b"{\n\xff\n")
    with pytest.warns(UserWarning, match=r"doubling.jsonl, line [23] is no record"):
        assert records.published_records("doubling") == [record]


def test_a_record_names_a_kind_and_never_a_module():
    with pytest.raises(ParameterError, match="kind"):
        records.experiment_class("os:system")


def test_the_published_records_of_a_notebook_are_those_of_its_full_profile(project, monkeypatch):
    monkeypatch.setattr(plans, "study_class", lambda _name: experiments.Study)
    (project / "config").mkdir()
    (project / "config" / "full.yaml").write_text("90_doubling:\n  values: [3, 4]\n")
    publish.publish(records.obtain([Doubling(value=value) for value in (2, 4)]))
    assert [record.parameters["value"] for record in plans.published("90_doubling")] == [4]
    assert plans.coverage("90_doubling") == {"doubling": (1, 2)}


def test_another_profile_has_plans_and_published_records_of_its_own(project, monkeypatch):
    monkeypatch.setattr(plans, "study_class", lambda _name: experiments.Study)
    (project / "config").mkdir()
    (project / "config" / "full.yaml").write_text("90_doubling:\n  values: [3, 4]\n")
    (project / "config" / "other.yaml").write_text("90_doubling:\n  values: [2, 4, 6]\n")
    publish.publish(records.obtain([Doubling(value=value) for value in (2, 3, 4)]))
    assert [one.value for one in plans.planned("90_doubling", "other")] == [2, 4, 6]
    assert [one.parameters["value"] for one in plans.published("90_doubling", "other")] == [2, 4]
    assert plans.coverage("90_doubling", "other") == {"doubling": (2, 3)}
    assert plans.coverage("90_doubling") == {"doubling": (2, 2)}
    with pytest.raises(ParameterError, match="profile"):
        plans.published("90_doubling", "fast")


def test_unknown_names_are_refused(project):
    with pytest.raises(ParameterError, match="notebook"):
        plans.study_class("99_nothing")
    with pytest.raises(ParameterError, match="profile"):
        plans.profile("fast", "10_pruning_sweep")
    with pytest.raises(ParameterError, match="key"):
        records.by_key("0000")


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_published_parameters_are_what_their_kind_takes_today(path):
    """Narrower types must not give a published run another name, nor refuse it."""
    found, broken = records.read_lines(path)  # it compares each key with the content
    assert found
    assert not broken
    for record in found:
        assert record.again().model_dump(mode="json") == record.parameters


def test_a_large_kind_is_split_into_files_and_read_as_one(project, monkeypatch):
    runs = records.obtain([Doubling(value=value) for value in range(6)])
    (whole,), _ = publish.publish(runs)
    lines = whole.read_text().splitlines()
    monkeypatch.setattr(publish, "LARGEST", 2 * len(lines[0]) + 10)
    files, _ = publish.publish([])
    assert files == []  # nothing new, nothing written
    files, _ = publish.publish(runs[:1])
    assert [path.name for path in files] == ["doubling.jsonl", "doubling.2.jsonl", "doubling.3.jsonl"]
    assert [line for path in files for line in path.read_text().splitlines()] == lines
    assert {record.key for record in records.published_records("doubling")} == {run.key for run in runs}
    assert records.published_kinds() == ["doubling"]
    monkeypatch.setattr(publish, "LARGEST", 10**6)
    publish.publish(runs)
    assert not files[1].exists()


def test_no_published_file_is_beyond_two_megabytes():
    assert max(path.stat().st_size for path in RESULTS.glob("*.jsonl")) <= 2_000_000
