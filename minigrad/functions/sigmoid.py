"""Logistic sigmoid: y = 1 / (1 + exp(-x)).

    gx = gy y (1 - y).

Computed as exp(min(x, 0)) / (1 + exp(-|x|)), in which nothing overflows. Saved: y. Shapes: any.
AlexNet does not use it; the networks before it did.
"""

from __future__ import annotations

import numpy as np

from minigrad.engine import Function, Tensor
from minigrad.functions.cases import Case


class Sigmoid(Function):
    def forward(self, x):
        y = np.exp(np.minimum(x, 0)) / (1 + np.exp(-abs(x)))
        self.save(y)
        return y

    def backward(self, gy):
        (y,) = self.saved
        return gy * y * (1 - y)


def sigmoid(x) -> Tensor:
    """1 / (1 + exp(-x)), element by element. x: any shape."""
    return Sigmoid()(x)


CASES = [Case("sigmoid", sigmoid, (3, 4, 5))]
