"""Differentiable functions: `from minigrad import functions as F`, then F.conv2d(x, w, b),
F.relu(x), ...

Each takes Tensors or plain arrays and returns a Tensor; images are (N, H, W, C). One file a layer:
the file conv2d.py holds the function conv2d, and `minigrad.functions.conv2d` is that function (its
Function class is `from minigrad.functions.conv2d import Conv2d`).
"""

import sys

from minigrad.functions.avg_pool2d import avg_pool2d
from minigrad.functions.basic import add, div, exp, log, matmul, mul, neg, pow, sub
from minigrad.functions.cases import Case
from minigrad.functions.conv2d import conv2d
from minigrad.functions.dropout import dropout
from minigrad.functions.gather import gather
from minigrad.functions.linear import linear
from minigrad.functions.lrn import lrn
from minigrad.functions.lrn_within_map import lrn_within_map
from minigrad.functions.max_pool2d import max_pool2d
from minigrad.functions.reduce import mean, sum
from minigrad.functions.relu import relu
from minigrad.functions.shape import channels, concat, flatten, getitem, reshape, to, transpose
from minigrad.functions.sigmoid import sigmoid
from minigrad.functions.softmax import log_softmax, softmax
from minigrad.functions.softmax_cross_entropy import softmax_cross_entropy
from minigrad.functions.tanh import tanh

__all__ = [
    "add",
    "avg_pool2d",
    "channels",
    "concat",
    "conv2d",
    "div",
    "dropout",
    "exp",
    "flatten",
    "gather",
    "getitem",
    "linear",
    "log",
    "log_softmax",
    "lrn",
    "lrn_within_map",
    "matmul",
    "max_pool2d",
    "mean",
    "mul",
    "neg",
    "pow",
    "relu",
    "reshape",
    "sigmoid",
    "softmax",
    "softmax_cross_entropy",
    "sub",
    "sum",
    "tanh",
    "to",
    "transpose",
]


def cases() -> list[Case]:
    """The cases of every function, collected from the ends of their files."""
    modules = dict.fromkeys(globals()[name].__module__ for name in __all__)
    return [case for module in modules for case in sys.modules[module].CASES]
