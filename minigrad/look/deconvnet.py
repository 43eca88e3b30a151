"""The deconvnet: which pattern in a picture caused an activation (Zeiler and Fergus, arXiv
1311.2901v3, section 2.1).

On the way up, the network runs forward as usual. On the way down, all activations of a stage but
one are set to zero, and the remaining signal g goes back through "the same components (filtering,
pooling) but in reverse", layer by layer to the pixels:

    max-pooling     unpool: g goes to the maximum of its window; overlapping windows add up
    ReLU            rectify: max(0, g)
    convolution     filter with the transposed filters: the gradient with respect to its input
    LRN             left out: "contrast normalization operations are not used" (ECCV 2014 text)

No bias is used, and the pixels are not rectified. The gradient differs from this only at ReLU and
LRN, so the same code gives three methods:

    method       ReLU on the way down                    LRN        source
    deconvnet    "backward": max(0, g)                   skip       Zeiler and Fergus
    gradient     "mask": g where its output was > 0      gradient   Simonyan et al., arXiv 1312.6034
    guided       "both": max(0, g) where it was > 0      gradient   Springenberg et al., arXiv
                                                                    1412.6806, section 3.4

The paper does not say what happens if overlapping windows have chosen the same pixel. Their signals
add up here, as in cuda-convnet, on which its code was built, and as the adjoint of pooling must.
A window of zeros has no unique maximum. Its first tap counts as the maximum, and with
`zeros="drop"` the signal to such a window is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad import backend, nn
from minigrad.backend import Array
from minigrad.engine import Function, Tensor
from minigrad.functions.lrn import LRN
from minigrad.functions.lrn_within_map import LRNWithinMap
from minigrad.functions.max_pool2d import MaxPool2d
from minigrad.functions.relu import ReLU

METHODS = {
    "deconvnet": {"relu": "backward", "lrn": "skip"},
    "gradient": {"relu": "mask", "lrn": "gradient"},
    "guided": {"relu": "both", "lrn": "gradient"},
}
RULES = {
    "relu": ("backward", "mask", "both"),
    "lrn": ("skip", "gradient"),
    "zeros": ("first", "drop"),
}


@dataclass(frozen=True)
class Step:
    """One stage on the way up: the Functions that made its output y, the last one first."""

    stage: str
    functions: tuple[Function, ...]
    y: Array


@dataclass(frozen=True)
class Projection:
    """What `project` returns, for N pictures.

    pixels: (N, H, W, C), on the scale of the prepared pictures, signed. values: (N,) the
    activations that were projected; maps: (N,) their maps; at: (N, 2) their rows and columns (0, 0
    in a dense layer). zero_windows: for each max-pooling on the way, the share of the signal (sum
    of |g|) that reached windows with only zeros.
    """

    pixels: np.ndarray
    values: np.ndarray
    maps: np.ndarray
    at: np.ndarray
    zero_windows: dict[str, float]


def ascend(model: nn.Module, x: Array, stage: str) -> list[Step]:
    """A forward pass up to `stage` that keeps what the way down needs of every stage."""
    before, steps, names = Tensor(x, requires_grad=True), [], []
    for name, _, y in model.walk(before):
        names.append(name)
        functions: list[Function] = []
        node: Any = y.creator
        while node is not (before.creator or before):
            if not isinstance(node, Function):
                raise ValueError(
                    f"no way down from {name}: made under no_grad, or not of the stage before it"
                )
            node.needs = (True, *(False for _ in node.needs[1:]))  # no gradient of the weights
            functions.append(node)
            node = node.parents[0]
        steps.append(Step(name, tuple(functions), y.data))
        before = y
        if name == stage:
            return steps
    raise ValueError(f"unknown stage {stage!r}: choose from {', '.join(names)}")


def descend(
    steps: Sequence[Step], signal: Array, relu: str, lrn: str, zeros: str = "first"
) -> Iterator[tuple[Step, Array, Array]]:
    """(step, signal at its output, signal at its input) of every stage, from the last down to the
    pixels. The papers do not treat tanh and sigmoid; these pass on their gradient."""
    for name, value in (("relu", relu), ("lrn", lrn), ("zeros", zeros)):
        if value not in RULES[name]:
            raise ValueError(f"{name} must be one of {', '.join(RULES[name])}, not {value!r}")
    for step in reversed(steps):
        above = signal
        for function in step.functions:
            if isinstance(function, ReLU):
                if relu != "backward":
                    signal = gradient(function, signal)
                if relu != "mask":
                    signal = np.maximum(signal, 0)
            elif not isinstance(function, (LRN, LRNWithinMap)) or lrn == "gradient":
                if isinstance(function, MaxPool2d) and zeros == "drop":
                    signal = np.where(step.y == 0, 0, signal)
                signal = gradient(function, signal)
        yield step, above, signal


def gradient(function: Function, gy: Array) -> Array:
    """The gradient of the function's first input, from its own backward."""
    gx = function.backward(gy)
    return gx[0] if isinstance(gx, tuple) else gx


