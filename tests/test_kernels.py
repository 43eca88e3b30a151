"""Every kernel against its array form, wrong launches, and what the loader finds. On the CPU; the
same bodies run on a GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minigrad import backend, kernel_build, kernels, optim, random
from minigrad import functions as F
from minigrad.data.preparation import prepare_images
from minigrad.engine import Tensor
from minigrad.functions import conv2d_direct

ROOT = Path(__file__).resolve().parents[1]
built = pytest.mark.skipif(
    kernels.mode() == "none"
    or not (kernels.host_library("float") and kernels.host_library("double")),
    reason="the CPU kernels are not built, or switched off",
)
DTYPES = ["float32", "float64"]
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


def numbers(*shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def both_ways(monkeypatch, f, *arrays, poison=True):
    """(output, gradients) of f by the kernels, and by the array forms. Fresh memory is poisoned: a
    kernel must write all it returns."""
    results = []
    for mode in ("cpu", "none"):
        monkeypatch.setenv("MINIGRAD_KERNELS", mode)
        if poison and mode == "cpu":
            monkeypatch.setattr(np, "empty_like", poisoned)
        leaves = [
            Tensor(a.copy(), requires_grad=True) if a.dtype.kind == "f" else a for a in arrays
        ]
        with random.rewound():
            y = f(*leaves)
            y.backward(numbers(*y.shape, dtype=y.dtype, seed=9) if y.shape else None)
        monkeypatch.undo()
        results.append([y.data] + [x.grad for x in leaves if isinstance(x, Tensor)])
    return results


_empty_like = np.empty_like


def poisoned(like, *args, **kwargs):
    out = _empty_like(like, *args, **kwargs)
    out.fill(np.nan if out.dtype.kind == "f" else 77)
    return out


CASES = {case.name: case for case in F.cases()}


@built
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_kernel_against_array_form(name, dtype, monkeypatch):
    ours, reference = both_ways(monkeypatch, CASES[name], *CASES[name].draw(dtype))
    for a, b in zip(ours, reference, strict=True):
        assert a.dtype == dtype
        size = max(1.0, float(np.abs(b).max()))
        np.testing.assert_allclose(a / size, b / size, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@built
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [n for n in CASES if "conv2d" in n])
def test_columns_by_kernels(name, dtype, monkeypatch):
    """im2col and col2im, which a CPU would do without: the way of a GPU."""
    monkeypatch.setattr(conv2d_direct, "ready", lambda x: False)
    test_kernel_against_array_form(name, dtype, pytest.MonkeyPatch())


@built
@pytest.mark.parametrize(
    ("cache", "parts"),
    [
        (1, 1),
        (1, 32),
        (6000, 3),
        (20000, 2),
        (30000, 32),
        (1 << 20, 2),
        (1 << 20, 3),
        (1 << 20, 32),
    ],
)
@pytest.mark.parametrize(
    "name", ["conv2d: as conv1", "conv2d: as conv2", "conv2d: uneven", "conv2d: several panels"]
)
def test_direct_convolution_in_bands_chunks_and_parts(name, cache, parts, monkeypatch):
    """Single rows, several rows, several images at a time; one part of the gradient to one an
    image."""
    monkeypatch.setattr(conv2d_direct, "CACHE", cache)
    monkeypatch.setattr(conv2d_direct, "PARTS", parts)
    x, *others = CASES[name].draw()
    seven = numbers(7, *x.shape[1:])
    for a, b in zip(*both_ways(pytest.MonkeyPatch(), CASES[name], seven, *others), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@built
def test_direct_convolution_of_a_long_row():
    """The square of the row's length passes 2^31."""
    x, w = numbers(1, 1, 200_000, 1), numbers(1, 3, 1, 1, seed=1)
    expected = sum(x.ravel()[k : k + 199_998] * w.ravel()[k] for k in range(3))
    np.testing.assert_allclose(F.conv2d(x, w).data.ravel(), expected, rtol=1e-12, atol=1e-12)


@built
def test_a_gradient_that_sums_many_products_keeps_its_precision():
    rng = np.random.default_rng(0)
    x, w = (
        rng.random((1, 512, 512, 1), np.float32),
        Tensor(np.zeros((1, 1, 1, 1), np.float32), requires_grad=True),
    )
    y = F.conv2d(x, w)
    gy = rng.random(y.shape, np.float32)
    y.backward(gy)
    np.testing.assert_allclose(w.grad.item(), np.vdot(x.astype(float), gy.astype(float)), rtol=3e-6)


