"""What a layer's inputs are accumulated into: column norms, Gram matrix, covariance of a pair.

Each has ``update`` (one batch of rows; leading dimensions are flattened) and ``result``. Sums are kept in
``dtype`` (fp32, or fp64 where more is needed), whatever the dtype of the inputs, and on their device.
"""

from typing import Any

import torch
from torch import Tensor

from lmcompress.errors import NumericError, ParameterError

SPAN = 256  # columns of a Gram matrix that are multiplied together
HALF = (torch.bfloat16, torch.float16)


class ColumnNorms:
    """Norm of each input column over all tokens, ``||X_j||_2`` of Wanda (arXiv 2306.11695, eq. 1)."""

    def __init__(self, in_features: int, dtype: torch.dtype = torch.float32):
        self._squares = torch.zeros(in_features, dtype=dtype)
        self.tokens = 0

    def update(self, x: Tensor) -> None:
        """Add the rows of ``x`` [..., in_features]. Raises :class:`ParameterError` for another width."""
        x = _rows(x, len(self._squares), self._squares.dtype)
        self._squares = self._squares.to(x.device) + x.square().sum(0)
        self.tokens += x.shape[0]

    def result(self) -> Tensor:
        """Norms [in_features]. Raises :class:`ParameterError` when no token was seen."""
        _require_tokens(self.tokens)
        return self._squares.sqrt()


class Gram:
    """Mean outer product of the inputs, ``X^T X / tokens``: half the Hessian of a layer's squared error."""

    def __init__(self, in_features: int, dtype: torch.dtype = torch.float32):
        self._width, self._dtype = in_features, dtype
        self._sum: Any = None  # 3 GB for 28,672 inputs: made where the first inputs are
        self._divided = False
        self.tokens = 0

    def update(self, x: Tensor) -> None:
        """Add the rows of ``x`` [..., in_features]. Raises :class:`ParameterError` for another width."""
        half = x.is_cuda and x.dtype in HALF and self._dtype == torch.float32
        x = _rows(x, self._width, x.dtype if half else self._dtype)
        if self._sum is None:
            self._sum = torch.zeros(self._width, self._width, dtype=self._dtype, device=x.device)
        if self._divided:
            self._sum *= self.tokens
            self._divided = False
        self._sum = self._sum.to(x.device)
        if half:  # exact products, fp32 sums
            torch.addmm(self._sum, x.T, x, out_dtype=torch.float32, out=self._sum)
        else:
            for span in self._spans():  # on and above the diagonal: the rest is the same numbers
                self._sum[span, span.start :].addmm_(x[:, span].T, x[:, span.start :])
        self.tokens += x.shape[0]

    def result(self) -> Tensor:
        """Gram matrix [in_features, in_features] in the memory of the sum: a change of it changes the sum.

        Raises :class:`ParameterError` when no token was seen.
        """
        _require_tokens(self.tokens)
        if not self._divided:
            for span in self._spans():
                self._sum[span.stop :, span] = self._sum[span, span.stop :].T
            self._sum /= self.tokens
            self._divided = True
        return self._sum

    def _spans(self) -> list[slice]:
        return [slice(at, min(at + SPAN, self._width)) for at in range(0, self._width, SPAN)]


def relative_output_error(weight: Tensor, compressed: Tensor, gram: Tensor) -> float:
    """``||(W - W')X^T||^2 / ||W X^T||^2`` of a Linear, from the Gram matrix of its inputs.

    ``weight``, ``compressed``: [out, in]; ``gram``: [in, in], any scale. The trace form ``tr(D G D^T)`` needs
    no inputs. 0 for equal weights even where the dense output is zero.
    """
    weight = weight.to(gram)
    difference = weight - compressed.to(gram)
    error, size = (float(((m @ gram) * m).sum()) for m in (difference, weight))
    if error <= 0:  # a sum of squares: only rounding makes it negative
        return 0.0
    return error / size if size > 0 else float("inf")


def require_finite(value: Tensor, layer: str, what: str) -> None:
    """Raise :class:`NumericError` naming ``layer`` when ``value`` holds an infinity or NaN."""
    if not all_finite(value):
        raise NumericError(layer, f"non-finite {what}")


def all_finite(value: Tensor) -> Tensor:
    """Bool scalar on the device of ``value``: no infinity and no NaN. Extremes are found without a copy of it."""
    if not value.numel() or not value.is_floating_point():
        return torch.isfinite(value).all()
    return torch.isfinite(torch.stack(torch.aminmax(value.detach()))).all()


def _rows(x: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    if x.shape[-1] != width:
        raise ParameterError("x", tuple(x.shape), f"a last dimension of {width}")
    return x.reshape(-1, width).to(dtype)


def _require_tokens(tokens: int) -> None:
    if not tokens:
        raise ParameterError("tokens", tokens, "at least one token seen by update")
