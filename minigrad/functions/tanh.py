"""Hyperbolic tangent: y = tanh(x).

    gx = gy (1 - y^2).

Saved: y. Shapes: any. The saturating unit that ReLU is compared with in Krizhevsky et al. (2012),
figure 1.
"""

from __future__ import annotations

import numpy as np

from minigrad.engine import Function, Tensor
from minigrad.functions.cases import Case


class Tanh(Function):
    def forward(self, x):
        y = np.tanh(x)
        self.save(y)
        return y

    def backward(self, gy):
        (y,) = self.saved
        return gy * (1 - y * y)


def tanh(x) -> Tensor:
    """tanh(x), element by element. x: any shape."""
    return Tanh()(x)


CASES = [Case("tanh", tanh, (3, 4, 5))]
