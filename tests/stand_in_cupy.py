"""As much of CuPy as minigrad uses, without a GPU: arrays that refuse what CuPy's refuse, and
kernels that run on the CPU.

`pytest --stand-in-gpu -m gpu` runs the tests of the GPU path on it. What it finds: an array that
would have to be converted to NumPy's on its own, a function that CuPy lacks or takes other
arguments for, a launch whose arguments have other sizes than the signature says, an output that a
kernel leaves unwritten, memory that stays. What it cannot: speed, races between threads, the
compiler. Where CuPy is installed (it needs no GPU for this) every function that is used must be
there, under its name and with its arguments.
"""

import ctypes
import functools
import importlib
import inspect
import re
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np

from minigrad import kernels

try:
    REAL: Any = importlib.import_module("cupy")
except ImportError:
    REAL = None

METHODS = {
    "all",
    "any",
    "argmax",
    "argmin",
    "argsort",
    "astype",
    "clip",
    "copy",
    "cumsum",
    "dot",
    "fill",
    "flatten",
    "item",
    "max",
    "mean",
    "min",
    "nonzero",
    "prod",
    "ravel",
    "repeat",
    "reshape",
    "round",
    "sort",
    "squeeze",
    "std",
    "sum",
    "swapaxes",
    "take",
    "tobytes",
    "tolist",
    "transpose",
    "var",
    "view",
}
ATTRIBUTES = {"T", "dtype", "itemsize", "nbytes", "ndim", "shape", "size", "strides"}
VIEWS_AND_READS = {
    "item",
    "ravel",
    "reshape",
    "squeeze",
    "swapaxes",
    "tobytes",
    "tolist",
    "transpose",
    "view",
}  # from any device
SHARED_WITHOUT_ASKING = 48 << 10
DEVICES = 2
_used = 0
living: "weakref.WeakValueDictionary[int, Array]" = weakref.WeakValueDictionary()  # own memory
_thread = threading.local()  # CuPy's current device is its thread's


def current() -> int:
    return getattr(_thread, "device", 0)


def asked() -> int:
    """How much work this thread has asked the device for: arrays, and what fills them."""
    return getattr(_thread, "asked", 0)


def _freed(size: int) -> None:
    global _used
    _used -= size


class Array(np.lib.mixins.NDArrayOperatorsMixin):
    """An array in the memory of the stand-in: `_host` is not for anybody else to touch."""

    __array_priority__ = 100

    def __init__(self, host: np.ndarray, base: "Array | None" = None) -> None:
        global _used
        self._host, self.base = host, base
        _thread.asked = asked() + 1
        self.device = SimpleNamespace(id=current() if base is None else base.device.id)
        if base is None:
            _used += host.nbytes
            living[id(self)] = self
            weakref.finalize(self, _freed, host.nbytes)

    flags = property(
        lambda self: SimpleNamespace(
            c_contiguous=self._host.flags.c_contiguous, f_contiguous=self._host.flags.f_contiguous
        )
    )
    data = property(lambda self: SimpleNamespace(ptr=self._host.ctypes.data))
    __cuda_array_interface__ = property(
        lambda self: {"shape": self.shape, "typestr": self.dtype.str, "version": 3}
    )

    def get(self) -> np.ndarray:
        return self._host.copy()

    def __getattr__(self, name: str) -> Any:
        if name in ATTRIBUTES:
            return wrapped(getattr(self._host, name), self)
        if name not in METHODS:
            raise AttributeError(f"cupy.ndarray has no {name}, or the stand-in does not know it")
        assert REAL is None or hasattr(REAL.ndarray, name), f"cupy.ndarray has no {name}"

        def method(*args: Any, **kwargs: Any) -> Any:
            if name not in VIEWS_AND_READS:
                unwrapped(self)
            return wrapped(
                getattr(self._host, name)(*unwrapped(args), **unwrapped(kwargs)),
                self,
                scalars=name not in ("item", "tolist"),
            )

        return method

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct"
            " a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__" or (REAL is not None and not hasattr(REAL, ufunc.__name__)):
            return NotImplemented
        out = kwargs.pop("out", (None,))
        result = ufunc(
            *unwrapped(inputs),
            **unwrapped(kwargs),
            **({} if out[0] is None else {"out": unwrapped(out)[0]}),
        )
        return wrapped(result, *inputs) if out[0] is None else out[0]

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        name = f"{func.__module__}.{func.__name__}"
        if REAL is not None:
            module: Any = functools.reduce(
                lambda m, part: getattr(m, part, None), func.__module__.split(".")[1:], REAL
            )
            if not hasattr(module, func.__name__):
                raise TypeError(f"CuPy has no {name}")
            try:
                signature = inspect.signature(getattr(module, func.__name__))
            except (TypeError, ValueError):
                signature = None
            if signature is not None:
                signature.bind(*args, **kwargs)  # TypeError where CuPy does not take them
        if name.endswith("_like") and kwargs.get("shape") == ():
            kwargs = {k: v for k, v in kwargs.items() if k != "shape"}  # as CuPy does
        host_args = (
            args if name == "numpy.asarray" else unwrapped(args)
        )  # it alone moves an array to the device
        result = func(
            *[a._host if isinstance(a, Array) else a for a in host_args], **unwrapped(kwargs)
        )
        if name.startswith("numpy.empty"):
            result.fill(np.nan if result.dtype.kind == "f" else 77)
        return wrapped(result, *args)

    def __getitem__(self, index: Any) -> Any:
        return wrapped(self._host[unwrapped(index)], self)

    def __setitem__(self, index: Any, value: Any) -> None:
        unwrapped(self)[unwrapped(index)] = unwrapped(value)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self._host)

    def __int__(self) -> int:
        return int(self._host)

    def __float__(self) -> float:
        return float(self._host)

    def __repr__(self) -> str:
        return repr(self._host)


