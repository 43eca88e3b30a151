"""Max-pooling: every check of functions/max_pool2d.py and kernels/max_pool2d.cu."""

from dataclasses import replace

import checks
import numpy as np
import pytest
from checks import (
    both_forms,
    check,
    flags,
    geometries,
    gradient,
    ignore_gy,
    layouts,
    same,
    small,
    streams,
    torch,
    with_attribute,
)
from hypothesis import given, settings
from loops import POOLS, pool_by_loops

from minigrad.functions.cases import all_distinct
from minigrad.functions.max_pool2d import CASES, MaxPool2d, max_pool2d


def by_pytorch(x, kernel_size, stride=None, padding=0, ceil_mode=False):
    x = x.permute(0, 3, 1, 2)
    y = torch.nn.functional.max_pool2d(x, kernel_size, stride, padding, ceil_mode=ceil_mode)
    return y.permute(0, 2, 3, 1)


test_cases = checks.cases(CASES, pytorch=by_pytorch)
test_kernel = checks.kernel(CASES)
test_empty = checks.empty(
    max_pool2d=(lambda x: max_pool2d(x, 2), (0, 4, 4, 3)),
    no_channels=(lambda x: max_pool2d(x, 2), (1, 4, 4, 0)),
)


@both_forms
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding"), POOLS)
def test_by_loops(rng, kernel, stride, padding, ceil_mode):
    x = rng.standard_normal((2, 7, 6, 3))
    window = kernel, stride, padding, ceil_mode
    same(max_pool2d(x, *window), pool_by_loops(x, max, *window))


@both_forms
@settings(max_examples=100)
@given(geometries(), small, layouts, flags, streams)
def test_gradients_of_any_shape(geometry, C, layout, turn, rng):
    image, *window = geometry
    x = layout(all_distinct(rng, (*image, C)))
    check(lambda x: max_pool2d(x, *window), x, turn=turn)


@both_forms
def test_the_stride_is_the_window_unless_given(rng):
    x = rng.standard_normal((1, 6, 8, 2))
    np.testing.assert_array_equal(max_pool2d(x, (2, 4)).data, max_pool2d(x, (2, 4), (2, 4)).data)


@both_forms
def test_one_window_larger_than_the_image_fits_when_rounding_up():
    same(max_pool2d(np.arange(4.0).reshape(1, 2, 2, 1), 3, 2, ceil_mode=True), [[[[3.0]]]])


# Ties, padding, NaN, infinity.


@both_forms
def test_the_first_of_equal_maxima_gets_the_gradient():
    def gradient_of(x, *window):
        return gradient(lambda x: max_pool2d(x, *window), x)[0, :, :, 0]

    same(gradient_of(np.ones((1, 2, 2, 1)), 2), [[1, 0], [0, 0]])
    x = np.array([[0.0, 7, 7], [7, 0, 7], [0, 0, 0]]).reshape(1, 3, 3, 1)
    same(gradient_of(x, 3), [[0, 1, 0], [0, 0, 0], [0, 0, 0]])
    same(gradient_of(x, 2, 1), [[0, 2, 0], [1, 0, 1], [0, 0, 0]])
    same(gradient_of(np.full((1, 2, 2, 1), np.nan), 2), [[1, 0], [0, 0]])


@both_forms
def test_overlapping_windows_add_their_gradients():
    x = np.zeros((1, 3, 3, 1))
    x[0, 1, 1, 0] = 1
    gy = np.array([[1.0, 2], [4, 8]]).reshape(1, 2, 2, 1)
    assert gradient(lambda x: max_pool2d(x, 2, 1), x, gy)[0, 1, 1, 0] == 15


@both_forms
def test_padding_never_wins(rng):
    x = -5 - rng.random((2, 3, 4, 2))
    y = max_pool2d(x, 3, 2, 1, ceil_mode=True).data
    assert y.max() < -5
    gy = np.ones_like(y)
    assert gradient(lambda x: max_pool2d(x, 3, 2, 1, ceil_mode=True), x, gy).sum() == y.size


