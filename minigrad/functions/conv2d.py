"""Two-dimensional convolution (as everywhere in deep learning, without flipping the filter), as
im2col and a matrix product.

    y[n, oh, ow, o] = b[o] + sum over kh, kw, c of
                      x[n, oh S - P + kh, ow S - P + kw, c] w[kh, kw, c, o]

Write every window as one row of a matrix, `cols` (N OH OW, KH KW C); the filters are the columns of
w (KH KW C, O):

    y = cols w + b    gw = cols^T gy    gcols = gy w^T    gb = sum of gy    gx = col2im(gcols)

where col2im adds each element of gcols back to the pixel it was copied from. With groups, channels
are split into `groups` independent convolutions: output columns of group g see only its own input
channels. With `relu`, y is max(0, y), and gy counts where y > 0. Saved: x, w, and y with `relu`.
The columns are K^2/S^2 times as large as x, so they are made a few images at a time, stay in cache,
and are made again in backward.

Kernels: im2col, col2im (kernels/convolution.cu), add_bias, sum_rows (bias.py, kernels/bias.cu) on a
GPU; on a CPU the same sums without columns (direct.py, kernels/direct.cpp). AlexNet: conv1 to
conv5; groups=2 in conv2, conv4 and conv5 is the split over two GPUs; Krizhevsky et al. (2012),
section 3.5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from minigrad import kernels
from minigrad.backend import Array
from minigrad.engine import Function, Tensor, as_tensor
from minigrad.functions import direct, geometry
from minigrad.functions.bias import add_bias, sum_rows
from minigrad.functions.cases import Case, alternating, one_sign, positive, scaled
from minigrad.functions.geometry import Windows
from minigrad.functions.relu import relu_gradient

# Columns made at a time: in the array form a few megabytes, still in cache for the product; on a
# GPU enough for a large product.
COLUMN_BYTES, GPU_COLUMN_BYTES = 8 << 20, 256 << 20


def as_rows(a: Array) -> Array:
    """(..., O) as a matrix (rows, O). Not by reshape(-1, O), which has no answer where O is 0."""
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


def im2col(x: Array, win: Windows) -> Array:
    """Windows as rows: (n, H, W, C) -> (n OH OW, KH KW C)."""
    taps = np.stack(list(win.taps(win.pad(x))), axis=3)  # (n, OH, OW, KH KW, C)
    return taps.reshape(len(x) * win.OH * win.OW, win.KH * win.KW * x.shape[3])


def col2im(cols: Array, win: Windows) -> Array:
    """The transpose of im2col: add every column element back to its pixel. (n OH OW, KH KW C) ->
    (n, H, W, C)."""
    n, C = len(cols) // (win.OH * win.OW), cols.shape[1] // (win.KH * win.KW)
    taps = cols.reshape(n, win.OH, win.OW, win.KH * win.KW, C)
    padded = win.pad(np.zeros_like(cols, shape=(n, win.H, win.W, C)))
    for tap, target in enumerate(win.taps(padded)):
        target += taps[:, :, :, tap]
    return win.unpad(padded)


class Conv2d(Function):
    def __init__(self, win: Windows, groups: int, relu: bool = False) -> None:
        self.win, self.groups, self.relu = win, groups, relu
        self.room: Array | None = None  # for a chunk of columns

    def pieces(self, x: Array) -> Iterator[tuple[slice, slice, slice, slice]]:
        """Slices (images, rows of y, input channels, output channels) of each group of each chunk
        of images."""
        win, G = self.win, self.groups
        C, O = win.C // G, self.O // G
        per_image = win.OH * win.OW * win.KH * win.KW * C * x.itemsize
        step = max(
            1,
            (COLUMN_BYTES if isinstance(x, np.ndarray) else GPU_COLUMN_BYTES) // max(1, per_image),
        )
        for n in range(0, win.N, step):
            images = slice(n, min(n + step, win.N))
            rows = slice(images.start * win.OH * win.OW, images.stop * win.OH * win.OW)
            for g in range(G):
                yield images, rows, slice(g * C, (g + 1) * C), slice(g * O, (g + 1) * O)

    def columns(self, x: Array, cs: slice) -> Array:
        """im2col of one group's channels of a few images, into a buffer that the next call uses
        again."""
        win = self.win
        if not kernels.ready(x):
            return im2col(x[..., cs], win)
        cols = self.buffer(x, (len(x) * win.OH * win.OW, win.KH * win.KW * (cs.stop - cs.start)))
        self.launch("im2col", len(x) * win.OH, x, cols, cs)
        return cols

    def scatter(self, cols: Array, gx: Array, cs: slice) -> None:
        """col2im of one group's channels into gx, a few images."""
        if not kernels.ready(gx):
            gx[..., cs] = col2im(cols, self.win)
        else:
            self.launch("col2im", len(gx) * self.win.H, cols, gx, cs)

    def launch(self, name: str, blocks: int, source: Array, target: Array, cs: slice) -> None:
        w = self.win
        sizes = w.KH, w.KW, w.SH, w.SW, w.PH, w.PW, w.OH, w.OW
        kernels.launch(
            name, blocks, source, target, w.H, w.W, w.C, cs.start, cs.stop - cs.start, *sizes
        )

    def buffer(self, like: Array, shape: tuple[int, int]) -> Array:
        """Room for a chunk of columns, kept from one chunk to the next and no longer."""
        size = shape[0] * shape[1]
        if self.room is None or self.room.size < size:
            self.room = np.empty_like(like, shape=(size,))
        return self.room[:size].reshape(shape)

    def forward(self, x, w, b):
        x = kernels.contiguous(x)
        self.O, self.room = w.shape[3], None
        if direct.ready(x):
            y = direct.forward(x, w, b, self.win, self.groups)
            if self.relu:
                np.maximum(y, 0, out=y)  # one pass with the bias is for GPUs
        else:
            y = self.by_columns(x, as_rows(w), b)
        self.save(x, w, y if self.relu else None)
        return y

    def by_columns(self, x: Array, w: Array, b: Array | None) -> Array:
        """y as im2col and a matrix product with w (KH KW C / groups, O)."""
        win = self.win
        y = np.empty_like(x, shape=(win.N * win.OH * win.OW, self.O))
        for images, rows, cs, os in self.pieces(x):
            np.matmul(self.columns(x[images], cs), w[:, os], out=y[rows, os])
            if os.stop == self.O:  # the last group of this chunk
                add_bias(y[rows], b, self.relu)
        self.room = None
        return y.reshape(win.N, win.OH, win.OW, self.O)

    def backward(self, gy):
        x, w, y = self.saved
        if self.relu:
            gy = relu_gradient(gy, y)
        if direct.ready(x):
            gy = kernels.contiguous(gy)
            gx = direct.input_gradient(gy, w, self.win, self.groups) if self.needs[0] else None
            if not self.needs[1]:
                return gx, None, sum_rows(as_rows(gy)) if self.needs[2] else None
            gw, gb = direct.filter_gradient(x, gy, w, self.win, self.groups)
            return gx, gw, gb if self.needs[2] else None
        w2 = as_rows(w)
        gy = as_rows(gy)
        gx = np.empty_like(x) if self.needs[0] else None
        gw = np.zeros_like(w, order="C") if self.needs[1] else None
        gb = np.zeros_like(w, shape=(self.O,)) if self.needs[2] else None
        for images, rows, cs, os in self.pieces(x):
            if gw is not None:
                gw.reshape(w2.shape)[:, os] += self.columns(x[images], cs).T @ gy[rows, os]
            if gx is not None:
                room = self.buffer(x, (rows.stop - rows.start, w2.shape[0]))
                self.scatter(np.matmul(gy[rows, os], w2[:, os].T, out=room), gx[images], cs)
            if gb is not None and os.stop == self.O:
                gb += sum_rows(gy[rows])
        self.room = None
        return gx, gw, gb


def conv2d(
    x, w, b=None, stride=1, padding=0, groups: int = 1, ceil_mode: bool = False, relu: bool = False
) -> Tensor:
    """Convolution of a batch of images with a bank of filters.

    Args:
        x: (N, H, W, C), channels last.
        w: (KH, KW, C / groups, O).
        b: (O,), or None for no bias.
        stride, padding: a number, or (vertical, horizontal). Padding is with zeros.
        groups: channels are split into this many independent convolutions; divides C and O.
        ceil_mode: round the output size up (see functions/geometry.py).
        relu: max(0, y) in place of y: the bits of functions.relu(conv2d(...)), in the same pass
            over memory.
    Returns: (N, OH, OW, O).
    """
    x, w = as_tensor(x), as_tensor(w)
    if x.ndim != 4 or w.ndim != 4:
        raise ValueError(
            "conv2d: x must be (N, H, W, C) and w (KH, KW, C / groups, O), but they have shapes"
            f" {x.shape} and {w.shape}"
        )
    groups = geometry.whole(groups, "groups", "conv2d")
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
