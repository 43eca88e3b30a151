"""Dropout: every check of functions/dropout.py and kernels/dropout.cu."""

import itertools
import math

import checks
import numpy as np
import pytest
from checks import (
    both_forms,
    both_ways,
    check,
    flags,
    gradient,
    layouts,
    same,
    shapes,
    streams,
    torch,
    with_attribute,
)
from hypothesis import given
from hypothesis import strategies as st

from alexnet import PAPER
from minigrad import kernels, nn, random
from minigrad.engine import Tensor
from minigrad.functions.dropout import CASES, Dropout, Scale, dropout
from minigrad.network import Network, shrunken
from minigrad.random import Stream


def by_pytorch(x, p=0.5, training=True, inverted=True, rng=None):
    """The mask is ours; what is checked is the scale, and that backward has the same mask."""
    if not training:
        return x if inverted else x * (1 - p)
    chosen = dropout(np.ones(x.shape), p, rng=rng()).data != 0
    return x * torch.from_numpy(chosen) / (1 - p if inverted else 1.0)


test_cases = checks.cases(CASES, pytorch=by_pytorch)
test_kernel = checks.kernel(CASES)
test_empty = checks.empty(dropout=(dropout, (0, 3)), image=(dropout, (0, 4, 5, 3)))


@both_forms
@given(shapes, st.floats(0, 0.9), flags, flags, layouts, flags, streams)
def test_gradients_of_any_shape(shape, p, training, inverted, layout, turn, rng):
    x = layout(rng.normal(shape))
    check(lambda x: dropout(x, p, training, inverted, rng), x, turn=turn)


