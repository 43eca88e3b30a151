"""The checks that the engine makes, and their error messages. They are kept out of engine.py, where
they would hide the main loop."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from typing import Any

from minigrad import backend
from minigrad.backend import Array

FLOATS = ("float32", "float64")


def data(array: Array, requires_grad: bool) -> None:
    """Check a Tensor's data: real numbers, and floating-point if it requires a gradient."""
    if array.dtype.kind not in "fiub" or not array.dtype.isnative:
        raise TypeError(
            f"a Tensor holds real numbers in this machine's byte order, not {array.dtype}"
        )
    if requires_grad and array.dtype.name not in FLOATS:
        raise TypeError(f"only float32 and float64 tensors have gradients, not {array.dtype}")


def inputs(name: str, tensors: Sequence[Any]) -> None:
    """Check the inputs of one call of the Function `name`: one device, one floating-point dtype."""
    devices, dtypes = [t.device for t in tensors], [t.dtype.name for t in tensors]
    if len(set(devices)) > 1:
        raise ValueError(
            f"{name}: the inputs are on different devices ({', '.join(devices)}); move them"
            " with .to(device)"
        )
    if any(d not in FLOATS for d in dtypes):
        raise TypeError(f"{name}: inputs must be float32 or float64, not {', '.join(dtypes)}")
    if len(set(dtypes)) > 1:
        raise TypeError(
            f"{name}: inputs mix {', '.join(dtypes)}; nothing is cast silently, convert one of"
            " them first"
        )


def marks(arrays: Sequence[Any]) -> list[int | None] | None:
    """With MINIGRAD_DEBUG in the environment, a checksum of each array that a Function saves, None
    for what is no array; otherwise None. It costs a reading of all that is saved, so it is off by
    default."""
    if "MINIGRAD_DEBUG" not in os.environ:
        return None
    return [zlib.crc32(a.tobytes()) if backend.is_array(a) else None for a in arrays]


def unchanged(function: Any) -> None:
    """Raise RuntimeError if an array that the Function saved was written to since then: its
    gradients would be wrong. Only arrays that were saved with marks are checked."""
    if function.marks is None:
        return
    for position, (before, now) in enumerate(zip(function.marks, marks(function.saved) or [])):
        if before != now:
            raise RuntimeError(
                f"{type(function).__name__}: the array that it saved as number {position}, of shape"
                f" {function.saved[position].shape}, was written to between forward and backward:"
                " its gradients would be wrong. Write to a copy"
            )


def start(tensor: Any, gy: Array | None) -> None:
    """Check the start of a backward pass from `tensor` with the gradient gy (None: left out)."""
    if tensor.creator is None and not tensor.requires_grad:
        raise RuntimeError(
            "backward: nothing here requires a gradient (made under no_grad, or from inputs"
            " that need none)"
        )
    if gy is None:
        if tensor.size != 1:
            raise ValueError(
                f"backward of a tensor of shape {tensor.shape} needs gy, the gradient of the loss"
                " with respect to it; only a tensor of one element does not need gy (did you mean"
                " y.sum().backward()?)"
            )
        return
    if not backend.is_array(gy):
        raise TypeError(f"gy must be a plain array, not {type(gy).__name__}")
    given, own = (f"{a.dtype} {a.shape} on {backend.device_of(a)}" for a in (gy, tensor.data))
    if given != own:
        raise ValueError(f"gy is {given}, but the tensor is {own}: they must agree")


def returned(name: str, parents: Sequence[Any], grads: Sequence[Array | None]) -> None:
    """Check what the backward of the Function `name` returned: one gradient per input, None only
    where none is needed."""
    if len(grads) != len(parents):
        raise RuntimeError(
            f"{name}.backward returned {len(grads)} gradients for {len(parents)} inputs"
        )
    for position, (parent, gx) in enumerate(zip(parents, grads)):
        if parent is not None and gx is None:
            raise RuntimeError(
                f"{name}.backward returned no gradient for input {position}, which needs one"
            )