@built
@pytest.mark.parametrize("needs", [(False, True), (True, False)])
def test_convolution_with_a_frozen_weight_or_bias(needs):
    x, w, b, gy = numbers(2, 5, 5, 3), numbers(3, 3, 3, 4), numbers(4), numbers(2, 3, 3, 4, seed=9)

    def gradients(*needs):
        leaves = [Tensor(a, requires_grad=need) for a, need in zip((w, b), needs)]
        F.conv2d(x, *leaves).backward(gy)
        return [leaf.grad for leaf in leaves]

    for part, whole, need in zip(gradients(*needs), gradients(True, True), needs):
        if need:
            np.testing.assert_allclose(part, whole, rtol=1e-12)
        else:
            assert part is None


@built
@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_filters_are_unpacked_to_themselves(dtype):
    taps, CG, OG, groups = 4, 3, 35, 2
    w, b = numbers(taps, CG, groups * OG, dtype=dtype), numbers(groups * OG, dtype=dtype, seed=1)
    filters = poisoned(w, shape=(groups, 2, 1 + taps * CG, 32))
    kernels.launch("pack_filters", groups * 2 * taps, w, b, filters, taps, CG, OG, groups, 0)
    assert filters[1, 1, 0, :3].tolist() == b[67:].tolist()
    assert filters[1, 1, 1 + 2 * CG + 1, 2] == w[2, 1, 69]
    assert not filters[:, 1, :, 3:].any()
    gw, gb = poisoned(w), poisoned(b)
    kernels.launch(
        "unpack_filters",
        groups * 2 * taps,
        np.stack([filters, 2 * filters]),
        gw,
        gb,
        2,
        taps,
        CG,
        OG,
        groups,
    )
    np.testing.assert_array_equal(gw, w + 2 * w)
    np.testing.assert_array_equal(gb, b + 2 * b)


@built
def test_dropout_masks_are_identical(monkeypatch):
    f = CASES["dropout: longer than a block"]
    ours, reference = both_ways(monkeypatch, f, np.ones(2 * kernels.SPAN + 3))
    np.testing.assert_array_equal(ours[0], reference[0])


@built
def test_dropout_of_nan_is_nan(monkeypatch):
    """Where the number is dropped, too: 0 times NaN."""
    for result in both_ways(monkeypatch, CASES["dropout"], np.full((3, 7, 11), np.nan)):
        assert np.isnan(result[0]).all()


@built
@pytest.mark.parametrize("draw", [1, (1 << 32) + 1, (5 << 32) + 1])
def test_dropout_counts_its_draws_in_64_bits(draw, monkeypatch):
    def f(x):
        stream = random.Stream(3, "draws")
        stream.counter = draw
        return F.dropout(x, 0.5, rng=stream)

    ours, reference = both_ways(monkeypatch, f, np.ones(1000))
    np.testing.assert_array_equal(ours[0], reference[0])


@built
@pytest.mark.parametrize(
    "name",
    [
        "relu",
        "conv2d: relu",
        "linear: relu",
        "max_pool2d: 3x3 stride 2",
        "avg_pool2d: 3x3 stride 2",
        "lrn: alpha=1",
        "conv2d: 3x3",
        "dropout",
        "softmax_cross_entropy",
    ],
)
def test_nan_and_infinity_as_in_the_array_form(name, monkeypatch):
    f, arrays = CASES[name], CASES[name].draw()
    arrays[0].reshape(-1)[[3, 10, 17]] = np.nan, np.inf, -np.inf
    with np.errstate(all="ignore"):
        ours, reference = both_ways(monkeypatch, f, *arrays)
    assert np.isnan(ours[0]).any()
    for a, b in zip(ours, reference):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@built
