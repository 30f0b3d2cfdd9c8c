"""Formats of a stored weight: width, how many weights share a scale, symmetric or affine. Formats are values.

A format knows how many bytes a weight takes: packed codes, one fp16 scale for each group and, if affine, one
zero point as wide as a code. Nothing is padded but the last byte of each of the three.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

from lmcompress.errors import ParameterError
from lmcompress.quantize.codebooks import CODEBOOKS

WIDTHS = (2, 3, 4, 5, 6, 8, 16)
VALID = "a format such as '16bit', '8bit', '4bit-asym', '4bit-tensor', '4bit-g128', '4bit-g128-asym' or '4bit-g64-nf4'"
MOST = 2**20  # inputs of a group
SPELLING = re.compile(
    r"([0-9]{1,2})bit(?:-(tensor|g([0-9]{1,7})))?(-asym)?(?:-(" + "|".join(CODEBOOKS) + "))?"
)


@dataclass(frozen=True)
class Bits:
    """Width in bits, and which weights share a scale: a ``"row"``, the ``"tensor"`` or ``group`` inputs of a
    row.

    A ``group`` that does not divide the inputs leaves a shorter last group in each row (576 inputs and
    ``group=128``: four groups of 128 and one of 64); one larger than a row is the row. ``symmetric``: the
    zero point is the middle code; otherwise (affine) each group stores its own. 16 bits are the weight in
    half precision (bf16 for a bf16 weight, fp16 for any other) without scales, so ``group`` and ``symmetric``
    are reset there and all 16-bit formats are equal. ``codebook``: a name in
    :data:`~lmcompress.quantize.codebooks.CODEBOOKS`, of which the width is that of its codes, or None: the values are
    evenly spaced. Raises :class:`ParameterError` for anything else.

    ``str`` gives ``4bit-g128-asym``; ``row`` and symmetric go without saying. :func:`parse` is its inverse.
    """

    bits: int
    group: int | str = "row"
    symmetric: bool = True
    codebook: str | None = None

    def __post_init__(self) -> None:
        if not _whole(self.bits) or self.bits not in WIDTHS:
            raise ParameterError("bits", self.bits, WIDTHS)
        if self.group not in ("row", "tensor") and not (_whole(self.group) and 1 <= self.group <= MOST):
            valid = f"'row', 'tensor' or a number of inputs from 1 to {MOST:,}"
            raise ParameterError("group", self.group, valid)
        if not isinstance(self.symmetric, bool):
            raise ParameterError("symmetric", self.symmetric, (True, False))
        if self.codebook is not None and self.codebook not in CODEBOOKS:
            raise ParameterError("codebook", self.codebook, CODEBOOKS)
        if self.values and (len(self.values) != 2**self.bits or not self.symmetric):
            raise ParameterError("format", str(self), f"the width of {self.codebook}, without zero points")
        if self.bits == 16:
            object.__setattr__(self, "group", "row")
            object.__setattr__(self, "symmetric", True)

    @property
    def values(self) -> tuple[float, ...]:
        """What each code reads as before it meets its scale; () where they are evenly spaced."""
        return CODEBOOKS[self.codebook] if self.codebook else ()

    @property
    def zero(self) -> int:
        """The code that reads 0 where no zero points are stored."""
        return self.values.index(0.0) if self.values else 2 ** (self.bits - 1)

    def at(self, bits: int) -> "Bits":
        """The format of another width, with the same groups and symmetry."""
        return replace(self, bits=bits)

    def __str__(self) -> str:
        name = f"-{self.codebook}" if self.codebook else ""
        group = {"row": "", "tensor": "-tensor"}.get(str(self.group), f"-g{self.group}")
        return f"{self.bits}bit{group}{'' if self.symmetric else '-asym'}{name}"

    def scales_shape(self, shape: Sequence[int]) -> tuple[int, int]:
        """Shape [rows, groups in a row] of the scales of a weight [out, in]; (0, 0) at 16 bits."""
        rows, columns = _checked(shape)
        if self.bits == 16:
            return 0, 0
        if self.group == "tensor":
            return 1, 1
        return rows, 1 if isinstance(self.group, str) else -(-columns // self.group)

    def bytes_for(self, shape: Sequence[int]) -> int:
        """Bytes of a weight [out, in] stored whole: packed codes, scales and zero points."""
        rows, columns = _checked(shape)
        return packed_bytes(rows * columns, self.bits) + self._overhead(shape)

    def _overhead(self, shape: Sequence[int]) -> int:
        rows, groups = self.scales_shape(shape)
        zeros = 0 if self.symmetric else packed_bytes(rows * groups, self.bits)
        return 2 * rows * groups + zeros


def parse(value: "str | int | Bits") -> Bits:
    """The format that ``"4bit-g128-asym"``, a width or a format means; the inverse of ``str``.

    Raises :class:`ParameterError` for anything else.
    """
    if isinstance(value, Bits):
        return value
    if _whole(value):
        return Bits(value)
    match = SPELLING.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[1]) not in WIDTHS or match[3] == "0":
        raise ParameterError("format", value, VALID)
    group = int(match[3]) if match[3] else match[2] or "row"
    return Bits(int(match[1]), group, symmetric=match[4] is None, codebook=match[5])


def packed_bytes(count: int, bits: int) -> int:
    """Bytes of ``count`` numbers of ``bits`` bits each, packed without gaps."""
    return -(-count * bits // 8)


def layout(shape: Sequence[int], format: Bits, kept: int | None = None) -> tuple[str, int]:
    """``(layout, bytes)`` in which a weight [out, in] with ``kept`` unpruned weights takes the least room.

    ``"sparse"``: one mask bit a weight and the codes of the kept weights. ``"dense"``: every code, and no
    mask (a pruned weight has the code that means zero). Dense without ``kept``, and when both are equal.
    """
    rows, columns = _checked(shape)
    dense = format.bytes_for(shape)
    if kept is None:
        return "dense", dense
    if not _whole(kept) or not 0 <= kept <= rows * columns:
        raise ParameterError("kept", kept, f"an integer from 0 to the {rows * columns} weights")
    sparse = packed_bytes(rows * columns, 1) + packed_bytes(kept, format.bits) + format._overhead(shape)
    return ("sparse", sparse) if sparse < dense else ("dense", dense)


def stored_bytes(shape: Sequence[int], format: Bits, kept: int | None = None) -> int:
    """Bytes that ``pack.save`` writes for a weight [out, in] with ``kept`` (None = all) unpruned weights."""
    return layout(shape, format, kept)[1]


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _checked(shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) != 2 or not all(size >= 1 for size in shape):
        raise ParameterError("shape", tuple(shape), "two sizes [out, in] of at least 1")
    return int(shape[0]), int(shape[1])
