"""Two-dimensional convolution (as everywhere in deep learning, without flipping the filter).

    y[n, oh, ow, o] = b[o] + sum over kh, kw, c of
                      x[n, oh S - P + kh, ow S - P + kw, c] w[kh, kw, c, o]

    gx[n, h, w, c] = sum of gy[n, oh, ow, o] w[kh, kw, c, o] over the windows that contain (h, w)
    gw[kh, kw, c, o] = sum over n, oh, ow of the x above times gy[n, oh, ow, o];   gb = sum of gy

With groups, channels are split into `groups` independent convolutions: the output channels of group
g see only the input channels of group g. With `relu`, the output is max(0, y), and gy is used only
where y > 0. Saved: x, w, and with `relu` y.

Two files compute it, each with functions forward, input_gradient and filter_gradient.
conv2d_columns.py uses im2col and a matrix product; it is the reference, and GPUs run it.
conv2d_direct.py computes the same sums without columns, in a kernel for CPUs. AlexNet: conv1 to
conv5; groups=2 in conv2, conv4 and conv5 is the split over two GPUs; Krizhevsky et al. (2012),
section 3.5.
"""

from __future__ import annotations

from typing import Any

from minigrad import kernels
from minigrad.engine import Function, Tensor, as_tensor
from minigrad.functions import conv2d_columns, conv2d_direct, geometry
from minigrad.functions.bias import sum_rows
from minigrad.functions.cases import Case, alternating, one_sign, positive, scaled
from minigrad.functions.conv2d_columns import as_rows
from minigrad.functions.geometry import Windows
from minigrad.functions.relu import relu_gradient


class Conv2d(Function):
    def __init__(self, win: Windows, groups: int, relu: bool = False) -> None:
        self.win, self.groups, self.relu = win, groups, relu

    def forward(self, x, w, b):
        x = kernels.contiguous(x)
        self.way: Any = conv2d_direct if conv2d_direct.ready(x) else conv2d_columns
        y = self.way.forward(x, w, b, self.win, self.groups, self.relu)
        self.save(x, w, y if self.relu else None)
        return y

    def backward(self, gy):
        x, w, y = self.saved
        gy = kernels.contiguous(relu_gradient(gy, y) if self.relu else gy)
        gx = gw = gb = None
        if self.needs[0]:
            gx = self.way.input_gradient(gy, w, self.win, self.groups)
        if self.needs[1]:
            gw, gb = self.way.filter_gradient(x, gy, w, self.win, self.groups)
        elif self.needs[2]:
            gb = sum_rows(as_rows(gy))
        return gx, gw, gb if self.needs[2] else None


def conv2d(
    x, w, b=None, stride=1, padding=0, groups: int = 1, ceil_mode: bool = False, relu: bool = False
) -> Tensor:
    """Convolution of a batch of images with a bank of filters.

    Args:
        x: (N, H, W, C), channels last.
        w: (KH, KW, C / groups, O).
        b: (O,), or None for no bias.
        stride, padding: a number, or (vertical, horizontal). Padding is with zeros.
        groups: channels are split into this many independent convolutions; must divide C and O.
        ceil_mode: round the output size up (see functions/geometry.py).
        relu: return max(0, y), bit for bit what functions.relu(conv2d(...)) gives, in the same pass
            over memory.
    Returns: (N, OH, OW, O).
    """
    x, w = as_tensor(x), as_tensor(w)
    if x.ndim != 4 or w.ndim != 4:
        raise ValueError(
            "conv2d: x must be (N, H, W, C) and w (KH, KW, C / groups, O), but they have shapes"
            f" {x.shape} and {w.shape}"
        )
    groups = geometry.whole_number(groups, "groups", "conv2d")
    CG, O = w.shape[2:]
    if x.shape[3] != CG * groups and x.shape[1] == CG * groups:
        raise ValueError(
            f"conv2d: x of shape {x.shape} looks channels first; arrays here are channels last, (N,"
            f" H, W, C) with C = {CG * groups}: use x.transpose(0, 2, 3, 1)"
        )
    if x.shape[3] != CG * groups:
        raise ValueError(
            f"conv2d: x has {x.shape[3]} channels, but w of shape {w.shape} with groups={groups}"
            f" expects {CG * groups}"
        )
    if O % groups:
        raise ValueError(
            f"conv2d: groups={groups} must divide the {O} output channels of w, shape {w.shape}"
        )
    if b is not None and as_tensor(b).shape != (O,):
        raise ValueError(f"conv2d: b must have shape ({O},), not {as_tensor(b).shape}")
    win = geometry.windows("conv2d", x, w.shape[:2], stride, padding, ceil_mode)
    return Conv2d(win, groups, relu)(x, w, b)


CASES = [
    Case("conv2d: 3x3", conv2d, (2, 5, 7, 3), (3, 3, 3, 4), (4,), padding=1),
    Case("conv2d: no b", conv2d, (2, 5, 6, 3), (3, 3, 3, 4)),
    Case("conv2d: as conv1", conv2d, (3, 27, 31, 3), (11, 11, 3, 5), (5,), stride=4),
    Case("conv2d: as conv2", conv2d, (2, 9, 8, 6), (5, 5, 3, 8), (8,), padding=2, groups=2),
    Case(
        "conv2d: uneven", conv2d, (2, 6, 9, 4), (4, 2, 4, 3),
        stride=(2, 3), padding=(3, 1), ceil_mode=True,
    ),
    Case(
        "conv2d: one more window at the end",
        conv2d, (2, 6, 8, 3), (3, 3, 3, 4), (4,), stride=2, ceil_mode=True,
    ),
    Case(
        "conv2d: stride, padding, groups, ceil", conv2d, (2, 6, 7, 4), (3, 2, 2, 6), (6,),
        stride=2, padding=1, groups=2, ceil_mode=True,
    ),
    Case(
        "conv2d: other strides along the axes", conv2d, (1, 8, 9, 3), (3, 2, 3, 4),
        stride=(2, 3), padding=(0, 1),
    ),
    Case("conv2d: window wider than the image", conv2d, (1, 2, 3, 2), (5, 5, 2, 3), padding=3),
    Case(
        "conv2d: several panels",
        conv2d, (3, 4, 31, 10), (3, 3, 5, 134), (134,), padding=1, groups=2,
    ),
    Case("conv2d: wide groups", conv2d, (2, 5, 3, 96), (3, 2, 48, 80), (80,), groups=2),
    Case(
        "conv2d: mostly padding", conv2d, (1, 3, 1, 2), (2, 3, 2, 3), padding=(1, 6), stride=(5, 13)
    ),
    Case("conv2d: stride over the image", conv2d, (2, 3, 2, 2), (2, 3, 2, 3), padding=1, stride=7),
    Case("conv2d: stride over kernel", conv2d, (1, 8, 7, 6), (1, 2, 2, 3), stride=3, groups=3),
    Case(
        "conv2d: relu", conv2d, (3, 7, 31, 8), scaled(0.02, 3, 3, 4, 70), alternating(5.0, 70),
        stride=2, padding=1, groups=2, relu=True,
    ),
    Case("conv2d: relu, no b", conv2d, positive(2, 5, 6, 3), one_sign(3, 3, 3, 4), relu=True),
]  # fmt: skip
ALEXNET = Case("conv2d: conv3", conv2d, (1, 13, 13, 256), (3, 3, 256, 384), (384,), padding=1)
