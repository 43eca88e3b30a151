"""Dense layer: every check of functions/linear.py, and of the bias and its kernels (bias.py,
kernels/bias.cu)."""

import itertools

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
    nothing,
    same,
    small,
    streams,
    torch,
)
from hypothesis import given

from minigrad.engine import Tensor
from minigrad.functions.linear import CASES, Linear, linear


def by_pytorch(x, w, b=None, relu=False):
    y = torch.nn.functional.linear(x, w.T, b)
    return torch.relu(y) if relu else y


test_cases = checks.cases(CASES, pytorch=by_pytorch)
test_kernel = checks.kernel(CASES)
test_empty = checks.empty(
    linear=(linear, (0, 3), (3, 2), (2,)),
    of_nothing=(linear, (2, 0), (0, 3), (3,)),
    to_nothing=(linear, (2, 3), (3, 0), (0,)),
)


@both_forms
def test_by_einsum(rng):
    a, w, b = (rng.standard_normal(s) for s in [(3, 4), (4, 6), (6,)])
    same(linear(a, w, b), np.einsum("ik,kj->ij", a, w) + b)
    same(linear(a, w), np.einsum("ik,kj->ij", a, w))


@both_forms
@given(small, small, small, flags, layouts, layouts, flags, streams)
def test_gradients_of_any_shape(N, inputs, outputs, bias, x_layout, w_layout, turn, rng):
    x, w = x_layout(rng.normal((N, inputs))), w_layout(rng.normal((inputs, outputs)))
    b = [rng.normal(outputs)] if bias else []
    check(linear, x, w, *b, turn=turn)


@both_forms
@pytest.mark.parametrize("needs", list(itertools.product([False, True], repeat=3))[1:])
def test_no_gradient_is_computed_that_nobody_needs(needs, rng):
    x, w, b = (Tensor(rng.standard_normal(s), requires_grad=need)
               for s, need in zip([(3, 4), (4, 6), (6,)], needs))  # fmt: skip
    y, gy = linear(x, w, b), rng.standard_normal((3, 6))
    found = y.creator.backward(gy)
    assert [g is not None for g in found] == list(needs)
    for g, expected in zip(found, (gy @ w.data.T, x.data.T @ gy, gy.sum(axis=0))):
        if g is not None:
            same(g, expected)


@both_forms
@pytest.mark.parametrize("rows", [1, 64, 65, 64 * 64 + 1])
def test_the_bias_of_many_rows(rows, rng):
    """Blocks of 64 rows are summed, then blocks of their sums."""
    g = rng.standard_normal((rows, 3))
    same(gradient(lambda b: linear(np.zeros((rows, 1)), np.zeros((1, 3)), b), np.zeros(3), g),
         g.sum(axis=0))  # fmt: skip
    y = linear(np.zeros((rows, 1)), np.zeros((1, 3)), np.arange(3.0))
    same(y, np.broadcast_to(np.arange(3.0), (rows, 3)))


@checks.built
def test_nan_and_infinity_in_kernel_and_array_form():
    checks.not_finite({case.name: case for case in CASES}["linear: relu"])


IMAGES, ROWS = np.ones((2, 5, 6, 4)), np.ones((2, 3))
test_wrong_calls = checks.wrong_calls(
    (
        lambda: linear(IMAGES, ROWS),
        "linear: x must be (N, in) but has shape (2, 5, 6, 4); flatten it first",
    ),
    (
        lambda: linear(ROWS, np.ones((5, 3))),
        "linear: w must be (in, out) with in = 3, but has shape (5, 3); it looks transposed",
    ),
    (
        lambda: linear(ROWS, np.ones((4, 5))),
        "linear: w must be (in, out) with in = 3, but has shape (4, 5)",
    ),
    (
        lambda: linear(ROWS, np.ones((3, 5)), np.ones(3)),
        "linear: b must have shape (5,), not (3,)",
    ),
)

test_planted_faults = checks.planted_faults(
    CASES,
    ("linear", Linear, change(2, nothing), "bias forgotten"),
    ("linear", Linear, change(1, at_one_element), "one weight wrong"),
    ("linear: relu", Linear, change(0, lambda g: -g), "sign of gx"),
)
