"""`python -m minigrad`: what is installed, and what it will run on."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from threadpoolctl import threadpool_info

import minigrad
from minigrad import backend, kernels


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def report() -> str:
    """A line for each thing that decides how fast and on what minigrad runs."""
    rows = [("minigrad", minigrad.__version__), ("Python", f"{platform.python_version()} on {platform.platform()}")]
    rows += [(package, installed(package)) for package in ("numpy", "pillow", "safetensors", "matplotlib")]
    cupy = [
        f"{package} {installed(package)}" for package in ("cupy-cuda12x", "cupy-cuda13x", "cupy") if installed(package) != "not installed"
    ]
    rows.append(("CuPy", ", ".join(cupy) or "not installed (pip install 'minigrad[cuda12]' or 'minigrad[cuda13]')"))
    gpus = backend.gpu_count()
    rows.append(("devices", ", ".join(["cpu"] + [f"gpu:{i} ({backend.gpu_name(i)})" for i in range(gpus)])))
    np.ones((2, 2)) @ np.ones((2, 2))  # so that the BLAS is loaded and can be asked
    for pool in threadpool_info():
        if pool.get("user_api") == "blas":
            core = pool.get("architecture", "unknown")
            rows.append(("BLAS", f"{pool['internal_api']} {pool['version']}, code for {core}, {pool['num_threads']} threads"))
    rows.append(("kernels", f"{kernels.state()}; {kernels.threads()} CPU threads; sources in {kernels.folder()}"))
    return "\n".join(f"{name:12} {value}" for name, value in rows)


if __name__ == "__main__":
    print(report())
    sys.exit(0)
