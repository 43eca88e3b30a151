"""The paper's two columns: half of the maps of every layer on each of two devices (Krizhevsky et
al. 2012, sections 3.2 and 3.5, figure 2).

A preset can be split into columns if each of its grouped convolutions stays within a column. A
layer that sees all maps (in the paper conv3 and the dense layers) needs the maps of the other
column first, so a `Gather` stands before it. Each column draws the weights of the whole network and
keeps its own part. Together the columns are therefore the grouped network: they have the same
checkpoints and draw the same random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minigrad import functions as F
from minigrad import nn
from minigrad.distributed import Communicator
from minigrad.engine import Tensor, as_tensor
from minigrad.models.records import LRN, Conv, Dense, Dropout, Gather, Layer, Preset
from minigrad.network import Network, Row, build


def parts(count: int, columns: int) -> tuple[int, ...]:
    """How many of `count` maps or units each column has."""
    return tuple(len(part) for part in np.array_split(np.arange(count), columns))


def outputs(layer: Layer, classes: int) -> int:
    """How many maps or units a layer with weights has."""
    if isinstance(layer, Conv):
        return layer.filters
    assert isinstance(layer, Dense)
    return layer.units or classes


def column_of(preset: Preset, columns: int, rank: int, classes: int | None = None) -> Preset:
    """The preset that one column computes: its own filters and units, with a Gather before each
    layer that sees all maps and after the last layer.

    Raises ValueError for a preset that cannot be split into these columns.
    """
    if columns < 2:
        raise ValueError(f"a network can be split into 2 columns or more, not {columns}")
    classes = preset.classes if classes is None else classes
    layers: dict[str, Layer] = {}
    split: tuple[int, ...] | None = None  # maps of each column; None: all columns have all maps
    for name, layer in preset.layers.items():
        if isinstance(layer, LRN) and split and layer.groups != columns:
            raise ValueError(
                f"{name}: the windows of its normalisation reach from one column into the next; in"
                " the preset krizhevsky2012, the program of 2012, they stay in a column"
            )
        if isinstance(layer, (Conv, Dense)):
            groups = layer.groups if isinstance(layer, Conv) else 1
            if groups > 1 and (split is None or groups != columns):
                raise ValueError(
                    f"{name}: its {groups} groups are not the maps of {columns} columns"
                )
            if split and groups == 1:
                layers[f"gather{name.lstrip('abcdefghijklmnopqrstuvwxyz')}"] = Gather(split)
            whole = outputs(layer, classes)
            split = parts(whole, columns)
            if min(split) < 1:
                raise ValueError(f"{name}: {whole} maps are too few for {columns} columns")
            if isinstance(layer, Conv):
                layer = replace(layer, filters=split[rank], groups=1)
            else:
                layer = replace(layer, units=split[rank])
        elif isinstance(layer, LRN) and split:
            layer = replace(layer, groups=1)
        layers[name] = layer
    if split:
        layers["gather"] = Gather(split)
    return replace(preset, layers=layers, classes=classes)


def bytes_sent(rows: Sequence[Row], rank: int) -> int:
    """Bytes that a column sends for one picture in a step. Forward, it sends its own maps;
    backward, the gradients of the other columns' maps. After the last layer no gradient is sent,
    because every column has it."""
    gathers = [(row.shape, row.layer.parts) for row in rows if isinstance(row.layer, Gather)]
    total = 0
    for n, (shape, split) in enumerate(gathers, 1):
        places = math.prod(shape[:-1])
        total += 4 * places * split[rank] * (len(split) - 1)
        if n < len(gathers):
            total += 4 * places * (sum(split) - split[rank])
    return total


class Column(Network):
    """One column of a preset's network. Arguments as for Network; comm has a rank for each column,
    unless TwoColumns joins them."""

    def __init__(
        self,
        preset: Preset,
        classes: int | None,
        seed: int,
        dtype: str,
        comm: Communicator,
        columns: int,
        rank: int,
    ) -> None:
        own = column_of(preset, columns, rank, classes)
        self.comm, self.columns, self.rank, self.whole = comm, columns, rank, preset
        super().__init__(own, None, seed, dtype)

    def build(self, row: Row, dtype: str) -> nn.Module:
        """The layer of a ledger's row: one with its part of the whole network's weights, a gather,
        or a dropout that draws random numbers for all units of the whole network."""
        if isinstance(row.layer, Gather):
            last = row.stage == "gather"
            return nn.Gather(self.comm, row.layer.parts, shared=last)
        if isinstance(row.layer, (Conv, Dense)):
            return build(row, self.seed, dtype, self.place(row.stage))
        if isinstance(row.layer, Dropout):
            before = self.preset.layers
            names = list(before)[: list(before).index(row.stage)]
            source = next(n for n in reversed(names) if isinstance(before[n], (Conv, Dense)))
            return build(row, self.seed, dtype, self.place(source))
        return build(row, self.seed, dtype)

    def place(self, stage: str) -> tuple[int, int]:
        """(first, total): the index of this column's first output in the whole layer, and the
        number of outputs of the whole layer."""
        whole = outputs(self.whole.layers[stage], self.preset.classes)
        split = parts(whole, self.columns)
        return sum(split[: self.rank]), whole


class TwoColumns(nn.Module):
    """The columns of a preset in one process, each on its own device; x.to() moves the maps."""

    def __init__(
        self,
        preset: Preset,
        classes: int | None = None,
        seed: int = 0,
        dtype: str = "float32",
        devices: Sequence[str] = ("cpu", "cpu"),
    ) -> None:
        alone = Communicator()
        self.devices = tuple(devices)
        self.towers = [
            Column(preset, classes, seed, dtype, alone, len(devices), rank)
            for rank in range(len(devices))
        ]
        self.preset = preset
        for tower, device in zip(self.towers, devices):
            tower.to(device)

    def forward(self, x: Any) -> Tensor:
        x = as_tensor(x)
        xs = [x.to(device) for device in self.devices]
        for name, layer in self.towers[0].layers.items():
            if isinstance(layer, nn.Gather):
                xs = [F.concat([y.to(device) for y in xs]) for device in self.devices]
            else:
                xs = [tower.layers[name](x) for tower, x in zip(self.towers, xs)]
        return xs[0]


def join(arrays: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The whole network's arrays, by name, from those of its columns, in order."""
    return {
        name: np.concatenate([column[name] for column in arrays], axis=-1) for name in arrays[0]
    }


def cut(whole: Mapping[str, np.ndarray], columns: int, rank: int) -> dict[str, np.ndarray]:
    """A column's part of the whole network's arrays."""
    return {
        name: np.ascontiguousarray(np.array_split(array, columns, axis=-1)[rank])
        for name, array in whole.items()
    }
