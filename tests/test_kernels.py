"""What all kernels share: launches, wrong ones too, threads, what the loader finds; and the kernels
that belong to no layer, SGD's and the preparation of pictures. A layer's own: tests/layers."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from checks import DTYPES, KERNEL, built, numbers, run

from minigrad import backend, kernel_build, kernels, optim
from minigrad import functions as F
from minigrad.data.preparation import prepare_images
from minigrad.engine import Tensor
from minigrad.functions import conv2d_direct
from minigrad.functions.bias import add_bias
from minigrad.functions.relu import relu_gradient
from minigrad.functions.softmax_cross_entropy import SoftmaxCrossEntropy

ROOT = Path(__file__).resolve().parents[1]
CASES = {case.name: case for case in F.cases()}


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
        np.testing.assert_allclose(a, b, rtol=KERNEL[dtype], atol=KERNEL[dtype])


def prepared(dtype, device="cpu", C=3):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 9, 9, C), np.uint8)
    crops = np.array([[0, 4, 1], [4, 0, 0], [2, 3, 1]], np.int32)
    out = np.full((3, 5, 5, C), np.nan, dtype)
    mean, shift = (
        rng.uniform(0, 255, (5, 5, C)).astype(dtype),
        rng.standard_normal((3, C)).astype(dtype),
    )
    scale = rng.uniform(0.01, 0.02, C).astype(dtype)
    pictures, crops, mean, shift, scale, out = (
        backend.to_device(a, device) for a in (pictures, crops, mean, shift, scale, out)
    )
    prepare_images(pictures, crops, mean, shift, scale, out)
    return out


@built
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_prepared_pictures(dtype, channels, monkeypatch):
    ours = prepared(dtype, C=channels)
    monkeypatch.setenv("MINIGRAD_KERNELS", "none")
    expected = prepared(dtype, C=channels)
    np.testing.assert_allclose(ours, expected, rtol=KERNEL[dtype], atol=KERNEL[dtype])


SAME_BITS = """
import sys, hashlib, numpy as np
sys.path[:0] = ["tests", "tests/layers"]
import checks, test_kernels as t
h = hashlib.sha256()
for f in t.CASES.values():
    for array in checks.run(f, f.draw("float32")):
        h.update(array.tobytes())
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


def test_the_limits_of_a_number_are_numbers_of_the_type():
    for span in (-(2**31), 2**31 - 1):
        assert kernels.check("relu_forward", (np.zeros(3), np.zeros(3), 3, span), "double") == "cpu"


@pytest.mark.parametrize("dtype", DTYPES)
def test_shared_memory_is_counted_in_numbers(dtype, monkeypatch):
    """Of the arrays' dtype; what reaches the launcher is bytes, blocks and threads."""
    given = []
    monkeypatch.setattr(kernels, "host_function", lambda *name: lambda *a: given.append((name, a)))
    monkeypatch.setattr(kernels, "threads", lambda: 3)
    x = np.zeros(15, dtype)
    kernels.launch("lrn_forward", 5, x, x.copy(), 3, 2, 2, 1.0, 1.0, 0.75, shared=7)
    (((kernel, real), (blocks, shared, _, threads)),) = given
    assert (kernel, real) == ("lrn_forward", {"float32": "float", "float64": "double"}[dtype])
    assert (blocks, shared, threads) == (5, 7 * x.itemsize, 3)


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

    for case in CASES.values():
        run(case, case.draw())
    optim.sgd_update(*numbers(3, 5), 0.1, 0.9, 0.01, "paper")
    prepared("float64")
    monkeypatch.setattr(conv2d_direct, "ready", lambda x: False)
    run(CASES["conv2d: 3x3"], CASES["conv2d: 3x3"].draw())
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


def test_the_state_names_what_is_wrong_with_either_library(monkeypatch):
    monkeypatch.delenv("MINIGRAD_KERNELS", raising=False)
    monkeypatch.setattr(backend, "gpu_count", lambda: 0)
    for faults, said in (
        ({}, "CPU compiled; no GPU"),
        ({"float": "are damaged"}, "CPU array forms, for the compiled ones are damaged: `python"),
        ({"double": "are not built"}, "CPU array forms, for the compiled ones are not built: `py"),
    ):
        monkeypatch.setattr(kernels, "loaded", lambda real, f=faults: (None, f.get(real, "")))
        assert kernels.state().startswith(said)
    monkeypatch.setattr(backend, "gpu_count", lambda: 1)
    assert kernels.state().endswith("; GPU through CuPy, compiled at first use")
    for mode, said in (("cpu", "the CPU's only"), ("gpu", "the GPU's only")):
        monkeypatch.setenv("MINIGRAD_KERNELS", mode)
        assert kernels.state() == f"{said} (MINIGRAD_KERNELS={mode})"


