"""The geometry of windows: output sizes, padding and taps, shared by convolution and pooling.

A window of size K, moved by stride S over an axis of size H padded by P on both sides, fits

    OH = 1 + floor((H + 2P - K) / S) times, or with ceil_mode OH = 1 + ceil((H + 2P - K) / S).

With ceil_mode the last window may reach past the edge; its missing taps count as padding. The 2012
code rounded up (layer.py), so its 224 x 224 crops give 55 x 55; rounding down needs 227. As in
Caffe and PyTorch, a last window that would lie wholly past the image is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from minigrad.backend import Array

LARGEST = 1 << 28  # limit of every size along an axis: kernels add and multiply some in 32 bits


def pair(value: int | tuple[int, int], name: str, function: str, least: int) -> tuple[int, int]:
    """(height, width) of a size given as one number or as a pair. ValueError unless they are whole
    numbers of at least `least`."""
    both = value if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2:
        raise ValueError(
            f"{function}: {name} must be a whole number >= {least}, or a pair of them, not"
            f" {value!r}"
        )
    high, wide = (whole_number(v, name, function, least) for v in both)
    return high, wide


def whole_number(value: int, name: str, function: str, least: int = 1) -> int:
    """The value as an int. ValueError unless it is a whole number of at least `least`."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise ValueError(f"{function}: {name} must be a whole number >= {least}, not {value!r}")
    return int(value)


def output_size(
    size: int, kernel: int, stride: int = 1, padding: int = 0, ceil_mode: bool = False
) -> int:
    """Number of window positions along one axis; <= 0 when not even one fits."""
    room = size + 2 * padding - kernel
    count = 1 + (-(-room // stride) if ceil_mode else room // stride)
    if (
        ceil_mode and (count - 1) * stride >= size + padding
    ):  # the last window would start past the image
        count -= 1
    return count


@dataclass(frozen=True)
class Windows:
    """All windows over a batch of shape (N, H, W, C): kernel KH x KW, stride SH, SW, padding PH,
    PW, giving OH x OW."""

    N: int
    H: int
    W: int
    C: int
    KH: int
    KW: int
    SH: int
    SW: int
    PH: int
    PW: int
    OH: int
    OW: int

    @property
    def kernel_arguments(self) -> tuple[int, ...]:
        """The sizes in the order in which the pooling and CPU convolution kernels take them."""
        return (
            self.H,
            self.W,
            self.C,
            self.KH,
            self.KW,
            self.SH,
            self.SW,
            self.PH,
            self.PW,
            self.OH,
            self.OW,
        )

    def pad(self, x: Array, value: float = 0) -> Array:
        """x with a border of `value`, wide enough for every tap of every window."""
        below = max((self.OH - 1) * self.SH + self.KH - self.H - self.PH, 0)
        right = max((self.OW - 1) * self.SW + self.KW - self.W - self.PW, 0)
        if not (self.PH or self.PW or below or right):
            return x
        return np.pad(
            x, ((0, 0), (self.PH, below), (self.PW, right), (0, 0)), constant_values=value
        )

    def unpad(self, padded: Array) -> Array:
        """The image inside a padded array: the inverse of pad."""
        return padded[:, self.PH : self.PH + self.H, self.PW : self.PW + self.W]

    def taps(self, padded: Array) -> Iterator[Array]:
        """For each tap (kh, kw) of the window, row by row, the pixels that it sees: a view (N, OH,
        OW, C) of the padded array."""
        for kh in range(self.KH):
            for kw in range(self.KW):
                yield padded[
                    :,
                    kh : kh + self.SH * (self.OH - 1) + 1 : self.SH,
                    kw : kw + self.SW * (self.OW - 1) + 1 : self.SW,
                ]


def windows(function: str, x: Array, kernel_size, stride, padding, ceil_mode: bool) -> Windows:
    """Check the geometry of a convolution or pooling and compute its output size. Raises ValueError
    if it is not possible."""
    if x.ndim != 4:
        raise ValueError(
            f"{function}: x must have four axes (N, H, W, C), channels last, but has shape"
            f" {x.shape}"
        )
    KH, KW = pair(kernel_size, "kernel_size", function, least=1)
    SH, SW = pair(stride, "stride", function, least=1)
    PH, PW = pair(padding, "padding", function, least=0)
    N, H, W, C = x.shape
    if max(H, W, KH, KW, SH, SW, PH, PW) > LARGEST:
        sizes = f"{H}x{W} images, window {KH}x{KW}, stride {SH}, {SW}, padding {PH}, {PW}"
        raise ValueError(f"{function}: {sizes}: none may be above {LARGEST}")
    if H < 1 or W < 1:
        raise ValueError(f"{function}: {H}x{W} images have no pixels")
    OH, OW = output_size(H, KH, SH, PH, ceil_mode), output_size(W, KW, SW, PW, ceil_mode)
    if OH < 1 or OW < 1:
        raise ValueError(
            f"{function}: a {KH}x{KW} window does not fit into {H}x{W} images with padding {PH},"
            f" {PW}"
        )
    return Windows(N, H, W, C, KH, KW, SH, SW, PH, PW, OH, OW)
