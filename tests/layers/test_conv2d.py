"""Convolution: every check of functions/conv2d.py, of its two ways (conv2d_columns.py and
conv2d_direct.py) and of their kernels."""

import importlib
from dataclasses import replace
from types import SimpleNamespace

import checks
import numpy as np
import pytest
import scipy.signal
from checks import (
    DTYPES,
    both_forms,
    both_ways,
    built,
    change,
    check,
    flags,
    geometries,
    layouts,
    nothing,
    numbers,
    poisoned,
    run,
    same,
    small,
    streams,
    torch,
    with_attribute,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import GEOMETRIES, conv_by_loops, positions

from minigrad import kernels
from minigrad.engine import Tensor
from minigrad.functions import conv2d_direct
from minigrad.functions.cases import Case
from minigrad.functions.conv2d import CASES, Conv2d, conv2d
from minigrad.functions.geometry import output_size, windows

CASE = {case.name: case for case in CASES}


def by_pytorch(x, w, b=None, stride=1, padding=0, groups=1, ceil_mode=False, relu=False):
    """With as much more padding at the end as rounding the output up reaches."""
    T, ends = torch.nn.functional, []
    (kh, kw), (sh, sw), (ph, pw) = (
        (v, v) if isinstance(v, int) else v for v in (tuple(w.shape[:2]), stride, padding)
    )
    for side, k, s, p in ((x.shape[1], kh, sh, ph), (x.shape[2], kw, sw, pw)):
        last = output_size(side, k, s, p, ceil_mode) - 1
        ends.append(max(last * s + k - side - p, p))
    x = T.pad(x.permute(0, 3, 1, 2), (pw, ends[1], ph, ends[0]))
    y = T.conv2d(x, w.permute(3, 2, 0, 1), b, stride, groups=groups).permute(0, 2, 3, 1)
    return torch.relu(y) if relu else y


test_cases = checks.cases(CASES, pytorch=by_pytorch)
test_kernel = checks.kernel(CASES)
test_empty = checks.empty(
    conv2d=(conv2d, (0, 4, 4, 3), (2, 2, 3, 5), (5,)),
    no_channels=(conv2d, (2, 4, 4, 0), (2, 2, 0, 5), (5,)),
    no_filters=(conv2d, (2, 4, 4, 3), (2, 2, 3, 0), (0,)),
)


# Values: by loops, SciPy, arithmetic.


@both_forms
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
def test_by_loops(rng, kernel, stride, padding, groups, ceil_mode):
    x = rng.standard_normal((2, 6, 7, 2 * groups))
    w = rng.standard_normal((*kernel, 2, 3 * groups))
    b = rng.standard_normal(3 * groups)
    options = stride, padding, groups, ceil_mode
    same(conv2d(x, w, b, *options), conv_by_loops(x, w, b, *options))


@both_forms
def test_padding_wider_than_the_kernel(rng):
    """Some windows see nothing but padding."""
    x, w, b = (rng.standard_normal(s) for s in [(1, 3, 2, 2), (2, 1, 2, 3), (3,)])
    same(conv2d(x, w, b, 2, (3, 4)), conv_by_loops(x, w, b, (2, 2), (3, 4), 1, False))


@both_forms
def test_without_channels_the_output_is_the_bias():
    y = conv2d(np.ones((2, 4, 4, 0)), np.ones((2, 2, 0, 5)), np.arange(5.0))
    np.testing.assert_array_equal(y.data, np.broadcast_to(np.arange(5.0), (2, 3, 3, 5)))


@both_forms
def test_by_scipy(rng):
    x, w = rng.standard_normal((2, 9, 8, 3)), rng.standard_normal((4, 3, 3, 5))
    y = [
        [scipy.signal.correlate(image, w[..., o], mode="valid")[:, :, 0] for o in range(5)]
        for image in x
    ]
    same(conv2d(x, w), np.moveaxis(y, 1, -1))


@both_forms
def test_gradients_by_scipy(rng):
    """gx is the full convolution of gy with w, gw the correlation of x with gy."""
    x, w = (
        Tensor(rng.standard_normal(s), requires_grad=True) for s in [(1, 6, 7, 1), (3, 2, 1, 1)]
    )
    gy = rng.standard_normal((1, 4, 6, 1))
    conv2d(x, w).backward(gy)
    x_, w_, g = x.data[0, :, :, 0], w.data[:, :, 0, 0], gy[0, :, :, 0]
    same(x.grad[0, :, :, 0], scipy.signal.convolve(g, w_, mode="full"))
    same(w.grad[:, :, 0, 0], scipy.signal.correlate(x_, g, mode="valid"))


@both_forms
@settings(max_examples=100)
@given(
    geometries(padding=5), small, small, st.integers(1, 3), flags, layouts, layouts, flags, streams
)
def test_gradients_of_any_shape(geometry, CG, OG, groups, bias, x_layout, w_layout, turn, rng):
    image, kernel, stride, padding, ceil_mode = geometry
    x = x_layout(rng.normal((*image, CG * groups)))
    w = w_layout(rng.normal((*kernel, CG, OG * groups)))
    b = [rng.normal(OG * groups)] if bias else []
    options = {"stride": stride, "padding": padding, "groups": groups, "ceil_mode": ceil_mode}
    check(lambda *leaves: conv2d(*leaves, **options), x, w, *b, turn=turn)


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


# The two ways.


@both_forms
def test_columns_in_chunks_of_any_size_give_the_same(monkeypatch):
    arrays = [numbers(*s) for s in [(5, 6, 6, 4), (3, 3, 2, 6), (6,)]]

    def once():
        return run(lambda x, w, b: conv2d(x, w, b, padding=1, groups=2), arrays)

    monkeypatch.setenv("MINIGRAD_KERNELS", "none")  # a CPU's kernels do without columns
    expected = once()
    per_image = 6 * 6 * 3 * 3 * 2 * 8
    columns = importlib.import_module("minigrad.functions.conv2d_columns")
    for budget in (1, 2 * per_image):
        monkeypatch.setattr(columns, "COLUMN_BYTES", budget)
        for part, wanted in zip(once(), expected):
            same(part, wanted)


def test_a_gpu_has_more_columns_at_a_time(monkeypatch):
    """Eight bytes a number, a budget of two images' columns on a CPU and of three on a GPU."""
    columns = importlib.import_module("minigrad.functions.conv2d_columns")
    x = numbers(7, 6, 6, 4)
    win, per_image = windows("conv2d", x, 3, 1, 1, False), 6 * 6 * 3 * 3 * 2 * 8
    monkeypatch.setattr(columns, "COLUMN_BYTES", 2 * per_image)
    monkeypatch.setattr(columns, "GPU_COLUMN_BYTES", 3 * per_image)
    for array, firsts in ((x, [0, 2, 4, 6]), (SimpleNamespace(itemsize=8), [0, 3, 6])):
        found = list(columns.pieces(array, 6, win, 2))
        assert [images.start for images, _, _, _ in found[::2]] == firsts
        assert found[1] == (found[0][0], found[0][1], slice(2, 4), slice(3, 6))


OVERLAPPING = [
    Case(
        f"conv2d: overlapping, stride {stride}", conv2d, (2, 9, 8, 4), (4, 5, 2, 6), (6,),
        stride=stride, padding=(2, 1), groups=2,
    )
    for stride in [(1, 2), (3, 1), (2, 3)]
]  # fmt: skip


@built
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [*CASES, *OVERLAPPING], ids=str)
def test_columns_by_kernels(case, dtype, monkeypatch):
    """im2col and col2im, which a CPU would do without: the way of a GPU."""
    monkeypatch.setattr(conv2d_direct, "ready", lambda x: False)
    checks.kernel_like_array_form(case, dtype)


