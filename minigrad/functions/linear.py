"""Dense layer: y = x w + b.

    x (N, in), w (in, out), b (out,), y (N, out)
    gx = gy w^T,   gw = x^T gy,   gb = sum of gy over the batch.

With `relu`, the output is max(0, y), and gy is used only where y > 0. Saved: x, w, and with `relu`
y. The BLAS computes the products; bias.py adds the bias and computes its gradient. AlexNet: fc6
(9216 -> 4096), fc7 (4096 -> 4096), fc8 (4096 -> classes), which hold 58.6 of the network's 61
million parameters; Krizhevsky et al. (2012), section 3.5.
"""

from __future__ import annotations

from minigrad.engine import Function, Tensor, as_tensor
from minigrad.functions.bias import add_bias, sum_rows
from minigrad.functions.cases import Case, alternating, one_sign, positive, scaled
from minigrad.functions.relu import relu_gradient


class Linear(Function):
    def __init__(self, relu: bool = False) -> None:
        self.relu = relu

    def forward(self, x, w, b):
        y = x @ w
        add_bias(y, b, self.relu)
        self.save(x, w, y if self.relu else None)
        return y

    def backward(self, gy):
        x, w, y = self.saved
        if self.relu:
            gy = relu_gradient(gy, y)
        gx = gy @ w.T if self.needs[0] else None
        gw = x.T @ gy if self.needs[1] else None
        gb = sum_rows(gy) if self.needs[2] else None
        return gx, gw, gb


def linear(x, w, b=None, relu: bool = False) -> Tensor:
    """Dense layer y = x w + b.

    Args:
        x: (N, in). Flatten image batches first (functions.flatten).
        w: (in, out).
        b: (out,), or None for no bias.
        relu: return max(0, y), computed in the same pass over memory as the bias.
    Returns: (N, out).
    """
    x, w = as_tensor(x), as_tensor(w)
    if x.ndim != 2:
        raise ValueError(f"linear: x must be (N, in) but has shape {x.shape}; flatten it first")
    if w.ndim != 2 or w.shape[0] != x.shape[1]:
        hint = (
            "; it looks transposed, linear weights here are (in, out)"
            if w.ndim == 2 and w.shape[1] == x.shape[1]
            else ""
        )
        raise ValueError(
            f"linear: w must be (in, out) with in = {x.shape[1]}, but has shape {w.shape}{hint}"
        )
    if b is not None and as_tensor(b).shape != (w.shape[1],):
        raise ValueError(f"linear: b must have shape ({w.shape[1]},), not {as_tensor(b).shape}")
    return Linear(relu)(x, w, b)


CASES = [
    Case("linear", linear, (9, 20), (20, 11), (11,)),
    Case("linear: no b", linear, (3, 4), (4, 5)),
    Case("linear: more than one vector of outputs", linear, (5, 4), (4, 33), (33,)),
    Case("linear: a wide row", linear, (3, 2), (2, 4097), (4097,)),
    Case("linear: relu", linear, (5, 4), scaled(0.1, 4, 33), alternating(3.0, 33), relu=True),
    Case("linear: relu, no b", linear, positive(5, 4), one_sign(4, 3), relu=True),
]
