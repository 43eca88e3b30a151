"""docs/adding-a-layer.md, followed: its four files, written into a copy of the project, pass every
check there, and no other file is touched."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minigrad import kernel_build

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "adding-a-layer.md").read_text()
FILE = re.compile(r"^`([\w/.]+)`:\n\n(`{3,})\w+\n(.*?)^\2$", re.MULTILINE | re.DOTALL)
TREE = ("minigrad", "kernels", "docs", "tests", "examples", "benchmarks", ".ci")


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("copy")
    leave = shutil.ignore_patterns("_host_*", "__pycache__", "*.so")
    for folder in TREE:
        shutil.copytree(ROOT / folder, place / folder, ignore=leave)
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*.md"), ROOT / "LICENSE", ROOT / "pyproject.toml"]:
        shutil.copy(path, place)
    for name, _, text in FILE.findall(PAGE):
        assert not (place / name).exists()
        (place / name).write_text(text)
    return place


def run_in(place: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(place), "CXXFLAGS": "-O0 -DNO_CLONES"}
    environment.pop("MINIGRAD_KERNELS", None)
    out = subprocess.run(
        [sys.executable, *command], cwd=place, env=environment, capture_output=True, text=True
    )
    assert out.returncode == 0, (out.stdout + out.stderr)[-4000:]
    return out.stdout


def test_the_page_has_four_files_of_one_name():
    assert [name for name, _, _ in FILE.findall(PAGE)] == [
        "minigrad/functions/leaky_relu.py",
        "kernels/leaky_relu.cu",
        "docs/layers/leaky_relu.md",
        "tests/layers/test_leaky_relu.py",
    ]


@pytest.mark.skipif(kernel_build.compiler() is None, reason="needs a C++ compiler")
def test_the_layer_passes_every_check(copy):
    run_in(copy, "-m", "minigrad", "build")
    said = run_in(copy, "-m", "minigrad.gradcheck")
    assert len(re.findall("^leaky_relu", said, re.MULTILINE)) == 3
    files = "layers/test_leaky_relu.py", "test_functions.py", "test_layering.py", "test_docs.py"
    whole = "test_language.py", "test_kernels.py::test_every_kernel_has_a_host_launcher_and_a_test"
    said = run_in(copy, "-m", "pytest", "-q", *[f"tests/{name}" for name in (*files, *whole)])
    assert " passed" in said
    assert "leaky_relu" in run_in(copy, "-c", "import minigrad.functions as F; print(F.__all__)")


def test_a_fault_in_the_kernel_fails_its_tests(copy):
    path = copy / "kernels" / "leaky_relu.cu"
    text = path.read_text()
    assert text.count("a * g;") == 1
    path.write_text(text.replace("a * g;", "a;"))
    run_in(copy, "-m", "minigrad", "build")
    with pytest.raises(AssertionError, match="test_kernel"):
        run_in(copy, "-m", "pytest", "-q", "tests/layers/test_leaky_relu.py")
