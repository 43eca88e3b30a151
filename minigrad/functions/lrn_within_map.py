"""Response normalisation within each map, over an n x n neighbourhood of pixels: the 2012 code's
second normalisation.

    s[h, w] = k + alpha / n^2 * sum of x[i, j]^2 over the n x n pixels around (h, w),
              clipped at the border
    y = x s^-beta
    gx[h, w] = gy s^-beta - 2 (alpha / n^2) beta x * sum of gy x s^(-beta-1)
               over the pixels whose window contains (h, w)

Each channel is normalised separately. Saved: x. Source: the original 2012 network, layers-145.cfg
(type=rnorm, size 5, scale 0.001, power 0.75) and layer.py, which divides the scale by size^2. The
paper does not mention this layer. The presets `krizhevsky2012` (after conv2's channel
normalisation), `cifar10_18pct` and `caffe_cifar10_full` use it.

Kernels: lrn_within_map_forward, lrn_within_map_terms, lrn_within_map_backward
(kernels/lrn_within_map.cu).
"""

from __future__ import annotations

import numpy as np

from minigrad import kernels
from minigrad.backend import Array
from minigrad.engine import Function, Tensor, as_tensor
from minigrad.functions.cases import Case
from minigrad.functions.geometry import whole_number
from minigrad.functions.lrn import check_constants, window_sum


def box_sum(a: Array, before: int, after: int) -> Array:
    """Sum over the window around every pixel of (N, H, W, C), first along W, then along H."""
    for axis in (2, 1):
        a = np.moveaxis(window_sum(np.moveaxis(a, axis, -1), before, after), -1, axis)
    return a


class LRNWithinMap(Function):
    def __init__(self, n: int, k: float, alpha: float, beta: float) -> None:
        self.before, self.after = n // 2, (n - 1) // 2
        self.k, self.alpha, self.beta = k, alpha / (n * n), beta

    def launch(
        self, name: str, before: int, after: int, arrays: list[Array], *constants: float
    ) -> None:
        """One launch over the rows of all maps."""
        N, H, W, C = arrays[0].shape
        most = max(H, W)  # no window sees more
        given = [kernels.contiguous(a) for a in arrays]
        windows = min(before, most), min(after, most)
        kernels.launch(name, N * H, *given, H, W, C, *windows, *constants)

    def forward(self, x):
        self.save(x)
        if kernels.ready(x):
            y = np.empty_like(x, order="C")
            constants = self.k, self.alpha, self.beta
            self.launch("lrn_within_map_forward", self.before, self.after, [x, y], *constants)
            return y
        s = self.k + self.alpha * box_sum(x * x, self.before, self.after)
        return kernels.contiguous(x * s**-self.beta)

    def backward(self, gy):
        (x,) = self.saved
        if kernels.ready(x):
            gx, t = np.empty_like(x, order="C"), np.empty_like(x, order="C")
            constants, terms = (self.k, self.alpha, self.beta), [x, gy, gx, t]
            self.launch("lrn_within_map_terms", self.before, self.after, terms, *constants)
            factor = 2 * self.alpha * self.beta
            self.launch("lrn_within_map_backward", self.after, self.before, [x, t, gx], factor)
            return gx
        s = self.k + self.alpha * box_sum(x * x, self.before, self.after)
        scaled = gy * s**-self.beta
        cross = box_sum(scaled * x / s, self.after, self.before)
        return kernels.contiguous(scaled - (2 * self.alpha * self.beta) * x * cross)


def lrn_within_map(
    x, n: int = 5, k: float = 1.0, alpha: float = 1e-3, beta: float = 0.75
) -> Tensor:
    """Response normalisation over an n x n neighbourhood within each map.

    Args:
        x: (N, H, W, C).
        n: side of the window, in pixels.
        k, alpha, beta: constants; alpha is divided by n^2. k + alpha * mean must stay above 0.
    Returns: same shape as x.
    """
    x = as_tensor(x)
    if x.ndim != 4:
        raise ValueError(
            f"lrn_within_map: x must have four axes (N, H, W, C), but has shape {x.shape}"
        )
    n = whole_number(n, "n", "lrn_within_map")
    check_constants("lrn_within_map", k, alpha, beta)
    return LRNWithinMap(n, float(k), float(alpha), float(beta))(x)


CASES = [
    Case("lrn_within_map: alpha=10", lrn_within_map, (2, 6, 7, 3), alpha=10.0),
    Case("lrn_within_map: n=2", lrn_within_map, (2, 3, 4, 2), n=2, alpha=4.0),
    Case("lrn_within_map: even n", lrn_within_map, (2, 7, 8, 4), n=4, k=0.5, alpha=3.0, beta=0.6),
    Case("lrn_within_map: n above the side", lrn_within_map, (2, 4, 5, 3), n=9, alpha=9.0),
    Case("lrn_within_map: many channels", lrn_within_map, (1, 3, 4, 515), n=3, alpha=2.0),
]
# As within2 of krizhevsky2012; the paper has none.
ALEXNET = Case("lrn_within_map: within2", lrn_within_map, (1, 27, 27, 256))
