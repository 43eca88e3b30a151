"""Logistic sigmoid: y = 1 / (1 + exp(-x)).

    gx = gy y (1 - y).

Computed as (1 + tanh(x/2)) / 2, which overflows nowhere. Saved: y. Shapes: any. AlexNet does not use it; the networks
before it did.
"""

from __future__ import annotations

import numpy as np

from minigrad.engine import Function, Tensor


class Sigmoid(Function):
    def forward(self, x):
        y = 0.5 * (1 + np.tanh(0.5 * x))
        self.save(y)
        return y

    def backward(self, gy):
        (y,) = self.saved
        return gy * y * (1 - y)


def sigmoid(x) -> Tensor:
    """1 / (1 + exp(-x)), element by element. x: any shape."""
    return Sigmoid()(x)