@both_forms
def test_padding_never_wins_against_minus_infinity():
    """Every window's gradient goes to a pixel even where all pixels are -inf."""
    gx = gradient(lambda x: max_pool2d(x, 2, 1, 1), np.full((1, 2, 2, 1), -np.inf))
    same(gx[0, :, :, 0], [[4, 2], [2, 1]])


@both_forms
def test_an_infinite_gradient_stays_with_the_winner():
    x, gy = np.arange(4.0).reshape(1, 2, 2, 1), np.full((1, 1, 1, 1), np.inf)
    gx = gradient(lambda x: max_pool2d(x, 2), x, gy)
    np.testing.assert_array_equal(gx.ravel(), [0, 0, 0, np.inf])


@both_forms
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("at", list(np.ndindex(3, 3)))
def test_nan_goes_to_every_window_that_sees_it(at, padding):
    """And to no other, wherever in the window it is."""
    x = np.arange(9.0).reshape(1, 3, 3, 1)
    clean = max_pool2d(x, 2, 1, padding).data
    x[0, at[0], at[1], 0] = np.nan
    y = max_pool2d(x, 2, 1, padding).data
    sees = np.isnan(pool_by_loops(x, sum, (2, 2), (1, 1), (padding, padding), False))
    np.testing.assert_array_equal(np.isnan(y), sees)
    np.testing.assert_array_equal(y[~sees], clean[~sees])
    gx = gradient(lambda x: max_pool2d(x, 2, 1, padding), x)
    assert gx[0, at[0], at[1], 0] == sees.sum()  # the NaN won every window that sees it


@checks.built
def test_nan_and_infinity_in_kernel_and_array_form():
    checks.not_finite(CASES[0])


IMAGES, ROWS = np.ones((2, 5, 6, 4)), np.ones((2, 3))
test_wrong_calls = checks.wrong_calls(
    (
        lambda: max_pool2d(ROWS, 2),
        "max_pool2d: x must have four axes (N, H, W, C), channels last, but has shape (2, 3)",
    ),
    (
        lambda: max_pool2d(IMAGES, 2, padding=2),
        "max_pool2d: padding 2 must be smaller than the window 2x2",
    ),
    (
        lambda: max_pool2d(IMAGES, (3, 2), padding=(0, 2)),
        "max_pool2d: padding (0, 2) must be smaller than the window 3x2",
    ),
    (
        lambda: max_pool2d(IMAGES, (2, 3), padding=(2, 0)),
        "max_pool2d: padding (2, 0) must be smaller than the window 2x3",
    ),
    (
        lambda: max_pool2d(IMAGES, 3, 2**32, 1),
        "stride 4294967296, 4294967296, padding 1, 1: none may be above 268435456",
    ),
    (
        lambda: max_pool2d(np.zeros((1, 300, 1, 1)), (257, 1)),
        "max_pool2d: a 257x1 window has more than 256 taps",
    ),
    (
        lambda: max_pool2d(IMAGES, 17, padding=8),
        "max_pool2d: a 17x17 window has more than 256 taps",
    ),
)


def other_winner(right):
    """Each gradient goes to the tap after the one that won."""

    def backward(self, gy):
        (winner,) = self.saved
        self.saved = (((winner + 1) % (self.win.KH * self.win.KW)).astype(np.uint8),)
        return right(self, gy)

    return backward


test_planted_faults = checks.planted_faults(
    CASES,
    ("max_pool2d: 3x3 stride 2", MaxPool2d, other_winner, "scattered to the wrong tap"),
    ("max_pool2d: padding, ceil", MaxPool2d, ignore_gy, "gy ignored"),
    (
        "max_pool2d: padding",
        MaxPool2d,
        with_attribute("win", lambda win: replace(win, PH=0, PW=0)),
        "padding forgotten",
    ),
)
