"""minigrad: a deep-learning engine on NumPy and CuPy, small enough to read and fast enough to train
AlexNet."""

from minigrad import functions, nn, optim, random
from minigrad.engine import Function, Tensor, no_grad

__version__ = "0.1.0"
__all__ = ["Function", "Tensor", "functions", "nn", "no_grad", "optim", "random"]
