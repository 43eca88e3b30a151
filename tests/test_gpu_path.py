"""What happens on a GPU, without one: tests/test_gpu.py on a stand-in for CuPy, and the stand-in
itself."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import stand_in_cupy

from minigrad import backend, kernels
from minigrad import functions as F
from minigrad.engine import Tensor

pytestmark = pytest.mark.skipif(
    not (kernels.host_library("float") and kernels.host_library("double")),
    reason="the stand-in runs the CPU's kernels, which are not built",
)


def run_gpu_tests(*options, **environment):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--stand-in-gpu",
        *options,
        Path(__file__).with_name("test_gpu.py"),
    ]
    result = subprocess.run(
        list(map(str, command)), env=os.environ | environment, capture_output=True, text=True
    )
    return result.returncode, result.stdout[-4000:] + result.stderr[-4000:]


@pytest.mark.parametrize("mode", ["gpu", "none"])
def test_the_gpu_tests_on_a_stand_in(mode):
    """By the kernels, and by the array forms on CuPy's arrays."""
    code, said = run_gpu_tests("-k", "not 2_to_the_31", MINIGRAD_KERNELS=mode)
    assert code == 0, said
    assert int(re.search(r"(\d+) passed", said)[1]) > 150
    assert "skipped" not in said


@pytest.mark.slow  # 10 GB
def test_more_than_2_to_the_31_column_elements_on_a_stand_in():
    code, said = run_gpu_tests("-k", "2_to_the_31")
    assert code == 0, said
    assert "1 passed" in said


@pytest.fixture
def on_stand_in(monkeypatch):
    monkeypatch.setattr(backend, "cupy", lambda: stand_in_cupy)
    return lambda a: backend.to_device(np.asarray(a), "gpu")


@pytest.mark.parametrize(
    ("name", "parts"), [("cpu", ("cpu", None)), ("gpu", ("gpu", None)), ("gpu:12", ("gpu", 12))]
)
def test_the_name_of_a_device(name, parts):
    assert backend.parse_device(name) == parts


@pytest.mark.parametrize("name", ["cpu:0", "cpu:", "gpu:", "gpu:x", "gpu:-1", "cuda:0", ""])
def test_what_is_no_name_of_a_device(name):
    with pytest.raises(ValueError, match="unknown device"):
        backend.parse_device(name)


def test_devices_by_number(on_stand_in):
    """Arrays and kernels go to the GPU that is named, and the current one stays what it was."""
    x = backend.to_device(np.arange(3.0), "gpu:1")
    assert (backend.device_of(x), stand_in_cupy.current()) == ("gpu:1", 0)
    with backend.on_device("gpu:1"):
        assert stand_in_cupy.current() == 1
        assert backend.to_device(x, "gpu") is x
    with backend.on_device("gpu"):
        assert stand_in_cupy.current() == 0
    assert backend.to_device(x, "gpu:1") is x
    y = backend.to_device(x, "gpu:0")
    assert (backend.device_of(y), y.get().tolist()) == ("gpu:0", [0, 1, 2])
    assert backend.to_device(x, "cpu").tolist() == [0, 1, 2]
    assert [backend.gpu_bus(d) for d in ("gpu", "gpu:1")] == ["0000:00:00.0", "0000:01:00.0"]
    assert backend.gpu_name(1) == "a stand-in for a GPU"
    backend.require("gpu:1")
    with pytest.raises(backend.DeviceError, match=r"'gpu:2' does not exist: CuPy finds 2 GPU"):
        backend.require("gpu:2")
    try:
        backend.use("gpu:1")
        assert stand_in_cupy.current() == 1
        backend.use("gpu")
        assert stand_in_cupy.current() == 1
    finally:
        backend.use("gpu:0")


def test_synchronize_waits_on_the_device_that_is_named(on_stand_in, monkeypatch):
    waited = []

    class Stream:
        def synchronize(self):
            waited.append(stand_in_cupy.current())

    monkeypatch.setattr(stand_in_cupy.cuda, "get_current_stream", Stream)
    for device in ("cpu", "gpu", "gpu:1"):
        backend.synchronize(device)
    assert waited == [0, 1]


