"""Logistic sigmoid: every check of functions/sigmoid.py."""

import checks
import numpy as np
import scipy.special
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

from minigrad.functions.sigmoid import CASES, Sigmoid, sigmoid

test_cases = checks.cases(CASES, pytorch=lambda x: torch.sigmoid(x))
test_kernel = checks.kernel(CASES)
test_empty = checks.empty(sigmoid=(sigmoid, (0, 3)))
test_planted_faults = checks.planted_faults(
    CASES,
    ("sigmoid", Sigmoid, ignore_gy, "gy ignored"),
    ("sigmoid", Sigmoid, change(0, lambda g: 1.001 * g), "off by a thousandth"),
)


@both_forms
@given(shapes, layouts, flags, streams)
def test_gradients_of_any_shape(shape, layout, turn, rng):
    check(sigmoid, layout(rng.normal(shape)), turn=turn)


@both_forms
def test_values(rng):
    x = rng.standard_normal((2, 3, 5))
    same(sigmoid(x), scipy.special.expit(x))


@both_forms
def test_saturated_units_do_not_overflow():
    x = np.array([-np.inf, -1e4, 1e4, np.inf])
    same(sigmoid(x), [0, 0, 1, 1])
    same(gradient(sigmoid, x), [0, 0, 0, 0])


def test_a_single_number_keeps_its_shape():
    assert sigmoid(np.array(0.5)).shape == ()