@both_forms
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("inverted", [False, True])
def test_the_right_share_stays(p, inverted):
    n = 40_000
    y = dropout(np.ones((8, n // 8)), p, inverted=inverted, rng=Stream(3, "share")).data
    assert set(np.unique(y)) == {0.0, 1 / (1 - p) if inverted else 1.0}
    # Five standard deviations of the binomial.
    assert abs(np.count_nonzero(y) - n * (1 - p)) < 5 * math.sqrt(n * p * (1 - p))
    per_row = np.count_nonzero(y, axis=1)
    assert (abs(per_row - n / 8 * (1 - p)) < 5 * math.sqrt(n / 8 * p * (1 - p))).all()


@both_forms
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("shape", [(3,), (40_001,), (7, 11, 3)])
def test_backward_has_the_same_mask(rng, inverted, shape):
    x, stream = 1 + rng.random(shape), Stream(1, "mask")
    x, gy = Tensor(x, requires_grad=True), rng.standard_normal(shape)
    y = dropout(x, 0.3, inverted=inverted, rng=stream)
    dropout(x, 0.3, rng=stream)  # a later draw must not disturb it
    y.backward(gy)
    same(x.grad, gy * (y.data != 0) / (0.7 if inverted else 1))
    same(y, x.data * (y.data != 0) / (0.7 if inverted else 1))


@both_forms
def test_at_test_time(rng):
    x = rng.standard_normal((4, 5))
    np.testing.assert_array_equal(dropout(x, 0.3, training=False).data, x)
    same(dropout(x, 0.3, training=False, inverted=False), 0.7 * x)
    gx = gradient(lambda x: dropout(x, 0.3, training=False, inverted=False), x)
    same(gx, np.full_like(x, 0.7))


@both_forms
def test_dropping_nothing_is_the_identity(rng):
    x = rng.standard_normal((4, 5))
    np.testing.assert_array_equal(dropout(x, 0.0).data, x)


@both_forms
def test_no_two_masks_are_the_same():
    """Neither of two layers nor of two passes through one."""
    ones, model = np.ones(1000, np.float32), Network(shrunken(PAPER), classes=5)
    layers = [nn.Dropout(), nn.Dropout(), model.layers["drop6"], model.layers["drop7"]]
    masks = [layer(ones).data for layer in layers for _ in range(2)]
    for a, b in itertools.combinations(masks, 2):
        assert 400 < np.count_nonzero((a == 0) == (b == 0)) < 600  # independent masks agree in half


@both_forms
def test_masks_repeat_with_the_seed():
    x = np.ones(100)
    first, again, other = (dropout(x, rng=Stream(seed, "layer")).data for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@checks.built
@pytest.mark.parametrize("size", [2 * kernels.SPAN + 3, 40_001])
def test_kernel_and_array_form_draw_the_same_bits(size):
    """Several blocks of the kernel, the last one not full."""
    ours, reference = both_ways(lambda x: dropout(x, 0.3, rng=Stream(9, "bits")), np.ones(size))
    np.testing.assert_array_equal(ours[0], reference[0])


@both_forms
@pytest.mark.parametrize("width", [4, 7])
def test_a_part_of_a_batch_draws_what_the_whole_would(width):
    """In rows of 4 a part begins with the first of four neighbours' bits, in rows of 7 it does
    not. Backward, outside of `part`, draws them too."""
    x = np.ones((9, 2, width))
    whole = gradient(lambda x: dropout(x, rng=Stream(3, "part")), x)
    for first, last in ((0, 9), (1, 4), (4, 9), (8, 9)):
        part = Tensor(x[first:last], requires_grad=True)
        with random.part(first):
            y = dropout(part, rng=Stream(3, "part"))
        y.backward(np.ones_like(y.data))
        np.testing.assert_array_equal(y.data, whole[first:last])
        np.testing.assert_array_equal(part.grad, whole[first:last])


@both_forms
@pytest.mark.parametrize(("first", "count"), [(0, 8), (3, 5), (4, 4)])
def test_units_of_a_layer_draw_what_they_would_in_the_whole(first, count):
    x, units = np.ones((5, 2, 12)), slice(first, first + count)
    whole = dropout(x, 0.3, rng=Stream(3, "place")).data

    def part(x):
        return dropout(x, 0.3, rng=Stream(3, "place"), place=(first, 12))

    np.testing.assert_array_equal(part(x[..., units]).data, whole[..., units])
    np.testing.assert_array_equal(gradient(part, x[..., units]), whole[..., units])


@checks.built
@pytest.mark.parametrize("draw", [1, (1 << 32) + 1, (5 << 32) + 1])
def test_draws_are_counted_in_64_bits(draw):
    def f(x):
        stream = Stream(3, "draws")
        stream.counter = draw
        return dropout(x, 0.5, rng=stream)

    ours, reference = both_ways(f, np.ones(1000))
    np.testing.assert_array_equal(ours[0], reference[0])


@checks.built
def test_nan_is_nan_where_it_is_dropped_too():
    """0 times NaN."""
    for result in both_ways(CASES[0], np.full((3, 7, 11), np.nan)):
        assert np.isnan(result[0]).all()


@checks.built
def test_nan_and_infinity_in_kernel_and_array_form():
    checks.not_finite(CASES[0])


def test_a_float64_probability_does_not_promote():
    x = np.ones((2, 3), np.float32)
    assert dropout(x, np.float64(0.5), training=False, inverted=False).dtype == np.float32


def test_a_single_number_keeps_its_shape():
    assert dropout(np.array(0.5)).shape == ()


ROWS = np.ones((2, 3))
test_wrong_calls = checks.wrong_calls(
    (lambda: dropout(ROWS, float("nan")), "dropout: p must be at least 0 and below 1, not nan"),
    (lambda: dropout(ROWS, 1.0), "dropout: p must be at least 0 and below 1, not 1.0"),
)


def fresh_mask(right):
    def backward(self, gy):
        self.draw += 1
        return right(self, gy)

    return backward


PAPERS = "dropout: the paper's, test"
test_planted_faults = checks.planted_faults(
    CASES,
    ("dropout", Dropout, fresh_mask, "another mask in backward"),
    ("dropout", Dropout, with_attribute("scale", lambda s: 1.0), "scale forgotten"),
    (PAPERS, Scale, with_attribute("factor", lambda s: 1.0), "scale forgotten at test time"),
)
