"""Convolution on a CPU without columns. conv2d.py uses it if its arrays are NumPy arrays and the
kernels are built (kernels/conv2d_direct.cpp).

The formulas are those of conv2d.py, and its array form is the reference. No window is copied into a
row of columns. Instead, a tile of sums stays in the vector registers, and the kernel reads the
windows in place, from a padded copy of a few image rows that fits into the second-level cache.

One result differs: if a filter contains an infinity or NaN, pixels of the input gradient near the
border become NaN here but are finite in the array form, because here the zeros around gy are
multiplied too.

The input gradient is also a convolution: of gy, with the taps of the filters in reverse order and c
and o exchanged. With a stride S, the pixels h = S q + a of x (a = 0 ... S - 1) were seen only by
the taps kh = r, r + S, r + 2S, ..., where r = (a + P) mod S:

    gx[S q + a] = sum over t, o of  gy[q + (a + P - r) / S - t, o] w[r + S t, :, o]

So each phase a is a convolution of stride 1 with every S-th tap, and writes every S-th pixel. The
same holds along the rows.
"""

from __future__ import annotations

import numpy as np

from minigrad import kernels
from minigrad.backend import Array
from minigrad.functions.geometry import Windows

PANEL = 32  # output channels that lie side by side, as in kernels/conv2d_direct.cpp
# Bytes that a block works on at a time, few enough to stay in a second-level cache of 512 KB.
CACHE = 384 << 10
# The gradient of the filters is summed in at most PARTS parts, which together have at most
# PARTS_BYTES bytes.
PARTS, PARTS_BYTES = 32, 64 << 20
# A launch has at least this many blocks, if the work can be divided, to keep 16 threads busy.
BLOCKS = 16


def ready(x: Array) -> bool:
    return isinstance(x, np.ndarray) and kernels.ready(x)


