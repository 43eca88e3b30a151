"""Arithmetic with broadcasting: every check of functions/basic.py."""

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
    ignore_gy,
    layouts,
    nothing,
    same,
    shapes,
    small,
    streams,
    torch,
    with_attribute,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from minigrad import functions as F
from minigrad.engine import Tensor
from minigrad.functions.basic import CASES, Add, Div, Exp, Log, MatMul, Mul, Pow, Sub
from minigrad.functions.cases import Case, away_from_zero

EXPRESSION = Case(
    "expression",
    lambda a, b, c: (a @ b + c) / F.exp(c) - F.log(c * c),
    (3, 4), (4, 5), (5,),
)  # fmt: skip
test_cases = checks.cases(
    [*CASES, EXPRESSION],
    pytorch={
        "expression": lambda a, b, c: (a @ b + c) / torch.exp(c) - torch.log(c * c),
        "neg": lambda x: -x,
        "exp": lambda x: torch.exp(x),
        "matmul": lambda a, b: a @ b,
    },
)
test_kernel = checks.kernel(CASES)
ROWS = np.ones((2, 3))
test_wrong_calls = checks.wrong_calls(
    (
        lambda: F.matmul(ROWS, ROWS),
        "matmul: a is (2, 3) and b is (2, 3); they must be (M, K) and (K, N)",
    ),
    (lambda: F.add(ROWS, np.ones(2)), "shapes (2, 3) and (2,) do not broadcast"),
)
test_planted_faults = checks.planted_faults(
    CASES,
    ("add", Add, change(1, lambda g: -g), "add: sign of b"),
    ("sub", Sub, change(1, lambda g: -g), "sub: sign of b"),
    ("mul: x * x", Mul, change(1, nothing), "one path of a fan-out lost"),
    ("mul", Mul, change(0, lambda g: 2 * g), "factor two"),
    ("neg", Mul, change(0, lambda g: -g), "neg: sign"),
    ("div", Div, change(1, lambda g: -g), "div: sign of b"),
    ("pow", Pow, with_attribute("p", lambda p: p + 1), "power off by one"),
    ("exp", Exp, ignore_gy, "exp: gy ignored"),
    ("log", Log, ignore_gy, "log: gy ignored"),
    ("matmul", MatMul, change(0, at_one_element), "one element wrong"),
)


@both_forms
def test_by_numpy(rng):
    x, y = rng.standard_normal((2, 3, 5)), 2 + rng.random(5)
    for f, expected in [(F.add, x + y), (F.sub, x - y), (F.mul, x * y), (F.div, x / y)]:
        same(f(x, y), expected)
    same(F.neg(x), -x)
    same(F.exp(x), np.exp(x))
    same(F.log(y), np.log(y))
    same(F.pow(y, -1.5), y**-1.5)
    a, w = rng.standard_normal((3, 4)), rng.standard_normal((4, 6))
    same(F.matmul(a, w), np.einsum("ik,kj->ij", a, w))


ARITHMETIC = [F.add, F.sub, F.mul, F.div]


@both_forms
@pytest.mark.parametrize("f", ARITHMETIC)
@given(
    mutually_broadcastable_shapes(num_shapes=2, min_dims=1, max_dims=4, max_side=4),
    layouts,
    streams,
)
def test_gradients_with_broadcasting(f, shapes, layout, rng):
    a, b = (layout(away_from_zero(rng, shape, margin=0.5)) for shape in shapes.input_shapes)
    check(f, a, b)
    check(lambda a, b: f(f(a, 1.5), f(2.5, b)), a, b)  # and with numbers, on either side


@both_forms
@given(shapes, st.sampled_from([-2, -0.5, 0.75, 1, 3]), layouts, flags, streams)
def test_gradients_of_exp_log_and_pow(shape, p, layout, turn, rng):
    x = layout(0.5 + abs(rng.normal(shape)))
    check(F.exp, layout(rng.normal(shape)), turn=turn)
    check(F.log, x, turn=turn)
    check(lambda x: F.pow(x, p), x)


def test_x_to_the_power_of_0_is_1_with_gradient_0():
    x = np.array([-2.0, 0.0, 3.0])
    np.testing.assert_array_equal(F.pow(x, 0).data, [1, 1, 1])
    np.testing.assert_array_equal(gradient(lambda x: F.pow(x, 0), x), [0, 0, 0])


def test_an_exponent_is_a_number():
    for exponent in (np.ones(()), np.ones(3), Tensor(np.ones(())), "2"):
        with pytest.raises(TypeError, match="pow: the exponent must be a number, not "):
            F.pow(ROWS, exponent)


@both_forms
@given(small, small, small, layouts, layouts, flags, streams)
def test_gradients_of_matmul(M, K, N, a_layout, b_layout, turn, rng):
    check(F.matmul, a_layout(rng.normal((M, K))), b_layout(rng.normal((K, N))), turn=turn)


@pytest.mark.parametrize("number", [0.1, 1, True, np.float64(0.1)])
def test_numbers_do_not_promote_a_float32_tensor(number):
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    for f in ARITHMETIC:
        assert f(x, number).dtype == f(number, x).dtype == np.float32


@pytest.mark.parametrize("f", ARITHMETIC)
def test_numbers_do_not_promote_a_float32_array(f):
    assert f(np.ones(3, np.float32), 0.1).dtype == np.float32


def test_a_float64_exponent_does_not_promote():
    assert F.pow(np.ones(3, np.float32), np.float64(0.5)).dtype == np.float32


@pytest.mark.parametrize(
    "f",
    [F.exp, lambda x: F.add(x, np.ones(3)), lambda x: x * x],
    ids=["exp", "broadcast", "square"],
)
def test_the_gradient_of_a_single_number_is_an_array_of_its_shape(f):
    gx = gradient(f, np.array(0.5))
    assert isinstance(gx, np.ndarray)
    assert gx.shape == ()


def test_a_single_number_keeps_its_shape():
    assert F.exp(np.array(0.5)).shape == ()
