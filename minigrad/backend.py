"""Devices: the CPU and the GPUs. Only this file imports CuPy; elsewhere NumPy calls dispatch on the
type of their arrays.

A device is a name: "cpu", "gpu" (the current GPU) or "gpu:1". NumPy arrays are on "cpu", CuPy
arrays on a GPU. The functions need nothing else, because NumPy's functions and methods also work on
CuPy arrays (`np.exp(x)`, `x.sum()`, `np.empty_like(x, shape=...)` all return the array type that
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
    """A device is not available; the message says what is missing."""


Array = Any  # a numpy.ndarray, or a cupy.ndarray with the same methods


def cupy() -> Any:
    """The cupy module, imported on first use. Raises DeviceError with the reason if that fails."""
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
    except Exception:  # no CuPy, no driver, no card: different exceptions, but all mean 0 GPUs
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
    """A context in which CuPy makes arrays and runs kernels on `device`; no effect for "cpu"."""
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
    """Raise DeviceError if `device` is not available."""
    kind, index = parse_device(device)
    if kind == "gpu":
        cupy()  # its error says how to install it
        if (index or 0) >= gpu_count():
            raise DeviceError(
                f"device {device!r} does not exist: CuPy finds {gpu_count()} GPU(s) on this machine"
            )


def use(device: str) -> None:
    """From now on, make CuPy arrays and run kernels on `device`. Raises DeviceError if it is not
    available."""
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
    """Give the memory that CuPy keeps for reuse back to the GPU; does nothing without a GPU."""
    if gpu_count():
        cupy().get_default_memory_pool().free_all_blocks()


def gpu_bus(device: str) -> str:
    """The PCI bus id of a device. It identifies the card, whereas each process may number its own
    cards from 0."""
    index = parse_device(device)[1] or 0
    return str(cupy().cuda.runtime.deviceGetPCIBusId(index))


def gpu_name(index: int) -> str:
    """The driver's name for a GPU."""
    name = cupy().cuda.runtime.getDeviceProperties(index)["name"]
    return name.decode() if isinstance(name, bytes) else str(name)


def keep_memory() -> bool:
    """Ask the C library to keep freed memory for this process instead of handing it back to the
    system. True if it agreed.

    A training step frees hundreds of megabytes and asks for them again. Each time, the system would
    first clear every new page, which costs as much as a layer (docs/performance.md). Meant for a
    program that does little else than train; works only on Linux with glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # <malloc.h>
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
