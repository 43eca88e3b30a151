"""Local response normalisation across channels (Krizhevsky et al. 2012, section 3.3).

    s[c] = k + alpha * sum of x[j]^2 over the n channels j around c    (clipped at both ends)
    y[c] = x[c] s[c]^-beta

An input affects its own output directly, and through s every output whose window contains it:

    gx[c] = gy[c] s[c]^-beta - 2 alpha beta x[c] * sum of gy[j] x[j] s[j]^(-beta-1) over the
    channels j whose window contains c

For odd n these channels are the same window again, for even n the mirrored one. Saved: x; s is
cheap and computed again. The window of c is c - n//2 .. c + (n-1)//2. The paper does not divide
alpha by n; the 2012 code, Caffe and PyTorch do (`divide_by_n`). With groups, windows stay inside a
column, as in the 2012 code (48 and 128 channels).

Kernels: lrn_forward, lrn_backward (kernels/lrn.cu). AlexNet: after the ReLUs of conv1 and conv2,
with k=2, n=5, alpha=1e-4, beta=0.75.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from minigrad import kernels
from minigrad.backend import Array
from minigrad.engine import Function, Tensor, as_tensor
from minigrad.functions.cases import Case
from minigrad.functions.geometry import whole_number

CHUNK = 1 << 18  # elements normalised at a time: the window sums stay in cache


def window_sum(a: Array, before: int, after: int) -> Array:
    """out[..., c] = sum of a[..., j] over c - before <= j <= c + after. Every sum is computed
    afresh, because a running sum would accumulate rounding errors."""
    out = a.copy(order="K")
    C = a.shape[-1]
    for d in range(1, min(before, C - 1) + 1):
        out[..., d:] += a[..., :-d]
    for d in range(1, min(after, C - 1) + 1):
        out[..., :-d] += a[..., d:]
    return out


class LRN(Function):
    def __init__(self, n: int, k: float, alpha: float, beta: float, groups: int) -> None:
        self.before, self.after = n // 2, (n - 1) // 2
        self.k, self.alpha, self.beta, self.groups = k, alpha, beta, groups

    def rows(self, *arrays: Array) -> Iterator[tuple[Array, ...]]:
        """The arrays as matrices, a chunk of rows at a time. A row holds the channels of one group,
        which windows do not leave."""
        C = arrays[0].shape[-1] // self.groups
        flat = [a.reshape(a.size // max(C, 1), C) for a in arrays]
        step = max(1, CHUNK // max(C, 1))
        for i in range(0, len(flat[0]), step):
            yield tuple(a[i : i + step] for a in flat)

    def launch(self, name: str, rows: int, *arrays: Array) -> None:
        C = arrays[0].shape[-1] // self.groups
        before, after = min(self.before, C), min(self.after, C)  # no window sees more
        constants = C, before, after, self.k, self.alpha, self.beta
        blocks = arrays[0].size // max(C, 1)
        kernels.launch(
            name,
            blocks,
            *[kernels.contiguous(a) for a in arrays],
            *constants,
            shared=rows * (C + before + after),
        )

    def forward(self, x):
        self.save(x)
        y = np.empty_like(x, order="C")
        if kernels.ready(x):
            self.launch("lrn_forward", 1, x, y)
            return y
        for x_, y_ in self.rows(x, y):
            s = self.k + self.alpha * window_sum(x_ * x_, self.before, self.after)
            y_[...] = x_ * s**-self.beta
        return y

    def backward(self, gy):
        (x,) = self.saved
        gx = np.empty_like(x, order="C")
        if kernels.ready(x):
            self.launch("lrn_backward", 2, x, gy, gx)
            return gx
        for x_, gy_, gx_ in self.rows(x, gy, gx):
            s = self.k + self.alpha * window_sum(x_ * x_, self.before, self.after)
            scaled = gy_ * s**-self.beta
            cross = window_sum(scaled * x_ / s, self.after, self.before)
            gx_[...] = scaled - (2 * self.alpha * self.beta) * x_ * cross
        return gx


def check_constants(function: str, k: float, alpha: float, beta: float) -> None:
    """Raise ValueError unless k + alpha times any sum of squares is a positive number, and so is
    its power -beta."""
    if not (0 < k < math.inf and 0 <= alpha < math.inf and math.isfinite(beta)):
        raise ValueError(
            f"{function}: k must be above 0, alpha at least 0, and all three finite, not k={k},"
            f" alpha={alpha}, beta={beta}"
        )


def lrn(
    x,
    n: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
    divide_by_n: bool = False,
    groups: int = 1,
) -> Tensor:
    """Local response normalisation across channels: x / (k + alpha sum of x^2 over n neighbouring
    channels)^beta.

    Args:
        x: (..., C), channels last.
        n: channels in a window.
        k, alpha, beta: the paper's constants; k + alpha * sum must stay above 0.
        divide_by_n: divide alpha by n, as the 2012 code, Caffe and PyTorch do and the paper does
            not.
        groups: windows do not cross the borders between this many equal blocks of channels.
    Returns: same shape as x.
    """
    x = as_tensor(x)
    groups = whole_number(groups, "groups", "lrn")
    if x.ndim < 1 or x.shape[-1] % groups:
        raise ValueError(f"lrn: groups={groups} must divide the channels of x, shape {x.shape}")
    n = whole_number(n, "n", "lrn")
    check_constants("lrn", k, alpha, beta)
    return LRN(n, float(k), float(alpha) / n if divide_by_n else float(alpha), float(beta), groups)(
        x
    )


CASES = [
    Case("lrn: the paper's", lrn, (2, 4, 4, 12)),
    Case("lrn: alpha=1", lrn, (2, 3, 3, 17), alpha=1.0),
    Case("lrn: many channels", lrn, (2, 4100), alpha=1.0),
    Case("lrn: one channel", lrn, (2, 3, 3, 1), alpha=1.0),
    Case("lrn: four channels", lrn, (5, 4), alpha=1.0),
    Case("lrn: n above C", lrn, (4, 3), n=9, alpha=1.0),
    Case(
        "lrn: even n, per column, divided",
        lrn, (2, 3, 12), n=4, k=1.5, alpha=2.0, beta=0.6, divide_by_n=True, groups=2,
    ),
    Case(
        "lrn: beta of one half", lrn, (3, 10), n=4, alpha=2.0, beta=0.5, divide_by_n=True, groups=2
    ),
]  # fmt: skip
ALEXNET = Case("lrn: norm2", lrn, (1, 27, 27, 256))
