"""Sum and mean, over all elements or over some axes. Every term of a sum receives the gradient of
the sum."""

from __future__ import annotations

import numpy as np

from minigrad.engine import Function, Tensor, as_tensor
from minigrad.functions.basic import mul
from minigrad.functions.cases import Case


class Sum(Function):
    def __init__(self, axis=None, keepdims: bool = False) -> None:
        self.axis, self.keepdims = axis, keepdims

    def forward(self, x):
        self.shape = x.shape
        return np.asarray(x.sum(axis=self.axis, keepdims=self.keepdims), like=x)

    def backward(self, gy):
        if self.axis is not None and not self.keepdims:
            gy = np.expand_dims(gy, self.axis)
        return np.broadcast_to(gy, self.shape).copy()


def sum(x, axis=None, keepdims: bool = False) -> Tensor:
    """Sum over all elements, or over one axis or a tuple of axes."""
    return Sum(axis, keepdims)(x)


def mean(x, axis=None, keepdims: bool = False) -> Tensor:
    """Mean over all elements, or over one axis or a tuple of axes."""
    x = as_tensor(x)
    if x.size == 0:
        raise ValueError(f"mean: there is nothing to average in shape {x.shape}")
    total = sum(x, axis, keepdims)
    return mul(total, total.size / x.size)


Tensor.operators |= {"sum": sum, "mean": mean}


CASES = [
    Case("sum", sum, (3, 4)),
    Case("sum: axis 1", sum, (3, 4, 2), axis=1),
    Case("mean", mean, (3, 4)),
    Case("mean: axes 1, 2", mean, (3, 4, 2, 3), axis=(1, 2), keepdims=True),
]
