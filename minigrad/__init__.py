"""minigrad: a deep-learning engine on NumPy and CuPy, small enough to read and fast enough to train AlexNet."""

import os

# OpenBLAS reads this once, when NumPy is first imported: its threads then sleep soon after a product (2^8 polls, not 2^26) and leave the
# processors to the kernels between two products. Without it everything is right, and a step takes a fifth longer (docs/performance.md).
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "8")

# isort: split
from minigrad import functions, nn, optim, random
from minigrad.engine import Function, Tensor, no_grad

__version__ = "0.1.0"
__all__ = ["Function", "Tensor", "functions", "nn", "no_grad", "optim", "random"]