def unwrapped(value: Any) -> Any:
    """Arguments for NumPy. An array of NumPy's own among them is what CuPy calls an unsupported
    type; what computes runs on the current device, and may not reach arrays on another."""
    if isinstance(value, Array):
        if value.device.id != current():
            raise ValueError(
                f"The device where the array resides ({value.device.id}) is different from the"
                f" current device ({current()})."
            )
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(
            f"Unsupported type {type(value)}: a NumPy array of shape {value.shape} beside CuPy's"
        )
    if isinstance(value, (tuple, list)):
        return type(value)(unwrapped(v) for v in value)
    if isinstance(value, dict):
        return {k: unwrapped(v) for k, v in value.items()}
    return value


def wrapped(result: Any, *sources: Any, scalars: bool = True) -> Any:
    """NumPy's result as CuPy would give it: a reduction is an array of no axes, a view keeps its
    array alive."""
    if isinstance(result, (tuple, list)) and any(isinstance(r, np.ndarray) for r in result):
        return type(result)(wrapped(r, *sources) for r in result)
    if isinstance(result, np.generic) and scalars:
        result = np.asarray(result)
    if not isinstance(result, np.ndarray):
        return result
    for source in sources:
        if isinstance(source, Array) and result.size and np.may_share_memory(result, source._host):
            return Array(result, source if source.base is None else source.base)
    return Array(result)


def asarray(array: Any) -> Array:
    if isinstance(array, Array):
        return array if array.device.id == current() else Array(array._host.copy())
    return Array(np.array(array, order="K"))


class RawModule:
    def __init__(self, code: str, options: tuple[str, ...]) -> None:
        self.code = code
        (self.real,) = (o.removeprefix("-DREAL=") for o in options if o.startswith("-DREAL="))

    def get_function(self, name: str) -> "Kernel":
        assert re.search(rf"void\s+{name}\(", self.code)
        return Kernel(name, self.real)


class Kernel:
    """Runs a kernel's CPU build, after the checks that a GPU would make, or would fail to make with
    a crash."""

    def __init__(self, name: str, real: str) -> None:
        self.name, self.real, self.max_dynamic_shared_size_bytes = name, real, SHARED_WITHOUT_ASKING

    def __call__(
        self, grid: tuple[int], block: tuple[int], args: tuple, shared_mem: int = 0
    ) -> None:
        assert (len(grid), len(block)) == (1, 1)
        assert 0 < grid[0] < 2**31
        assert 0 < block[0] <= 1024
        assert shared_mem <= self.max_dynamic_shared_size_bytes <= 227 << 10
        parameters = kernels.signatures()[self.name][1]
        values: list[Any] = []
        for p, value in zip(parameters, args, strict=True):
            kind = self.real if p.type == "real" else p.type
            if p.pointer:
                assert isinstance(value, Array), f"{self.name}, {p.name}"
                assert value.device.id == current(), f"{self.name}, {p.name}"
                assert value.dtype == kernels.ELEMENTS[kind], f"{self.name}, {p.name}"
                assert value.flags.c_contiguous, f"{self.name}, {p.name}"
                values.append(ctypes.c_void_p(value._host.ctypes.data))
            else:
                assert isinstance(value, np.generic), (
                    f"{self.name}, {p.name}"
                )  # CuPy would pass a Python int as 64 bits
                assert value.dtype == np.dtype(kernels.SCALARS[kind]), f"{self.name}, {p.name}"
                values.append(kernels.SCALARS[kind](value.item()))
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values])
        kernels.host_function(self.name, self.real)(grid[0], shared_mem, pointers, 2)


class Device:
    def __init__(self, index: int) -> None:
        assert 0 <= index < DEVICES
        self.index = index

    def use(self) -> None:
        _thread.device = self.index

    def __enter__(self) -> "Device":
        self.before = Device(current())
        self.use()
        return self

    def __exit__(self, *_: object) -> None:
        self.before.use()


class Stream:
    """Work is done when it is asked for. An event is how much was asked for before it, so that
    tests/stand_in_nccl.py sees what a stream would not have waited for."""

    streams: dict[int, "Stream"] = {}  # noqa: RUF012

    def __init__(self, non_blocking: bool = False) -> None:
        self.ptr, self.waited = id(self), 0
        self.pending = False
        Stream.streams[self.ptr] = self

    def record(self) -> int:
        return asked()

    def wait_event(self, event: int) -> None:
        self.waited = event

    def synchronize(self) -> None:
        self.pending = False


cuda = SimpleNamespace(
    Device=Device,
    Stream=Stream,
    get_current_stream=Stream,
    runtime=SimpleNamespace(
        getDeviceCount=lambda: DEVICES,
        deviceGetPCIBusId=lambda index: f"0000:0{index}:00.0",
        getDeviceProperties=lambda index: {"name": b"a stand-in for a GPU"},
        memGetInfo=lambda: (16 << 30, 16 << 30),
    ),
)


def get_default_memory_pool() -> Any:
    return SimpleNamespace(
        free_all_blocks=lambda: None, used_bytes=lambda: _used, total_bytes=lambda: _used
    )
