"""What all tests share: a fixed hypothesis profile, a seeded generator, the switch between kernels
and arrays."""

import ctypes
import functools
import math
import mmap
import os
import sys
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from minigrad import backend, data, kernels
from minigrad.data import synthetic

settings.register_profile("fixed", derandomize=True, deadline=None, database=None, max_examples=25)
settings.load_profile("fixed")


def pytest_addoption(parser) -> None:
    parser.addoption(
        "--host-library",
        metavar="DIR",
        help="run the CPU kernels of DIR/float.so and DIR/double.so instead of the installed ones",
    )
    parser.addoption(
        "--stand-in-gpu", action="store_true", help="tests/stand_in_cupy.py takes CuPy's place"
    )


def pytest_configure(config) -> None:
    if config.getoption("--stand-in-gpu"):
        import stand_in_cupy

        backend.cupy = lambda: stand_in_cupy
    folder = config.getoption("--host-library")
    if folder:
        kernels.host_library = functools.cache(
            lambda real: ctypes.CDLL(str(Path(folder) / f"{real}.so"))
        )


def pytest_report_header() -> str:
    return f"minigrad kernels: {kernels.state()}"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module", params=["kernels", "arrays"])
def forms(request) -> Iterator[str]:
    """Runs a test twice: through the compiled kernels and through the array forms."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "arrays":
            patch.setenv("MINIGRAD_KERNELS", "none")
        else:
            patch.delenv("MINIGRAD_KERNELS", raising=False)
            if not kernels.ready(np.zeros(1)) or not kernels.ready(np.zeros(1, np.float32)):
                pytest.skip("the CPU kernels were not built (no C++ compiler at installation)")
        yield request.param


@pytest.fixture
def beyond():
    """Makes an array of zeros of any size: only the pages that are touched take memory."""

    def make(shape, dtype) -> np.ndarray:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        not_reserved = 0x4000  # Linux: MAP_NORESERVE, which Python 3.11 does not name
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | not_reserved)
        return np.frombuffer(memory, dtype).reshape(shape)

    if sys.platform != "linux":
        pytest.skip("such memory is asked for as Linux has it")
    return make


AS_CALLED = os.environ.get("MINIGRAD_KERNELS")


@pytest.fixture(autouse=True)
def form_of_a_test(request, monkeypatch) -> None:
    """A test that does not ask for `forms` runs as pytest was called, also between two that do."""
    if "forms" not in request.fixturenames:
        if AS_CALLED is None:
            monkeypatch.delenv("MINIGRAD_KERNELS", raising=False)
        else:
            monkeypatch.setenv("MINIGRAD_KERNELS", AS_CALLED)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Training and validation pictures of a small synthetic set."""
    root = tmp_path_factory.mktemp("synthetic")
    synthetic.draw_set(root, train=3, val=2)
    return [data.Pictures(data.open_folder(root / part)) for part in ("train", "val")]


@pytest.fixture(scope="session")
def lenet_run(tmp_path_factory):
    """(run folder, parameters) of Caffe's LeNet with random weights, imported from a file."""
    import weight_files

    import alexnet
    from minigrad import weights
    from minigrad.network import Network

    preset = alexnet.MODELS["caffe_lenet"]
    own = {name: p.data for name, p in Network(preset, 10, 1).named_parameters()}
    layers: dict[str, list[np.ndarray]] = {}
    for name, array in weights.unfit(own, preset, 10).items():
        layers.setdefault(name.rpartition(".")[0], []).append(array)
    place = tmp_path_factory.mktemp("lenet")
    (place / "net.caffemodel").write_bytes(weight_files.caffemodel(layers))
    command = ["import", str(place / "net.caffemodel"), "--preset", "caffe_lenet"]
    assert alexnet.main([*command, "-o", str(place / "run")]) == 0
    return place / "run", own


@pytest.fixture(scope="session")
def two_shades(tmp_path_factory) -> Path:
    """An archive of 200 + 60 pictures of 32 x 32 in two classes that differ in brightness."""
    path = tmp_path_factory.mktemp("pictures") / "set.zip"
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for part, count in (("train", 100), ("test", 30)):
            for label in range(2):
                for i in range(count):
                    array = np.clip(rng.normal(100 + 20 * label, 40, (32, 32, 3)), 0, 255)
                    file = BytesIO()
                    Image.fromarray(array.astype(np.uint8)).save(file, "PNG")
                    archive.writestr(f"{part}/{label}/{i}.png", file.getvalue())
    return path
