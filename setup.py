"""Build and installation: `pip install .`, or `pip install -e .` to read and change the sources in place."""

from setuptools import setup

setup(
    name="minigrad",
    version="0.1.0",
    description="A deep-learning engine on NumPy and CuPy, small enough to read and fast enough to train the real AlexNet",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=["minigrad", "minigrad.functions", "minigrad.data", "minigrad.look", "minigrad._kernels"],
    package_dir={"minigrad._kernels": "kernels"},
    package_data={"minigrad._kernels": ["*.cu", "*.cuh", "*.h", "*.md"], "minigrad": ["py.typed"]},
    py_modules=["alexnet"],
    install_requires=["numpy>=1.26", "pillow>=10", "tqdm>=4.66", "safetensors>=0.4", "matplotlib>=3.8", "threadpoolctl>=3"],
    extras_require={
        "cuda12": ["cupy-cuda12x>=13"],
        "cuda13": ["cupy-cuda13x>=13.6"],
        "test": ["pytest>=8", "hypothesis>=6.100", "scipy>=1.11"],
        "dev": ["ruff>=0.12", "mypy>=1.15"],
    },
)
