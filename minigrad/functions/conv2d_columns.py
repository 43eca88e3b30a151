"""Convolution as im2col and a matrix product: the reference, and what GPUs run.

Write every window as one row of a matrix, `cols` (N OH OW, KH KW C); the filters are the columns of
w (KH KW C, O):

    y = cols w + b    gw = cols^T gy    gcols = gy w^T    gb = sum of gy    gx = col2im(gcols)

where col2im adds each element of gcols back to the pixel it was copied from. The columns are
K^2/S^2 times as large as x. They are therefore made for a few images at a time, so that they stay
in cache, and made again in backward. Kernels: im2col, col2im (kernels/conv2d.cu), add_bias,
sum_rows (bias.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from minigrad import kernels
from minigrad.backend import Array
from minigrad.functions.bias import add_bias, sum_rows
from minigrad.functions.geometry import Windows

# Bytes of columns made at a time: in the array form few enough that they are still in cache for the
# matrix product, on a GPU enough for a large product.
COLUMN_BYTES, GPU_COLUMN_BYTES = 8 << 20, 256 << 20


def as_rows(a: Array) -> Array:
    """(..., O) as a matrix (rows, O). reshape(-1, O) would fail if O is 0."""
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


class Room:
    """Memory for one chunk of columns; the next chunk reuses it."""

    def __init__(self, like: Array) -> None:
        self.memory = np.empty_like(like, shape=(0,))

    def of(self, *shape: int) -> Array:
        size = math.prod(shape)
        if self.memory.size < size:
            self.memory = np.empty_like(self.memory, shape=(size,))
        return self.memory[:size].reshape(shape)


def pieces(
    x: Array, outputs: int, win: Windows, groups: int
) -> Iterator[tuple[slice, slice, slice, slice]]:
    """For each chunk of images and each group: slices of the images, the rows of y, the input
    channels and the output channels."""
    C, O = win.C // groups, outputs // groups
    per_image = win.OH * win.OW * win.KH * win.KW * C * x.itemsize
    limit = COLUMN_BYTES if isinstance(x, np.ndarray) else GPU_COLUMN_BYTES
    step = max(1, limit // max(1, per_image))
    for n in range(0, win.N, step):
        images = slice(n, min(n + step, win.N))
        rows = slice(images.start * win.OH * win.OW, images.stop * win.OH * win.OW)
        for g in range(groups):
            yield images, rows, slice(g * C, (g + 1) * C), slice(g * O, (g + 1) * O)


def columns(x: Array, cs: slice, win: Windows, room: Room) -> Array:
    """im2col of a few images, for the channels of one group."""
    if not kernels.ready(x):
        return im2col(x[..., cs], win)
    cols = room.of(len(x) * win.OH * win.OW, win.KH * win.KW * (cs.stop - cs.start))
    launch("im2col", len(x) * win.OH, x, cols, cs, win)
    return cols


def scatter(cols: Array, gx: Array, cs: slice, win: Windows) -> None:
    """col2im into gx for a few images and the channels of one group."""
    if not kernels.ready(gx):
        gx[..., cs] = col2im(cols, win)
    else:
        launch("col2im", len(gx) * win.H, cols, gx, cs, win)


def launch(name: str, blocks: int, source: Array, target: Array, cs: slice, w: Windows) -> None:
    sizes = w.KH, w.KW, w.SH, w.SW, w.PH, w.PW, w.OH, w.OW
    kernels.launch(
        name, blocks, source, target, w.H, w.W, w.C, cs.start, cs.stop - cs.start, *sizes
    )


def forward(
    x: Array, w: Array, b: Array | None, win: Windows, groups: int, relu: bool = False
) -> Array:
    """y (N, OH, OW, O), or max(0, y)."""
    w2, O, room = as_rows(w), w.shape[3], Room(x)
    y = np.empty_like(x, shape=(win.N * win.OH * win.OW, O))
    for images, rows, cs, os in pieces(x, O, win, groups):
        np.matmul(columns(x[images], cs, win, room), w2[:, os], out=y[rows, os])
        if os.stop == O:  # the last group of this chunk
            add_bias(y[rows], b, relu)
    return y.reshape(win.N, win.OH, win.OW, O)


def input_gradient(gy: Array, w: Array, win: Windows, groups: int) -> Array:
    """gx (N, H, W, C)."""
    w2, O, room = as_rows(w), w.shape[3], Room(gy)
    gx = np.empty_like(gy, shape=(win.N, win.H, win.W, win.C), order="C")
    gy = as_rows(gy)
    for images, rows, cs, os in pieces(gx, O, win, groups):
        cols = room.of(rows.stop - rows.start, w2.shape[0])
        scatter(np.matmul(gy[rows, os], w2[:, os].T, out=cols), gx[images], cs, win)
    return gx


def filter_gradient(
    x: Array, gy: Array, w: Array, win: Windows, groups: int
) -> tuple[Array, Array]:
    """gw, gb."""
    O, room = w.shape[3], Room(x)
    gw, gb = np.zeros_like(w, order="C"), np.zeros_like(w, shape=(O,))
    gw2, gy = as_rows(gw), as_rows(gy)
    for images, rows, cs, os in pieces(x, O, win, groups):
        gw2[:, os] += columns(x[images], cs, win, room).T @ gy[rows, os]
        if os.stop == O:
            gb += sum_rows(gy[rows])
    return gw, gb