@pytest.mark.parametrize("planted", ["b", "gy"])
def test_nan_and_infinity_elsewhere_in_a_convolution(planted, monkeypatch):
    arrays = {
        "x": numbers(2, 5, 7, 3),
        "w": numbers(3, 3, 3, 4),
        "b": numbers(4),
        "gy": numbers(2, 3, 4, 4),
    }
    arrays[planted].reshape(-1)[[0, 1, -1]] = np.nan, np.inf, -np.inf
    results = []
    for mode in ("cpu", "none"):
        monkeypatch.setenv("MINIGRAD_KERNELS", mode)
        leaves = [Tensor(arrays[name], requires_grad=True) for name in ("x", "w", "b")]
        y = F.conv2d(*leaves, stride=2, padding=1)
        with np.errstate(all="ignore"):
            y.backward(arrays["gy"])
        results.append([y.data, *[leaf.grad for leaf in leaves]])
    assert any(np.isnan(a).any() for a in results[0])
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@built
@pytest.mark.parametrize("form", ["paper", "torch"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [0, 1, 1000, 2 * kernels.SPAN + 3])
def test_sgd_update(form, dtype, size, monkeypatch):
    results = []
    for mode in ("cpu", "none"):
        monkeypatch.setenv("MINIGRAD_KERNELS", mode)
        w, v, g = (numbers(size, dtype=dtype, seed=s) for s in range(3))
        optim.sgd_update(w, v, g, 0.1, 0.9, 0.01, form)
        results.append((w, v))
    for a, b in zip(*results):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


EMPTY = {
    "relu": (F.relu, (0, 3)),
    "lrn": (F.lrn, (0, 2, 2, 3)),
    "lrn without channels": (F.lrn, (2, 0)),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), (0, 4, 4, 3)),
    "max_pool2d without channels": (lambda x: F.max_pool2d(x, 2), (1, 4, 4, 0)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 2), (0, 4, 4, 3)),
    "dropout": (F.dropout, (0, 3)),
    "conv2d": (F.conv2d, (0, 4, 4, 3), (2, 2, 3, 5), (5,)),
    "conv2d without channels": (F.conv2d, (2, 4, 4, 0), (2, 2, 0, 5), (5,)),
    "conv2d without filters": (F.conv2d, (2, 4, 4, 3), (2, 2, 3, 0), (0,)),
    "linear": (F.linear, (0, 3), (3, 2), (2,)),
    "linear of nothing": (F.linear, (2, 0), (0, 3), (3,)),
    "linear to nothing": (F.linear, (2, 3), (3, 0), (0,)),
}


@pytest.mark.parametrize("mode", ["auto", "none", "columns"])
@pytest.mark.parametrize("name", EMPTY)
def test_empty_arrays(name, mode, monkeypatch):
    """Whatever has no elements has a result of the right shape, forward and backward, in every
    form."""
    if mode == "none":
        monkeypatch.setenv("MINIGRAD_KERNELS", "none")
    if mode == "columns":
        monkeypatch.setattr(conv2d_direct, "ready", lambda x: False)
    f, *shapes = EMPTY[name]
    leaves = [Tensor(numbers(*s, seed=i), requires_grad=True) for i, s in enumerate(shapes)]
    y = f(*leaves)
    y.backward(np.ones(y.shape))
    assert all(leaf.grad.shape == leaf.shape and np.isfinite(leaf.grad).all() for leaf in leaves)
    if name == "conv2d without channels":
        np.testing.assert_array_equal(y.numpy(), np.broadcast_to(leaves[2].data, (2, 3, 3, 5)))


def test_lrn_over_many_more_channels_than_there_are():
    x = np.arange(12.0).reshape(3, 4)
    np.testing.assert_allclose(F.lrn(x, n=10**9).data, F.lrn(x, n=9).data, rtol=1e-12)


def prepared(dtype, device="cpu", C=3):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 9, 9, C), np.uint8)
    crops = np.array([[0, 4, 1], [4, 0, 0], [2, 3, 1]], np.int32)
    out = np.full((3, 5, 5, C), np.nan, dtype)
    mean, shift = (
        rng.uniform(0, 255, (5, 5, C)).astype(dtype),
        rng.standard_normal((3, C)).astype(dtype),
    )
    pictures, crops, mean, shift, out = (
        backend.to_device(a, device) for a in (pictures, crops, mean, shift, out)
    )
    prepare_images(pictures, crops, mean, shift, 1 / 60, out)
    return out