SIZES = [
    (1, 1), (1, 32), (6000, 3), (20000, 2), (30000, 32), (1 << 20, 2), (1 << 20, 3), (1 << 20, 32),
]  # fmt: skip
NAMES = ["conv2d: as conv1", "conv2d: as conv2", "conv2d: uneven", "conv2d: several panels"]


@built
@pytest.mark.parametrize(("cache", "parts"), SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_direct_convolution_in_bands_chunks_and_parts(name, cache, parts, monkeypatch):
    """Single rows, several rows, several images at a time; one part of the gradient to one an
    image."""
    monkeypatch.setattr(conv2d_direct, "CACHE", cache)
    monkeypatch.setattr(conv2d_direct, "PARTS", parts)
    x, *others = CASE[name].draw()
    seven = numbers(7, *x.shape[1:])
    for a, b in zip(*both_ways(CASE[name], seven, *others), strict=True):
        same(a, b, rtol=1e-12, atol=1e-12)


def launches(monkeypatch) -> list[tuple]:
    """(kernel, blocks, arguments) of every launch from here on."""
    kept, launch = [], kernels.launch

    def keeping(name, blocks, *args, shared=0):
        kept.append((name, blocks, args))
        launch(name, blocks, *args, shared=shared)

    monkeypatch.setattr(kernels, "launch", keeping)
    return kept


@built
def test_a_cpu_convolves_without_columns(monkeypatch):
    kept = launches(monkeypatch)
    run(CASE["conv2d: 3x3"], CASE["conv2d: 3x3"].draw())
    assert [name for name, _, _ in kept] == [
        "pack_filters", "direct_forward", "pack_filters", "direct_forward",
        "direct_filter_gradient", "unpack_filters",
    ]  # fmt: skip


@built
def test_one_image_keeps_sixteen_threads_busy(monkeypatch):
    """Its rows are shared out, and the panels of its filters."""
    kept = launches(monkeypatch)
    run(conv2d, [numbers(1, 32, 8, 2), numbers(1, 1, 2, 20 * 32)])
    blocks = [count for name, count, _ in kept if name.startswith("direct")]
    assert blocks == [16, 16, 16]  # two rows each, and the filters' 20 panels in 16 shares


@built
def test_the_parts_of_a_gradient_follow_from_the_shapes_alone(monkeypatch):
    """So that its bits do not depend on the threads, and it does not take any memory."""
    kept = launches(monkeypatch)
    arrays = [numbers(9, 6, 5, 3, dtype="float32"), numbers(3, 3, 3, 4, dtype="float32")]
    found = {}
    for threads in (1, 2, 5):
        monkeypatch.setattr(kernels, "threads", lambda threads=threads: threads)
        found[threads] = [part.tobytes() for part in run(conv2d, arrays)]
    assert found[1] == found[2] == found[5]

    def parts():
        kept.clear()
        run(conv2d, arrays)
        return next(args[2] for name, _, args in kept if name == "direct_filter_gradient")

    assert parts().shape == (9, (1 + 3 * 3 * 3) * 32)
    monkeypatch.setattr(conv2d_direct, "PARTS_BYTES", 3 * parts()[0].nbytes)
    assert len(parts()) == 3


@built
def test_direct_convolution_counts_pixels_in_64_bits(beyond):
    """Two rows with 2^31 numbers between them; no other memory is touched. An index that is
    negative in 32 bits would find zeros, in the picture before."""
    x = beyond((2, (1 << 27) + 1, 16, 1), "float32")[1:]
    x[0, -1] = 1 + np.arange(16.0).reshape(16, 1)
    w = Tensor(np.full((1, 1, 1, 1), 2, np.float32), requires_grad=True)
    y = conv2d(x, w, stride=(1 << 27, 1))
    np.testing.assert_array_equal(y.data.reshape(2, 16), np.outer([0, 2], 1 + np.arange(16)))
    y.backward(np.ones_like(y.data))
    assert w.grad.item() == 16 * 17 / 2


@built
def test_direct_convolution_of_a_long_row():
    """The square of the row's length passes 2^31."""
    x, w = numbers(1, 1, 200_000, 1), numbers(1, 3, 1, 1, seed=1)
    expected = sum(x.ravel()[k : k + 199_998] * w.ravel()[k] for k in range(3))
    np.testing.assert_allclose(conv2d(x, w).data.ravel(), expected, rtol=1e-12, atol=1e-12)


@built
@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_filters_are_unpacked_to_themselves(dtype):
    taps, CG, OG, groups = 4, 3, 35, 2
    w, b = numbers(taps, CG, groups * OG, dtype=dtype), numbers(groups * OG, dtype=dtype, seed=1)
    filters = poisoned(w, shape=(groups, 2, 1 + taps * CG, 32))
    blocks, sizes = groups * 2 * taps, (taps, CG, OG, groups)
    kernels.launch("pack_filters", blocks, w, b, filters, *sizes, 0)
    assert filters[1, 1, 0, :3].tolist() == b[67:].tolist()
    assert filters[1, 1, 1 + 2 * CG + 1, 2] == w[2, 1, 69]
    assert not filters[:, 1, :, 3:].any()
    gw, gb = poisoned(w), poisoned(b)
    both = np.stack([filters, 2 * filters])
    kernels.launch("unpack_filters", blocks, both, gw, gb, 2, *sizes)
    np.testing.assert_array_equal(gw, w + 2 * w)
    np.testing.assert_array_equal(gb, b + 2 * b)


@built
def test_a_gradient_that_sums_many_products_keeps_its_precision():
    rng = np.random.default_rng(0)
    x = rng.random((1, 512, 512, 1), np.float32)
    w = Tensor(np.zeros((1, 1, 1, 1), np.float32), requires_grad=True)
    y = conv2d(x, w)
    gy = rng.random(y.shape, np.float32)
    y.backward(gy)
    np.testing.assert_allclose(w.grad.item(), np.vdot(x.astype(float), gy.astype(float)), rtol=3e-6)


@built
@pytest.mark.parametrize("needs", [(False, True), (True, False)])
def test_a_frozen_weight_or_bias(needs):
    x, w, b, gy = numbers(2, 5, 5, 3), numbers(3, 3, 3, 4), numbers(4), numbers(2, 3, 3, 4, seed=9)

    def gradients(*needs):
        leaves = [Tensor(a, requires_grad=need) for a, need in zip((w, b), needs)]
        conv2d(x, *leaves).backward(gy)
        return [leaf.grad for leaf in leaves]

    for part, expected, need in zip(gradients(*needs), gradients(True, True), needs):
        if need:
            np.testing.assert_allclose(part, expected, rtol=1e-12)
        else:
            assert part is None


@built
@pytest.mark.parametrize("way", ["conv2d_direct", "conv2d_columns"])
def test_no_gradient_is_computed_that_nobody_needs(way, monkeypatch):
    """Neither of the pictures nor of a frozen weight."""
    module = importlib.import_module(f"minigrad.functions.{way}")
    monkeypatch.setattr(conv2d_direct, "ready", lambda x: way == "conv2d_direct")
    asked = []
    for name in ("input_gradient", "filter_gradient"):
        right = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, name=name, right=right: asked.append(name) or right(*a)
        )
    arrays = numbers(2, 5, 5, 3), numbers(3, 3, 3, 4), numbers(4)
    for needs, expected in (
        ((False, True, True), ["filter_gradient"]),
        ((False, False, True), []),
        ((True, False, True), ["input_gradient"]),
        ((True, True, False), ["input_gradient", "filter_gradient"]),
    ):
        leaves = [Tensor(a, requires_grad=need) for a, need in zip(arrays, needs)]
        conv2d(*leaves).backward(numbers(2, 3, 3, 4, seed=9))
        assert asked == expected
        assert [leaf.grad is not None for leaf in leaves] == list(needs)
        asked.clear()


