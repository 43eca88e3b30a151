"""A wheel, a source archive and an installation in place: each carries what it needs, and is found
wherever Python starts."""

import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LOOK = """
import os, site, sys
# An installation in place of another checkout is not meant.
sys.path = [path for path in sys.path if not os.path.exists(os.path.join(path, "alexnet.py"))]
site.addsitedir(sys.argv[1])
import numpy as np, alexnet, minigrad
from minigrad import functions as F, kernels
assert alexnet.__file__.startswith(sys.argv[2]), alexnet.__file__
assert str(kernels.folder()) == sys.argv[3], kernels.folder()
assert "im2col" in kernels.signatures()
print(minigrad.Tensor(1.0).item(), F.relu(np.array([-1.0, 2.0])).numpy(), kernels.state())
"""
BACKEND = """
import sys
from setuptools import build_meta
print(getattr(build_meta, "build_" + sys.argv[1])(sys.argv[2]))
"""


def environment(**more: str) -> dict[str, str]:
    """What is installed is asked for here, not how well the compiler optimises it."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MINIGRAD_KERNELS")}
    return kept | {"CXXFLAGS": "-O0 -DNO_CLONES"} | more


def build(kind: str, source: Path, target: Path) -> Path:
    """Build a "wheel", an "sdist" or an "editable" wheel."""
    out = subprocess.run(
        [sys.executable, "-c", BACKEND, kind, str(target)],
        cwd=source,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stdout + out.stderr
    return target / out.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of this checkout, in a folder that is called minigrad, as `git clone` calls it."""
    for tool in ("setuptools", "wheel", "pip"):
        if importlib.util.find_spec(tool) is None:
            pytest.skip(f"{tool} is not installed, which building a wheel needs")
    place = tmp_path_factory.mktemp("parent") / "minigrad"
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if kept.returncode:
        pytest.skip("not a git checkout: what belongs into a wheel is not known")
    for name in kept.stdout.splitlines():
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes((ROOT / name).read_bytes())
    return place


@pytest.fixture(scope="module")
def wheel(clone, tmp_path_factory):
    """The wheel, unpacked."""
    place = tmp_path_factory.mktemp("wheel")
    zipfile.ZipFile(build("wheel", clone, place)).extractall(place / "site")
    return place / "site"


@pytest.fixture(scope="module")
def source_archive(clone, tmp_path_factory):
    """The source archive, unpacked."""
    place = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", clone, place)) as tar:
        tar.extractall(place, filter="data")
    (folder,) = (p for p in place.iterdir() if p.is_dir())
    return folder


def look(site: Path, code: Path, kernels: Path, working_folder: Path) -> str:
    command = [sys.executable, "-c", LOOK, str(site), str(code), str(kernels)]
    out = subprocess.run(
        command, cwd=working_folder, env=environment(), capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    assert out.stderr == ""
    return out.stdout


def test_contents(wheel, source_archive):
    for name in (
        "alexnet.py",
        "minigrad/py.typed",
        "minigrad/data/loader.py",
        "minigrad/look/pictures.py",
    ):
        assert (wheel / name).is_file(), name
        assert (source_archive / name).is_file(), name
    assert (wheel / "minigrad" / "_kernels" / "README.md").is_file()
    for path in (ROOT / "kernels").iterdir():
        assert (wheel / "minigrad" / "_kernels" / path.name).read_bytes() == path.read_bytes()
        assert (source_archive / "kernels" / path.name).read_bytes() == path.read_bytes()
    assert not (wheel / "tests").exists()
    assert not (wheel / "kernels").exists()


def test_a_wheel_is_found_from_the_clones_parent(wheel, clone):
    """Python searches the folder that it starts in, where the clone's folder has the package's
    name."""
    out = look(wheel, wheel, wheel / "minigrad" / "_kernels", clone.parent)
    assert out.startswith("1.0 [0. 2.] CPU compiled")


def test_a_source_archive_is_found_from_its_parent(source_archive, tmp_path):
    """Built from it; no kernel is compiled again, which the wheel's test did."""
    out = subprocess.run(
        [sys.executable, "-c", BACKEND, "wheel", str(tmp_path)],
        cwd=source_archive,
        env=environment(MINIGRAD_KERNELS="none"),
        capture_output=True,
        text=True,
    )
    assert out.returncode == 0, out.stdout + out.stderr
    site = tmp_path / "site"
    zipfile.ZipFile(tmp_path / out.stdout.splitlines()[-1]).extractall(site)
    source_archive.rename(source_archive.with_name("minigrad"))
    try:
        out = look(site, site, site / "minigrad" / "_kernels", source_archive.parent)
    finally:
        source_archive.with_name("minigrad").rename(source_archive)
    assert out.startswith("1.0 [0. 2.] CPU array forms, for the compiled ones are not built")


def test_an_installation_in_place_is_found_from_the_clones_parent(clone, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(build("editable", clone, tmp_path)).extractall(site)
    out = look(site, clone, clone / "kernels", clone.parent)
    assert out.startswith("1.0 [0. 2.] CPU compiled")
    assert (clone / "minigrad" / "engine.py").is_file()
    assert not (clone / "minigrad" / "_kernels").exists()


def test_a_kernel_that_does_not_compile_fails_the_installation(clone, tmp_path):
    """With the compiler's lines, and the way round; it said "Successfully installed"."""
    path = clone / "kernels" / "lrn.cu"
    before = path.read_bytes()
    path.write_bytes(before + b"\nthis is no C;\n")
    try:
        out, without = (
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "wheel",
                    "--no-deps",
                    "--no-build-isolation",
                    "-w",
                    str(tmp_path),
                    ".",
                ],
                cwd=clone,
                env=environment(**more),
                capture_output=True,
                text=True,
            )
            for more in ({}, {"MINIGRAD_KERNELS": "none"})
        )
    finally:
        path.write_bytes(before)
    assert out.returncode != 0
    for words in (
        "could not compile",
        "lrn.cu",
        "this is no C",
        "MINIGRAD_KERNELS=none pip install ...",
    ):
        assert words in out.stdout + out.stderr
    assert without.returncode == 0
