"""Ways to damage one file of a model folder: each returns a function of the folder."""

import json
import os

from safetensors.torch import load_file, save_file

UP = "model.layers.0.mlp.up_proj.weight"
LAST = "model.layers.2.mlp.down_proj.weight"


def write(name, content):
    def change(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def gone(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(name, keep):
    return lambda folder: write(name, (folder / name).read_bytes()[:keep])(folder)


def config(name="config.json", **values):
    """Change entries of a JSON file; None deletes one."""

    def change(folder):
        about = json.loads((folder / name).read_text()) | values
        (folder / name).write_text(
            json.dumps({key: value for key, value in about.items() if value is not None})
        )

    return change


def tensors(edit, name="model.safetensors", metadata=("format", "pt")):
    def change(folder):
        found = load_file(folder / name)
        edit(found)
        save_file(found, folder / name, metadata=dict([metadata]) if metadata else None)

    return change


def rename(found, name=UP, new="model.layers.0.mlp.up.weight"):
    found[new] = found.pop(name)


def fill(value, name=LAST):
    return tensors(lambda found: found[name][0].fill_(value))


def link(name, target):
    def change(folder):
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return change


def folder_at(name):
    def change(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def pipe(name):
    def change(folder):
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change
