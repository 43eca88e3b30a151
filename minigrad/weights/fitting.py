"""Turns a file's arrays into the parameters of a preset's network, and back.

Axes. Caffe and PyTorch hold a convolution's weights as (O, C/groups, KH, KW) and a dense layer's as
(O, I). Here they are (KH, KW, C/groups, O) and (I, O). A dense layer that reads maps counts its
inputs as C, H, W there and as H, W, C here, so its rows change places as well.

Colours. OpenCV, with which Caffe reads photographs, has blue first. Where the preset's record says
so (Pretrained.blue_first), the first layer's channels and the mean are turned round once, and the
network reads red first like every other.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from minigrad.models.records import Conv, Preset
from minigrad.network import Row, ledger
from minigrad.weights.file import Weights, WeightsError, clipped


def fit(
    weights: Weights, preset: Preset, classes: int | None = None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """(parameters by name, a line for each that says where it comes from).

    Layers are found by name, the preset's names for them or its own; if none of these is there, by
    the file's order. Raises WeightsError with the first layer that differs.
    """
    rows = [row for row in ledger(preset, classes) if row.parameters]
    names = found(weights, preset, rows)
    parameters: dict[str, np.ndarray] = {}
    lines = []
    for row, name in zip(rows, names):
        arrays = weights.arrays[name]
        first = row is rows[0] and preset.pretrained.blue_first
        for kind, short in (("weight", "w"), ("bias", "b")):
            there = shape_there(row, kind)
            array = arrays.get(kind)
            if array is None and kind == "bias":
                array = np.zeros(there, np.float32)
            if array is None or squeezed(array.shape, there) != there:
                shape = "absent" if array is None else by(array.shape) or "one number"
                raise WeightsError(
                    f"{weights.path}: the first layer that differs is {row.stage}: the file's"
                    f" {listed([name])}.{kind} is {shape}, and the preset needs {by(there)}"
                )
            if not np.isfinite(array).all():
                raise WeightsError(
                    f"{weights.path}: {listed([name])}.{kind} holds values that are not finite"
                )
            own = to_ours(array.reshape(there), row, first)
            parameters[f"{row.stage}.{short}"] = own
            lines.append(
                f"{f'{row.stage}.{short}':12}{by(own.shape):>16}   from {listed([name])}.{kind}"
                f" {by(array.shape)}"
            )
    return parameters, lines


def found(weights: Weights, preset: Preset, rows: list[Row]) -> list[str]:
    """The file's names of the layers with weights, in the network's order."""
    theirs = list(weights.arrays)
    expected = [preset.pretrained.names.get(row.stage, row.stage) for row in rows]
    if set(expected) <= set(theirs):
        more = [name for name in theirs if name not in expected]
        if more:
            raise WeightsError(
                f"{weights.path}: the first layer that differs is {listed(more[:1])}: the preset"
                " has none like it"
            )
        return expected
    known = [i for i, name in enumerate(expected) if name in theirs]
    if weights.ordered and any(theirs[i : i + 1] != [expected[i]] for i in known):
        missing = next(name for name in expected if name not in theirs)
        raise WeightsError(
            f"{weights.path}: the layers {', '.join(expected[i] for i in known)} are not where the"
            f" preset has them, and there is no {missing!r}: neither names nor order fit"
        )
    if not weights.ordered:
        missing = next(name for name in expected if name not in theirs)
        raise WeightsError(f"{weights.path}: there is no {missing!r}; it holds {listed(theirs)}")
    if len(theirs) != len(rows):
        raise WeightsError(
            f"{weights.path}: it has {len(theirs)} layers with weights ({listed(theirs)}),"
            f" and the preset has {len(rows)} ({', '.join(row.stage for row in rows)})"
        )
    return theirs


def shape_there(row: Row, kind: str) -> tuple[int, ...]:
    """The shape of a layer's weight or bias in a file."""
    layer = row.layer
    if kind == "bias":
        return row.shape[-1:]
    if isinstance(layer, Conv):
        return layer.filters, row.inputs[2] // layer.groups, layer.size, layer.size
    return row.shape[-1], math.prod(row.inputs)


