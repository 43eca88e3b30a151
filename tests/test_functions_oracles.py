"""Values of every function against oracles of their own: loops from the definition, SciPy, NumPy,
hand arithmetic."""

import importlib
import itertools
import math

import numpy as np
import pytest
import scipy.signal
import scipy.special

import minigrad as mg
from alexnet import PAPER
from minigrad import functions as F
from minigrad import nn
from minigrad.functions.geometry import output_size
from minigrad.network import Network, shrunken
from minigrad.random import Stream

pytestmark = pytest.mark.usefixtures("forms")

FLOAT64 = {"rtol": 1e-12, "atol": 1e-13}
FLOAT32 = {"rtol": 1e-5, "atol": 1e-6}
TOLERANCE = {"float64": FLOAT64, "float32": FLOAT32}


def same(actual, expected, **tolerance):
    """Equal shapes, and values within float64's tolerance unless told."""
    actual = actual.data if isinstance(actual, mg.Tensor) else actual
    assert actual.shape == np.shape(expected)
    np.testing.assert_allclose(actual, expected, **(tolerance or FLOAT64))


def gradient(f, x, gy=None):
    """What arrives at x from gy, ones if None."""
    x = mg.Tensor(x, requires_grad=True)
    y = f(x)
    y.backward(np.ones_like(y.data) if gy is None else gy)
    return x.grad


# Convolution and pooling: the definition, one number at a time.


def positions(size, kernel, stride, padding, ceil_mode):
    """First pixel of each window along an axis: walked, not computed."""
    starts, start = [], -padding
    while start + kernel <= size + padding:
        starts.append(start)
        start += stride
    if ceil_mode and starts and starts[-1] + kernel < size + padding and start < size:
        starts.append(start)
    return starts


def windows(x, kernel, stride, padding, ceil_mode):
    """For each n, oh, ow: that index, and {(kh, kw): (h, w)} of the taps inside the image."""
    (N, H, W, _), (KH, KW), (SH, SW), (PH, PW) = x.shape, kernel, stride, padding
    rows, columns = positions(H, KH, SH, PH, ceil_mode), positions(W, KW, SW, PW, ceil_mode)
    for n, (oh, top), (ow, left) in itertools.product(
        range(N), enumerate(rows), enumerate(columns)
    ):
        taps = itertools.product(range(KH), range(KW))
        inside = {
            (a, b): (top + a, left + b) for a, b in taps if 0 <= top + a < H and 0 <= left + b < W
        }
        yield (n, oh, ow), inside


def conv_by_loops(x, w, b, stride, padding, groups, ceil_mode):
    KH, KW, CG, filters = w.shape
    y = {}
    for (n, oh, ow), inside in windows(x, (KH, KW), stride, padding, ceil_mode):
        for o in range(filters):
            first = o // (filters // groups) * CG
            total = float(b[o])
            for (kh, kw), (h, v) in inside.items():
                for c in range(CG):
                    total += x[n, h, v, first + c] * w[kh, kw, c, o]
            y[n, oh, ow, o] = total
    return as_array(y)


def pool_by_loops(x, combine, kernel, stride, padding, ceil_mode):
    y = {}
    for (n, oh, ow), inside in windows(x, kernel, stride, padding, ceil_mode):
        for c in range(x.shape[3]):
            y[n, oh, ow, c] = combine([float(x[n, h, w, c]) for h, w in inside.values()])
    return as_array(y)


def as_array(values):
    """A dict from indices to numbers as an array."""
    array = np.full(tuple(max(i) + 1 for i in zip(*values)), np.nan)
    for index, value in values.items():
        array[index] = value
    return array


# Kernel, stride, padding.
GEOMETRIES = [
    ((1, 1), (1, 1), (0, 0)),
    ((3, 3), (1, 1), (0, 0)),
    ((3, 3), (2, 2), (1, 1)),
    ((2, 3), (3, 1), (0, 2)),
    ((2, 2), (3, 3), (0, 0)),
    ((4, 1), (2, 4), (3, 0)),
    ((5, 4), (4, 3), (1, 2)),
]


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
def test_conv2d_by_loops(rng, kernel, stride, padding, groups, ceil_mode):
    x = rng.standard_normal((2, 6, 7, 2 * groups))
    w = rng.standard_normal((*kernel, 2, 3 * groups))
    b = rng.standard_normal(3 * groups)
    same(
        F.conv2d(x, w, b, stride, padding, groups, ceil_mode),
        conv_by_loops(x, w, b, stride, padding, groups, ceil_mode),
    )


