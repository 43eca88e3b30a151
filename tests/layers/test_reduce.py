"""Sum and mean: every check of functions/reduce.py."""

import checks
import numpy as np
import pytest
from checks import both_forms, change, check, flags, gradient, layouts, same, shapes, streams, torch
from hypothesis import given
from hypothesis import strategies as st

from minigrad.functions.reduce import CASES, Sum, mean, sum


def whole(axis, x):
    return tuple(range(x.ndim)) if axis is None else axis


test_cases = checks.cases(
    CASES,
    pytorch={
        "sum": lambda x, axis=None, keepdims=False: torch.sum(x, whole(axis, x), keepdims),
        "mean": lambda x, axis=None, keepdims=False: torch.mean(x, whole(axis, x), keepdims),
    },
)
test_kernel = checks.kernel(CASES)
test_wrong_calls = checks.wrong_calls(
    (lambda: mean(np.ones((0, 3))), "mean: there is nothing to average in shape (0, 3)")
)
test_planted_faults = checks.planted_faults(
    CASES,
    ("sum", Sum, change(0, lambda g: g / g.size), "mean instead of sum"),
    ("mean", Sum, change(0, lambda g: g * g.size), "sum instead of mean"),
)


@both_forms
def test_by_numpy(rng):
    x = rng.standard_normal((2, 3, 4, 5))
    for axis, keepdims in [(None, False), (1, True), (-1, False), ((0, 2), False), ((1, 3), True)]:
        same(sum(x, axis, keepdims), x.sum(axis, keepdims=keepdims))
        same(mean(x, axis, keepdims), x.mean(axis, keepdims=keepdims))


@both_forms
@pytest.mark.parametrize("f", [sum, mean])
@given(st.data(), shapes, flags, layouts, streams)
def test_gradients_of_any_shape(f, data, shape, keepdims, layout, rng):
    axes = st.integers(-len(shape), len(shape) - 1)
    several = st.sets(st.integers(0, len(shape) - 1)).map(tuple)
    axis = data.draw(st.none() | axes | several)
    check(lambda x: f(x, axis, keepdims), layout(rng.normal(shape)))


@pytest.mark.parametrize("f", [sum, mean])
def test_the_gradient_of_a_single_number_is_an_array_of_its_shape(f):
    gx = gradient(f, np.array(0.5))
    assert isinstance(gx, np.ndarray)
    assert gx.shape == ()
