"""Softmax and its logarithm, over the last axis.

    p[i] = exp(x[i]) / sum of exp(x[j])        gx = p (gy - sum of gy p)
    log p[i] = x[i] - log sum of exp(x[j])     gx = gy - p sum of gy

The largest x is subtracted first; it cancels, and prevents overflow. Saved: the output. AlexNet:
the last layer's class probabilities; for training use softmax_cross_entropy, which needs neither.
"""

from __future__ import annotations

import numpy as np

from minigrad.engine import Function, Tensor, as_tensor
from minigrad.functions.cases import Case


class Softmax(Function):
    def forward(self, x):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        p = e / e.sum(axis=-1, keepdims=True)
        self.save(p)
        return p

    def backward(self, gy):
        (p,) = self.saved
        return p * (gy - (gy * p).sum(axis=-1, keepdims=True))


class LogSoftmax(Function):
    def forward(self, x):
        shifted = x - x.max(axis=-1, keepdims=True)
        y = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        self.save(y)
        return y

    def backward(self, gy):
        (y,) = self.saved
        return gy - np.exp(y) * gy.sum(axis=-1, keepdims=True)


def _checked(name: str, x) -> Tensor:
    x = as_tensor(x)
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(
            f"{name}: x must have at least one class on its last axis, but has shape {x.shape}"
        )
    return x


def softmax(x) -> Tensor:
    """exp(x) / sum of exp(x) over the last axis. x: (..., C)."""
    return Softmax()(_checked("softmax", x))


def log_softmax(x) -> Tensor:
    """log(softmax(x)) over the last axis, without overflow. x: (..., C)."""
    return LogSoftmax()(_checked("log_softmax", x))


CASES = [
    Case("softmax", softmax, (4, 7)),
    Case("softmax: one axis", softmax, (5,)),
    Case("log_softmax", log_softmax, (4, 7)),
]