# NaN and infinity.


@both_forms
def test_nan_stays_in_the_windows_that_see_it(rng):
    """None leaks through chunks, padding or unused taps."""
    x, w = rng.standard_normal((3, 6, 6, 2)), rng.standard_normal((3, 3, 2, 4))
    x[1, 5, 2, 1] = np.nan
    expected = np.isnan(conv_by_loops(x, w, np.zeros(4), (2, 2), (1, 1), 1, False))
    np.testing.assert_array_equal(np.isnan(conv2d(x, w, stride=2, padding=1).data), expected)


@built
@pytest.mark.parametrize("name", ["conv2d: 3x3", "conv2d: relu"])
def test_nan_and_infinity_in_kernel_and_array_form(name):
    checks.not_finite(CASE[name])


@built
@pytest.mark.parametrize("planted", ["b", "gy"])
def test_nan_and_infinity_elsewhere(planted, monkeypatch):
    shapes = {"x": (2, 5, 7, 3), "w": (3, 3, 3, 4), "b": (4,), "gy": (2, 3, 4, 4)}
    arrays = {name: numbers(*shape) for name, shape in shapes.items()}
    arrays[planted].reshape(-1)[[0, 1, -1]] = np.nan, np.inf, -np.inf
    results = []
    for mode in ("cpu", "none"):
        monkeypatch.setenv("MINIGRAD_KERNELS", mode)
        leaves = [Tensor(arrays[name], requires_grad=True) for name in ("x", "w", "b")]
        y = conv2d(*leaves, stride=2, padding=1)
        with np.errstate(all="ignore"):
            y.backward(arrays["gy"])
        results.append([y.data, *[leaf.grad for leaf in leaves]])
    assert any(np.isnan(a).any() for a in results[0])
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def each_above(limit: int) -> list[tuple]:
    """(x, kernel, stride, padding), of which one size is above the limit."""
    found = []
    for n in range(8):
        sizes = [limit + 1 if i == n else 1 for i in range(8)]
        x = np.broadcast_to(np.zeros(()), (1, *sizes[:2], 1))
        found.append((x, *(tuple(sizes[i : i + 2]) for i in (2, 4, 6))))
    return found


