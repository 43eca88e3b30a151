"""Differentiable functions: `from minigrad import functions as F`, then F.conv2d(x, w, b),
F.relu(x), ...

Each function takes Tensors or plain arrays and returns a Tensor; images are (N, H, W, C). Each
layer has a file of its own. The name `minigrad.functions.conv2d` is the function in the file
conv2d.py; its Function class is `from minigrad.functions.conv2d import Conv2d`.

The names are collected, not listed: a function is here if the CASES of its file name it. So none is
here that the checks leave out.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from minigrad.engine import Tensor
from minigrad.functions.cases import Case

if TYPE_CHECKING:  # for editors and type checkers, which take such a name for the file
    from minigrad.functions.avg_pool2d import avg_pool2d as avg_pool2d
    from minigrad.functions.conv2d import conv2d as conv2d
    from minigrad.functions.dropout import dropout as dropout
    from minigrad.functions.gather import gather as gather
    from minigrad.functions.linear import linear as linear
    from minigrad.functions.lrn import lrn as lrn
    from minigrad.functions.lrn_within_map import lrn_within_map as lrn_within_map
    from minigrad.functions.max_pool2d import max_pool2d as max_pool2d
    from minigrad.functions.relu import relu as relu
    from minigrad.functions.sigmoid import sigmoid as sigmoid
    from minigrad.functions.softmax import softmax as softmax
    from minigrad.functions.softmax_cross_entropy import (
        softmax_cross_entropy as softmax_cross_entropy,
    )
    from minigrad.functions.tanh import tanh as tanh

_cases: list[Case] = []
_examples: list[Case] = []
for _file in sorted(info.name for info in pkgutil.iter_modules(__path__)):
    _module = import_module(f"{__name__}.{_file}")
    for _case in getattr(_module, "CASES", []):
        _cases.append(_case)
        globals()[_case.function] = getattr(_module, _case.function)
    if hasattr(_module, "ALEXNET"):
        _examples.insert(0, _module.ALEXNET)
    else:
        _examples += getattr(_module, "CASES", [])

__all__ = sorted({case.function for case in _cases})


def cases() -> list[Case]:
    """The cases of every function."""
    return list(_cases)


def examples() -> list[Case]:
    """The call that AlexNet makes of each layer, for one picture: ALEXNET in its file, else all of
    its CASES."""
    return list(_examples)


def __getattr__(name: str) -> Callable[..., Tensor]:
    raise AttributeError(f"there is no function {name!r}; there are {', '.join(__all__)}")
