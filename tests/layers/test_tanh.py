"""Hyperbolic tangent: every check of functions/tanh.py."""

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

from minigrad.functions.tanh import CASES, Tanh, tanh

test_cases = checks.cases(CASES, pytorch=lambda x: torch.tanh(x))
test_kernel = checks.kernel(CASES)
test_empty = checks.empty(tanh=(tanh, (0, 3)))
test_planted_faults = checks.planted_faults(
    CASES,
    ("tanh", Tanh, ignore_gy, "gy ignored"),
    ("tanh", Tanh, change(0, lambda g: 1.001 * g), "off by a thousandth"),
)


@both_forms
@given(shapes, layouts, flags, streams)
def test_gradients_of_any_shape(shape, layout, turn, rng):
    check(tanh, layout(rng.normal(shape)), turn=turn)


@both_forms
def test_values(rng):
    x = rng.standard_normal((2, 3, 5))
    same(tanh(x), 1 - 2 / (np.exp(2 * x) + 1))


@both_forms
def test_saturated_units_do_not_overflow():
    x = np.array([-np.inf, -1e4, 1e4, np.inf])
    same(tanh(x), [-1, -1, 1, 1])
    same(gradient(tanh, x), [0, 0, 0, 0])


def test_a_single_number_keeps_its_shape():
    assert tanh(np.array(0.5)).shape == ()