def test_nccl_counts_only_where_it_is_available(monkeypatch):
    module = SimpleNamespace(available=True)
    monkeypatch.setattr(backend.importlib, "import_module", lambda _: module)
    assert backend.nccl() is module
    module.available = False
    assert backend.nccl() is None


def test_the_stand_in_refuses_what_cupy_refuses(on_stand_in):
    x, host = on_stand_in(np.arange(6.0).reshape(2, 3)), np.ones(3)
    refused = [
        lambda: np.ascontiguousarray(x.T),
        lambda: np.asarray(x),
        lambda: x + host,
        lambda: np.add(x, 1, out=host),
        lambda: np.where(host, x, x),
        lambda: x.__setitem__((0, slice(1, 3)), host[:2]),
        lambda: x.tofile,
        lambda: np.add.at(x, 0, 1),
        lambda: x.sum(out=host),
    ]
    for action in refused:
        with pytest.raises((TypeError, AttributeError)):
            action()
    assert isinstance(x.sum(), stand_in_cupy.Array)
    assert x.sum().shape == ()
    assert x[0].base is x
    assert np.isnan(np.empty_like(x)._host).all()


def test_a_launch_on_the_stand_in_checks_its_numbers(on_stand_in):
    x, y = on_stand_in(np.ones(5)), on_stand_in(np.zeros(5))
    kernel = stand_in_cupy.RawModule(
        code=kernels.gpu_source("relu.cu"), options=kernels.gpu_options("double")
    ).get_function("relu_forward")
    kernel((1,), (128,), (x, y, np.int64(5), np.int32(16)))
    assert y.get().tolist() == [1] * 5
    for args in [
        (x, y, 5, np.int32(16)),
        (x, y, np.int64(5), np.int64(16)),
        (x, np.zeros(5), np.int64(5), np.int32(16)),
    ]:
        with pytest.raises(AssertionError):
            kernel((1,), (128,), args)
    with pytest.raises(ValueError, match="shorter"):
        kernel((1,), (128,), (x, y, np.int64(5)))


def test_a_launch_without_blocks_does_nothing(on_stand_in):
    """A GPU refuses one."""
    x = on_stand_in(np.zeros((0, 3)))
    kernels.launch("relu_forward", 0, x, x.copy(), 0, kernels.SPAN)


def test_each_gpu_compiles_its_own(on_stand_in, monkeypatch):
    compiled, module, current = [], stand_in_cupy.RawModule, stand_in_cupy.current
    monkeypatch.setattr(
        stand_in_cupy,
        "RawModule",
        lambda **a: compiled.append(current()) or module(**a),
    )
    kernels.gpu_function.cache_clear()
    for device in ("gpu:1", "gpu:0", "gpu:1", "gpu:0"):
        x = Tensor(backend.to_device(np.array([-1.0, 2.0]), device))
        assert F.relu(x).numpy().tolist() == [0, 2]
    assert compiled == [1, 0]
    backend.use("gpu:0")


def test_a_kernel_is_given_the_shared_memory_that_it_needs(on_stand_in):
    """More than 48 KB must be asked for, which the stand-in insists on."""
    x = np.random.default_rng(0).standard_normal((1, 7000))
    y = F.lrn(Tensor(on_stand_in(x)), alpha=1.0)
    np.testing.assert_allclose(y.numpy(), F.lrn(x, alpha=1.0).data, rtol=1e-12)


def test_a_function_that_would_convert_an_array_is_found(on_stand_in, monkeypatch):
    """NumPy's ascontiguousarray does not leave the work to CuPy, and fails where a gradient was
    broadcast."""
    x, t = Tensor(on_stand_in(np.ones((4, 3))), requires_grad=True), on_stand_in(np.arange(4) % 3)
    F.softmax_cross_entropy(x, t).backward()
    monkeypatch.setattr(kernels, "contiguous", np.ascontiguousarray)
    with pytest.raises(TypeError, match="Implicit conversion"):
        F.softmax_cross_entropy(x, t)
