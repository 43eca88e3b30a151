"""Max-pooling: the largest value in each window, for each channel separately.

    y[n, oh, ow, c] = max over the taps t of the window of x at tap t
    gx: each gy goes to the pixel that won its window; where windows overlap, a pixel may win
        several, and their gy are added.

Padding never wins, not even against minus infinity. Among equal values the first in row order wins.
NaN wins against everything and so propagates. Saved: which tap won, in one byte per window (hence
at most 256 taps).

Kernels: max_pool_forward, max_pool_backward (kernels/max_pool2d.cu). AlexNet: 3x3 windows at stride
2, overlapping, after norm1, norm2 and relu5; Krizhevsky et al. (2012), section 3.4.
"""

from __future__ import annotations

import numpy as np

from minigrad import kernels
from minigrad.engine import Function, Tensor, as_tensor
from minigrad.functions import geometry
from minigrad.functions.cases import Case, apart, ties
from minigrad.functions.geometry import Windows


class MaxPool2d(Function):
    def __init__(self, win: Windows) -> None:
        self.win = win

    def forward(self, x):
        win = self.win
        if kernels.ready(x):
            y = np.empty_like(x, shape=(win.N, win.OH, win.OW, win.C), order="C")
            winner = np.empty_like(y, dtype=np.uint8)
            kernels.launch(
                "max_pool_forward",
                win.N * win.OH,
                kernels.contiguous(x),
                y,
                winner,
                *win.kernel_arguments,
            )
            self.save(winner)
            return y
        y = np.full_like(x, -np.inf, shape=(win.N, win.OH, win.OW, win.C), order="C")
        winner = np.zeros_like(y, dtype=np.uint8)
        seen = np.zeros_like(y, dtype=bool)
        image = win.pad(np.ones_like(x, dtype=bool, shape=(1, win.H, win.W, 1)), value=False)
        for t, (tap, inside) in enumerate(zip(win.taps(win.pad(x)), win.taps(image))):
            better = inside & (~seen | (tap > y) | (np.isnan(tap) & ~np.isnan(y)))
            np.copyto(y, tap, where=better)
            winner[better] = t
            seen |= inside
        self.save(winner)
        return y

    def backward(self, gy):
        (winner,) = self.saved
        win = self.win
        if kernels.ready(gy):
            gx = np.empty_like(gy, shape=(win.N, win.H, win.W, win.C), order="C")
            kernels.launch(
                "max_pool_backward",
                win.N * win.H,
                kernels.contiguous(gy),
                winner,
                gx,
                *win.kernel_arguments,
            )
            return gx
        padded = win.pad(np.zeros_like(gy, shape=(win.N, win.H, win.W, win.C), order="C"))
        for t, tap in enumerate(win.taps(padded)):
            tap += np.where(winner == t, gy, 0)
        return kernels.contiguous(win.unpad(padded))


def max_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode: bool = False) -> Tensor:
    """Largest value of each window.

    Args:
        x: (N, H, W, C), channels last.
        kernel_size, stride, padding: a number, or (vertical, horizontal); stride None means
            kernel_size. Padding is smaller than the window and never wins.
        ceil_mode: round the output size up; the last windows may reach past the edge.
    Returns: (N, OH, OW, C).
    """
    x = as_tensor(x)
    win = geometry.windows(
        "max_pool2d", x, kernel_size, kernel_size if stride is None else stride, padding, ceil_mode
    )
    if win.PH >= win.KH or win.PW >= win.KW:
        raise ValueError(
            f"max_pool2d: padding {padding} must be smaller than the window {win.KH}x{win.KW}"
        )
    if win.KH * win.KW > 256:
        raise ValueError(
            f"max_pool2d: a {win.KH}x{win.KW} window has more than 256 taps, and the winner is kept"
            " in one byte"
        )
    return MaxPool2d(win)(x)


CASES = [
    Case("max_pool2d: 3x3 stride 2", max_pool2d, apart(2, 7, 9, 5), kernel_size=3, stride=2),
    Case("max_pool2d: stride over kernel", max_pool2d, apart(2, 8, 8, 3), kernel_size=2, stride=3),
    Case("max_pool2d: many channels", max_pool2d, apart(1, 3, 4, 515), kernel_size=2, stride=1),
    Case("max_pool2d: 288 channels", max_pool2d, apart(1, 3, 4, 288), kernel_size=2, stride=1),
    Case(
        "max_pool2d: padding", max_pool2d, apart(2, 9, 9, 5), kernel_size=3, stride=2, padding=1
    ),
    Case(
        "max_pool2d: padding, ceil",
        max_pool2d, apart(2, 6, 5, 3), kernel_size=(3, 2), stride=(2, 1), padding=1, ceil_mode=True,
    ),
    Case(
        "max_pool2d: one more window at the end",
        max_pool2d, apart(2, 8, 8, 5), kernel_size=3, stride=2, padding=1, ceil_mode=True,
    ),
    Case("max_pool2d: 256 taps", max_pool2d, apart(1, 260, 2, 2), kernel_size=(256, 1), stride=1),
    Case("max_pool2d: ties", max_pool2d, ties(2, 9, 9, 5), smooth=False, kernel_size=3, stride=2),
]  # fmt: skip
ALEXNET = Case("max_pool2d: pool2", max_pool2d, (1, 27, 27, 256), kernel_size=3, stride=2)