def divide_up(a: int, b: int) -> int:
    return -(-a // b)


def padded_size(win: Windows, rows: int, channels: int) -> int:
    """How many numbers the input rows that `rows` output rows see have, with padding, rounded up
    to whole cache lines."""
    return (
        divide_up(((rows - 1) * win.SH + win.KH) * ((win.OW - 1) * win.SW + win.KW) * channels, 16)
        * 16
    )


def rows_that_fit(win: Windows, channels: int, panel: int, numbers: int) -> int:
    """How many output rows to work on at a time, at least one. They (with `panel` numbers per
    pixel) and the input rows they see should have at most `numbers` numbers. All rows are divided
    into nearly equal shares."""
    row = ((win.OW - 1) * win.SW + win.KW) * channels  # of the input
    rows = (numbers - (win.KH - win.SH) * row) // max(1, win.SH * row + win.OW * panel)
    return divide_up(win.OH, divide_up(win.OH, min(win.OH, max(1, rows))))


def convolve(
    x: Array, w: Array, b: Array, y: Array, win: Windows, groups: int,
    flip: bool = False, to: tuple[int, int, int, int] = (1, 1, 0, 0),
) -> None:  # fmt: skip
    """Convolve x with the filters w (KH, KW, C / groups, O), and write output (oh, ow) to pixel (SH
    oh + h0, SW ow + w0) of y, where `to` is (SH, SW, h0, w0). With `flip`, x is a gy, and w is
    turned into the filters of the input gradient."""
    KH, KW, CG, O = w.shape
    channels, outputs = (O // groups, CG) if flip else (CG, O // groups)
    panels = divide_up(outputs, PANEL)
    filters = np.empty_like(w, shape=(groups, panels, 1 + KH * KW * channels, PANEL))
    kernels.launch(
        "pack_filters",
        groups * panels * KH * KW,
        w,
        b,
        filters,
        KH * KW,
        CG,
        O // groups,
        groups,
        int(flip),
    )
    band = rows_that_fit(
        win, channels, 0, CACHE // 2 // x.itemsize
    )  # the other half is for the filters' panel
    band = min(band, max(1, win.OH * win.N * groups // BLOCKS))
    blocks, shared = win.N * groups * divide_up(win.OH, band), padded_size(win, band, channels)
    sizes = *win.kernel_arguments, outputs * groups, groups, *y.shape[1:3], *to, band
    kernels.launch("direct_forward", blocks, x, filters, y, *sizes, shared=shared)


def forward(
    x: Array, w: Array, b: Array | None, win: Windows, groups: int, relu: bool = False
) -> Array:
    """y (N, OH, OW, O), or max(0, y)."""
    O = w.shape[3]
    y = np.empty_like(x, shape=(win.N, win.OH, win.OW, O))
    b = np.zeros_like(w, shape=(O,)) if b is None else kernels.contiguous(b)
    convolve(x, kernels.contiguous(w), b, y, win, groups)
    if relu:
        np.maximum(y, 0, out=y)  # only GPUs do this in one pass with the bias
    return y


def input_gradient(gy: Array, w: Array, win: Windows, groups: int) -> Array:
    """gx (N, H, W, C)."""
    gx = np.empty_like(gy, shape=(win.N, win.H, win.W, win.C))
    no_bias = np.zeros_like(w, shape=(win.C,))
    for h0 in range(min(win.SH, win.H)):
        for w0 in range(min(win.SW, win.W)):
            (down, r), (along, s) = divmod(h0 + win.PH, win.SH), divmod(w0 + win.PW, win.SW)
            taps = kernels.contiguous(w[r :: win.SH, s :: win.SW])
            if not taps.size:  # the stride exceeds the kernel: no window sees these pixels
                gx[:, h0 :: win.SH, w0 :: win.SW] = 0
                continue
            KH, KW = taps.shape[:2]
            OH, OW = divide_up(win.H - h0, win.SH), divide_up(win.W - w0, win.SW)
            # Padding can be negative here: no tap then reaches the first rows of gy.
            sides = KH - 1 - down, KW - 1 - along, OH, OW
            phase = Windows(win.N, win.OH, win.OW, w.shape[3], KH, KW, 1, 1, *sides)
            convolve(gy, taps, no_bias, gx, phase, groups, flip=True, to=(win.SH, win.SW, h0, w0))
    return gx


def filter_gradient(
    x: Array, gy: Array, w: Array, win: Windows, groups: int
) -> tuple[Array, Array]:
    """gw, gb. The sum over the images is split into parts that depend only on the shapes."""
    KH, KW, CG, O = w.shape
    panels = divide_up(O // groups, PANEL)
    size = groups * panels * (1 + KH * KW * CG) * PANEL
    span = max(
        1, divide_up(win.N, max(1, min(PARTS, PARTS_BYTES // max(1, size * x.itemsize))))
    )  # images per part
    count = divide_up(win.N, span)
    splits = max(1, min(panels, divide_up(BLOCKS, max(1, count * groups))))
    band = rows_that_fit(win, CG, PANEL, CACHE // x.itemsize)
    each = padded_size(win, band, CG) + band * win.OW * PANEL
    chunk = (
        max(1, min(span, CACHE // (each * x.itemsize))) if band == win.OH else 1
    )  # images at a time
    parts = np.empty_like(w, shape=(count, size))
    blocks, shared = count * groups * splits, chunk * each
    kernels.launch(
        "direct_filter_gradient",
        blocks,
        x,
        gy,
        parts,
        *win.kernel_arguments,
        O,
        groups,
        win.N,
        span,
        chunk,
        band,
        splits,
        shared=shared,
    )
    gw, gb = np.empty_like(w, order="C"), np.empty_like(w, shape=(O,))
    kernels.launch(
        "unpack_filters",
        groups * panels * KH * KW,
        parts,
        gw,
        gb,
        count,
        KH * KW,
        CG,
        O // groups,
        groups,
    )
    return gw, gb
