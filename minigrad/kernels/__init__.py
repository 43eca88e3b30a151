"""Finds, compiles and launches the kernels in kernels/*.cu: through CuPy on a GPU, through the
compiled library on a CPU.

    if kernels.ready(x):
        kernels.launch("relu_forward", blocks, x, y, size, span)
    else:
        np.maximum(x, 0, out=y)

The C signature in the source is the only declaration of a kernel. It is parsed here, and every
launch is checked against it (count, dtype, range, contiguity, device), because neither CuPy nor a C
library checks anything; a wrong call raises TypeError. The comment behind each pointer gives the
elements that the kernel reads or writes there, and an array that has fewer is refused.

`MINIGRAD_KERNELS` chooses: "none" for the array forms; "cpu" for the CPU's kernels only (an error
if they were not built); "gpu" for the GPU's only. If it is unset, kernels are used where available.
CPU threads: MINIGRAD_THREADS, else OMP_NUM_THREADS, else every processor this process may use.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

from minigrad import backend, kernel_build
from minigrad.backend import Array

SPAN = 1 << 12  # numbers per block of the elementwise kernels
THREADS = 128  # per block, on a GPU
SCALARS = {
    "int": ctypes.c_int,
    "i64": ctypes.c_longlong,
    "u32": ctypes.c_uint,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
}
ELEMENTS = {
    "u8": "uint8",
    "u32": "uint32",
    "int": "int32",
    "i64": "int64",
    "float": "float32",
    "double": "float64",
}
FLOATS = ctypes.c_float, ctypes.c_double
CPU_ONLY = "conv2d_direct.cpp"  # the only kernel file that is not compiled for GPUs


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: its name, C type, and whether it is a pointer. `size`, of a
    pointer: how many elements the kernel reads or writes there, from the comment behind it."""

    name: str
    type: str
    pointer: bool
    const: bool
    size: str = ""


@functools.cache
def folder() -> Path:
    """The folder of the kernel sources: kernels/ of a checkout, minigrad/_kernels of an
    installation."""
    here = Path(__file__).resolve().parents[1]
    for place in (here / "_kernels", here.parent / "kernels"):
        if (place / "prelude.cuh").is_file():
            return place
    raise FileNotFoundError(
        f"the kernel sources are missing: neither {here / '_kernels'} nor {here.parent / 'kernels'}"
        " holds prelude.cuh"
    )


COMMENT = re.compile(r"/\*(.*?)\*/", re.DOTALL)


@functools.cache
def signatures() -> dict[str, tuple[str, tuple[Parameter, ...]]]:
    """(file, parameters) of every kernel, from its C signature."""
    found = {}
    for path in sorted([*folder().glob("*.cu"), folder() / CPU_ONLY]):
        for name, text in kernel_build.SIGNATURE.findall(path.read_text()):
            sizes = [" ".join(size.split()) for size in COMMENT.findall(text)]
            parameters = []
            for part in COMMENT.sub("@", text).split(","):
                words = re.sub(r"([*@])", r" \1 ", part).replace("__restrict__", " ").split()
                size = sizes.pop(0) if words[-1] == "@" else ""
                words = [word for word in words if word != "@"]
                kind = next(w for w in words if w not in ("const", "*"))
                if "*" in words and not size:
                    raise KernelError(
                        f"{path}: the size of {words[-1]}, a pointer of {name}, must stand in a"
                        f" comment behind it, such as {kind} *{words[-1]} /* blocks * C */"
                    )
                parameters.append(Parameter(words[-1], kind, "*" in words, "const" in words, size))
            found[name] = (path.name, tuple(parameters))
    return found


def mode() -> str:
    """The value of MINIGRAD_KERNELS: "auto" (unset), "none", "cpu" or "gpu"."""
    value = os.environ.get("MINIGRAD_KERNELS", "auto")
    if value not in ("auto", "none", "cpu", "gpu"):
        raise ValueError(f"MINIGRAD_KERNELS={value!r}: use none, cpu or gpu, or leave it unset")
    return value


