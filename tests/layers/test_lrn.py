"""Response normalisation across channels: every check of functions/lrn.py and kernels/lrn.cu."""

import importlib
import math

import checks
import numpy as np
import pytest
from checks import (
    at_one_element,
    both_forms,
    change,
    check,
    flags,
    gradient,
    layouts,
    same,
    small,
    streams,
    torch,
    with_attribute,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad.functions.lrn import CASES, LRN, lrn, window_sum

CASE = {case.name: case for case in CASES}


def by_loops(x, n=5, k=2.0, alpha=1e-4, beta=0.75, divide_by_n=False, groups=1):
    """The formula, one number at a time."""
    y, C = np.empty_like(x), x.shape[-1] // groups
    for index in np.ndindex(*x.shape):
        *pixel, c = index
        first = c // C * C
        window = [j for j in range(c - n // 2, c - n // 2 + n) if first <= j < first + C]
        total = math.fsum(float(x[(*pixel, j)]) ** 2 for j in window)
        y[index] = x[index] / (k + (alpha / n if divide_by_n else alpha) * total) ** beta
    return y


def by_pytorch(x, n=5, k=2.0, alpha=1e-4, beta=0.75, divide_by_n=False, groups=1):
    """PyTorch always divides alpha by n, and takes three axes at least, channels second."""
    if x.ndim < 3:
        return by_pytorch(x[None], n, k, alpha, beta, divide_by_n, groups)[0]
    alpha = alpha if divide_by_n else alpha * n
    columns = [c.movedim(-1, 1) for c in torch.chunk(x, groups, dim=-1)]
    normed = [torch.nn.functional.local_response_norm(c, n, alpha, beta, k) for c in columns]
    return torch.cat([y.movedim(1, -1) for y in normed], dim=-1)


test_cases = checks.cases(CASES, pytorch=by_pytorch)
test_kernel = checks.kernel(CASES)
test_empty = checks.empty(lrn=(lrn, (0, 2, 2, 3)), no_channels=(lrn, (2, 0)))


@both_forms
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 20])
@pytest.mark.parametrize(
    ("beta", "divide_by_n", "groups"), [(0.75, False, 1), (0.5, True, 2), (0.75, False, 3)]
)
def test_by_loops(rng, n, beta, divide_by_n, groups):
    x = rng.standard_normal((2, 3, 2, 12))
    options = n, 1.5, 0.7, beta, divide_by_n, groups
    same(lrn(x, *options), by_loops(x, *options))


@both_forms
def test_the_constants_are_the_papers(rng):
    x = 100 * rng.standard_normal((1, 2, 2, 9))
    same(lrn(x), by_loops(x, 5, 2.0, 1e-4, 0.75, False, 1))


constants = st.tuples(st.floats(0.5, 2), st.floats(0.1, 2), st.sampled_from([0.5, 0.75, 1.0]))
rows = st.lists(small, max_size=3)


@both_forms
@settings(max_examples=100)
@given(rows, small, st.integers(1, 7), constants, flags, st.integers(1, 3), layouts, flags, streams)
def test_gradients_of_any_shape(rows, C, n, constants, divide_by_n, groups, layout, turn, rng):
    x = layout(rng.normal((*rows, 2 * C * groups)))
    check(lambda x: lrn(x, n, *constants, divide_by_n, groups), x, turn=turn)


@both_forms
def test_chunks_of_any_size_give_the_same(rng, monkeypatch):
    x = rng.standard_normal((3, 5, 6))
    y, gx = lrn(x, alpha=1.0).data, gradient(lambda x: lrn(x, alpha=1.0), x)
    for chunk in (1, 13):
        monkeypatch.setattr(importlib.import_module("minigrad.functions.lrn"), "CHUNK", chunk)
        np.testing.assert_array_equal(lrn(x, alpha=1.0).data, y)
        np.testing.assert_array_equal(gradient(lambda x: lrn(x, alpha=1.0), x), gx)


def test_a_chunk_has_few_numbers(monkeypatch):
    """As many whole rows as fit, at least one; in the last chunk what is left."""
    x = np.arange(90.0).reshape(3, 5, 6)
    for chunk, groups, rows in ((13, 1, 2), (13, 2, 4), (5, 1, 1), (1000, 1, 15)):
        monkeypatch.setattr(importlib.import_module("minigrad.functions.lrn"), "CHUNK", chunk)
        found = list(LRN(5, 2.0, 1.0, 0.75, groups).rows(x, -x))
        sizes = [len(a) for a, _ in found]
        assert max(sizes) == sizes[0] == rows
        assert sum(sizes) == 15 * groups
        np.testing.assert_array_equal(np.concatenate([a.ravel() for a, _ in found]), x.ravel())
        assert all((a == -b).all() for a, b in found)


@both_forms
def test_without_alpha_each_number_is_only_scaled():
    same(lrn(np.arange(6.0), k=4.0, alpha=0, beta=0.5), np.arange(6.0) / 2)


def test_a_window_over_many_more_channels_than_there_are():
    x = np.arange(12.0).reshape(3, 4)
    same(lrn(x, n=10**9), lrn(x, n=9).data)


@both_forms
def test_nan_stays_in_the_windows_that_see_it(rng):
    x = rng.standard_normal((3, 6, 6, 2))
    x[1, 5, 2, 1] = np.nan
    expected = np.isnan(by_loops(x, 2, alpha=1.0))
    np.testing.assert_array_equal(np.isnan(lrn(x, 2, alpha=1.0).data), expected)


@checks.built
def test_nan_and_infinity_in_kernel_and_array_form():
    checks.not_finite(CASE["lrn: alpha=1"])


IMAGES, ROWS = np.ones((2, 5, 6, 4)), np.ones((2, 3))
test_wrong_calls = checks.wrong_calls(
    (
        lambda: lrn(IMAGES, groups=3),
        "lrn: groups=3 must divide the channels of x, shape (2, 5, 6, 4)",
    ),
    (lambda: lrn(IMAGES, n=0), "lrn: n must be a whole number >= 1, not 0"),
    (
        lambda: lrn(IMAGES, k=0),
        "lrn: k must be above 0, alpha at least 0, and all three finite, not k=0,",
    ),
    (
        lambda: lrn(ROWS, k=float("nan")),
        "lrn: k must be above 0, alpha at least 0, and all three finite, not k=nan",
    ),
    (lambda: lrn(ROWS, k=float("inf")), "all three finite, not k=inf, alpha=0.0001, beta=0.75"),
    (lambda: lrn(ROWS, alpha=-1e-4), "alpha at least 0, and all three finite, not k=2.0, alpha=-0"),
    (lambda: lrn(ROWS, alpha=float("inf")), "all three finite, not k=2.0, alpha=inf, beta=0.75"),
    (
        lambda: lrn(ROWS, beta=float("inf")),
        "all three finite, not k=2.0, alpha=0.0001, beta=inf",
    ),
)


def no_cross_term(right):
    """gx[c] = gy[c] s[c]^-beta alone."""

    def backward(self, gy):
        (x,) = self.saved
        squares = (x * x).reshape(-1, x.shape[-1] // self.groups)
        s = self.k + self.alpha * window_sum(squares, self.before, self.after).reshape(x.shape)
        return gy * s**-self.beta

    return backward


EVEN = "lrn: even n, per column, divided"
test_planted_faults = checks.planted_faults(
    CASES,
    ("lrn: alpha=1", LRN, no_cross_term, "cross-channel term dropped"),
    (EVEN, LRN, with_attribute("before", lambda b: b - 1), "window not mirrored"),
    (EVEN, LRN, with_attribute("groups", lambda g: 1), "windows cross the columns"),
    ("lrn: alpha=1", LRN, with_attribute("beta", lambda b: b + 0.01), "beta off by a hundredth"),
    ("lrn: alpha=1", LRN, change(0, at_one_element), "one element wrong"),
)