def test_a_library_that_does_not_fit_is_named_once_and_a_missing_one_never(monkeypatch, capsys):
    kernels.say_once.cache_clear()
    for fault, lines in (("are not built", 0), ("are damaged", 1)):
        monkeypatch.setattr(kernels, "loaded", lambda real, fault=fault: (None, fault))
        for real in ("float", "double"):
            assert kernels.host_library.__wrapped__(real) is None
        said = capsys.readouterr().err
        assert (
            said.count("\n") == said.count(f"the kernels for the CPU {fault}; the slower") == lines
        )


# The build, with a compiler that writes down what it was asked for.

COMPILER = """#!{python}
import sys
words = sys.argv[1:]
text = repr(words)
if "-DREAL=" + "{fails}" in words: sys.exit("no " + "{fails}")
open(words[words.index("-o") + 1], "w").write(text)
"""


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A folder of kernel sources, and such a compiler in CXX."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    for name in ("a.cu", "b.cpp", "prelude.cuh", "host.h", "trace.h", "README.md"):
        (folder / name).write_text(f"// {name}\n")
    (folder / "a.cu").write_text('extern "C" __global__ void first(int n) {}\n')
    for name in ("CXXFLAGS", "LDFLAGS"):
        monkeypatch.delenv(name, raising=False)
    with_compiler(tmp_path, monkeypatch)
    return folder


def with_compiler(place, monkeypatch, fails=""):
    path = place / "compiler"
    path.write_text(COMPILER.format(python=sys.executable, fails=fails))
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))


def asked(library) -> list[str]:
    return ast.literal_eval(library.read_text())


