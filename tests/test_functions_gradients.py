"""Gradients of every function against differences of its forward pass, over random shapes and
layouts, in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import mutually_broadcastable_shapes

from minigrad import functions as F
from minigrad import gradcheck, random
from minigrad.gradcheck import all_distinct, away_from_zero, check_grads

pytestmark = pytest.mark.usefixtures("forms")

RTOL = 1e-6  # float64: of a slope, relative to the norm of the gradient; check_grads' default
CASES = gradcheck.cases()


def laid_out(a: np.ndarray, layout: str) -> np.ndarray:
    """The same numbers, otherwise in memory."""
    if layout == "fortran":
        return np.asfortranarray(a)
    if layout == "sliced":
        return np.repeat(a, 2, axis=-1)[..., ::2]
    if layout == "reversed":
        return a[..., ::-1].copy()[..., ::-1]
    return a


def turned(f):
    """f with its axes reversed afterwards, so that its backward gets a gy that is not
    contiguous."""
    return lambda *inputs: F.transpose(f(*inputs))


small = st.integers(1, 4)
flags = st.booleans()
layouts = st.sampled_from(["contiguous", "fortran", "sliced", "reversed"])
shapes = st.lists(small, min_size=1, max_size=4).map(tuple)
streams = st.integers(0, 1000).map(lambda seed: random.Stream(seed, "test_functions_gradients"))


@st.composite
def geometries(draw, padding: int | None = None):
    """(N, H, W), kernel, stride, padding (below the kernel if None) and ceil_mode, such that a
    window fits."""
    kernel, stride = draw(st.tuples(small, small)), draw(st.tuples(small, small))
    pads = tuple(draw(st.integers(0, k - 1 if padding is None else padding)) for k in kernel)
    H, W = (max(1, k - 2 * p) + draw(st.integers(0, 6)) for k, p in zip(kernel, pads))
    return (draw(st.integers(1, 3)), H, W), kernel, stride, pads, draw(flags)


@settings(max_examples=100)
@given(
    geometries(padding=5), small, small, st.integers(1, 3), flags, layouts, layouts, flags, streams
)
def test_conv2d(geometry, CG, OG, groups, bias, x_layout, w_layout, turn, rng):
    image, kernel, stride, padding, ceil_mode = geometry
    x = laid_out(rng.normal((*image, CG * groups)), x_layout)
    w = laid_out(rng.normal((*kernel, CG, OG * groups)), w_layout)
    b = [rng.normal(OG * groups)] if bias else []

    def conv(x, w, b=None):
        return F.conv2d(x, w, b, stride, padding, groups, ceil_mode)

    check_grads(turned(conv) if turn else conv, x, w, *b, rtol=RTOL)


@given(small, small, small, flags, layouts, layouts, flags, streams)
def test_linear(N, inputs, outputs, bias, x_layout, w_layout, turn, rng):
    x, w = (
        laid_out(rng.normal((N, inputs)), x_layout),
        laid_out(rng.normal((inputs, outputs)), w_layout),
    )
    b = [rng.normal(outputs)] if bias else []
    check_grads(turned(F.linear) if turn else F.linear, x, w, *b, rtol=RTOL)


rows = st.lists(small, max_size=3)
lrn_constants = st.tuples(st.floats(0.5, 2), st.floats(0.1, 2), st.sampled_from([0.5, 0.75, 1.0]))


@settings(max_examples=100)
@given(
    rows, small, st.integers(1, 7), lrn_constants, flags, st.integers(1, 3), layouts, flags, streams
)
def test_lrn(rows, C, n, constants, divide_by_n, groups, layout, turn, rng):
    x = laid_out(rng.normal((*rows, 2 * C * groups)), layout)

    def lrn(x):
        return F.lrn(x, n, *constants, divide_by_n, groups)

    check_grads(turned(lrn) if turn else lrn, x, rtol=RTOL)


@given(
    st.tuples(small, small, small, small), st.integers(1, 6), lrn_constants, layouts, flags, streams
)
def test_lrn_within_map(shape, n, constants, layout, turn, rng):
    k, alpha, beta = constants

    def lrn(x):
        return F.lrn_within_map(x, n, k, 4 * alpha, beta)

    check_grads(turned(lrn) if turn else lrn, laid_out(rng.normal(shape), layout), rtol=RTOL)


@pytest.mark.parametrize("pool", [F.max_pool2d, F.avg_pool2d])
@settings(max_examples=100)
@given(geometries(), small, layouts, flags, streams)
def test_pools(pool, geometry, C, layout, turn, rng):
    image, *window = geometry
    x = laid_out(all_distinct(rng, (*image, C)), layout)

    def pooled(x):
        return pool(x, *window)

    check_grads(turned(pooled) if turn else pooled, x, rtol=RTOL)


@pytest.mark.parametrize("f", [F.relu, F.tanh, F.sigmoid, F.softmax, F.log_softmax, F.exp])
@given(shapes, layouts, flags, streams)
def test_functions_of_any_shape(f, shape, layout, turn, rng):
    check_grads(turned(f) if turn else f, laid_out(away_from_zero(rng, shape), layout), rtol=RTOL)


@given(shapes, st.sampled_from([-2, -0.5, 0.75, 1, 3]), layouts, streams)
def test_log_and_pow(shape, p, layout, rng):
    x = laid_out(0.5 + abs(rng.normal(shape)), layout)
    check_grads(F.log, x, rtol=RTOL)
    check_grads(lambda x: F.pow(x, p), x, rtol=RTOL)


@given(small, st.integers(1, 7), st.sampled_from(["mean", "sum", "none"]), layouts, streams)
def test_softmax_cross_entropy(N, C, reduction, layout, rng):
    x, labels = laid_out(3 * rng.normal((N, C)), layout), rng.integers(C, N)
    check_grads(lambda x: F.softmax_cross_entropy(x, labels, reduction), x, rtol=RTOL)


@given(shapes, st.floats(0, 0.9), flags, flags, layouts, flags, streams)
def test_dropout(shape, p, training, inverted, layout, turn, rng):
    def dropped(x):
        return F.dropout(x, p, training, inverted, rng)

    check_grads(
        turned(dropped) if turn else dropped, laid_out(rng.normal(shape), layout), rtol=RTOL
    )


@pytest.mark.parametrize("f", [F.add, F.sub, F.mul, F.div])
@given(
    mutually_broadcastable_shapes(num_shapes=2, min_dims=1, max_dims=4, max_side=4),
    layouts,
    streams,
)
def test_arithmetic_with_broadcasting(f, shapes, layout, rng):
    a, b = (
        laid_out(away_from_zero(rng, shape, margin=0.5), layout) for shape in shapes.input_shapes
    )
    check_grads(f, a, b, rtol=RTOL)
    check_grads(
        lambda a, b: f(f(a, 1.5), f(2.5, b)), a, b, rtol=RTOL
    )  # and with numbers, on either side


@given(small, small, small, layouts, layouts, flags, streams)
def test_matmul(M, K, N, a_layout, b_layout, turn, rng):
    a, b = laid_out(rng.normal((M, K)), a_layout), laid_out(rng.normal((K, N)), b_layout)
    check_grads(turned(F.matmul) if turn else F.matmul, a, b, rtol=RTOL)


@pytest.mark.parametrize("f", [F.sum, F.mean])
@given(st.data(), shapes, flags, layouts, streams)
def test_sum_and_mean(f, data, shape, keepdims, layout, rng):
    axes = st.integers(-len(shape), len(shape) - 1)
    several = st.sets(st.integers(0, len(shape) - 1)).map(tuple)
    axis = data.draw(st.none() | axes | several)
    check_grads(lambda x: f(x, axis, keepdims), laid_out(rng.normal(shape), layout), rtol=RTOL)


@given(st.data(), shapes, layouts, streams)
def test_shapes(data, shape, layout, rng):
    """reshape, flatten and transpose; the product with weights makes the order of the elements
    matter."""
    x, size = laid_out(rng.normal(shape), layout), int(np.prod(shape))
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
        check_grads(lambda x, move=move: F.mul(F.reshape(move(x), -1), weights), x, rtol=RTOL)


@given(st.data(), shapes, st.lists(small, min_size=1, max_size=3), layouts, streams)
def test_concat(data, shape, lengths, layout, rng):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    pieces = []
    for length in lengths:
        piece = list(shape)
        piece[axis] = length
        pieces.append(laid_out(rng.normal(tuple(piece)), layout))
    check_grads(lambda *xs: F.concat(xs, axis), *pieces, rtol=RTOL)
    check_grads(
        lambda x: F.concat([x, F.tanh(x), x], axis), pieces[0], rtol=RTOL
    )  # fan-out: the same x thrice


@given(st.data(), shapes, layouts, streams)
def test_getitem_and_channels(data, shape, layout, rng):
    x = laid_out(rng.normal(shape), layout)
    index = tuple(data.draw(st.integers(-n, n - 1) | st.slices(n)) for n in shape)
    kept = data.draw(st.integers(0, len(shape)))
    start = data.draw(st.integers(0, shape[-1] - 1))
    check_grads(lambda x: x[index[:kept]], x, rtol=RTOL)
    check_grads(lambda x: x[(..., *index[kept:])], x, rtol=RTOL)
    check_grads(lambda x: F.channels(x, start, shape[-1]), x, rtol=RTOL)


@pytest.mark.parametrize(
    ("f", "inputs"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_every_case_of_gradcheck(f, inputs):
    assert check_grads(f, *inputs) < RTOL
