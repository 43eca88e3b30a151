"""What the threads of a kernel do, access by access, without a GPU.

    python -m minigrad.kernels trace lrn_forward --at 0,6,4,173

The sources in kernels/ are compiled once more with Pointer<T> for T * (kernels/trace.h). Each load
and store is then recorded with its thread, its address, its line, and how many barriers the thread
has passed. A block has 128 real threads, as on a GPU. The record shows which threads computed an
element, from what, and in which order (story.py), and what is wrong or slow in a kernel
(findings.py).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import files, kernel_build, kernels

ACCESS = np.dtype(
    {
        "names": [
            "offset", "file", "block", "thread", "epoch", "array", "line", "column", "size",
            "write",
        ],
        "formats": ["<i8", "<u8", *["<i4"] * 8],
    }
)  # fmt: skip
# The pointers that are rewritten: those to the element types of arrays.
POINTER = re.compile(r"\b(const )?(real|u8|u32|i64|int) \*\s*(__restrict__ )?(?=\w)")


class TraceError(RuntimeError):
    """A kernel cannot be traced; the message says why."""


def rewritten(text: str) -> str:
    """A kernel's source with Pointer<T> in place of T *, line for line."""
    text = text.replace('#include "host.h"', '#include "trace.h"')
    return POINTER.sub(lambda m: f"Pointer<{m[1] or ''}{m[2]}> ", text)


def compiled(sources: Path, real: str = "float") -> Path:
    """The library that records accesses, compiled from the kernels in `sources` and kept in the
    cache folder."""
    command = kernel_build.compiler()
    if command is None:
        raise TraceError("tracing needs a C++ compiler: install g++, or name one in CXX")
    texts = {
        path.name: path.read_text()
        for path in sorted(sources.iterdir())
        if path.suffix in (".cu", ".cuh") or path.name == "trace.h"
    }
    main = kernel_build.host_source(sources, ".cu", "TRACE")
    flags = ["-std=c++20", "-O1", "-w", "-fPIC", "-shared", "-pthread", f"-DREAL={real}"]
    key = hashlib.sha256(repr((sorted(texts.items()), main, command, flags)).encode())
    folder = files.default_cache_folder() / "trace"
    path = folder / f"{key.hexdigest()[:16]}.so"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as unfinished, tempfile.TemporaryDirectory() as place:
        for name, text in texts.items():
            own = text if name == "trace.h" else rewritten(text)
            Path(place, name).write_text(own)
        Path(place, "trace.cpp").write_text(main)
        build = [*command, *flags, str(Path(place, "trace.cpp")), "-o", str(unfinished)]
        result = subprocess.run(build, capture_output=True, text=True)
        if result.returncode:
            raise TraceError(f"{shlex.join(build)}\n{result.stderr[-4000:]}")
    return path


@functools.cache
def library(sources: Path, real: str) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(compiled(sources, real)))
    loaded.recorded.restype = loaded.outside_arrays.restype = ctypes.c_longlong
    loaded.records.restype = ctypes.c_void_p
    loaded.watch.argtypes = [ctypes.c_int, ctypes.c_longlong]
    return loaded


@dataclass(frozen=True)
class Array:
    """A parameter that is an array: its name, shape, bytes per element, and address."""

    name: str
    shape: tuple[int, ...]
    itemsize: int
    address: int

    size = property(lambda self: math.prod(self.shape), doc="Elements.")


@dataclass
class Trace:
    """One recorded launch: the kernel, its arrays by parameter number, and every access, in order
    for each thread. outside: how many accesses, watched or not, were outside their array."""

    kernel: str
    arrays: dict[int, Array]
    accesses: np.ndarray
    blocks: int
    threads: int
    shared: int  # bytes of shared memory
    outside: int

    def where(self, access: Any) -> str:
        """The element that an access loads or stores, such as x[0, 6, 4, 173]."""
        number, offset = int(access["array"]), int(access["offset"])
        if number < 0:
            return f"shared[{offset // int(access['size'])}]"
        array = self.arrays[number]
        place = offset // array.itemsize
        if 0 <= place < array.size:
            index = ", ".join(map(str, map(int, np.unravel_index(place, array.shape))))
            return f"{array.name}[{index}]"
        return f"{array.name}[{place} of {array.size}]"

    def line(self, access: Any) -> str:
        """The line of the source that makes an access, such as lrn.cu:47."""
        name = ctypes.string_at(int(access["file"])).decode()
        return f"{Path(name).name}:{int(access['line'])}"

    def array_name(self, number: int) -> str:
        return "shared" if number < 0 else self.arrays[number].name


def run(
    name: str,
    blocks: int,
    *args: Any,
    shared: int = 0,
    threads: int = kernels.THREADS,
    some: range | None = None,
    watch: tuple[int, int] | None = None,
    sources: Path | None = None,
) -> Trace:
    """Run a kernel as kernels.launch does, and record it.

    some: the blocks to run; None runs all. watch: (parameter, byte), to record only the accesses to
    that place. sources: the folder of the kernels, if not this project's.
    """
    real = next(
        (kernels.real_of(a) for a in args if isinstance(a, np.ndarray) and a.dtype.kind == "f"),
        "float",
    )
    kernels.check(name, args, real)
    rows = kernels.plan(name, real)
    arrays = {n: a for n, a in enumerate(args) if rows[n][0].pointer}
    pointers, values = kernels.host_arguments(name, real, args)
    sizes = (ctypes.c_longlong * len(values))(
        *[arrays[n].nbytes if n in arrays else 0 for n in range(len(values))]
    )
    own = library(sources or kernels.folder(), real)
    own.watch(*(watch or (-2, 0)))
    function = getattr(own, f"trace_{name}")
    function.argtypes = [ctypes.c_longlong, ctypes.c_longlong, ctypes.c_int, ctypes.c_longlong,
                         ctypes.c_void_p, ctypes.c_void_p]  # fmt: skip
    function.restype = None
    itemsize = 4 if real == "float" else 8
    some = range(blocks) if some is None else some
    function(some.start, len(some), threads, shared * itemsize, pointers, sizes)
    total = own.recorded()
    found = np.zeros(0, ACCESS)
    if total:
        raw = (ctypes.c_char * (total * ACCESS.itemsize)).from_address(own.records())
        found = np.frombuffer(raw, ACCESS).copy()
    named = {
        n: Array(rows[n][0].name, a.shape, a.itemsize, a.ctypes.data) for n, a in arrays.items()
    }
    outside = own.outside_arrays()
    return Trace(name, named, found, blocks, threads, shared * itemsize, outside)


@contextmanager
def launches() -> Iterator[list[Launch]]:
    """Inside this context, CPU launches of kernels that GPUs also have run as usual and are kept in
    the list."""
    kept: list[Launch] = []
    launch = kernels.launch

    def keeping(name: str, blocks: int, *args: Any, shared: int = 0) -> None:
        if kernels.signatures()[name][0] != kernels.CPU_ONLY and blocks:
            kept.append(Launch(name, blocks, args, shared))
        launch(name, blocks, *args, shared=shared)

    kernels.launch = keeping
    try:
        yield kept
    finally:
        kernels.launch = launch


@dataclass
class Launch:
    """A launch of a kernel: blocks, arguments, elements of shared memory."""

    kernel: str
    blocks: int
    args: tuple
    shared: int = 0

    def run(self, **options: Any) -> Trace:
        return run(self.kernel, self.blocks, *self.args, shared=self.shared, **options)
