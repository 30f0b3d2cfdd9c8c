"""Masks as small pictures, of ``results/benchmarks/mask_pictures.json``: one matrix of published pruning runs."""

import base64
import struct
import zlib
from html import escape

import numpy as np

from lmcompress.files import benchmark
from lmcompress.report.canvas import PALETTE
from lmcompress.report.html import Html

LEVELS = (
    16  # of a picture: its colour from absent (nothing kept) to full, on whatever background the page has
)
SIDE = 144  # pixels of the page


def rows() -> list[dict]:
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


def png(levels: np.ndarray) -> str:
    """Address of a picture as text: whole numbers 0 to 15 [height, width], width even, as shares of one colour."""
    high, wide = levels.shape
    packed = (levels[:, ::2] << 4 | levels[:, 1::2]).astype(np.uint8)
    lines = b"".join(b"\0" + line.tobytes() for line in packed)  # 0: no filter
    colour = bytes.fromhex(PALETTE[0][1:])
    opacity = bytes(255 * level // (LEVELS - 1) for level in range(LEVELS))
    header = struct.pack(">IIBBBBB", wide, high, 4, 3, 0, 0, 0)  # 4 bits a pixel, with a palette
    chunks = (
        (b"IHDR", header),
        (b"PLTE", colour * LEVELS),
        (b"tRNS", opacity),
        (b"IDAT", zlib.compress(lines, 9)),
    )
    body = b"".join(_chunk(*one) for one in (*chunks, (b"IEND", b"")))
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _block(row: dict) -> int:
    """Weights a side of a cell."""
    return row["shape"][0] // len(row["whole"])


def _figure(row: dict) -> Html:
    whole = np.array([[int(digit, 16) for digit in line] for line in row["whole"]])
    corner = np.array([[(LEVELS - 1) * (mark == "#") for mark in line] for line in row["corner"]])
    kept, block = 100 * whole / (LEVELS - 1), _block(row)
    ends = [f"{share.min():.0f} to {share.max():.0f} %" for share in (kept.mean(1), kept.mean(0))]
    found = f"{block} rows together keep {ends[0]} of their weights, {block} columns {ends[1]}"
    name = f"{row['criterion']}, {row['pattern']}"
    images = "".join(
        f'<img src="{png(levels)}" width="{SIDE}" height="{SIDE}" alt="{escape(text)}">'
        for levels, text in (
            (whole, f"Mask of {name}: {found}."),
            (corner, f"Its first {len(corner)} by {len(corner)} weights: {int((corner > 0).sum())} stay."),
        )
    )
    return Html(
        f'<figure class="lm-mask">{images}<figcaption><strong>{escape(name)}</strong>: {found}</figcaption></figure>'
    )
