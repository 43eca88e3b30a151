"""Windows over an image from their definition, one number at a time: the oracle of convolution and
pooling."""

import itertools

import numpy as np

# Kernel, stride, padding.
GEOMETRIES = [
    ((1, 1), (1, 1), (0, 0)),
    ((3, 3), (1, 1), (0, 0)),
    ((3, 3), (2, 2), (1, 1)),
    ((2, 3), (3, 1), (0, 2)),
    ((2, 2), (3, 3), (0, 0)),
    ((4, 1), (2, 4), (3, 0)),
    ((5, 4), (4, 3), (1, 2)),
]
# Those that a pool may have.
POOLS = [g for g in GEOMETRIES if max(g[2]) < min(g[0]) or g[2][1] == 0]


def positions(size, kernel, stride, padding, ceil_mode):
    """First pixel of each window along an axis: walked, not computed."""
    starts, start = [], -padding
    while start + kernel <= size + padding:
        starts.append(start)
        start += stride
    if ceil_mode and starts and starts[-1] + kernel < size + padding and start < size:
        starts.append(start)
    return starts


def windows(x, kernel, stride, padding, ceil_mode):
    """For each n, oh, ow: that index, and {(kh, kw): (h, w)} of the taps inside the image."""
    (N, H, W, _), (KH, KW), (SH, SW), (PH, PW) = x.shape, kernel, stride, padding
    rows, columns = positions(H, KH, SH, PH, ceil_mode), positions(W, KW, SW, PW, ceil_mode)
    for n, (oh, top), (ow, left) in itertools.product(
        range(N), enumerate(rows), enumerate(columns)
    ):
        taps = itertools.product(range(KH), range(KW))
        inside = {
            (a, b): (top + a, left + b) for a, b in taps if 0 <= top + a < H and 0 <= left + b < W
        }
        yield (n, oh, ow), inside


def conv_by_loops(x, w, b, stride, padding, groups, ceil_mode):
    KH, KW, CG, filters = w.shape
    y = {}
    for (n, oh, ow), inside in windows(x, (KH, KW), stride, padding, ceil_mode):
        for o in range(filters):
            first = o // (filters // groups) * CG
            total = float(b[o])
            for (kh, kw), (h, v) in inside.items():
                for c in range(CG):
                    total += x[n, h, v, first + c] * w[kh, kw, c, o]
            y[n, oh, ow, o] = total
    return as_array(y)


def pool_by_loops(x, combine, kernel, stride, padding, ceil_mode):
    y = {}
    for (n, oh, ow), inside in windows(x, kernel, stride, padding, ceil_mode):
        for c in range(x.shape[3]):
            y[n, oh, ow, c] = combine([float(x[n, h, w, c]) for h, w in inside.values()])
    return as_array(y)


def as_array(values):
    """A dict from indices to numbers as an array."""
    array = np.full(tuple(max(i) + 1 for i in zip(*values)), np.nan)
    for index, value in values.items():
        array[index] = value
    return array
