"""Rectified linear unit: every check of functions/relu.py and kernels/relu.cu."""

import checks
import numpy as np
from checks import (
    both_forms,
    change,
    check,
    flags,
    gradient,
    ignore_gy,
    layouts,
    same,
    shapes,
    streams,
    torch,
)
from hypothesis import given

from minigrad.functions.cases import away_from_zero
from minigrad.functions.relu import CASES, ReLU, relu

test_cases = checks.cases(CASES, pytorch=lambda x: torch.relu(x))
test_kernel = checks.kernel(CASES)
test_empty = checks.empty(relu=(relu, (0, 3)), image=(relu, (0, 4, 5, 3)))
test_planted_faults = checks.planted_faults(
    CASES,
    ("relu", ReLU, change(0, lambda g: g + 0.01), "leak"),
    ("relu", ReLU, ignore_gy, "gy ignored"),
)


@both_forms
@given(shapes, layouts, flags, streams)
def test_gradients_of_any_shape(shape, layout, turn, rng):
    check(relu, layout(away_from_zero(rng, shape)), turn=turn)


@both_forms
def test_against_where(rng):
    x = rng.standard_normal((2, 3, 5))
    same(relu(x), np.where(x > 0, x, 0))


@both_forms
def test_of_many_numbers(rng):
    """Several blocks of the kernel, the last one not full."""
    x, gy = rng.standard_normal((2, 40_001))
    np.testing.assert_array_equal(relu(x).data, np.where(x > 0, x, 0))
    np.testing.assert_array_equal(gradient(relu, x, gy), np.where(x > 0, gy, 0))


@both_forms
def test_nan_and_infinity_stay():
    y = relu(np.array([np.nan, -np.inf, -1.0, 0.0, np.inf])).data
    np.testing.assert_array_equal(y, [np.nan, 0, 0, 0, np.inf])


@checks.built
def test_nan_and_infinity_in_kernel_and_array_form():
    checks.not_finite(CASES[0])


@both_forms
def test_no_gradient_at_zero():
    gx = gradient(relu, np.array([-1.0, 0.0, 1e-300, 1.0]))
    np.testing.assert_array_equal(gx, [0, 0, 1, 1])


def test_a_single_number_keeps_its_shape():
    assert relu(np.array(0.5)).shape == ()