def test_sizes_of_every_kind():
    """Pairs and lists, NumPy's whole numbers, and the largest there may be."""
    x, w = numbers(1, 6, 7, 2), numbers(3, 3, 2, 4)
    expected = conv2d(x, w, stride=(2, 1), padding=(1, 0)).data
    for stride, padding in (
        ([2, 1], [1, 0]), ((np.int64(2), np.int32(1)), (np.uint8(1), 0)),
    ):  # fmt: skip
        np.testing.assert_array_equal(conv2d(x, w, stride=stride, padding=padding).data, expected)
    assert conv2d(x, w, stride=1 << 28).shape == (1, 1, 1, 4)


IMAGES, ROWS, W = np.ones((2, 5, 6, 4)), np.ones((2, 3)), np.ones((3, 3, 4, 8))
test_wrong_calls = checks.wrong_calls(
    (
        lambda: conv2d(ROWS, W),
        "x must be (N, H, W, C) and w (KH, KW, C / groups, O), but they have shapes (2, 3) and "
        "(3, 3, 4, 8)",
    ),
    (
        lambda: conv2d(IMAGES.transpose(0, 3, 1, 2), W),
        "conv2d: x of shape (2, 4, 5, 6) looks channels first",
    ),
    (
        lambda: conv2d(IMAGES, W[:, :, :3]),
        "conv2d: x has 4 channels, but w of shape (3, 3, 3, 8) with groups=1 expects 3",
    ),
    (
        lambda: conv2d(IMAGES, W[:, :, :1, :6], groups=4),
        "conv2d: groups=4 must divide the 6 output channels of w, shape (3, 3, 1, 6)",
    ),
    (lambda: conv2d(IMAGES, W, np.ones(4)), "conv2d: b must have shape (8,), not (4,)"),
    (lambda: conv2d(IMAGES, W, groups=0), "conv2d: groups must be a whole number >= 1, not 0"),
    (lambda: conv2d(IMAGES, W, stride=0), "conv2d: stride must be a whole number >= 1, not 0"),
    (
        lambda: conv2d(IMAGES, W, padding=(1, -1)),
        "conv2d: padding must be a whole number >= 0, not -1",
    ),
    (lambda: conv2d(IMAGES, W, stride=True), "stride must be a whole number >= 1, not True"),
    (lambda: conv2d(IMAGES, W, stride=1.5), "conv2d: stride must be a whole number >= 1, not 1.5"),
    (
        lambda: conv2d(IMAGES, W, stride=(1, 2, 3)),
        "conv2d: stride must be a whole number >= 1, or a pair of them, not (1, 2, 3)",
    ),
    (
        lambda: conv2d(IMAGES[:, :2], W),
        "conv2d: a 3x3 window does not fit into 2x6 images with padding 0, 0",
    ),
    (
        lambda: conv2d(IMAGES[:, :, :2], W),
        "conv2d: a 3x3 window does not fit into 5x2 images with padding 0, 0",
    ),
    (lambda: conv2d(IMAGES[:, :0], W, padding=2), "conv2d: 0x6 images have no pixels"),
    (lambda: conv2d(IMAGES[:, :, :0], W, padding=2), "conv2d: 5x0 images have no pixels"),
    *[
        (lambda sizes=sizes: windows("conv2d", *sizes, False), "none may be above 268435456")
        for sizes in each_above(1 << 28)
    ],
)


def one_group_only(right):
    def backward(self, gy):
        gx, gw, gb = right(self, gy)
        gw = gw.copy()
        gw[..., gw.shape[3] // self.groups :] = 0
        return gx, gw, gb

    return backward


def paddings_swapped(win):
    return replace(win, PH=win.PW, PW=win.PH)


SIMPLE = "conv2d: 3x3"
UNEVEN = "conv2d: other strides along the axes"
test_planted_faults = checks.planted_faults(
    CASES,
    (SIMPLE, Conv2d, change(2, nothing), "bias forgotten"),
    (SIMPLE, Conv2d, change(1, lambda g: g[::-1, ::-1].copy()), "filter flipped"),
    (SIMPLE, Conv2d, change(0, lambda g: np.roll(g, 1, axis=2)), "scattered one pixel off"),
    ("conv2d: as conv2", Conv2d, one_group_only, "a group forgotten"),
    (UNEVEN, Conv2d, with_attribute("win", paddings_swapped), "paddings swapped"),
)
