"""Average-pooling: every check of functions/avg_pool2d.py and kernels/avg_pool2d.cu."""

import math

import checks
import numpy as np
import pytest
import scipy.signal
from checks import (
    both_forms,
    change,
    check,
    flags,
    geometries,
    layouts,
    same,
    small,
    streams,
    torch,
)
from hypothesis import given, settings
from loops import POOLS, pool_by_loops

from minigrad.functions.avg_pool2d import CASES, AvgPool2d, avg_pool2d


def by_pytorch(x, kernel_size, stride=None, padding=0, ceil_mode=False):
    x = x.permute(0, 3, 1, 2)
    window = kernel_size, stride, padding, ceil_mode
    y = torch.nn.functional.avg_pool2d(x, *window, count_include_pad=False)
    return y.permute(0, 2, 3, 1)


test_cases = checks.cases(CASES, pytorch=by_pytorch)
test_kernel = checks.kernel(CASES)
test_empty = checks.empty(
    avg_pool2d=(lambda x: avg_pool2d(x, 2), (0, 4, 4, 3)),
    no_channels=(lambda x: avg_pool2d(x, 2), (1, 4, 4, 0)),
)


@both_forms
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding"), POOLS)
def test_by_loops(rng, kernel, stride, padding, ceil_mode):
    x = rng.standard_normal((2, 7, 6, 3))
    window = kernel, stride, padding, ceil_mode
    mean = pool_by_loops(x, lambda taps: math.fsum(taps) / len(taps), *window)
    same(avg_pool2d(x, *window), mean)


@both_forms
def test_by_scipy(rng):
    x = rng.standard_normal((2, 7, 8, 3))
    box = np.full((1, 3, 2, 1), 1 / 6)
    same(avg_pool2d(x, (3, 2), 1), scipy.signal.correlate(x, box, mode="valid"))


@both_forms
@settings(max_examples=100)
@given(geometries(), small, layouts, flags, streams)
def test_gradients_of_any_shape(geometry, C, layout, turn, rng):
    image, *window = geometry
    x = layout(rng.normal((*image, C)))
    check(lambda x: avg_pool2d(x, *window), x, turn=turn)


@both_forms
def test_the_stride_is_the_window_unless_given(rng):
    x = rng.standard_normal((1, 6, 8, 2))
    np.testing.assert_array_equal(avg_pool2d(x, (2, 4)).data, avg_pool2d(x, (2, 4), (2, 4)).data)


@both_forms
def test_nan_stays_in_the_windows_that_see_it(rng):
    x = rng.standard_normal((3, 6, 6, 2))
    x[1, 5, 2, 1] = np.nan
    expected = np.isnan(pool_by_loops(x, sum, (3, 3), (2, 2), (0, 0), True))
    np.testing.assert_array_equal(np.isnan(avg_pool2d(x, 3, 2, ceil_mode=True).data), expected)


@checks.built
def test_nan_and_infinity_in_kernel_and_array_form():
    checks.not_finite(CASES[0])


IMAGES = np.ones((2, 5, 6, 4))
test_wrong_calls = checks.wrong_calls(
    (lambda: avg_pool2d(IMAGES, 0), "avg_pool2d: kernel_size must be a whole number >= 1, not 0"),
    (
        lambda: avg_pool2d(IMAGES, 2, padding=2),
        "avg_pool2d: padding 2 must be smaller than the window 2x2",
    ),
    (
        lambda: avg_pool2d(IMAGES, (3, 2), padding=(0, 2)),
        "avg_pool2d: padding (0, 2) must be smaller than the window 3x2",
    ),
    (
        lambda: avg_pool2d(IMAGES, (2, 3), padding=(2, 0)),
        "avg_pool2d: padding (2, 0) must be smaller than the window 2x3",
    ),
    (
        lambda: avg_pool2d(np.zeros((1, 0, 4, 2)), 2, padding=1),
        "avg_pool2d: 0x4 images have no pixels",
    ),
)

one_row_off = change(0, lambda g: np.roll(g, 1, axis=1))
test_planted_faults = checks.planted_faults(
    CASES,
    ("avg_pool2d: padding, ceil", AvgPool2d, change(0, lambda g: g * 0.5), "divided by all taps"),
    ("avg_pool2d: 3x3 stride 2", AvgPool2d, one_row_off, "one row off"),
)