def test_conv2d_with_padding_wider_than_the_kernel(rng):
    """Some windows see nothing but padding."""
    x, w, b = (
        rng.standard_normal((1, 3, 2, 2)),
        rng.standard_normal((2, 1, 2, 3)),
        rng.standard_normal(3),
    )
    same(F.conv2d(x, w, b, 2, (3, 4)), conv_by_loops(x, w, b, (2, 2), (3, 4), 1, False))


def test_conv2d_by_scipy(rng):
    x, w = rng.standard_normal((2, 9, 8, 3)), rng.standard_normal((4, 3, 3, 5))
    y = [
        [scipy.signal.correlate(image, w[..., o], mode="valid")[:, :, 0] for o in range(5)]
        for image in x
    ]
    same(F.conv2d(x, w), np.moveaxis(y, 1, -1))


def test_conv2d_gradients_by_scipy(rng):
    """gx is the full convolution of gy with w, gw the correlation of x with gy."""
    x, w = (
        mg.Tensor(rng.standard_normal(s), requires_grad=True) for s in [(1, 6, 7, 1), (3, 2, 1, 1)]
    )
    gy = rng.standard_normal((1, 4, 6, 1))
    F.conv2d(x, w).backward(gy)
    x_, w_, g = x.data[0, :, :, 0], w.data[:, :, 0, 0], gy[0, :, :, 0]
    same(x.grad[0, :, :, 0], scipy.signal.convolve(g, w_, mode="full"))
    same(w.grad[:, :, 0, 0], scipy.signal.correlate(x_, g, mode="valid"))


def test_conv2d_gives_the_same_in_chunks_of_any_size(rng, monkeypatch):
    shapes = [(5, 6, 6, 4), (3, 3, 2, 6), (6,)]
    arrays = [rng.standard_normal(s) for s in shapes]

    def run():
        x, w, b = leaves = [mg.Tensor(a, requires_grad=True) for a in arrays]
        y = F.conv2d(x, w, b, padding=1, groups=2)
        y.backward(np.cos(y.data))
        return [y.data, *[leaf.grad for leaf in leaves]]

    monkeypatch.setenv("MINIGRAD_KERNELS", "none")  # a CPU's kernels do without columns
    whole = run()
    per_image = 6 * 6 * 3 * 3 * 2 * 8
    for budget in (1, 2 * per_image):
        monkeypatch.setattr(
            importlib.import_module("minigrad.functions.conv2d_columns"), "COLUMN_BYTES", budget
        )
        for part, expected in zip(run(), whole):
            same(part, expected)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [g for g in GEOMETRIES if max(g[2]) < min(g[0]) or g[2][1] == 0],
)
@pytest.mark.parametrize(
    ("pool", "combine"),
    [(F.max_pool2d, max), (F.avg_pool2d, lambda taps: math.fsum(taps) / len(taps))],
)
def test_pools_by_loops(rng, pool, combine, kernel, stride, padding, ceil_mode):
    x = rng.standard_normal((2, 7, 6, 3))
    same(
        pool(x, kernel, stride, padding, ceil_mode),
        pool_by_loops(x, combine, kernel, stride, padding, ceil_mode),
    )


def test_avg_pool2d_by_scipy(rng):
    x = rng.standard_normal((2, 7, 8, 3))
    box = np.full((1, 3, 2, 1), 1 / 6)
    same(F.avg_pool2d(x, (3, 2), 1), scipy.signal.correlate(x, box, mode="valid"))


