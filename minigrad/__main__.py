"""`python -m minigrad`: what is installed, and what it will run on. `python -m minigrad build`:
compile the kernels for the CPU."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

import minigrad
from minigrad import backend, kernel_build, kernels, terminal


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def cupy() -> str:
    names = ("cupy-cuda12x", "cupy-cuda13x", "cupy")
    found = [f"{name} {installed(name)}" for name in names if installed(name) != "not installed"]
    return (
        ", ".join(found) or "not installed (pip install 'minigrad[cuda12]' or 'minigrad[cuda13]')"
    )


def devices() -> str:
    return ", ".join(
        ["cpu"] + [f"gpu:{i} ({backend.gpu_name(i)})" for i in range(backend.gpu_count())]
    )


def blas() -> str:
    np.ones((2, 2)) @ np.ones((2, 2))  # so that the BLAS is loaded and can be asked
    pools = [pool for pool in threadpool_info() if pool.get("user_api") == "blas"]
    words = "{internal_api} {version}, code for {architecture}, {num_threads} threads"
    return (
        "; ".join(words.format_map({"architecture": "unknown"} | pool) for pool in pools)
        or "unknown"
    )


def rows() -> Iterator[tuple[str, Callable[[], str]]]:
    yield "minigrad", lambda: minigrad.__version__
    yield "Python", lambda: f"{platform.python_version()} on {platform.platform()}"
    for package in ("numpy", "pillow", "safetensors", "matplotlib"):
        yield package, partial(installed, package)
    yield "CuPy", cupy
    yield "devices", devices
    yield "BLAS", blas
    yield (
        "kernels",
        lambda: (
            f"{kernels.state()}; {kernels.threads()} CPU threads; sources in {kernels.folder()}"
        ),
    )


def report() -> str:
    """A line for each component that decides what minigrad runs on and how fast. If a component is
    broken, its line shows the error."""
    lines = []
    for name, ask in rows():
        try:
            value = ask()
        except Exception as error:
            value = f"{type(error).__name__}: {error}"
        lines.append(f"{name:12} {value}")
    return "\n".join(lines)


def build() -> int:
    began = time.perf_counter()
    try:
        libraries = kernel_build.build(kernels.folder(), Path(minigrad.__file__).resolve().parent)
    except (kernel_build.BuildError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"compiled {kernels.folder()} in {time.perf_counter() - began:.0f} s:"
        f" {', '.join(path.name for path in libraries)}"
    )
    return 0


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    if given == ["build"]:
        return build()
    if given in (["--help"], ["-h"]):
        print(__doc__)
        return 0
    if given:
        print(f"error: {' '.join(given)}: give no argument, or build. {__doc__}", file=sys.stderr)
        return 2
    print(report())
    return 0


if __name__ == "__main__":
    sys.exit(terminal.run(main))
