"""Masks as small pictures, of ``results/benchmarks/mask_pictures.json``: one matrix of published pruning runs."""

import base64
import struct
import zlib
from html import escape
from typing import Any

import numpy as np

from lmcompress.files import benchmark
from lmcompress.report.canvas import PALETTE
from lmcompress.report.html import Html

SIDE = 144  # pixels of the page


def rows() -> list[dict[str, Any]]:
    """Each run with its picture, as ``benchmarks/mask_pictures.py`` wrote them."""
    found = benchmark("mask_pictures")
    return [row | one for row, one in zip(found["rows"], found.get("pictures", ()), strict=True)]


def pictures() -> dict[str, Html]:
    """Key of a record -> a figure of its mask: the whole matrix in blocks, and one corner weight by weight."""
    return {row["record"]: _figure(row) for row in rows()}


def about() -> str:
    """What the pictures show, in words; nothing where there are none."""
    found = rows()
    if not found:
        return ""
    (high, wide), block, corner = found[0]["shape"], _block(found[0]), len(found[0]["corner"])
    return (
        f"Masks: which weights of {found[0]['matrix']} ({high} outputs, {wide} inputs) stay. Left, the whole matrix, a "
        f"cell for {block} by {block} weights, the darker on white (brighter on black) the more of them stay. Right, "
        f"its first {corner} by {corner} weights one by one. Computed again with the parameters of each record by "
        "benchmarks/mask_pictures.py."
    )


def png(levels: np.ndarray, most: int) -> str:
    """Address of a picture as text: whole numbers 0 to ``most`` (below 256) [height, width] as the opacity of one colour, so
    that it stands on whatever background the page has.
    """
    high, wide = levels.shape
    lines = b"".join(b"\0" + line.tobytes() for line in levels.astype(np.uint8))  # 0: no filter
    colour = bytes.fromhex(PALETTE[0][1:])
    opacity = bytes(255 * level // most for level in range(most + 1))
    header = struct.pack(
        ">IIBBBBB", wide, high, 8, 3, 0, 0, 0
    )  # 8 bits a pixel, which name a colour of the palette
    chunks = (
        (b"IHDR", header),
        (b"PLTE", colour * (most + 1)),
        (b"tRNS", opacity),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    )
    body = b"".join(_chunk(*one) for one in chunks)
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _block(row: dict[str, Any]) -> int:
    """Weights a side of a cell."""
    return int(row["shape"][0]) // len(row["whole"])


def counts(row: dict[str, Any]) -> np.ndarray:
    """Weights that each block keeps, of :func:`rows`: int [height, width]."""
    return np.array([list(bytes.fromhex(line)) for line in row["whole"]])


def _figure(row: dict[str, Any]) -> Html:
    whole, block = counts(row), _block(row)
    corner = np.array([[mark == "#" for mark in line] for line in row["corner"]])
    kept = 100 * whole / block**2
    ends = [f"{share.min():.0f} to {share.max():.0f} %" for share in (kept.mean(1), kept.mean(0))]
    found = f"{block} rows together keep {ends[0]} of their weights, {block} columns {ends[1]}"
    name = f"{row['criterion']}, {row['pattern']}"
    images = "".join(
        f'<img src="{png(levels, most)}" width="{SIDE}" height="{SIDE}" alt="{escape(text)}">'
        for levels, most, text in (
            (whole, block**2, f"Mask of {name}: {found}."),
            (corner, 1, f"Its first {len(corner)} by {len(corner)} weights: {int(corner.sum())} stay."),
        )
    )
    return Html(
        f'<figure class="lm-mask">{images}<figcaption><strong>{escape(name)}</strong>: {found}</figcaption></figure>'
    )
