"""Moving numbers without changing them: every check of functions/shape.py."""

import checks
import numpy as np
import pytest
from checks import (
    both_forms,
    change,
    check,
    gradient,
    layouts,
    nothing,
    shapes,
    small,
    streams,
    with_attribute,
)
from hypothesis import given
from hypothesis import strategies as st

from minigrad import functions as F
from minigrad.functions.shape import CASES, Concat, GetItem, Reshape, ToDevice, Transpose

test_cases = checks.cases(
    CASES,
    pytorch={
        "reshape": lambda x: x.reshape(4, -1),
        "flatten": lambda x: x.flatten(1),
        "transpose": lambda x: x.permute(2, 0, 1),
        "channels": lambda x: x[..., 1:3],
        "to": lambda x: x.to("cpu"),
    },
)
test_kernel = checks.kernel(CASES)
IMAGES, ROWS = np.ones((2, 5, 6, 4)), np.ones((2, 3))
test_wrong_calls = checks.wrong_calls(
    (lambda: F.concat([ROWS, IMAGES]), "must agree in every axis but"),
    (lambda: F.concat([]), "there must be at least one"),
    (lambda: F.reshape(ROWS, 4, 2), "reshape: (2, 3) has 6 elements and does not fit (4, 2)"),
    (
        lambda: F.transpose(ROWS, 0, 0),
        "transpose: axes (0, 0) are not an order of the axes 0 .. 1 of shape (2, 3)",
    ),
)
test_planted_faults = checks.planted_faults(
    CASES,
    ("reshape", Reshape, change(0, lambda g: g[::-1]), "order reversed"),
    ("flatten", Reshape, change(0, nothing), "gradient lost"),
    (
        "transpose",
        Transpose,
        with_attribute("axes", lambda a: tuple(np.argsort(a))),
        "permutation not inverted",
    ),
    ("concat", Concat, change(1, nothing), "second part lost"),
    ("channels", GetItem, change(0, lambda g: np.roll(g, 1, axis=-1)), "slice off by one"),
    ("getitem", GetItem, change(0, lambda g: np.roll(g, 1, axis=0)), "the wrong row"),
)


@both_forms
def test_by_numpy(rng):
    x, exactly = rng.standard_normal((2, 3, 4, 5)), np.testing.assert_array_equal
    exactly(F.reshape(x, 6, -1).data, x.reshape(6, 20))
    exactly(F.transpose(x, 0, 3, 1, 2).data, np.moveaxis(x, -1, 1))
    exactly(F.concat([x, 2 * x], axis=1).data, np.hstack([x, 2 * x]))
    exactly(F.concat([x, 2 * x]).data, np.append(x, 2 * x, axis=3))
    exactly(F.channels(x, 1, 4).data, x[:, :, :, 1:4])
    exactly(F.getitem(x, (1, Ellipsis, slice(None, None, -2))).data, x[1, :, :, ::-2])
    exactly(F.to(x, "cpu").data, x)


def test_sizes_and_axes_may_be_a_list(rng):
    x = rng.standard_normal((2, 3, 4))
    for sizes in ([4, 6], (4, 6)):
        np.testing.assert_array_equal(F.reshape(x, sizes).data, x.reshape(4, 6))
    for axes in ([2, 0, 1], (2, 0, 1)):
        np.testing.assert_array_equal(F.transpose(x, axes).data, x.transpose(2, 0, 1))


@pytest.mark.parametrize("index", [True, np.True_, [0, 1], np.array([0]), None, (0, True), 1.0])
def test_an_index_is_whole_numbers_slices_and_dots(index):
    with pytest.raises(TypeError, match="indexed by whole numbers, slices and"):
        F.getitem(np.ones((2, 3)), index)


def test_to_the_device_where_it_is_already_does_nothing(rng):
    x = rng.standard_normal((2, 3))
    np.testing.assert_array_equal(gradient(lambda x: ToDevice("cpu")(x), x, 2 * x), 2 * x)


def test_flatten_goes_through_rows_columns_channels():
    x = np.arange(2 * 2 * 3 * 4.0).reshape(2, 2, 3, 4)
    flat = F.flatten(x).data
    assert flat.shape == (2, 24)
    assert flat[1, (1 * 3 + 2) * 4 + 3] == x[1, 1, 2, 3]


@both_forms
@given(st.data(), shapes, layouts, streams)
def test_gradients_of_moves(data, shape, layout, rng):
    """reshape, flatten and transpose; the product with weights makes the order of the elements
    matter."""
    x, size = layout(rng.normal(shape)), int(np.prod(shape))
    order = data.draw(st.permutations(range(len(shape))))
    first = data.draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
    weights = rng.normal(size)
    for move in (
        lambda x: F.reshape(x, first, -1),
        lambda x: F.reshape(x, (size // first, first)),
        F.flatten,
        F.transpose,
        lambda x: F.transpose(x, *order),
        lambda x: F.transpose(x, tuple(order)),
    ):
        check(lambda x, move=move: F.mul(F.reshape(move(x), -1), weights), x)


@both_forms
@given(st.data(), shapes, st.lists(small, min_size=1, max_size=3), layouts, streams)
def test_gradients_of_concat(data, shape, lengths, layout, rng):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    pieces = []
    for length in lengths:
        piece = list(shape)
        piece[axis] = length
        pieces.append(layout(rng.normal(tuple(piece))))
    check(lambda *xs: F.concat(xs, axis), *pieces)
    check(lambda x: F.concat([x, F.tanh(x), x], axis), pieces[0])  # fan-out: the same x thrice


@both_forms
@given(st.data(), shapes, layouts, streams)
def test_gradients_of_getitem_and_channels(data, shape, layout, rng):
    x = layout(rng.normal(shape))
    index = tuple(data.draw(st.integers(-n, n - 1) | st.slices(n)) for n in shape)
    first = data.draw(st.integers(0, len(shape)))
    start = data.draw(st.integers(0, shape[-1] - 1))
    check(lambda x: x[index[:first]], x)
    check(lambda x: x[(..., *index[first:])], x)
    check(lambda x: F.channels(x, start, shape[-1]), x)
