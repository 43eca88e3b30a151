"""Average-pooling: the mean of each window over the taps that lie inside the image, for each
channel separately.

    y[n, oh, ow, c] = 1 / count(oh, ow) * sum over the taps inside the image of x
    gx: each tap inside gets gy / count.

Saved: nothing. Kernels: avg_pool_forward, avg_pool_backward (kernels/avg_pool2d.cu). AlexNet does
not use it. Krizhevsky's CIFAR-10 networks of 2012 do (3x3 windows, stride 2) and, as here, divide
by the number of taps inside the image.
"""

from __future__ import annotations

import numpy as np

from minigrad import kernels
from minigrad.backend import Array
from minigrad.engine import Function, Tensor, as_tensor
from minigrad.functions import geometry
from minigrad.functions.cases import Case
from minigrad.functions.geometry import Windows


def inside_count(win: Windows, like: Array) -> Array:
    """How many taps of each window lie inside the image: (1, OH, OW, 1)."""
    ones = win.pad(np.ones_like(like, shape=(1, win.H, win.W, 1)))
    return sum(win.taps(ones))


class AvgPool2d(Function):
    def __init__(self, win: Windows) -> None:
        self.win = win

    def forward(self, x):
        win = self.win
        if kernels.ready(x):
            y = np.empty_like(x, shape=(win.N, win.OH, win.OW, win.C), order="C")
            kernels.launch(
                "avg_pool_forward", win.N * win.OH, kernels.contiguous(x), y, *win.kernel_arguments
            )
            return y
        taps = win.taps(win.pad(x))
        y = next(taps).copy()
        for tap in taps:
            y += tap
        y /= inside_count(win, x)
        return y

    def backward(self, gy):
        win = self.win
        if kernels.ready(gy):
            gx = np.empty_like(gy, shape=(win.N, win.H, win.W, win.C), order="C")
            kernels.launch(
                "avg_pool_backward",
                win.N * win.H,
                kernels.contiguous(gy),
                gx,
                *win.kernel_arguments,
            )
            return gx
        share = gy / inside_count(win, gy)
        padded = win.pad(np.zeros_like(gy, shape=(win.N, win.H, win.W, win.C), order="C"))
        for tap in win.taps(padded):
            tap += share
        return kernels.contiguous(win.unpad(padded))


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode: bool = False) -> Tensor:
    """Mean of each window over the taps inside the image (padding does not count).

    Args:
        x: (N, H, W, C), channels last.
        kernel_size, stride, padding: a number, or (vertical, horizontal); stride None means
            kernel_size. Padding is smaller than the window.
        ceil_mode: round the output size up; the last windows may reach past the edge.
    Returns: (N, OH, OW, C).
    """
    x = as_tensor(x)
    win = geometry.windows(
        "avg_pool2d", x, kernel_size, kernel_size if stride is None else stride, padding, ceil_mode
    )
    if win.PH >= win.KH or win.PW >= win.KW:
        raise ValueError(
            f"avg_pool2d: padding {padding} must be smaller than the window {win.KH}x{win.KW}"
        )
    return AvgPool2d(win)(x)


CASES = [
    Case("avg_pool2d: 3x3 stride 2", avg_pool2d, (2, 7, 9, 5), kernel_size=3, stride=2),
    Case("avg_pool2d: stride over kernel", avg_pool2d, (2, 8, 8, 3), kernel_size=2, stride=3),
    Case("avg_pool2d: many channels", avg_pool2d, (1, 3, 4, 515), kernel_size=2, stride=1),
    Case(
        "avg_pool2d: padding", avg_pool2d, (2, 9, 9, 5), kernel_size=3, stride=2, padding=1
    ),
    Case(
        "avg_pool2d: padding, ceil",
        avg_pool2d, (2, 6, 5, 3), kernel_size=(3, 2), stride=(2, 1), padding=1, ceil_mode=True,
    ),
    Case(
        "avg_pool2d: one more window at the end",
        avg_pool2d, (2, 8, 8, 5), kernel_size=3, stride=2, padding=1, ceil_mode=True,
    ),
]  # fmt: skip
# As pool2; AlexNet has none.
ALEXNET = Case("avg_pool2d", avg_pool2d, (1, 27, 27, 256), kernel_size=3, stride=2)
