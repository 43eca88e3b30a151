"""Rectified linear unit: y = max(0, x).

    gx = gy where y > 0, else 0.

The gradient at exactly 0 is 0. Saved: y, the same array that a convolution or LRN after it saves.
Shapes: any. NaN stays NaN.
Kernels: relu_forward, relu_backward (kernels/relu.cu). A convolution or dense layer just before a
ReLU can apply it together with its bias: `relu=True` (bias.py). AlexNet: after every layer but the
last; Krizhevsky et al. (2012), section 3.1, where it reaches 25% training error on CIFAR-10 six
times sooner than tanh.
"""

from __future__ import annotations

import numpy as np

from minigrad import kernels
from minigrad.backend import Array
from minigrad.engine import Function, Tensor
from minigrad.functions.cases import Case, nonzero


def relu_gradient(gy: Array, y: Array) -> Array:
    """gy where y > 0, else 0."""
    if not kernels.ready(y):
        return np.where(y > 0, gy, 0)
    gx = np.empty_like(y, order="C")
    kernels.launch(
        "relu_backward",
        -(-y.size // kernels.SPAN),
        kernels.contiguous(gy),
        y,
        gx,
        y.size,
        kernels.SPAN,
    )
    return gx


class ReLU(Function):
    def forward(self, x):
        if kernels.ready(x):
            x = kernels.contiguous(x)
            y = np.empty_like(x)
            kernels.launch("relu_forward", -(-x.size // kernels.SPAN), x, y, x.size, kernels.SPAN)
        else:
            y = np.maximum(x, 0)
        self.save(y)
        return y

    def backward(self, gy):
        return relu_gradient(gy, *self.saved)


def relu(x) -> Tensor:
    """max(0, x), element by element. x: any shape."""
    return ReLU()(x)


CASES = [
    Case("relu", relu, nonzero(3, 5, 7)),
    Case("relu: one number", relu, nonzero(1)),
    Case("relu: longer than a block", relu, nonzero(2 * kernels.SPAN + 3)),
]
ALEXNET = Case("relu: relu3", relu, nonzero(1, 13, 13, 384))
