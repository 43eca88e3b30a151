"""Softmax and its logarithm: every check of functions/softmax.py."""

import checks
import numpy as np
import pytest
import scipy.special
from checks import (
    both_forms,
    change,
    check,
    flags,
    ignore_gy,
    layouts,
    same,
    shapes,
    streams,
    torch,
)
from hypothesis import given

from minigrad.functions.softmax import CASES, LogSoftmax, Softmax, log_softmax, softmax

test_cases = checks.cases(
    CASES,
    pytorch={
        "softmax": lambda x: torch.softmax(x, -1),
        "log_softmax": lambda x: torch.log_softmax(x, -1),
    },
)
test_kernel = checks.kernel(CASES)
test_empty = checks.empty(softmax=(softmax, (0, 4, 5, 3)), log_softmax=(log_softmax, (0, 3)))
test_wrong_calls = checks.wrong_calls(
    (
        lambda: softmax(np.ones((2, 0))),
        "softmax: x must have at least one class on its last axis, but has shape (2, 0)",
    ),
    (
        lambda: log_softmax(np.array(1.0)),
        "log_softmax: x must have at least one class on its last axis, but has shape ()",
    ),
)
test_planted_faults = checks.planted_faults(
    CASES,
    ("softmax", Softmax, change(0, lambda g: g + 0.01), "mean not subtracted"),
    ("log_softmax", LogSoftmax, ignore_gy, "gy ignored"),
)


@both_forms
@pytest.mark.parametrize("f", [softmax, log_softmax])
@given(shapes, layouts, flags, streams)
def test_gradients_of_any_shape(f, shape, layout, turn, rng):
    check(f, layout(rng.normal(shape)), turn=turn)


@both_forms
@pytest.mark.parametrize("shape", [(7,), (4, 5), (2, 3, 6), (3, 1)])
def test_by_scipy(rng, shape):
    x = 5 * rng.standard_normal(shape)
    same(softmax(x), scipy.special.softmax(x, axis=-1))
    same(log_softmax(x), scipy.special.log_softmax(x, axis=-1))


@both_forms
def test_huge_and_masked_logits_are_finite():
    x = np.array([[1e30, 0.0, -1e30], [-np.inf, 0.0, 0.0]])
    same(softmax(x), [[1, 0, 0], [0, 0.5, 0.5]])
    same(log_softmax(x[:1]), [[0, -1e30, -2e30]])
