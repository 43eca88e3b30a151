"""Which format a file has, by its first bytes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from minigrad.weights.caffe import read_binaryproto, read_caffemodel
from minigrad.weights.file import Weights, WeightsError, by_layer
from minigrad.weights.pytorch import read_pytorch

REFUSED = {  # what a file begins with: what it is
    b"\x89HDF\r\n\x1a\n": "an HDF5 file; save it as a .caffemodel, or as safetensors",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"\x93NUMPY": "an array of NumPy's, not a network's weights; a mean is named with --mean",
}


def load(path: str | Path) -> Weights:
    """The layers in a file of weights, under the file's names and with its axes. The format is
    recognised by the first bytes: Caffe's .caffemodel (V1 and V2 layers), PyTorch's .pt and .pth
    (both layouts), or safetensors. Raises WeightsError or OSError."""
    path = Path(path)
    start = start_of(path)
    for magic, what in REFUSED.items():
        if start.startswith(magic):
            raise WeightsError(f"{path} is {what}")
    if start[257:262] == b"ustar":
        raise WeightsError(
            f"{path} is a tar file, as PyTorch wrote before version 0.2: it cannot be read; save"
            " its state dict with a later version"
        )
    if start.startswith(b"PK\x03\x04") or (start[:1] == b"\x80" and start[1:2] <= b"\x05"):
        return read_pytorch(path)
    if start[8:9] == b"{":
        return read_safetensors(path)
    return read_caffemodel(path)


def start_of(path: Path) -> bytes:
    """The first bytes of a file."""
    if path.exists() and not path.is_file():
        raise WeightsError(f"{path} is not a file")
    with open(path, "rb") as file:
        return file.read(262)


def read_safetensors(path: Path) -> Weights:
    """The layers of a safetensors file. Their order is not the network's."""
    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: single(file.get_tensor(name)) for name in sorted(file.keys())}
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path}: no whole safetensors file ({error})") from error
    return Weights(path, "safetensors", by_layer(path, tensors), ordered=False)


def single(array: np.ndarray) -> np.ndarray:
    """An array in float32; what is too large becomes infinite, and is refused later."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def load_mean(path: str | Path) -> np.ndarray:
    """A mean image (C, H, W) or the means of the channels (C,), from a .npy or .binaryproto file.
    Raises WeightsError or OSError."""
    path = Path(path)
    if start_of(path).startswith(b"\x93NUMPY"):
        try:
            mean = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        except Exception as error:  # a header of another kind raises many types
            raise WeightsError(f"{path}: no whole .npy file ({error})") from error
    else:
        mean = read_binaryproto(path)
    mean = mean.reshape(mean.shape[mean.ndim == 4 and len(mean) == 1 :])
    if mean.dtype.kind in "fiu":
        with np.errstate(over="ignore"):
            mean = mean.astype(np.float32)
    if mean.ndim not in (1, 3) or mean.dtype.kind != "f" or not np.isfinite(mean).all():
        raise WeightsError(
            f"{path} holds {mean.dtype} {mean.shape}; a mean is (C, H, W) or (C,), and finite"
        )
    return mean
