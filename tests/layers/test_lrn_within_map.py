"""Response normalisation within a map: every check of functions/lrn_within_map.py."""

import math

import checks
import numpy as np
import pytest
from checks import both_forms, check, flags, layouts, same, small, streams, torch, with_attribute
from hypothesis import given
from hypothesis import strategies as st

from minigrad.functions.lrn_within_map import CASES, LRNWithinMap, box_sum, lrn_within_map


def by_pytorch(x, n=5, k=1.0, alpha=1e-3, beta=0.75):
    """The mean over n x n pixels, zeros around the image counted."""
    T, before, after = torch.nn.functional, n // 2, (n - 1) // 2
    squares = T.pad((x * x).permute(0, 3, 1, 2), (before, after, before, after))
    mean = T.avg_pool2d(squares, n, stride=1).permute(0, 2, 3, 1)
    return x / (k + alpha * mean) ** beta


test_cases = checks.cases(CASES, pytorch=by_pytorch)
test_kernel = checks.kernel(CASES)
test_empty = checks.empty(lrn_within_map=(lrn_within_map, (0, 4, 5, 3)))


@both_forms
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
def test_by_loops(rng, n):
    x = rng.standard_normal((2, 6, 5, 3))
    y = np.empty_like(x)
    for image, h, w, c in np.ndindex(*x.shape):
        rows = [i for i in range(h - n // 2, h - n // 2 + n) if 0 <= i < 6]
        columns = [j for j in range(w - n // 2, w - n // 2 + n) if 0 <= j < 5]
        total = math.fsum(float(x[image, i, j, c]) ** 2 for i in rows for j in columns)
        y[image, h, w, c] = x[image, h, w, c] / (0.8 + 3.0 / n**2 * total) ** 0.6
    same(lrn_within_map(x, n, 0.8, 3.0, 0.6), y)


@both_forms
def test_the_constants_are_those_of_the_2012_code(rng):
    x = 100 * rng.standard_normal((1, 6, 7, 2))
    same(lrn_within_map(x), lrn_within_map(x, 5, 1.0, 0.001, 0.75).data)
    assert (abs(lrn_within_map(x).data) < 0.9 * abs(x)).all()


shapes = st.tuples(small, small, small, small)
constants = st.tuples(st.floats(0.5, 2), st.floats(0.4, 8), st.sampled_from([0.5, 0.75, 1.0]))


@both_forms
@given(shapes, st.integers(1, 6), constants, layouts, flags, streams)
def test_gradients_of_any_shape(shape, n, constants, layout, turn, rng):
    x = layout(rng.normal(shape))
    check(lambda x: lrn_within_map(x, n, *constants), x, turn=turn)


def test_a_float64_constant_does_not_promote():
    x = np.ones((1, 2, 2, 3), np.float32)
    assert lrn_within_map(x, alpha=np.float64(0.5)).dtype == np.float32


IMAGES, ROWS = np.ones((2, 5, 6, 4)), np.ones((2, 3))
test_wrong_calls = checks.wrong_calls(
    (
        lambda: lrn_within_map(ROWS),
        "lrn_within_map: x must have four axes (N, H, W, C), but has shape (2, 3)",
    ),
    (
        lambda: lrn_within_map(IMAGES, n=2.5),
        "lrn_within_map: n must be a whole number >= 1, not 2.5",
    ),
    (
        lambda: lrn_within_map(IMAGES, k=0),
        "lrn_within_map: k must be above 0, alpha at least 0, and all three finite, not k=0,",
    ),
    (lambda: lrn_within_map(IMAGES, alpha=float("nan")), "alpha=nan"),
)


def no_cross_term(right):
    """gx = gy s^-beta alone."""

    def backward(self, gy):
        (x,) = self.saved
        s = self.k + self.alpha * box_sum(x * x, self.before, self.after)
        return gy * s**-self.beta

    return backward


mirrored = with_attribute("before", lambda b: b - 1)
test_planted_faults = checks.planted_faults(
    CASES,
    ("lrn_within_map: alpha=10", LRNWithinMap, no_cross_term, "neighbours' term dropped"),
    ("lrn_within_map: even n", LRNWithinMap, mirrored, "window not mirrored"),
)
