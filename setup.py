"""Build and installation: `pip install .`, or `pip install -e .` to read and change the sources in
place.

The kernels for the CPU are compiled on the way, where there is a C++ compiler;
MINIGRAD_KERNELS=none leaves them out.
"""

import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

spec = importlib.util.spec_from_file_location("kernel_build", "minigrad/kernel_build.py")
kernel_build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernel_build)

KERNELS = [
    path.as_posix()
    for path in sorted(Path("kernels").iterdir())
    if path.suffix in (".cu", ".cuh", ".h", ".cpp", ".md")
]


class BuildKernels(build_ext):
    """The libraries that minigrad/kernels loads. Without a compiler there are none, and the
    array forms serve."""

    def run(self):
        if os.environ.get("MINIGRAD_KERNELS") == "none":
            return
        target = Path("." if self.inplace else self.build_lib, "minigrad")
        target.mkdir(parents=True, exist_ok=True)
        try:
            if kernel_build.compiler() is None:
                print(
                    "warning: no C++ compiler: the kernels for the CPU are left out, and all is"
                    " slower",
                    file=sys.stderr,
                )
            else:
                kernel_build.build(Path("kernels"), target)
        except kernel_build.BuildError as error:
            sys.exit(
                f"{error}\nMINIGRAD_KERNELS=none pip install ... leaves the kernels for the CPU out"
            )


class CopyKernels(build_py):
    """An installation holds kernels/ as minigrad/_kernels; one in place finds it where it is."""

    def run(self):
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib, "minigrad", "_kernels")
            folder.mkdir(parents=True, exist_ok=True)
            for name in KERNELS:
                shutil.copy(name, folder)

    def get_source_files(self):
        return super().get_source_files() + KERNELS


setup(
    cmdclass={"build_ext": BuildKernels, "build_py": CopyKernels},
    ext_modules=[
        Extension(f"minigrad._host_{real}", ["kernels/thread_pool.h"])
        for real in kernel_build.REALS
    ],
    name="minigrad",
    version=re.search(r'__version__ = "(.+)"', Path("minigrad/__init__.py").read_text())[1],
    description=(
        "A deep-learning engine on NumPy and CuPy, small enough to read and fast enough to train"
        " the real AlexNet"
    ),
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=find_packages(include=["minigrad*"]),
    package_dir={
        "": "."
    },  # as it stands: an installation in place is then a plain line in a .pth file, and no hook
    package_data={"minigrad": ["py.typed"], "minigrad.page": ["*.html", "*.css", "*.js"]},
    py_modules=["alexnet"],
    install_requires=[
        "numpy>=2",
        "pillow>=10",
        "tqdm>=4.66",
        "safetensors>=0.4",
        "msgspec>=0.19",
        "matplotlib>=3.8",
        "threadpoolctl>=3",
    ],
    extras_require={
        # ctk: NVRTC, cuBLAS and headers, where only a driver is installed. It does not bring NCCL.
        "cuda12": ["cupy-cuda12x[ctk]>=14", "nvidia-nccl-cu12>=2.27"],
        "cuda13": ["cupy-cuda13x[ctk]>=14", "nvidia-nccl-cu13>=2.27"],
        "tensorboard": ["tensorboardX>=2.6"],
        "imagenet": ["scipy>=1.11"],
        "onnx": ["onnx>=1.16"],
        "before": ["scikit-image>=0.24", "scikit-learn>=1.5"],
        "mpi": ["mpi4py>=4.1", "mpich>=5"],
        "test": ["pytest>=8", "hypothesis>=6.100", "scipy>=1.11", "setuptools>=68", "wheel"],
        "dev": ["ruff>=0.12", "mypy>=1.15", "clang-format==23.1.5"],
    },
)
