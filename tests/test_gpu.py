"""The kernels on a GPU: `pytest -m gpu`. The bodies and cases are tests/test_kernels.py's; the CPU is the oracle."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from test_kernels import CASES, DTYPES, numbers

import alexnet
from minigrad import backend, random
from minigrad import functions as F
from minigrad.engine import Tensor, no_grad

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(backend.gpu_count() == 0, reason="no GPU that CuPy can use: the kernels run on the CPU only here"),
]
TOLERANCE = {"float32": 2e-4, "float64": 1e-11}


def on(device, f, *arrays):
    """(output, gradients) of f on a device, as NumPy arrays."""
    leaves = [Tensor(backend.to_device(a.copy(), device), requires_grad=True) for a in arrays]
    with random.rewound():
        y = f(*leaves)
        y.backward(backend.to_device(numbers(*y.shape, dtype=y.dtype, seed=9), device) if y.shape else None)
    return [y.numpy()] + [backend.to_numpy(x.grad) for x in leaves]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [n for n in CASES if "cross_entropy" not in n])
def test_gpu_against_cpu(name, dtype):
    f, *shapes = CASES[name]
    arrays = [numbers(*s, dtype=dtype, seed=i) for i, s in enumerate(shapes)]
    for a, b in zip(on("gpu", f, *arrays), on("cpu", f, *arrays), strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(reduction):
    x, t = numbers(7, 5), np.arange(7) % 5
    results = [on(d, lambda x, d=d: F.softmax_cross_entropy(x, backend.to_device(t, d), reduction), x) for d in ("gpu", "cpu")]
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def test_dropout_masks_are_identical():
    f, shape = CASES["dropout longer than a block"]
    np.testing.assert_array_equal(on("gpu", f, np.ones(shape))[0], on("cpu", f, np.ones(shape))[0])


def test_more_than_2_to_the_31_column_elements(monkeypatch):
    """im2col addresses its columns in 64 bits; the last image's result shows whether it does. Takes 10 GB."""
    monkeypatch.setattr(sys.modules["minigrad.functions.conv2d"], "GPU_COLUMN_BYTES", 1 << 40)  # all images in one launch
    x = np.zeros((70, 224, 224, 3), np.float32)
    x[-1] = numbers(224, 224, 3, dtype="float32")
    w = numbers(16, 16, 3, 2, dtype="float32", seed=1)
    with no_grad():
        y = F.conv2d(backend.to_device(x, "gpu"), backend.to_device(w, "gpu")).numpy()
        expected = F.conv2d(x[-1:], w).numpy()
    np.testing.assert_allclose(y[-1:], expected, rtol=1e-3, atol=1e-2)


def test_steps_of_alexnet_follow_the_cpu():
    preset = replace(alexnet.shrunken("paper"), lrn_alpha=1e-4)
    losses = []
    for device in ("gpu", "cpu"):
        model = alexnet.AlexNet(preset, 5, 0)
        model.to(device)
        optimizer = model.make_optimizer()
        x = Tensor(backend.to_device(numbers(8, 67, 67, 3, dtype="float32"), device))
        t = backend.to_device(np.arange(8) % 5, device)
        path = []
        for _ in range(5):
            loss = F.softmax_cross_entropy(model(x), t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            path.append(loss.item())
        losses.append(path)
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_memory_is_returned():
    pool = backend.cupy().get_default_memory_pool()
    f, *shapes = CASES["conv2d as conv1"]
    arrays = [numbers(*s, seed=i) for i, s in enumerate(shapes)]
    on("gpu", f, *arrays)
    before = pool.used_bytes()
    on("gpu", f, *arrays)
    assert pool.used_bytes() == before