@built
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_prepared_pictures(dtype, channels, monkeypatch):
    ours = prepared(dtype, C=channels)
    monkeypatch.setenv("MINIGRAD_KERNELS", "none")
    expected = prepared(dtype, C=channels)
    np.testing.assert_allclose(ours, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


SAME_BITS = """
import sys, hashlib, numpy as np
sys.path.insert(0, "tests")
import test_kernels as t
from minigrad import random
from minigrad.engine import Tensor
h = hashlib.sha256()
for f in t.CASES.values():
    x = [Tensor(a, requires_grad=True) if a.dtype.kind == "f" else a for a in f.draw("float32")]
    y = f(*x)
    y.backward(t.numbers(*y.shape, dtype="float32", seed=9) if y.shape else None)
    h.update(y.numpy().tobytes())
    for leaf in x:
        if isinstance(leaf, Tensor):
            h.update(leaf.grad.tobytes())
from minigrad.functions import conv2d_columns
from minigrad.functions.geometry import windows
x = t.numbers(4, 13, 13, 6, dtype="float32")
win = windows("conv2d", x, 5, 1, 2, False)
cols = conv2d_columns.columns(x, slice(3, 6), win, conv2d_columns.Room(x))
gx = np.zeros_like(x)
conv2d_columns.scatter(cols, gx, slice(3, 6), win)
h.update(cols.tobytes() + gx.tobytes() + t.prepared("float32").tobytes())
print(h.hexdigest())
"""


@built
def test_same_bits_at_any_thread_count():
    digests = set()
    for threads in ("1", "2", "3", "8"):
        environment = os.environ | {"MINIGRAD_THREADS": threads}
        out = subprocess.run(
            [sys.executable, "-c", SAME_BITS],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(out.stdout)
    assert len(digests) == 1


@built
@pytest.mark.parametrize(
    ("words", "args"),
    [
        (r"takes 4 arguments \(x, y, size, span\), not 3", (np.zeros(3), np.zeros(3), 3)),
        ("x: an array of float64 is wanted, not list", ([1.0], np.zeros(3), 3, 4)),
        (
            "y: an array of float64 is wanted, not float32",
            (np.zeros(3), np.zeros(3, np.float32), 3, 4),
        ),
        ("x: the array is not contiguous", (np.zeros((3, 3)).T, np.zeros(9), 9, 4)),
        (
            "size: a i64, from -9223372036854775808 to 9223372036854775807, is wanted, not 2.5",
            (np.zeros(3), np.zeros(3), 2.5, 4),
        ),
        ("span: a int, .*, is wanted, not array", (np.zeros(3), np.zeros(3), 3, np.zeros(3))),
        (
            "span: a int, from -2147483648 to 2147483647, is wanted, not 4294967296",
            (np.zeros(3), np.zeros(3), 3, 1 << 32),
        ),
        ("x: an array of float32 is wanted, not int", (8, 8, 3, 4)),
    ],
)
def test_a_wrong_launch_is_an_error_not_a_crash(words, args):
    with pytest.raises(TypeError, match=words):
        kernels.launch("relu_forward", 1, *args)


@built
@pytest.mark.parametrize(
    ("blocks", "shared"), [(-1, 0), (1 << 31, 0), (2**70, 0), (1, -1000), (1, 1 << 40)]
)
def test_a_launch_of_impossible_size(blocks, shared):
    with pytest.raises(
        TypeError,
        match=r"kernel relu_forward: from 0 to 2\^31 - 1 blocks and bytes of shared memory, not",
    ):
        kernels.launch("relu_forward", blocks, np.zeros(3), np.zeros(3), 3, 4, shared=shared)


@built
def test_a_number_for_the_kernel_is_no_complex_one():
    with pytest.raises(TypeError, match="kernel lrn_forward, k: a real is wanted, not 2j"):
        kernels.launch("lrn_forward", 1, np.zeros(3), np.zeros(3), 3, 2, 2, 2j, 1.0, 0.75, shared=7)


@built
def test_a_read_only_output_is_refused():
    y = np.zeros(3)
    y.flags.writeable = False
    with pytest.raises(TypeError, match="y: the array is read-only"):
        kernels.launch("relu_forward", 1, np.zeros(3), y, 3, 4)


def test_a_kernel_for_the_cpu_is_not_launched_on_a_gpu(monkeypatch):
    monkeypatch.setattr(kernels.backend, "device_of", lambda array: "gpu:0")
    with pytest.raises(
        TypeError, match="kernel pack_filters is for the CPU only; its arrays are on gpu:0"
    ):
        kernels.check("pack_filters", (*[np.zeros((1, 1, 1))] * 3, 1, 1, 1, 1, 0), "double")


def test_arrays_on_several_devices_are_refused(monkeypatch):
    y = np.zeros(3)
    monkeypatch.setattr(
        kernels.backend, "device_of", lambda array: "gpu:1" if array is y else "gpu:0"
    )
    with pytest.raises(TypeError, match="y: the array is on gpu:1, the others on gpu:0"):
        kernels.check("relu_forward", (np.zeros(3), y, 3, 4), "double")


def test_threads(monkeypatch):
    for variables, expected in (
        ({"MINIGRAD_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": "4,2"}, 4),  # of nested regions: the outermost
        ({"MINIGRAD_THREADS": "0", "OMP_NUM_THREADS": "many"}, None),
        ({}, None),
    ):
        for name in ("MINIGRAD_THREADS", "OMP_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        available = (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        )
        assert kernels.threads.__wrapped__() == (expected or available)


def test_unknown_kernel():
    with pytest.raises(KeyError, match="there is no kernel 'relu_sideways'"):
        kernels.plan("relu_sideways", "float")


def test_signatures_are_parsed_from_the_sources():
    file, parameters = kernels.signatures()["max_pool_forward"]
    assert file == "max_pool2d.cu"
    assert [(p.name, p.type, p.pointer, p.const) for p in parameters[:4]] == [
        ("x", "real", True, True),
        ("y", "real", True, False),
        ("winner", "u8", True, False),
        ("H", "int", False, False),
    ]


@built
def test_every_kernel_has_a_host_launcher_and_a_test(monkeypatch):
    """A symbol in kernels/ that the CPU library lacks, or that none of the cases above launches,
    fails here."""
    program = kernel_build.host_source(kernels.folder())
    listed = re.findall(r"^HOST_KERNEL\((\w+)\)", program, re.MULTILINE)
    assert sorted(listed) == sorted(kernels.signatures())
    launched, find = set(), kernels.host_function
    monkeypatch.setattr(
        kernels, "host_function", lambda name, real: launched.add(name) or find(name, real)
    )

    def run(case):
        leaves = [Tensor(a, requires_grad=a.dtype.kind == "f") for a in case.draw()]
        y = case(*leaves)
        y.backward(np.ones(y.shape))

    for case in CASES.values():
        run(case)
    optim.sgd_update(*numbers(3, 5), 0.1, 0.9, 0.01, "paper")
    prepared("float64")
    monkeypatch.setattr(conv2d_direct, "ready", lambda x: False)
    run(CASES["conv2d: 3x3"])
    assert launched == set(kernels.signatures())


def test_sources_are_found_in_a_checkout():
    assert (kernels.folder() / "prelude.cuh").is_file()


def test_a_numpy_scalar_has_no_kernel():
    """What NumPy's array forms return for an array without axes."""
    assert not kernels.ready(np.maximum(np.array(2.0), 0))


def test_modes(monkeypatch):
    x = np.zeros(3)
    monkeypatch.setenv("MINIGRAD_KERNELS", "none")
    assert not kernels.ready(x)
    assert "array forms only" in kernels.state()
    monkeypatch.setenv("MINIGRAD_KERNELS", "gpu")
    assert not kernels.ready(x), "on the CPU there is none then"
    on_a_gpu = SimpleNamespace(dtype=np.dtype("float32"))
    assert kernels.ready(on_a_gpu)
    monkeypatch.setenv("MINIGRAD_KERNELS", "cpu")
    assert not kernels.ready(on_a_gpu), "on a GPU there is none then"
    assert not kernels.ready(x.astype(np.float16)), "none for this dtype"
    monkeypatch.setenv("MINIGRAD_KERNELS", "fast")
    with pytest.raises(ValueError, match="use none, cpu or gpu"):
        kernels.ready(x)


def test_cpu_kernels_asked_for_but_not_built(monkeypatch):
    monkeypatch.setenv("MINIGRAD_KERNELS", "cpu")
    monkeypatch.setattr(kernels, "host_library", lambda real: None)
    monkeypatch.setattr(kernels, "loaded", lambda real: (None, "are not built"))
    with pytest.raises(
        kernels.KernelError, match="but they are not built: `python -m minigrad build`"
    ):
        kernels.ready(np.zeros(3))