def squeezed(shape: tuple[int, ...], there: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the ones that Caffe's V1 layers put before it."""
    while len(shape) > len(there) and shape[0] == 1:
        shape = shape[1:]
    return shape


def to_ours(array: np.ndarray, row: Row, blue_first: bool = False) -> np.ndarray:
    """A weight or bias with this network's axes; the inverse of to_theirs."""
    if array.ndim == 1:
        return np.ascontiguousarray(array)
    if isinstance(row.layer, Conv):
        turned = array[:, ::-1] if blue_first else array
        return np.ascontiguousarray(turned.transpose(2, 3, 1, 0))
    if len(row.inputs) == 3:
        H, W, C = row.inputs
        maps = array.reshape(-1, C, H, W).transpose(2, 3, 1, 0)
        return np.ascontiguousarray(maps.reshape(H * W * C, -1))
    return np.ascontiguousarray(array.T)


def to_theirs(array: np.ndarray, row: Row, blue_first: bool = False) -> np.ndarray:
    """A weight or bias with the axes of Caffe and PyTorch."""
    if array.ndim == 1:
        return np.ascontiguousarray(array)
    if isinstance(row.layer, Conv):
        turned = array.transpose(3, 2, 0, 1)
        return np.ascontiguousarray(turned[:, ::-1] if blue_first else turned)
    if len(row.inputs) == 3:
        H, W, C = row.inputs
        maps = array.reshape(H, W, C, -1).transpose(3, 2, 0, 1)
        return np.ascontiguousarray(maps.reshape(-1, C * H * W))
    return np.ascontiguousarray(array.T)


def unfit(parameters: dict[str, np.ndarray], preset: Preset, classes: int) -> dict[str, np.ndarray]:
    """The parameters of a network as the files for its preset have them, with their names, axes and
    order of colours; the inverse of `fit`."""
    tensors: dict[str, np.ndarray] = {}
    rows = [row for row in ledger(preset, classes) if row.parameters]
    for row in rows:
        name = preset.pretrained.names.get(row.stage, row.stage)
        first = row is rows[0] and preset.pretrained.blue_first
        for kind, short in (("weight", "w"), ("bias", "b")):
            own = parameters[f"{row.stage}.{short}"]
            tensors[f"{name}.{kind}"] = to_theirs(own, row, first)
    return tensors


def fitted_mean(mean: np.ndarray, preset: Preset, path: str | Path) -> np.ndarray:
    """A mean, (C, H, W) or (C,), as the preset's Preparation needs it: (size, size, C), red first,
    or (C,)."""
    p = preset.preprocessing
    if len(mean) != p.channels:
        raise WeightsError(f"{path}: a mean of {len(mean)} channels; pictures have {p.channels}")
    if preset.pretrained.blue_first:
        mean = mean[::-1]
    if mean.ndim == 1 or p.mean == "channel":
        return mean.reshape(len(mean), -1).mean(axis=1)
    side = mean.shape[1]
    if mean.shape[1:] not in ((p.size, p.size), (p.picture, p.picture)):
        raise WeightsError(
            f"{path}: a mean image of {by(mean.shape[1:])}; pictures are {p.picture}x{p.picture},"
            f" and their crops {p.size}x{p.size}"
        )
    margin = (side - p.size) // 2
    inside = mean[:, margin : margin + p.size, margin : margin + p.size]
    return np.ascontiguousarray(inside.transpose(1, 2, 0))


def listed(names: list[str]) -> str:
    """The first names of a file, as a message shows them."""
    return ", ".join(clipped(name) for name in names[:16])


def by(shape: tuple[int, ...]) -> str:
    """A shape as it is printed: 96x3x11x11."""
    return "x".join(map(str, shape))