MOST_THREADS = 256


@functools.cache
def threads() -> int:
    """CPU threads that a launch uses."""
    for variable in ("MINIGRAD_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(variable, "").split(",")[0]
        if re.fullmatch("0*[1-9][0-9]{0,8}", value):
            return min(int(value), MOST_THREADS)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class KernelError(RuntimeError):
    """The requested kernels are not available; the message says why, and what to do."""


@functools.cache
def loaded(real: str) -> tuple[ctypes.CDLL | None, str]:
    """(library, fault): the kernels compiled for the CPU with `real` float or double, or None; and
    why there are none, worded to follow "they"."""
    path = kernel_build.library_path(Path(__file__).resolve().parents[1], real)
    fault = kernel_build.fault(path, folder())
    if fault is None:
        try:
            return ctypes.CDLL(str(path)), ""
        except OSError as error:
            fault = f"cannot be loaded ({error})"
    return None, fault


@functools.cache
def host_library(real: str) -> ctypes.CDLL | None:
    """The kernels compiled for the CPU with `real` float or double. None if they were not built, or
    if they cannot be used; a message on stderr then says why."""
    library, fault = loaded(real)
    if library is None and fault != "are not built":
        say_once(
            f"the kernels for the CPU {fault}; the slower array forms are used instead. `python -m"
            " minigrad build` compiles them"
        )
    return library


@functools.cache
def say_once(sentence: str) -> None:
    print(f"minigrad: {sentence}", file=sys.stderr)


@functools.cache
def lend_threads_to_blas() -> None:
    """Have NumPy's OpenBLAS run its jobs on the kernels' threads from now on, because the waiting
    threads of two pools would take processors from each other.

    Meant for a training program: machine.set_up calls it. OpenBLAS has a function for this. If it
    lacks it, if the system grants too few threads, or with another BLAS, only the speed differs.
    Do not use it in a program that calls LU factorisations (numpy.linalg.solve, inv, det) from
    several threads at once: those of OpenBLAS may then wait for each other for ever.
    """
    library = host_library("float") if mode() in ("auto", "cpu") else None
    if library is None:
        return
    for blas in threadpoolctl.threadpool_info():
        ours = blas["internal_api"] == "openblas" and blas.get("threading_layer") == "pthreads"
        if ours and library.threads_for_blas(blas["num_threads"]) == blas["num_threads"]:
            blas_library = ctypes.CDLL(blas["filepath"])
            for name in (
                "scipy_openblas_set_threads_callback_function64_",
                "scipy_openblas_set_threads_callback_function",
                "openblas_set_threads_callback_function64_",
                "openblas_set_threads_callback_function",
            ):
                if hasattr(blas_library, name):
                    getattr(blas_library, name)(ctypes.cast(library.run_blas_jobs, ctypes.c_void_p))
                    break


def ready(array: Array) -> bool:
    """Is there a kernel for arrays like this one?"""
    chosen = mode()
    if (
        chosen == "none"
        or array.dtype.name not in ("float32", "float64")
        or isinstance(array, np.generic)
    ):  # a NumPy scalar is not an array
        return False
    if not isinstance(array, np.ndarray):
        return chosen != "cpu"
    if chosen == "gpu":
        return False
    if host_library(real_of(array)) is None:
        if chosen == "cpu":
            raise KernelError(
                f"MINIGRAD_KERNELS=cpu, but they {loaded(real_of(array))[1]}: `python -m minigrad"
                " build` compiles them"
            )
        return False
    return True


def contiguous(array: Array) -> Array:
    """The array itself if its elements lie in C order without gaps, else a copy that does."""
    return (
        array if array.flags.c_contiguous else array.copy(order="C")
    )  # np.ascontiguousarray refuses CuPy arrays


def real_of(array: Array) -> str:
    return "float" if array.dtype == np.float32 else "double"


@functools.cache
def plan(
    name: str, real: str
) -> tuple[tuple[Parameter, np.dtype, Any, tuple[int, int] | None], ...]:
    """For each parameter: the parameter, the dtype of its array or number, the C type that it is
    passed as, and the limits if it is a whole number."""
    if name not in signatures():
        raise KeyError(f"there is no kernel {name!r} in {folder()}")
    rows = []
    for p in signatures()[name][1]:
        kind = real if p.type == "real" else p.type
        dtype = np.dtype(ELEMENTS[kind])
        limits = (
            None
            if p.pointer or dtype.kind == "f"
            else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
        )
        rows.append((p, dtype, ctypes.c_void_p if p.pointer else SCALARS[kind], limits))
    return tuple(rows)


@functools.cache
def host_function(name: str, real: str) -> Any:
    function: Any = getattr(host_library(real), f"launch_{name}")
    function.argtypes = [ctypes.c_longlong, ctypes.c_longlong, ctypes.c_void_p, ctypes.c_int]
    function.restype = None
    return function


def gpu_source(file: str) -> str:
    """The text for NVRTC: the prelude, then the file. They are joined because CuPy's cache of
    compiled code does not see included files."""
    text = (folder() / "prelude.cuh").read_text() + (folder() / file).read_text()
    return text.replace('#include "prelude.cuh"', "").replace("#pragma once", "")


def gpu_options(real: str) -> tuple[str, ...]:
    """Options for NVRTC. CuPy adds the architecture."""
    return "-std=c++17", f"-DREAL={real}"


@functools.cache
def gpu_function(name: str, real: str, device: str) -> Any:
    """The kernel compiled by NVRTC for the current GPU, once per device."""
    module = backend.cupy().RawModule(
        code=gpu_source(signatures()[name][0]), options=gpu_options(real)
    )
    return module.get_function(name)


def check(name: str, args: tuple, real: str) -> str:
    """Check the arguments of a launch, and return the device of the arrays. Raises TypeError if
    the arguments do not fit the signature."""
    rows = plan(name, real)
    if len(args) != len(rows):
        raise TypeError(
            f"kernel {name} takes {len(rows)} arguments ({', '.join(r[0].name for r in rows)}), not"
            f" {len(args)}"
        )
    device = next((backend.device_of(a) for a in args if backend.is_array(a)), "cpu")
    if device != "cpu" and signatures()[name][0] == CPU_ONLY:
        raise TypeError(f"kernel {name} is for the CPU only; its arrays are on {device}")
    for (p, dtype, _, limits), value in zip(rows, args):
        where = f"kernel {name}, {p.name}"
        if limits:
            if not isinstance(value, (int, np.integer)) or not limits[0] <= value <= limits[1]:
                raise TypeError(
                    f"{where}: a {p.type}, from {limits[0]} to {limits[1]}, is wanted, not"
                    f" {value!r}"
                )
        elif not p.pointer:
            if not isinstance(value, (int, float, np.integer, np.floating)):
                raise TypeError(f"{where}: a {p.type} is wanted, not {value!r}")
        elif not backend.is_array(value):
            raise TypeError(f"{where}: an array of {dtype} is wanted, not {type(value).__name__}")
        elif value.dtype != dtype:
            raise TypeError(f"{where}: an array of {dtype} is wanted, not {value.dtype}")
        elif not value.flags.c_contiguous:
            raise TypeError(f"{where}: the array is not contiguous")
        elif backend.device_of(value) != device:
            raise TypeError(
                f"{where}: the array is on {backend.device_of(value)}, the others on {device}"
            )
        elif isinstance(value, np.ndarray) and not p.const and not value.flags.writeable:
            raise TypeError(f"{where}: the array is read-only")
    return device


def up(a: int, b: int) -> int:
    """a / b, rounded up: used in the sizes of the signatures."""
    return -(-a // b)


@functools.cache
def needed(name: str) -> Any:
    """A function of the number of blocks and of a launch's numbers: how many elements each array
    must have, in the order of the signature. `/` rounds down there, as in C."""
    parameters = signatures()[name][1]
    names = ", ".join(p.name for p in parameters if not p.pointer)
    sizes = ", ".join(p.size.replace("/", "//") for p in parameters if p.pointer)
    return eval(f"lambda blocks, {names}: ({sizes},)", {"up": up})  # text of our own sources


def check_sizes(name: str, blocks: int, args: tuple) -> None:
    """Raise TypeError where an array has fewer elements than the launch would read or write."""
    given = list(zip(signatures()[name][1], args))
    numbers = [value for p, value in given if not p.pointer]
    try:
        sizes = needed(name)(blocks, *numbers)
    except ZeroDivisionError:
        raise TypeError(f"kernel {name}: {blocks} blocks, and a size of 0 in {numbers}") from None
    for (p, array), size in zip((pair for pair in given if pair[0].pointer), sizes):
        if array.size < size:
            raise TypeError(
                f"kernel {name}, {p.name}: {p.size} = {size} elements are needed, and the array has"
                f" {array.size}"
            )


def host_arguments(name: str, real: str, args: tuple) -> tuple[Any, list]:
    """The arguments for a launcher on a CPU: an array with a pointer to each value, and the values
    themselves, which the caller must keep alive during the launch."""
    values = [
        kind(a.ctypes.data if p.pointer else int(a) if kind not in FLOATS else a)
        for (p, _, kind, _), a in zip(plan(name, real), args)
    ]
    return (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values]), values


def launch(name: str, blocks: int, *args: Any, shared: int = 0) -> None:
    """Run a kernel.

    Args:
        name: name of the kernel.
        blocks: number of blocks, as the header of its file defines them; 0 does nothing.
        args: arrays (C-contiguous) and numbers, in the order of the C signature.
        shared: size of the shared memory, in elements of `real`.
    """
    real = next((real_of(a) for a in args if backend.is_array(a) and a.dtype.kind == "f"), "float")
    device = check(name, args, real)
    shared_bytes = shared * (4 if real == "float" else 8)
    if not (0 <= blocks < 1 << 31 and 0 <= shared_bytes < 1 << 31):
        raise TypeError(
            f"kernel {name}: from 0 to 2^31 - 1 blocks and bytes of shared memory, not {blocks} and"
            f" {shared_bytes}"
        )
    if blocks == 0:
        return
    check_sizes(name, blocks, args)
    rows = plan(name, real)
    if device == "cpu":
        pointers, values = host_arguments(name, real, args)
        host_function(name, real)(blocks, shared_bytes, pointers, threads())
        return
    # CuPy passes a Python int as 64 bits and a float as double: give it NumPy scalars of the
    # declared size instead.
    values = [a if p.pointer else dtype.type(a) for (p, dtype, _, _), a in zip(rows, args)]
    function = gpu_function(name, real, device)
    if shared_bytes > 48 << 10:  # more than a kernel gets by default
        function.max_dynamic_shared_size_bytes = shared_bytes
    function((blocks,), (THREADS,), tuple(values), shared_mem=shared_bytes)


def state() -> str:
    """A sentence on which kernels will run."""
    if mode() != "auto":
        where = {
            "none": "none: array forms only",
            "cpu": "the CPU's only",
            "gpu": "the GPU's only",
        }[mode()]
        return f"{where} (MINIGRAD_KERNELS={mode()})"
    fault = loaded("float")[1] or loaded("double")[1]
    cpu = (
        f"array forms, for the compiled ones {fault}: `python -m minigrad build` compiles them"
        if fault
        else "compiled"
    )
    return (
        f"CPU {cpu}; GPU through CuPy, compiled at first use"
        if backend.gpu_count()
        else f"CPU {cpu}; no GPU"
    )
