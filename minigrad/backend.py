"""Devices. The only file that imports CuPy: everywhere else arrays dispatch themselves.

A device is a name: "cpu", "gpu" (the current GPU) or "gpu:1". NumPy arrays live on "cpu", CuPy
arrays on a GPU. Functions need no more than this, because NumPy's functions and methods work on
CuPy arrays too (`np.exp(x)`, `x.sum()`, `np.empty_like(x, shape=...)` all answer in the array type
they were given).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import warnings
from typing import Any

import numpy as np


class DeviceError(ValueError):
    """A device that is not there; the message says what is missing."""


Array = Any  # a numpy.ndarray, or a cupy.ndarray with the same methods


def cupy() -> Any:
    """The cupy module, imported on first use. Raises DeviceError with the reason where there is
    none."""
    try:
        import cupy as module
    except ImportError as error:
        raise DeviceError(
            "a GPU was asked for, but CuPy is not installed; install it with pip install"
            " 'minigrad[cuda12]' or 'minigrad[cuda13]' (the CUDA version of your driver), or use"
            " device 'cpu'"
        ) from error
    return module


def nccl() -> Any:
    """CuPy's NCCL module, or None where the library is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CuPy warns where the library is missing
            module = importlib.import_module("cupy.cuda.nccl")
    except ImportError:
        return None
    return module if module.available else None


def gpu_count() -> int:
    """Number of GPUs that CuPy can use; 0 without CuPy, without a driver or without a card."""
    try:
        return int(cupy().cuda.runtime.getDeviceCount())
    except Exception:  # no CuPy, no driver, no card: each its own exception type, all mean none
        return 0


def parse_device(device: str) -> tuple[str, int | None]:
    """Split a device name: "cpu" -> ("cpu", None), "gpu" -> ("gpu", None), "gpu:1" -> ("gpu",
    1)."""
    kind, colon, index = str(device).partition(":")
    if kind == "cpu" and not colon:
        return "cpu", None
    if kind == "gpu" and (not colon or index.isdigit()):
        return "gpu", int(index) if colon else None
    raise ValueError(f"unknown device {device!r}: use 'cpu', 'gpu' or 'gpu:0', 'gpu:1', ...")


def is_array(value: object) -> bool:
    """True for a NumPy array and for a CuPy array (which has a `device` and a `get` method)."""
    return isinstance(value, np.ndarray) or (
        hasattr(value, "__cuda_array_interface__") and hasattr(value, "get")
    )


def device_of(array: Array) -> str:
    """Where an array lives: "cpu" or "gpu:INDEX"."""
    return "cpu" if isinstance(array, (np.ndarray, np.generic)) else f"gpu:{array.device.id}"


def on_device(device: str) -> contextlib.AbstractContextManager:
    """A context in which new CuPy arrays and kernels land on `device`; does nothing for "cpu"."""
    kind, index = parse_device(device)
    if kind == "cpu" or index is None:
        return contextlib.nullcontext()
    return cupy().cuda.Device(index)


def to_numpy(array: Array) -> np.ndarray:
    """The array on the host: itself if it is there already, else a copy."""
    return array if isinstance(array, np.ndarray) else array.get()


def to_device(array: Array, device: str) -> Array:
    """The array on `device`: itself if it is there already, else a copy."""
    kind, index = parse_device(device)
    array = np.asarray(array) if isinstance(array, np.generic) else array
    if kind == "cpu":
        return to_numpy(array)
    if not isinstance(array, np.ndarray) and index in (None, array.device.id):
        return array
    require(device)
    with on_device(device):
        return cupy().asarray(array)


def require(device: str) -> None:
    """Raise DeviceError if `device` is not there."""
    kind, index = parse_device(device)
    if kind == "gpu":
        cupy()  # says how to install it
        if (index or 0) >= gpu_count():
            raise DeviceError(
                f"device {device!r} does not exist: CuPy finds {gpu_count()} GPU(s) on this machine"
            )


def use(device: str) -> None:
    """From now on new CuPy arrays and kernels land on `device`. Raises DeviceError if it is not
    there."""
    require(device)
    index = parse_device(device)[1]
    if index is not None:
        cupy().cuda.Device(index).use()


def synchronize(device: str) -> None:
    """Wait until everything queued on `device` has run (launches on a GPU return at once)."""
    if parse_device(device)[0] == "gpu":
        with on_device(device):
            cupy().cuda.get_current_stream().synchronize()


def release_memory() -> None:
    """Hand back to the GPU what CuPy keeps for later; nothing to do on a CPU."""
    if gpu_count():
        cupy().get_default_memory_pool().free_all_blocks()


def gpu_bus(device: str) -> str:
    """Which card a device is, by its place on the PCI bus: processes may count theirs from 0
    each."""
    index = parse_device(device)[1] or 0
    return str(cupy().cuda.runtime.deviceGetPCIBusId(index))


def gpu_name(index: int) -> str:
    """What the driver calls a GPU."""
    name = cupy().cuda.runtime.getDeviceProperties(index)["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def keep_memory() -> bool:
    """Ask the C library to keep freed memory for this process instead of handing it back to the
    system. True if it agreed.

    A training step frees and asks again for hundreds of megabytes; each time the system would clear
    every fresh page first, which costs as much as a layer (docs/performance.md). For a program that
    trains and does little else; Linux with glibc only.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # <malloc.h>
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