@pytest.mark.parametrize("pool", [F.max_pool2d, F.avg_pool2d])
def test_stride_of_a_pool_is_its_window_unless_given(rng, pool):
    x = rng.standard_normal((1, 6, 8, 2))
    np.testing.assert_array_equal(pool(x, (2, 4)).data, pool(x, (2, 4), (2, 4)).data)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "ceil_mode", "expected"),
    [
        (224, 11, 4, 0, True, 55),  # the 2012 code: crops of 224, rounding up
        (224, 11, 4, 0, False, 54),
        (227, 11, 4, 0, False, 55),  # the paper's 55 x 55
        (227, 11, 4, 0, True, 55),
        (224, 11, 4, 2, False, 55),  # torchvision
        (55, 3, 2, 0, False, 27),
        (55, 3, 2, 0, True, 27),
        (27, 5, 1, 2, False, 27),
        (13, 3, 2, 0, False, 6),
        (224, 7, 2, 1, False, 110),  # ZFNet
        (110, 3, 2, 0, False, 54),
        (110, 3, 2, 0, True, 55),
        (3, 2, 2, 1, True, 2),  # a third window would lie in the padding alone: dropped
        (4, 2, 3, 1, True, 2),
        (5, 1, 3, 0, True, 2),  # nor may one start past the edge
        (2, 3, 1, 0, False, 0),
    ],
)
def test_output_sizes(size, kernel, stride, padding, ceil_mode, expected):
    assert output_size(size, kernel, stride, padding, ceil_mode) == expected
    assert len(positions(size, kernel, stride, padding, ceil_mode)) == expected


def test_one_window_larger_than_the_image_fits_when_rounding_up():
    same(F.max_pool2d(np.arange(4.0).reshape(1, 2, 2, 1), 3, 2, ceil_mode=True), [[[[3.0]]]])


# Response normalisation.


def lrn_by_loops(x, n, k, alpha, beta, divide_by_n, groups):
    y, C = np.empty_like(x), x.shape[-1] // groups
    for index in np.ndindex(*x.shape):
        *pixel, c = index
        first = c // C * C
        window = [j for j in range(c - n // 2, c - n // 2 + n) if first <= j < first + C]
        total = math.fsum(float(x[(*pixel, j)]) ** 2 for j in window)
        y[index] = x[index] / (k + (alpha / n if divide_by_n else alpha) * total) ** beta
    return y


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 20])
@pytest.mark.parametrize(
    ("beta", "divide_by_n", "groups"), [(0.75, False, 1), (0.5, True, 2), (0.75, False, 3)]
)
def test_lrn_by_loops(rng, n, beta, divide_by_n, groups):
    x = rng.standard_normal((2, 3, 2, 12))
    same(
        F.lrn(x, n, 1.5, 0.7, beta, divide_by_n, groups),
        lrn_by_loops(x, n, 1.5, 0.7, beta, divide_by_n, groups),
    )


def test_lrn_constants_are_the_papers(rng):
    x = 100 * rng.standard_normal((1, 2, 2, 9))
    same(F.lrn(x), lrn_by_loops(x, 5, 2.0, 1e-4, 0.75, False, 1))


def test_lrn_gives_the_same_in_chunks_of_any_size(rng, monkeypatch):
    x = rng.standard_normal((3, 5, 6))
    whole, gx = F.lrn(x, alpha=1.0).data, gradient(lambda x: F.lrn(x, alpha=1.0), x)
    for chunk in (1, 13):
        monkeypatch.setattr(importlib.import_module("minigrad.functions.lrn"), "CHUNK", chunk)
        np.testing.assert_array_equal(F.lrn(x, alpha=1.0).data, whole)
        np.testing.assert_array_equal(gradient(lambda x: F.lrn(x, alpha=1.0), x), gx)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
