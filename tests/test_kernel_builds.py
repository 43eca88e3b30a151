"""The kernel tests once more, in other builds of the same sources: blocks of several real threads,
and under the sanitizers.

Each build runs every test of the compiled kernels in a process of its own. A block of four threads
with a real barrier shows, without a GPU, whether the stride loops are right for any block size and
no barrier is missing; a missing one is planted, and must be found.
"""

import ctypes
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minigrad import kernel_build, kernels

ROOT = Path(__file__).resolve().parents[1]
COMPILER = shutil.which("g++")
pytestmark = pytest.mark.skipif(
    COMPILER is None or sys.platform != "linux", reason="needs g++ on Linux"
)
BLOCK = ["-std=c++20", "-O1", "-DNO_CLONES"]
SANITIZERS = [
    "-std=c++17",
    "-O1",
    "-DNO_CLONES",
    "-g",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
]


def build(folder: Path, flags: list[str], change=lambda name, text: text) -> Path:
    """Compile kernels/, each file passed through `change`, for float and double."""
    sources = folder / "kernels"
    sources.mkdir()
    for path in kernels.folder().iterdir():
        if path.suffix in (".cu", ".cuh", ".h", ".cpp"):
            (sources / path.name).write_text(change(path.name, path.read_text()))
    (folder / "host.cpp").write_text(kernel_build.host_source(sources))
    for real in ("float", "double"):
        command = [
            COMPILER,
            *flags,
            "-fPIC",
            "-shared",
            "-pthread",
            f"-DREAL={real}",
            f"-I{sources}",
            folder / "host.cpp",
            "-o",
            folder / f"{real}.so",
        ]
        subprocess.run(command, check=True)
    return folder


KERNEL_TESTS = ("tests/test_kernels.py", "tests/layers")


def run_kernel_tests(folder: Path, *tests: str, **environment: str) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-s",
        "-p",
        "no:cacheprovider",
        "--host-library",
        folder,
        "-m",
        "kernels",
        *(tests or KERNEL_TESTS),
    ]
    variables = {k: v for k, v in os.environ.items() if k != "MINIGRAD_KERNELS"} | environment
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)


@pytest.mark.parametrize("threads", [3, 4])
def test_blocks_of_several_threads(threads, tmp_path):
    result = run_kernel_tests(build(tmp_path, [*BLOCK, f"-DHOST_BLOCK={threads}"]))
    assert result.returncode == 0, result.stdout[-4000:]


@pytest.mark.parametrize("tiles", ["avx2", "avx512"])
def test_tiles_of_each_instruction_set(tiles, tmp_path):
    """The other builds here have the baseline's, as a processor without either would."""
    processor = Path("/proc/cpuinfo").read_text()
    if ("fma" if tiles == "avx2" else "avx512f") not in processor:
        pytest.skip(f"this processor has no {tiles}")
    folder = build(tmp_path, ["-std=c++17", "-O1", f"-DTILES={tiles}"])
    result = run_kernel_tests(folder, "tests/test_kernels.py", "tests/layers/test_conv2d.py")
    assert result.returncode == 0, result.stdout[-4000:]


@pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("nm") is None,
    reason="x86-64 alone has clones; nm lists them",
)
def test_the_best_clone_is_chosen(tmp_path):
    """By the processor's features: a clone for another model with the same features would not
    do."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    v3 = {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"} <= flags
    v4 = v3 and {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= flags
    path = build(tmp_path, ["-std=c++17", "-O1"]) / "float.so"
    table = subprocess.run(["nm", path], capture_output=True, text=True, check=True).stdout
    names = {
        int(line.split()[0], 16): line.split()[2]
        for line in table.splitlines()
        if len(line.split()) == 3
    }
    library = ctypes.CDLL(str(path))

    def address(name: str) -> int:
        return ctypes.cast(getattr(library, name), ctypes.c_void_p).value

    start = address("run_blas_jobs") - next(
        at for at, name in names.items() if name == "run_blas_jobs"
    )
    best = ("avx512f", "x86_64_v4") if v4 else ("avx2", "x86_64_v3") if v3 else ("default",)
    assert names[address("relu_forward") - start].endswith(best)


FAULTS_OF_A_BLOCK = {  # file: (the text, what stands in its place, the tests that find it)
    "lrn.cu": ("__syncthreads();", "", "tests/layers/test_lrn.py"),
    "prelude.cuh": ("__syncthreads();", "", "tests/layers/test_softmax_cross_entropy.py"),
    "conv2d_direct.cpp": ("__syncthreads();", "", "tests/layers/test_conv2d.py"),
    "sgd.cu": (  # right for one thread only
        "w[at] += step * velocity;",
        "w[at] += step * velocity / blockDim.x;",
        "tests/test_kernels.py",
    ),
}


@pytest.fixture(scope="module")
def faults_of_a_block(tmp_path_factory):
    """One build with all of them: no test here runs kernels of two of the files."""

    def plant(name: str, text: str) -> str:
        before, after, _ = FAULTS_OF_A_BLOCK.get(name, ("", "", ""))
        assert before in text
        return text.replace(before, after) if before else text

    return build(tmp_path_factory.mktemp("faults"), [*BLOCK, "-DHOST_BLOCK=4"], plant)


@pytest.mark.parametrize("file", FAULTS_OF_A_BLOCK)
def test_a_fault_of_a_block_is_found(file, faults_of_a_block):
    """A missing barrier of LRN, of the block reduction that softmax uses and of the convolution,
    and a kernel that is right for one thread only."""
    result = run_kernel_tests(faults_of_a_block, FAULTS_OF_A_BLOCK[file][2])
    assert result.returncode == 1, result.stdout[-4000:]
    assert "AssertionError" in result.stdout  # other numbers, not a crash


def library(name: str) -> str:
    return subprocess.run(
        [COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def sanitizers() -> dict[str, str]:
    """The environment that a library built with them runs in."""
    preload = [library("libasan.so"), library("libubsan.so")]
    if not all(os.path.isabs(p) for p in preload):
        pytest.skip("the compiler's sanitizer libraries are not installed")
    return {"LD_PRELOAD": " ".join(preload), "ASAN_OPTIONS": "detect_leaks=0"}


def test_under_the_sanitizers(sanitizers, tmp_path):
    """Address and undefined-behaviour sanitizers, no leaks looked for (the interpreter has its
    own)."""
    folder = build(tmp_path, SANITIZERS)
    result = run_kernel_tests(folder, **sanitizers)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


OVERRUNS = {  # the text, what stands in its place, the file of tests that runs over the end
    "an array": (
        "int count = size - first < span ? (int)(size - first) : span;",
        "int count = span;",
        "tests/layers/test_relu.py",
    ),
    "shared memory": (
        "shared(shared_bytes + 64)",
        "shared(shared_bytes)",
        "tests/layers/test_lrn.py",
    ),
}


@pytest.fixture(scope="module")
def overruns(tmp_path_factory):

    def plant(_, text: str) -> str:
        for before, after, _ in OVERRUNS.values():
            text = text.replace(before, after)
        return text

    return build(tmp_path_factory.mktemp("overruns"), SANITIZERS, plant)


@pytest.mark.parametrize("of", OVERRUNS)
def test_the_sanitizers_see_an_overrun(of, overruns, sanitizers):
    result = run_kernel_tests(overruns, OVERRUNS[of][2], **sanitizers)
    assert result.returncode != 0
    assert "AddressSanitizer" in result.stdout + result.stderr


USE = (
    "import numpy as np; from minigrad import functions as F; print(F.relu(np.array([-1.0, 2.0],"
    " np.float32)).numpy())"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A checkout with libraries that the build compiled, if without optimising."""
    place = tmp_path_factory.mktemp("checkout")
    for folder in ("minigrad", "kernels"):
        shutil.copytree(
            ROOT / folder, place / folder, ignore=shutil.ignore_patterns("_host_*", "__pycache__")
        )
    shutil.copy(ROOT / "alexnet.py", place)
    out = run_in(place, "-m", "minigrad", "build")
    assert out.startswith(f"compiled {place / 'kernels'} in ")
    return place


@pytest.fixture
def checkout(built, tmp_path):
    return Path(shutil.copytree(built, tmp_path / "checkout"))


