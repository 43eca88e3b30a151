"""A wheel carries the package, alexnet.py and the kernel sources, and finds them where it is installed."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LOOK = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np, alexnet, minigrad
from minigrad import functions as F, kernels
assert alexnet.__file__.startswith(sys.argv[1]), alexnet.__file__
assert str(kernels.folder()) == sys.argv[1] + "/minigrad/_kernels", kernels.folder()
assert "im2col" in kernels.signatures()
print(F.relu(np.array([-1.0, 2.0])).numpy(), kernels.state())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel of this checkout, unpacked."""
    for tool in ("setuptools", "wheel", "pip"):
        if importlib.util.find_spec(tool) is None:
            pytest.skip(f"{tool} is not installed, which building a wheel needs")
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if kept.returncode:
        pytest.skip("not a git checkout: what belongs into a wheel is not known")
    for name in kept.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(place), str(source)]
    # What is installed is asked for here, not how well the compiler optimises it.
    subprocess.run(build, check=True, env=os.environ | {"CFLAGS": "-O0", "CXXFLAGS": "-O0"})
    (wheel,) = place.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(place / "site")
    return place / "site"


def test_contents(installed):
    for name in ("alexnet.py", "minigrad/py.typed", "minigrad/data/loader.py", "minigrad/look/pictures.py", "minigrad/_kernels/lrn.cu"):
        assert (installed / name).is_file(), name
    for path in (ROOT / "kernels").glob("*.cu*"):
        assert (installed / "minigrad" / "_kernels" / path.name).is_file()
    assert not (installed / "tests").exists()


def test_it_runs_from_there(installed, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-P", "-c", LOOK, str(installed)]
    out = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout.startswith("[0. 2.]")
