"""The bias of conv2d.py and linear.py and its gradient. Adding the bias can apply the ReLU that
follows in the same pass over memory.

    y = y + b,   or  y = max(0, y + b)          gb = sum of the rows of gy

y (rows, O), b (O,). Kernels: add_bias, sum_rows (kernels/bias.cu).
"""

from __future__ import annotations

import numpy as np

from minigrad import kernels
from minigrad.backend import Array

SPAN = 64  # rows per block of sum_rows
NUMBERS = 4096  # numbers per block of add_bias, approximately


def add_bias(y: Array, b: Array | None, relu: bool = False) -> None:
    """Add b (O,), unless it is None, to every row of y (rows, O); with `relu`, then set negative
    elements to 0. Works in place."""
    if b is None and not relu:
        return
    if kernels.ready(y):
        b = np.zeros_like(y, shape=y.shape[1:]) if b is None else kernels.contiguous(b)
        span = max(1, NUMBERS // max(1, y.shape[1]))
        kernels.launch("add_bias", -(-len(y) // span), y, b, *y.shape, span, int(relu))
        return
    if b is not None:
        y += b
    if relu:
        np.maximum(y, 0, out=y)


def sum_rows(g: Array) -> Array:
    """Sum of the rows of g (rows, O). Blocks of SPAN rows are summed first, then their sums, so
    that the order of additions does not depend on the number of threads."""
    if not kernels.ready(g) or len(g) == 0:
        return g.sum(axis=0)
    while len(g) > 1:
        parts = np.empty_like(g, shape=(-(-len(g) // SPAN), g.shape[1]), order="C")
        kernels.launch("sum_rows", len(parts), kernels.contiguous(g), parts, *g.shape, SPAN)
        g = parts
    return g[0]