def run_in(place: Path, *args: str, code: int = 0, **environment: str) -> str:
    environment = {"CXXFLAGS": "-O0 -DNO_CLONES", "PYTHONPATH": str(place)} | environment
    variables = {k: v for k, v in os.environ.items() if k != "MINIGRAD_KERNELS"} | environment
    out = subprocess.run(
        [sys.executable, *args], cwd=place, env=variables, capture_output=True, text=True
    )
    assert out.returncode == code, out.stdout + out.stderr
    assert "Traceback" not in out.stderr
    return out.stdout + out.stderr


def test_a_library_that_fits_is_used_in_silence(checkout):
    assert run_in(checkout, "-c", USE) == "[0. 2.]\n"
    assert "CPU compiled" in run_in(checkout, "-m", "minigrad")


FAULTS = {  # what is said of the libraries, and what was done to each
    "two blanks in a source": (
        "were compiled from other sources",
        lambda path: append(path.parents[1] / "kernels" / "relu.cu", b"  "),
    ),
    "cut off": ("are damaged", lambda path: os.truncate(path, 5000)),
    "changed": ("are damaged", lambda path: append(path, b"x")),
    "without its checksums": (
        "were not built by this version",
        lambda path: path.with_suffix(".json").unlink(),
    ),
    "with others' checksums": (
        "were not built by this version",
        lambda path: path.with_suffix(".json").write_text("[1"),
    ),
    "no library at all": ("are not built", lambda path: path.unlink()),
    "whole, but none": ("cannot be loaded", lambda path: not_a_library(path)),
}


def append(path: Path, content: bytes) -> None:
    path.write_bytes(path.read_bytes() + content)


def not_a_library(path: Path) -> None:
    path.write_bytes(b"text")
    sources = kernel_build.sources_hash(path.parents[1] / "kernels")
    path.with_suffix(".json").write_text(json.dumps(kernel_build.record(sources, path)))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_library_that_does_not_fit_is_not_loaded(checkout, fault):
    """One sentence says so, with the command that helps, and the array forms serve; where kernels
    were asked for, it is an error."""
    words, damage = FAULTS[fault]
    for real in kernel_build.REALS:
        damage(kernel_build.library_path(checkout / "minigrad", real))
    out = run_in(checkout, "-c", USE)
    assert out.startswith("[0. 2.]\n")
    assert out.count("python -m minigrad build") == (fault != "no library at all")
    assert (words in out) == (fault != "no library at all")
    out = run_in(checkout, "alexnet.py", "gradcheck", code=2, MINIGRAD_KERNELS="cpu")
    assert "error: MINIGRAD_KERNELS=cpu, but they " + words in out
    assert "`python -m minigrad build` compiles them" in out
    for kernels_ in ("", "cpu", "gpu", "none", "nonsense"):
        out = run_in(
            checkout, "-m", "minigrad", **({"MINIGRAD_KERNELS": kernels_} if kernels_ else {})
        )
        assert kernels_ or f"array forms, for the compiled ones {words}" in out
    if fault in ("two blanks in a source", "cut off"):
        run_in(checkout, "-m", "minigrad", "build")
        assert run_in(checkout, "-c", USE, MINIGRAD_KERNELS="cpu") == "[0. 2.]\n"


def test_the_build_shows_the_compilers_lines_and_replaces_nothing(checkout):
    before = {p.name: p.read_bytes() for p in (checkout / "minigrad").glob("_host_*")}
    append(checkout / "kernels" / "lrn.cu", b"\nthis is no C;\n")
    out = run_in(checkout, "-m", "minigrad", "build", code=2)
    assert "could not compile" in out
    assert "lrn.cu" in out
    assert "this is no C" in out
    assert {p.name: p.read_bytes() for p in (checkout / "minigrad").glob("_host_*")} == before
    assert not list((checkout / "minigrad").glob(".minigrad-*"))


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"CXX": "no-such-compiler -x"}, "CXX=no-such-compiler -x: there is no such compiler"),
        ({"CXXFLAGS": "-no-such-flag"}, "no-such-flag"),
    ],
)
def test_a_build_that_cannot_be_says_why(checkout, environment, words):
    assert words in run_in(checkout, "-m", "minigrad", "build", code=2, **environment)