def test_lrn_within_map_by_loops(rng, n):
    x = rng.standard_normal((2, 6, 5, 3))
    y = np.empty_like(x)
    for image, h, w, c in np.ndindex(*x.shape):
        rows = [i for i in range(h - n // 2, h - n // 2 + n) if 0 <= i < 6]
        columns = [j for j in range(w - n // 2, w - n // 2 + n) if 0 <= j < 5]
        total = math.fsum(float(x[image, i, j, c]) ** 2 for i in rows for j in columns)
        y[image, h, w, c] = x[image, h, w, c] / (0.8 + 3.0 / n**2 * total) ** 0.6
    same(F.lrn_within_map(x, n, 0.8, 3.0, 0.6), y)


# Softmax, cross-entropy, elementwise.


@pytest.mark.parametrize("shape", [(7,), (4, 5), (2, 3, 6), (3, 1)])
def test_softmax_by_scipy(rng, shape):
    x = 5 * rng.standard_normal(shape)
    same(F.softmax(x), scipy.special.softmax(x, axis=-1))
    same(F.log_softmax(x), scipy.special.log_softmax(x, axis=-1))


def test_cross_entropy_by_hand(rng):
    """Two classes with logits 0 and ln 3 have probabilities 1/4 and 3/4."""
    x, labels = np.array([[0.0, np.log(3)], [np.log(3), 0.0], [2.0, 2.0]]), np.array([0, 0, 1])
    losses = [np.log(4), np.log(4 / 3), np.log(2)]
    same(F.softmax_cross_entropy(x, labels, "none"), losses)
    same(F.softmax_cross_entropy(x, labels, "sum"), sum(losses))
    same(F.softmax_cross_entropy(x, labels), sum(losses) / 3)
    gx = gradient(lambda x: F.softmax_cross_entropy(x, labels), x, np.array(1.0))
    same(gx, np.array([[-3 / 4, 3 / 4], [-1 / 4, 1 / 4], [1 / 2, -1 / 2]]) / 3)


def test_cross_entropy_by_scipy(rng):
    x, labels = 10 * rng.standard_normal((9, 6)), rng.integers(0, 6, 9)
    same(
        F.softmax_cross_entropy(x, labels, "none"),
        -scipy.special.log_softmax(x, axis=1)[range(9), labels],
    )
    for kind in (np.int32, np.uint8, np.int64):
        same(
            F.softmax_cross_entropy(x, labels.astype(kind)),
            -scipy.special.log_softmax(x, axis=1)[range(9), labels].mean(),
        )


def test_softmax_of_huge_and_masked_logits_is_finite():
    x = np.array([[1e30, 0.0, -1e30], [-np.inf, 0.0, 0.0]])
    same(F.softmax(x), [[1, 0, 0], [0, 0.5, 0.5]])
    same(F.log_softmax(x[:1]), [[0, -1e30, -2e30]])
    same(F.softmax_cross_entropy(x, np.array([2, 1]), "none"), [2e30, np.log(2)])
    same(
        gradient(lambda x: F.softmax_cross_entropy(x, [2, 1], "sum"), x),
        [[1, 0, -1], [0, -0.5, 0.5]],
    )


def test_elementwise_by_scipy_and_numpy(rng):
    x, y = rng.standard_normal((2, 3, 5)), 2 + rng.random(5)
    same(F.relu(x), np.where(x > 0, x, 0))
    same(F.tanh(x), 1 - 2 / (np.exp(2 * x) + 1))
    same(F.sigmoid(x), scipy.special.expit(x))
    for f, expected in [(F.add, x + y), (F.sub, x - y), (F.mul, x * y), (F.div, x / y)]:
        same(f(x, y), expected)
    same(F.neg(x), -x)
    same(F.exp(x), np.exp(x))
    same(F.log(y), np.log(y))
    same(F.pow(y, -1.5), y**-1.5)


def test_relu_of_many_numbers(rng):
    """Several blocks of the kernel, the last one not full."""
    x, gy = rng.standard_normal((2, 40_001))
    np.testing.assert_array_equal(F.relu(x).data, np.where(x > 0, x, 0))
    np.testing.assert_array_equal(gradient(F.relu, x, gy), np.where(x > 0, gy, 0))


def test_saturated_units_do_not_overflow():
    x = np.array([-np.inf, -1e4, 1e4, np.inf])
    same(F.sigmoid(x), [0, 0, 1, 1])
    same(F.tanh(x), [-1, -1, 1, 1])
    same(gradient(F.sigmoid, x), [0, 0, 0, 0])


def test_sums_products_and_shapes_by_numpy(rng):
    x, a, w, b = (rng.standard_normal(s) for s in [(2, 3, 4, 5), (3, 4), (4, 6), (6,)])
    same(F.matmul(a, w), np.einsum("ik,kj->ij", a, w))
    same(F.linear(a, w, b), np.einsum("ik,kj->ij", a, w) + b)
    same(F.linear(a, w), np.einsum("ik,kj->ij", a, w))
    for axis, keepdims in [(None, False), (1, True), (-1, False), ((0, 2), False), ((1, 3), True)]:
        same(F.sum(x, axis, keepdims), x.sum(axis, keepdims=keepdims))
        same(F.mean(x, axis, keepdims), x.mean(axis, keepdims=keepdims))
    exactly = np.testing.assert_array_equal
    exactly(F.reshape(x, 6, -1).data, x.reshape(6, 20))
    exactly(F.transpose(x, 0, 3, 1, 2).data, np.moveaxis(x, -1, 1))
    exactly(F.concat([x, 2 * x], axis=1).data, np.hstack([x, 2 * x]))
    exactly(F.concat([x, 2 * x]).data, np.append(x, 2 * x, axis=3))
    exactly(F.channels(x, 1, 4).data, x[:, :, :, 1:4])
    exactly(F.getitem(x, (1, Ellipsis, slice(None, None, -2))).data, x[1, :, :, ::-2])
    exactly(F.to(x, "cpu").data, x)


def test_flatten_goes_through_rows_columns_channels():
    x = np.arange(2 * 2 * 3 * 4.0).reshape(2, 2, 3, 4)
    flat = F.flatten(x).data
    assert flat.shape == (2, 24)
    assert flat[1, (1 * 3 + 2) * 4 + 3] == x[1, 1, 2, 3]


# Dropout.


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("inverted", [False, True])
def test_dropout_keeps_the_right_share(p, inverted):
    n = 40_000
    y = F.dropout(np.ones((8, n // 8)), p, inverted=inverted, rng=Stream(3, "share")).data
    assert set(np.unique(y)) == {0.0, 1 / (1 - p) if inverted else 1.0}
    kept = np.count_nonzero(y)
    assert abs(kept - n * (1 - p)) < 5 * math.sqrt(
        n * p * (1 - p)
    )  # five standard deviations of the binomial
    per_row = np.count_nonzero(y, axis=1)
    assert (abs(per_row - n / 8 * (1 - p)) < 5 * math.sqrt(n / 8 * p * (1 - p))).all()


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("shape", [(3,), (40_001,), (7, 11, 3)])
def test_dropout_has_the_same_mask_in_backward(rng, inverted, shape):
    x, stream = 1 + rng.random(shape), Stream(1, "mask")
    x, gy = mg.Tensor(x, requires_grad=True), rng.standard_normal(shape)
    y = F.dropout(x, 0.3, inverted=inverted, rng=stream)
    F.dropout(x, 0.3, rng=stream)  # a later draw must not disturb it
    y.backward(gy)
    same(x.grad, gy * (y.data != 0) / (0.7 if inverted else 1))
    same(y, x.data * (y.data != 0) / (0.7 if inverted else 1))


def test_dropout_at_test_time(rng):
    x = rng.standard_normal((4, 5))
    np.testing.assert_array_equal(F.dropout(x, 0.3, training=False).data, x)
    same(F.dropout(x, 0.3, training=False, inverted=False), 0.7 * x)
    same(
        gradient(lambda x: F.dropout(x, 0.3, training=False, inverted=False), x),
        np.full_like(x, 0.7),
    )


def test_dropout_of_nothing_is_the_identity_and_of_everything_an_error(rng):
    x = rng.standard_normal((4, 5))
    np.testing.assert_array_equal(F.dropout(x, 0.0).data, x)
    with pytest.raises(ValueError, match="below 1"):
        F.dropout(x, 1.0)


def test_no_two_dropout_masks_are_the_same():
    ones, model = np.ones(1000, np.float32), Network(shrunken(PAPER), classes=5)
    layers = [nn.Dropout(), nn.Dropout(), model.layers["drop6"], model.layers["drop7"]]
    masks = [
        layer(ones).data for layer in layers for _ in range(2)
    ]  # nor in two passes through one layer
    for a, b in itertools.combinations(masks, 2):
        assert 400 < np.count_nonzero((a == 0) == (b == 0)) < 600  # independent masks agree in half


def test_dropout_draws_the_same_bits_in_kernels_and_arrays(monkeypatch):
    """40,001 numbers: several blocks of the kernel, the last one not full."""
    x = np.ones(40_001, np.float32)
    chosen = F.dropout(x, 0.3, rng=Stream(9, "bits")).data
    monkeypatch.setenv("MINIGRAD_KERNELS", "none")
    np.testing.assert_array_equal(F.dropout(x, 0.3, rng=Stream(9, "bits")).data, chosen)


def test_dropout_masks_repeat_with_the_seed():
    x = np.ones(100)
    first, again, other = (F.dropout(x, rng=Stream(seed, "layer")).data for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


# NaN, infinity, ties.


def test_relu_keeps_nan_and_infinity():
    y = F.relu(np.array([np.nan, -np.inf, -1.0, 0.0, np.inf])).data
    np.testing.assert_array_equal(y, [np.nan, 0, 0, 0, np.inf])


def test_relu_has_no_gradient_at_zero():
    np.testing.assert_array_equal(
        gradient(F.relu, np.array([-1.0, 0.0, 1e-300, 1.0])), [0, 0, 1, 1]
    )


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("at", list(np.ndindex(3, 3)))
def test_max_pool2d_propagates_nan(at, padding):
    """To exactly the windows that see it, wherever in the window it is."""
    x = np.arange(9.0).reshape(1, 3, 3, 1)
    clean = F.max_pool2d(x, 2, 1, padding).data
    x[0, at[0], at[1], 0] = np.nan
    y = F.max_pool2d(x, 2, 1, padding).data
    sees = np.isnan(pool_by_loops(x, sum, (2, 2), (1, 1), (padding, padding), False))
    np.testing.assert_array_equal(np.isnan(y), sees)
    np.testing.assert_array_equal(y[~sees], clean[~sees])
    gx = gradient(lambda x: F.max_pool2d(x, 2, 1, padding), x)
    assert gx[0, at[0], at[1], 0] == sees.sum()  # the NaN won every window that sees it


def test_first_of_equal_maxima_gets_the_gradient():
    same(
        gradient(lambda x: F.max_pool2d(x, 2), np.ones((1, 2, 2, 1)))[0, :, :, 0], [[1, 0], [0, 0]]
    )
    x = np.array([[0.0, 7, 7], [7, 0, 7], [0, 0, 0]]).reshape(1, 3, 3, 1)
    same(gradient(lambda x: F.max_pool2d(x, 3), x)[0, :, :, 0], [[0, 1, 0], [0, 0, 0], [0, 0, 0]])
    same(
        gradient(lambda x: F.max_pool2d(x, 2, 1), x)[0, :, :, 0], [[0, 2, 0], [1, 0, 1], [0, 0, 0]]
    )
    nans = np.full((1, 2, 2, 1), np.nan)
    same(gradient(lambda x: F.max_pool2d(x, 2), nans)[0, :, :, 0], [[1, 0], [0, 0]])


def test_overlapping_windows_add_their_gradients():
    x = np.zeros((1, 3, 3, 1))
    x[0, 1, 1, 0] = 1
    gy = np.array([[1.0, 2], [4, 8]]).reshape(1, 2, 2, 1)
    assert gradient(lambda x: F.max_pool2d(x, 2, 1), x, gy)[0, 1, 1, 0] == 15


def test_padding_never_wins(rng):
    x = -5 - rng.random((2, 3, 4, 2))
    y = F.max_pool2d(x, 3, 2, 1, ceil_mode=True).data
    assert y.max() < -5
    gy = np.ones_like(y)
    assert gradient(lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True), x, gy).sum() == y.size


def test_padding_never_wins_against_minus_infinity():
    """Every window's gradient goes to a pixel even where all pixels are -inf."""
    gx = gradient(lambda x: F.max_pool2d(x, 2, 1, 1), np.full((1, 2, 2, 1), -np.inf))
    same(gx[0, :, :, 0], [[4, 2], [2, 1]])


def test_an_infinite_gradient_stays_with_the_winner():
    gx = gradient(
        lambda x: F.max_pool2d(x, 2),
        np.arange(4.0).reshape(1, 2, 2, 1),
        np.full((1, 1, 1, 1), np.inf),
    )
    np.testing.assert_array_equal(gx.ravel(), [0, 0, 0, np.inf])


def test_nan_stays_in_its_windows(rng):
    """A NaN pixel makes NaN of exactly the outputs that see it: none leaks through chunks, padding
    or unused taps."""
    x, w = rng.standard_normal((3, 6, 6, 2)), rng.standard_normal((3, 3, 2, 4))
    x[1, 5, 2, 1] = np.nan
    expected = np.isnan(conv_by_loops(x, w, np.zeros(4), (2, 2), (1, 1), 1, False))
    np.testing.assert_array_equal(np.isnan(F.conv2d(x, w, stride=2, padding=1).data), expected)
    expected = np.isnan(pool_by_loops(x, sum, (3, 3), (2, 2), (0, 0), True))
    np.testing.assert_array_equal(np.isnan(F.avg_pool2d(x, 3, 2, ceil_mode=True).data), expected)
    near = np.isnan(lrn_by_loops(x, 2, 2.0, 1.0, 0.75, False, 1))
    np.testing.assert_array_equal(np.isnan(F.lrn(x, 2, alpha=1.0).data), near)


# Every function: dtypes, layouts, and kernels against arrays.

CASES = {case.name: case for case in F.cases()}


def inputs_of(name, dtype, layout=np.ascontiguousarray):
    return [
        mg.Tensor(layout(a), requires_grad=True) if a.dtype.kind == "f" else a
        for a in CASES[name].draw(dtype)
    ]


def run(name, inputs, gy_layout=np.ascontiguousarray):
    """The output and the gradients of one call."""
    y = CASES[name](*inputs)
    gy = np.cos(np.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    y.backward(gy_layout(gy).reshape(y.shape))
    return [y.data, *[x.grad for x in inputs if isinstance(x, mg.Tensor)]]


def test_every_function_has_cases():
    assert {case.function for case in CASES.values()} == set(F.__all__)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_stays(name, dtype):
    assert {a.dtype.name for a in run(name, inputs_of(name, dtype))} == {dtype}


@pytest.mark.parametrize("name", CASES)
def test_float32_is_close_to_float64(name):
    singles = inputs_of(name, "float32")
    doubles = [
        mg.Tensor(x.data.astype("float64"), requires_grad=True) if isinstance(x, mg.Tensor) else x
        for x in singles
    ]
    for single, double in zip(run(name, singles), run(name, doubles)):
        size = max(1.0, float(np.abs(double).max()))  # sums of many terms cancel
        same(single / size, double / size, rtol=1e-5, atol=1e-5)


def reversed_view(a):
    return a[..., ::-1].copy()[..., ::-1]


def sliced_view(a):
    return np.repeat(a, 2, axis=-1)[..., ::2]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("layout", [np.asfortranarray, reversed_view, sliced_view])
def test_layout_in_memory_does_not_matter(name, layout):
    expected = run(name, inputs_of(name, "float64"))
    given = inputs_of(name, "float64", layout)
    gy_layout = layout if expected[0].ndim else np.ascontiguousarray
    for actual, wanted in zip(run(name, given, gy_layout), expected):
        same(actual, wanted)


@pytest.mark.parametrize("number", [0.1, 1, True, np.float64(0.1)])
def test_numbers_do_not_promote_a_float32_tensor(number):
    x = mg.Tensor(np.ones(3, np.float32), requires_grad=True)
    for f in (F.add, F.sub, F.mul, F.div):
        assert f(x, number).dtype == f(number, x).dtype == np.float32


@pytest.mark.parametrize("f", [F.add, F.sub, F.mul, F.div])
def test_numbers_do_not_promote_a_float32_array(f):
    assert f(np.ones(3, np.float32), 0.1).dtype == np.float32


@pytest.mark.parametrize(
    "f",
    [
        lambda x: F.pow(x, np.float64(0.5)),
        lambda x: F.lrn_within_map(x, alpha=np.float64(0.5)),
        lambda x: F.dropout(x, np.float64(0.5), training=False, inverted=False),
    ],
    ids=["pow", "lrn_within_map", "dropout"],
)
def test_float64_constants_do_not_promote(f):
    assert f(np.ones((1, 2, 2, 3), np.float32)).dtype == np.float32


@pytest.mark.parametrize("f", [F.relu, F.dropout, F.tanh, F.sigmoid, F.exp])
def test_a_single_number_keeps_its_shape(f):
    assert f(np.array(0.5)).shape == ()


@pytest.mark.parametrize(
    "f",
    [F.sum, F.mean, F.exp, lambda x: F.add(x, np.ones(3)), lambda x: x * x],
    ids=["sum", "mean", "exp", "broadcast", "square"],
)
def test_the_gradient_of_a_single_number_is_an_array_of_its_shape(f):
    gx = gradient(f, np.array(0.5))
    assert isinstance(gx, np.ndarray)
    assert gx.shape == ()


@pytest.mark.parametrize(
    "f",
    [
        F.relu,
        F.lrn,
        F.lrn_within_map,
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.avg_pool2d(x, 2),
        lambda x: F.conv2d(x, np.ones((2, 2, 3, 4))),
        F.dropout,
        F.softmax,
    ],
    ids=[
        "relu",
        "lrn",
        "lrn_within_map",
        "max_pool2d",
        "avg_pool2d",
        "conv2d",
        "dropout",
        "softmax",
    ],
)
def test_an_empty_batch_passes_through(f):
    assert gradient(f, np.zeros((0, 4, 5, 3))).shape == (0, 4, 5, 3)