def peaks(y: Array) -> tuple[np.ndarray, np.ndarray]:
    """The largest value of every map of every picture and its (row, column), the first in row
    order: (N, M) and (N, M, 2) for y (N, H, W, M) or (N, M)."""
    flat = y.reshape(len(y), -1, y.shape[-1])
    width = y.shape[2] if y.ndim == 4 else 1
    values, at = backend.to_numpy(flat.max(axis=1)), backend.to_numpy(flat.argmax(axis=1))
    return values, np.stack(np.divmod(at, width), axis=-1)


def project(
    model: nn.Module,
    x: Array,
    stage: str,
    maps: int | Sequence[int] | None = None,
    at: Sequence | None = None,
    relu: str = "backward",
    lrn: str = "skip",
    zeros: str = "first",
) -> Projection:
    """Project one activation of each picture back to its pixels.

    Args:
        model: in test mode while it is used; any Sequential of this project's layers.
        x: prepared pictures (N, H, W, C), on the model's device.
        stage: where the activation is, such as "relu5".
        maps: its map, one for all pictures or one for each; None takes each picture's strongest.
        at: its (row, column), one for all or one for each; None takes the strongest of the map.
        relu: "backward" (deconvnet), "mask" (gradient) or "both" (guided). lrn: "skip" or
            "gradient". `**METHODS[name]` sets both.
        zeros: "first" sends the signal of a window of zeros to its first tap; "drop" drops it.
    Raises ValueError for a stage, map, place or rule that does not exist.
    """
    x = x.data if isinstance(x, Tensor) else x
    with model.in_test_mode(), backend.on_device(backend.device_of(x)):
        steps = ascend(model, x, stage)
        y = steps[-1].y
        best, places = peaks(y)
        chosen = best.argmax(axis=1) if maps is None else checked(maps, (len(y),), "map", stage)
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < y.shape[-1]:
            raise ValueError(f"{stage} has maps 0 to {y.shape[-1] - 1}, not {maps}")
        each = np.arange(len(y))
        where = places[each, chosen]
        if at is not None:
            where = checked(at, (len(y), 2), "place", stage)
            sides = y.shape[1:3] if y.ndim == 4 else (1, 1)
            if where.size and (where.min() < 0 or (where >= sides).any()):
                raise ValueError(f"{stage} has {sides[0]} x {sides[1]} places, not {at}")
        one = (each, *(where.T if y.ndim == 4 else ()), chosen)  # an activation of each picture
        activations = backend.to_numpy(y)
        seed = np.zeros_like(activations)
        seed[one] = activations[one]
        shares = {}
        signal = backend.to_device(seed, backend.device_of(y))
        for step, above, pixels in descend(steps, signal, relu, lrn, zeros):  # noqa: B007
            if any(isinstance(f, MaxPool2d) for f in step.functions):
                weight = np.abs(above)
                shares[step.stage] = float(weight[step.y == 0].sum() / max(weight.sum(), 1e-38))
    return Projection(backend.to_numpy(pixels), seed[one], chosen, where, shares)


def checked(value: object, shape: tuple[int, ...], what: str, stage: str) -> np.ndarray:
    """`value` as an array of whole numbers with an entry for each picture."""
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{stage}: a {what} is given in whole numbers, not {value!r}")
    if array.shape not in (shape[1:], shape):
        raise ValueError(
            f"{stage}: one {what} for all pictures, or one for each of {shape[0]}, is wanted, not"
            f" {value!r}"
        )
    return np.broadcast_to(array, shape)