def test_the_build_asks_for_each_library_with_every_flag(sources, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", os.environ["CXX"] + " -first")
    monkeypatch.setenv("CXXFLAGS", "-O1 '-DA=b c'")
    monkeypatch.setenv("LDFLAGS", "-lm -last")
    built = kernel_build.build(sources, tmp_path)
    assert built == [kernel_build.library_path(tmp_path, real) for real in ("float", "double")]
    for library, real in zip(built, ("float", "double"), strict=True):
        words = asked(library)
        assert words[0] == "-first"
        assert words[1 : 1 + len(kernel_build.FLAGS)] == kernel_build.FLAGS
        own = words[1 + len(kernel_build.FLAGS) :]
        assert own[:4] == ["-O1", "-DA=b c", f"-I{sources}", f"-DREAL={real}"]
        assert own[-2:] == ["-lm", "-last"]
        assert kernel_build.fault(library, sources) is None


@pytest.mark.parametrize("fails", ["float", "double"])
def test_a_build_that_fails_replaces_neither_library(fails, sources, tmp_path, monkeypatch):
    before = [path.read_text() for path in kernel_build.build(sources, tmp_path)]
    with_compiler(tmp_path, monkeypatch, fails)
    (sources / "a.cu").write_text("changed")
    with pytest.raises(kernel_build.BuildError, match=f"could not compile .*\nno {fails}$"):
        kernel_build.build(sources, tmp_path)
    paths = [kernel_build.library_path(tmp_path, real) for real in ("float", "double")]
    assert [path.read_text() for path in paths] == before


def test_what_is_wrong_with_a_library_is_told(sources, tmp_path):
    library, _ = kernel_build.build(sources, tmp_path)
    good, other = library.read_bytes(), f"were compiled from other sources than those in {sources}"
    for name, said in (("a.cu", other), ("b.cpp", other), ("prelude.cuh", other),
                       ("host.h", other), ("trace.h", None), ("README.md", None)):  # fmt: skip
        text = (sources / name).read_text()
        (sources / name).write_text(text + " ")
        assert kernel_build.fault(library, sources) == said, name
        (sources / name).write_text(text)
    library.write_bytes(good + b"x")
    assert kernel_build.fault(library, sources) == "are damaged"
    library.write_bytes(good)
    assert kernel_build.fault(library, sources) is None
    sums = library.with_suffix(".json")
    for content in ("", "[1"):
        sums.write_text(content)
        assert kernel_build.fault(library, sources) == "were not built by this version"
    sums.unlink()
    assert kernel_build.fault(library, sources) == "were not built by this version"
    library.unlink()
    assert kernel_build.fault(library, sources) == "are not built"


def test_cpu_kernels_asked_for_but_not_built(monkeypatch):
    monkeypatch.setenv("MINIGRAD_KERNELS", "cpu")
    monkeypatch.setattr(kernels, "host_library", lambda real: None)
    monkeypatch.setattr(kernels, "loaded", lambda real: (None, "are not built"))
    with pytest.raises(
        kernels.KernelError, match="but they are not built: `python -m minigrad build`"
    ):
        kernels.ready(np.zeros(3))


def test_every_pointer_has_a_size():
    for name, (_, parameters) in kernels.signatures().items():
        assert all(bool(p.size) == p.pointer for p in parameters), name


@built
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: relu_gradient(np.zeros(10), np.zeros(10_000)),
            "kernel relu_backward, gy: size = 10000 elements are needed, and the array has 10",
        ),
        (
            lambda: add_bias(np.zeros((3, 500)), np.zeros(2), relu=False),
            "kernel add_bias, b: O = 500 elements are needed, and the array has 2",
        ),
        (
            lambda: prepare_images(
                np.zeros((2, 9, 9, 3), np.uint8), np.zeros((2, 3), np.int32), np.zeros((4, 4, 3)),
                np.zeros((2, 3)), np.ones(3), np.zeros((2, 5, 5, 3)),
            ),
            r"mean: size \* size \* channels = 75 elements are needed, and the array has 48",
        ),
        (
            lambda: SoftmaxCrossEntropy(np.zeros(2, np.int64), "none")(np.zeros((300, 4))),
            "kernel softmax_cross_entropy_forward, t: blocks = 300 elements are needed",
        ),
        (
            lambda: kernels.launch(
                "max_pool_forward", 10, *np.zeros((2, 64)), np.zeros(64, np.uint8), 8, 8, 1, 2, 2,
                2, 2, 0, 0, 4, 4,
            ),
            r"x: up\(blocks, OH\) \* H \* W \* C = 192 elements are needed, and the array has 64",
        ),
        (
            lambda: kernels.launch(
                "max_pool_forward", 1, *np.zeros((2, 64)), np.zeros(64, np.uint8), 8, 8, 1, 2, 2,
                2, 2, 0, 0, 0, 0,
            ),
            "kernel max_pool_forward: 1 blocks, and a size of 0 in",
        ),
    ],
)  # fmt: skip
def test_an_array_that_is_too_small_is_refused(call, words):
    with pytest.raises(TypeError, match=words):
        call()


@built
@pytest.mark.parametrize("label", [-1, 4, 2**40, -(2**40)])
def test_a_label_that_is_no_class_gives_nan_and_reads_nothing(label):
    """The function refuses such a label; its Function, called by itself, does not look."""
    x = Tensor(np.zeros((2, 4)), requires_grad=True)
    loss = SoftmaxCrossEntropy(np.array([label, 1]), "none")(x)
    assert np.isnan(loss.data[0])
    assert loss.data[1] == pytest.approx(np.log(4))
    loss.backward(np.ones(2))
    np.testing.assert_allclose(x.grad, [[0.25] * 4, [0.25, -0.75, 0.25, 0.25]])


def test_a_pointer_without_a_size_is_named(tmp_path, monkeypatch):
    for path in kernels.folder().iterdir():
        (tmp_path / path.name).write_text(path.read_text())
    text = (tmp_path / "relu.cu").read_text()
    changed = text.replace("real *__restrict__ y /* size */", "real *__restrict__ y", 1)
    assert changed != text
    (tmp_path / "relu.cu").write_text(changed)
    monkeypatch.setattr(kernels, "folder", lambda: tmp_path)
    words = r"relu.cu: the size of y, a pointer of relu_forward, must stand in a comment behind it"
    with pytest.raises(kernels.KernelError, match=words):
        kernels.signatures.__wrapped__()
