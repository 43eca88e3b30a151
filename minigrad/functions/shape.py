"""Functions that move numbers without changing them: reshape, flatten, transpose, concat, slices,
devices. Their backward passes move the gradient back."""

from __future__ import annotations

import numpy as np

from minigrad import backend
from minigrad.engine import Function, Tensor, as_tensor
from minigrad.functions.cases import Case


class Reshape(Function):
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def forward(self, x):
        self.x_shape = x.shape
        return x.reshape(self.shape)

    def backward(self, gy):
        return gy.reshape(self.x_shape)


class Transpose(Function):
    def __init__(self, axes: tuple[int, ...]) -> None:
        self.axes = axes

    def forward(self, x):
        return x.transpose(self.axes)

    def backward(self, gy):
        return gy.transpose(tuple(int(i) for i in np.argsort(self.axes)))


class Concat(Function):
    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, *xs):
        self.sizes = [x.shape[self.axis] for x in xs]
        return np.concatenate(xs, axis=self.axis)

    def backward(self, gy):
        edges = [int(e) for e in np.cumsum(self.sizes)[:-1]]
        return tuple(np.split(gy, edges, axis=self.axis))


class GetItem(Function):
    def __init__(self, index: tuple) -> None:
        self.index = index

    def forward(self, x):
        self.like = np.empty_like(x, shape=(0,))
        self.shape = x.shape
        return x[self.index]

    def backward(self, gy):
        gx = np.zeros(
            self.shape, self.like.dtype, like=self.like
        )  # not zeros_like: on a GPU it treats shape=() as no shape given
        gx[self.index] = gy
        return gx


class ToDevice(Function):
    def __init__(self, device: str) -> None:
        self.target = device

    def forward(self, x):
        return backend.to_device(x, self.target)

    def backward(self, gy):
        return backend.to_device(gy, self.device)


def reshape(x, *shape) -> Tensor:
    """The same numbers in another shape, given as sizes or as one tuple; one size may be -1."""
    x = as_tensor(x)
    shape = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    try:
        return Reshape(shape)(x)
    except ValueError as error:
        raise ValueError(
            f"reshape: {x.shape} has {x.size} elements and does not fit {shape}"
        ) from error


def flatten(x) -> Tensor:
    """(N, ...) -> (N, everything else), in H, W, C order for an image batch."""
    x = as_tensor(x)
    return reshape(x, x.shape[0], int(np.prod(x.shape[1:])))


def transpose(x, *axes) -> Tensor:
    """Axes in a new order, given as numbers or as one tuple; reversed if none are given."""
    x = as_tensor(x)
    axes = tuple(axes[0]) if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
    order = axes or tuple(range(x.ndim))[::-1]
    if sorted(order) != list(range(x.ndim)):
        raise ValueError(
            f"transpose: axes {order} are not an order of the axes 0 .. {x.ndim - 1} of shape"
            f" {x.shape}"
        )
    return Transpose(order)(x)


def concat(xs, axis: int = -1) -> Tensor:
    """Join tensors along `axis`, by default the last one (channels). All other sizes must agree."""
    xs = [as_tensor(x) for x in xs]
    shapes = [x.shape for x in xs]
    axis = axis % max(xs[0].ndim, 1) if xs else 0
    if not xs or len({(len(s), s[:axis] + s[axis + 1 :]) for s in shapes}) > 1:
        raise ValueError(
            f"concat: shapes {shapes} must agree in every axis but {axis}, and there must be at"
            " least one"
        )
    return Concat(axis)(*xs)


def getitem(x, index) -> Tensor:
    """x[index] for whole numbers, slices and `...`. Each element is taken at most once, so its
    gradient comes from one place only."""
    index = index if isinstance(index, tuple) else (index,)
    if not all(
        i is Ellipsis or (isinstance(i, (int, np.integer, slice)) and not isinstance(i, bool))
        for i in index
    ):
        raise TypeError("a Tensor is indexed by whole numbers, slices and ... only")
    return GetItem(index)(x)


def channels(x, start: int, stop: int) -> Tensor:
    """Channels start .. stop - 1 of a channels-last tensor, for example one column of the paper's
    two-GPU network."""
    return getitem(x, (Ellipsis, slice(start, stop)))


def to(x, device: str) -> Tensor:
    """The tensor on another device ("cpu", "gpu", "gpu:1"); backward moves its gradient back."""
    x = as_tensor(x)
    kind, index = backend.parse_device(device)
    if x.device == device or (kind == "gpu" and index is None and x.device != "cpu"):
        return x
    return ToDevice(device)(x)


Tensor.operators |= {"getitem": getitem, "reshape": reshape, "transpose": transpose, "to": to}


CASES = [
    Case("reshape", lambda x: reshape(x, 4, -1), (3, 4, 2)),
    Case("flatten", flatten, (3, 4, 2, 2)),
    Case("transpose", lambda x: transpose(x, 2, 0, 1), (3, 4, 2)),
    Case("concat", lambda a, b: concat([a, b]), (2, 3, 3), (2, 3, 4)),
    Case("concat: axis 1", lambda a, b: concat([a, b], 1), (2, 3, 4), (2, 2, 4)),
    Case("channels", lambda x: channels(x, 1, 3), (2, 3, 4)),
    Case("getitem", lambda x: getitem(x, (1, ..., slice(None, None, 2))), (2, 3, 4)),
    Case("to", lambda x: to(x, "cpu"), (2, 3)),
]
