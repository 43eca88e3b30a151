"""Build and installation: `pip install .`, or `pip install -e .` to read and change the sources in place."""

import hashlib
import platform
import re
from glob import glob
from pathlib import Path

from setuptools import Extension, setup


def sources_hash() -> str:
    """The same as minigrad/kernels.py computes when it loads the library."""
    texts = [path.read_bytes() for path in sorted(Path("kernels").iterdir()) if path.suffix in (".cu", ".cuh", ".h", ".cpp")]
    return hashlib.sha256(b"".join(texts)).hexdigest()[:16]


def host_kernels(real: str) -> Extension:
    """The kernels for the CPU, a plain library that minigrad/kernels.py loads; without a C++ compiler it is left out, with a warning."""
    # The last but one: a loop over one pixel's channels stays a loop, a call of memcpy would cost more than its copy.
    flags = "-O3 -std=c++17 -fno-math-errno -fno-trapping-math -fno-wrapv -fno-tree-loop-distribute-patterns -pthread"
    if platform.machine() in ("x86_64", "AMD64"):
        flags += " -mprefer-vector-width=512"
    return Extension(
        f"minigrad._host_{real}",
        ["kernels/host.cpp"],
        depends=glob("kernels/*"),
        define_macros=[("REAL", real), ("SOURCES", f'"{sources_hash()}"')],
        extra_compile_args=flags.split(),
        extra_link_args=["-pthread"],
        language="c++",
        optional=True,
    )


setup(
    ext_modules=[host_kernels("float"), host_kernels("double")],
    name="minigrad",
    version=re.search(r'__version__ = "(.+)"', Path("minigrad/__init__.py").read_text())[1],
    description="A deep-learning engine on NumPy and CuPy, small enough to read and fast enough to train the real AlexNet",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=["minigrad", "minigrad.functions", "minigrad.data", "minigrad.look", "minigrad._kernels"],
    package_dir={"minigrad._kernels": "kernels"},
    package_data={"minigrad._kernels": ["*.cu", "*.cuh", "*.h", "*.cpp", "*.md"], "minigrad": ["py.typed"]},
    py_modules=["alexnet"],
    install_requires=["numpy>=2", "pillow>=10", "tqdm>=4.66", "safetensors>=0.4", "matplotlib>=3.8", "threadpoolctl>=3"],
    extras_require={
        "cuda12": ["cupy-cuda12x[ctk]>=14"],
        "cuda13": ["cupy-cuda13x[ctk]>=14"],  # ctk: NVRTC, cuBLAS and headers, where only a driver is installed
        "tensorboard": ["tensorboardX>=2.6"],
        "imagenet": ["scipy>=1.11"],
        "test": ["pytest>=8", "hypothesis>=6.100", "scipy>=1.11", "setuptools>=68", "wheel"],
        "dev": ["ruff>=0.12", "mypy>=1.15"],
    },
)
