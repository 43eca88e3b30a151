"""Dropout: in training, set each element to 0 with probability p (Hinton et al. 2012; Krizhevsky et
al. 2012, section 4.2).

    training, the paper's form      y = m x              test    y = (1 - p) x
    training, inverted=True         y = m x / (1 - p)    test    y = x
    gx = gy times the same factor.

m is 0 or 1: element i is kept if its 32 random bits, as a number below 2^32, are at least p 2^32.
Saved: only the number of the draw; backward generates the same bits again (random.py). Both forms
have the same mean at test time as in training. If a batch is a part of a larger one (random.part),
or the units are a part of a layer (`place`), each element gets the random bits that it would have
in the whole. Kernel: dropout (kernels/dropout.cu).
AlexNet: p = 0.5 on fc6 and fc7, not inverted.
"""

from __future__ import annotations

import numpy as np

from minigrad import kernels, random
from minigrad.engine import Function, Tensor
from minigrad.functions.cases import Case, fresh


class Dropout(Function):
    def __init__(
        self, p: float, scale: float, rng: random.Stream, place: tuple[int, int] | None = None
    ) -> None:
        self.p, self.scale, self.place, self.row = p, scale, place, random.first_row()
        self.seed, self.stream, self.draw = rng.seed, rng.stream, rng.next_draw()

    def apply(self, a):
        if self.place is None:
            return self.drop(a)
        first, whole = self.place
        units = slice(first, first + a.shape[-1])
        wide = np.zeros_like(a, shape=(*a.shape[:-1], whole), order="C")
        wide[..., units] = a
        return kernels.contiguous(self.drop(wide)[..., units])

    def drop(self, a):
        threshold = int(self.p * 2**32)
        start = self.row * (a.size // max(1, len(a))) if a.ndim else 0
        if kernels.ready(a) and start % 4 == 0:  # one Philox call gives the bits of 4 neighbours
            a = kernels.contiguous(a)
            out = np.empty_like(a)
            key = self.seed, self.stream, self.draw & random.LOW, self.draw >> 32
            blocks = -(-a.size // kernels.SPAN)
            kernels.launch(
                "dropout", blocks, a, out, a.size, start, kernels.SPAN, threshold, self.scale, *key
            )
            return out
        words = random.bits(self.seed, self.stream, self.draw, a.size, like=a, start=start)
        kept = words >= threshold
        return a * kept.reshape(a.shape) * a.dtype.type(self.scale)

    forward = apply
    backward = apply


class Scale(Function):
    """y = factor x: dropout at test time, in the paper's form."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def forward(self, x):
        return x * self.factor

    def backward(self, gy):
        return gy * self.factor


def dropout(
    x,
    p: float = 0.5,
    training: bool = True,
    inverted: bool = True,
    rng: random.Stream | None = None,
    place: tuple[int, int] | None = None,
) -> Tensor:
    """Zero each element with probability p while training.

    Args:
        x: any shape.
        p: probability of dropping, 0 <= p < 1.
        training: False for the deterministic form at test time.
        inverted: scale by 1 / (1 - p) in training; False scales by 1 - p at test time instead, as
            the paper does.
        rng: the random.Stream to draw from (a layer owns one); the default stream if None.
        place: (first, total) if x holds the units (last axis) from `first` on of a layer of `total`
            units that is split over processes; None if x holds all units.
    """
    p, rng = float(p), random.stream(rng, "dropout")
    if not 0 <= p < 1:
        raise ValueError(f"dropout: p must be at least 0 and below 1, not {p}")
    if training:
        return Dropout(p, 1 / (1 - p) if inverted else 1.0, rng, place)(x)
    return Scale(1.0 if inverted else 1 - p)(x)


CASES = [
    Case("dropout", dropout, (3, 7, 11), p=0.3, rng=fresh),
    Case("dropout: longer than a block", dropout, (2 * kernels.SPAN + 3,), rng=fresh),
    Case("dropout: the paper's, training", dropout, (5, 6), p=0.3, inverted=False, rng=fresh),
    Case("dropout: the paper's, test", dropout, (5, 6), p=0.3, training=False, inverted=False),
]
ALEXNET = Case("dropout: drop6", dropout, (1, 4096), inverted=False, rng=fresh)
