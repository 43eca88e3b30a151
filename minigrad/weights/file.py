"""What is read from a file of weights: the layers of a network that another program trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minigrad.text import shown


class WeightsError(ValueError):
    """A file of weights that cannot be read or does not fit; the message names the file and the
    reason."""


@dataclass(frozen=True)
class Weights:
    """The arrays of a file, under its names and with its axes.

    arrays: for each layer with weights, by name, in the file's order, its arrays by name: "weight",
    and "bias" if it has one. ordered is False if the file's order is not the network's.
    """

    path: Path
    format: str  # "Caffe", "PyTorch" or "safetensors"
    arrays: dict[str, dict[str, np.ndarray]]
    ordered: bool = True


def clipped(name: str) -> str:
    """A name that stands in a file, as a message shows it: on one line, and not too long."""
    return shown(name[:80])


def by_layer(path: Path, tensors: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """PyTorch's names, such as features.0.weight, split into layer and array."""
    layers: dict[str, dict[str, np.ndarray]] = {}
    for name, array in tensors.items():
        layer, _, kind = name.rpartition(".")
        if kind not in ("weight", "bias"):
            raise WeightsError(
                f"{path}: {clipped(name)} is neither a weight nor a bias; only convolutions and"
                " dense layers are read"
            )
        layers.setdefault(layer, {})[kind] = array
    return layers
