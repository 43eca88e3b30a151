"""Dense layer: every check of functions/linear.py, and of the bias and its kernels (bias.py,
kernels/bias.cu)."""

import checks
import numpy as np
from checks import (
    at_one_element,
    both_forms,
    change,
    check,
    flags,
    layouts,
    nothing,
    same,
    small,
    streams,
    torch,
)
from hypothesis import given

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
