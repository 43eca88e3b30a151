"""Reads PyTorch's .pt and .pth files without running anything that they contain.

Such a file is a pickle, a program for a small stack machine, and beside it the bytes of the arrays.
Python's own `pickle` would call whatever function the program names. Here the opcodes are read one
by one: only those that a state dict needs are known, and only the functions in ALLOWED can be
called. Everything else is refused, with its name.

Two layouts exist (torch/serialization.py). Since PyTorch 1.6 a file is a zip: NAME/data.pkl is the
pickle, NAME/data/KEY are the bytes of each storage. Before, it was one stream: three small pickles,
the pickle, a list of keys, and for each key a count and the bytes.
"""

from __future__ import annotations

import io
import math
import mmap
import pickletools
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from minigrad.weights.file import Weights, WeightsError, by_layer, clipped

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file of the old layout
STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}
LARGEST_PICKLE = 1 << 26  # bytes; a state dict's has some hundred a layer
MOST_OPCODES = 1 << 20  # a state dict has some forty a tensor
MOST_SIDES = 8


@dataclass(frozen=True)
class Storage:
    """Bytes that tensors share: where they are, how many numbers, of which type."""

    key: str
    size: int
    dtype: str

    @property
    def nbytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class View:
    """A tensor: a part of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in numbers


# The tensors of a file by name, and the numbers of its storages by key.
Held = tuple[dict[str, View], dict[str, np.ndarray]]


def rebuild_tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    needs_gradient: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> View:
    """torch._utils._rebuild_tensor_v2."""
    sides = (shape, strides)
    if not all(type(s) is tuple and len(s) <= MOST_SIDES for s in sides):
        raise ValueError(f"a tensor's shape has more than {MOST_SIDES} sides, or is none")
    if len(shape) != len(strides):
        raise ValueError(f"a tensor of {len(shape)} sides has {len(strides)} strides")
    if type(storage) is not Storage or not all(is_count(n) for n in (offset, *shape, *strides)):
        raise ValueError("a tensor's shape, strides or storage are none")
    if metadata:
        raise ValueError("a tensor is a negated or conjugated view; save it with .clone()")
    return View(storage, offset, shape, strides)


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


ALLOWED: dict[str, Any] = {
    "collections OrderedDict": OrderedDict,
    "torch._utils _rebuild_tensor_v2": rebuild_tensor,
} | {f"torch {name}": dtype for name, dtype in STORAGES.items()}


def read_pytorch(path: Path) -> Weights:
    """The layers of a state dict. Raises WeightsError."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as all_:
            # A mapped file gives what there is, however many bytes it is asked for.
            views, held = read_zip(file) if all_[:4] == b"PK\x03\x04" else read_stream(all_)
            tensors = {name: tensor(view, held[view.storage.key]) for name, view in views.items()}
    except MemoryError:
        raise
    except Exception as error:  # Python's reader of zip files raises many types for damaged ones
        raise WeightsError(f"{path}: no weights of PyTorch that can be read: {error}") from error
    return Weights(path, "PyTorch", by_layer(path, tensors))


def named_tensors(state: Any) -> dict[str, View]:
    """The tensors of a state dict, or of one that stands in a checkpoint as "state_dict"."""
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state:
        raise ValueError("it holds no state dict, as torch.save(model.state_dict(), ...) writes")
    for name, view in state.items():
        if isinstance(view, dict):
            raise ValueError(f"{clipped(name)!r} is a dict in it; save that one alone, as a file")
        if not isinstance(view, View):
            raise ValueError(f"{clipped(name)!r} in its state dict is no tensor")
    tensors = {view.storage.key: view.storage.size for view in state.values()}
    if sum(math.prod(view.shape) for view in state.values()) > 4 * sum(tensors.values()):
        raise ValueError("its tensors share their numbers more than four times over")
    return state


def tensor(view: View, numbers: np.ndarray) -> np.ndarray:
    """The array of a tensor, float32, from its storage's numbers. Raises ValueError if it reaches
    outside its storage."""
    storage, count = view.storage, math.prod(view.shape)
    if 0 in view.shape:
        raise ValueError(f"a tensor of the shape {view.shape} is empty")
    last = view.offset + sum((n - 1) * step for n, step in zip(view.shape, view.strides))
    if last >= storage.size or count > storage.size:
        raise ValueError(
            f"a tensor of the shape {view.shape} reaches outside its storage of {storage.size}"
        )
    strides = tuple(step * numbers.itemsize for step in view.strides)
    own = np.lib.stride_tricks.as_strided(numbers[view.offset :], view.shape, strides)
    return own.astype(np.float32)


def read_zip(file: BinaryIO) -> Held:
    """The tensors of a file of the new layout, and the numbers of its storages."""
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("a zip file without PyTorch's data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in names and member(archive, f"{folder}byteorder") != b"little":
        raise ValueError("its numbers are stored highest byte first")
    views = named_tensors(execute(io.BytesIO(member(archive, pickles[0], LARGEST_PICKLE))))
    held = {
        key: numbers_of(member(archive, f"{folder}data/{key}", storage.nbytes), storage)
        for key, storage in storages(views).items()
    }
    return views, held


def member(archive: zipfile.ZipFile, name: str, most: int = 1 << 10) -> bytes:
    """The bytes of a member of a zip file, which is not compressed."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"{name} is compressed")
    if info.file_size > min(most, archive.start_dir):
        raise ValueError(f"{name} is said to have {info.file_size:,} bytes")
    return archive.read(info)


def storages(views: dict[str, View]) -> dict[str, Storage]:
    """The storages of tensors, by their keys. Raises ValueError if two have one key."""
    found: dict[str, Storage] = {}
    for view in views.values():
        if found.setdefault(view.storage.key, view.storage) != view.storage:
            raise ValueError(f"the storage {clipped(view.storage.key)!r} is described in two ways")
    return found


def read_stream(file: mmap.mmap) -> Held:
    """The tensors of a file of the old layout, and the numbers of its storages."""
    if execute(file) != MAGIC:
        raise ValueError("a pickle, but not one that PyTorch wrote")
    execute(file)  # the version of the layout
    system = execute(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its numbers are stored highest byte first")
    views, keys = named_tensors(execute(file)), execute(file)
    known = storages(views)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("it has no list of storages")
    held: dict[str, np.ndarray] = {}
    for key in keys:
        storage = known.get(key)
        if storage is None:
            raise ValueError(f"no tensor has the storage {clipped(key)!r}")
        if (count := int.from_bytes(file.read(8), "little")) != storage.size:
            raise ValueError(f"a storage has {count} numbers, and is said to have {storage.size}")
        held[key] = numbers_of(file.read(storage.nbytes), storage)
    if set(held) != set(known):
        raise ValueError("it is cut off: storages are missing")
    return views, held


def numbers_of(content: bytes, storage: Storage) -> np.ndarray:
    """A storage's bytes as numbers."""
    if len(content) != storage.nbytes:
        raise ValueError(f"it is cut off: a storage of {storage.size:,} numbers is not all there")
    return np.frombuffer(content, storage.dtype)


def execute(file: Any) -> Any:
    """The value that a pickle describes, if it needs no more than the opcodes below."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def popped_to_mark() -> list[Any]:
        first = marks.pop()
        rest = stack[first:]
        del stack[first:]
        return rest

    try:
        argument: Any
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > MOST_OPCODES:
                raise ValueError(f"its pickle has more than {MOST_OPCODES:,} opcodes")
            match opcode.name:
                case "PROTO" | "FRAME":
                    pass
                case "STOP":
                    return stack.pop()
                case "MARK":
                    marks.append(len(stack))
                case (
                    "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8"
                    | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT"
                ):  # fmt: skip
                    stack.append(argument)
                case "NONE" | "NEWTRUE" | "NEWFALSE":
                    stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
                case "EMPTY_DICT":
                    stack.append({})
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_TUPLE":
                    stack.append(())
                case "TUPLE":
                    stack.append(tuple(popped_to_mark()))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    n = int(opcode.name[-1])
                    stack[-n:] = [tuple(stack[-n:])]
                case "APPEND":
                    item = stack.pop()
                    stack[-1].append(item)
                case "APPENDS":
                    items = popped_to_mark()
                    stack[-1].extend(items)
                case "SETITEM":
                    value, key = stack.pop(), stack.pop()
                    set_items(stack[-1], [key, value])
                case "SETITEMS":
                    items = popped_to_mark()
                    set_items(stack[-1], items)
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "GLOBAL":
                    stack.append(allowed(argument))
                case "STACK_GLOBAL":
                    name, module = stack.pop(), stack.pop()
                    if type(name) is not str or type(module) is not str:
                        raise ValueError("its pickle asks for something without a name; refused")
                    stack.append(allowed(f"{module} {name}"))
                case "REDUCE":
                    arguments, function = stack.pop(), stack.pop()
                    stack.append(call(function, arguments))
                case "BUILD":
                    # The attributes of an OrderedDict: PyTorch's _metadata, which is not needed.
                    attributes = stack.pop()
                    if not isinstance(stack[-1], OrderedDict) or not isinstance(attributes, dict):
                        raise ValueError("it holds an object other than a state dict; refused")
                case "BINPERSID":
                    stack.append(storage_of(stack.pop()))
                case _:
                    raise ValueError(f"its pickle has the opcode {opcode.name}; refused")
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"its pickle is damaged ({type(error).__name__})") from error
    except RecursionError as error:
        raise ValueError("its pickle is nested too deeply") from error
    raise ValueError("its pickle is cut off")


def set_items(target: Any, items: list[Any]) -> None:
    """Put keys and values into a dict. Keys are names: hashing one that is nested may take for
    ever."""
    if not isinstance(target, dict) or not all(type(key) is str for key in items[::2]):
        raise ValueError("its pickle holds a dict whose keys are no names; refused")
    target.update(zip(items[::2], items[1::2], strict=True))


def allowed(name: str) -> Any:
    """What stands here for a function or class that a pickle names."""
    if name not in ALLOWED:
        kind = name.removeprefix("torch ")
        if kind != name and kind.endswith("Storage"):
            raise ValueError(f"numbers of {clipped(kind)!r} are not read; save them with .float()")
        raise ValueError(
            f"its pickle asks for {clipped(name.replace(' ', '.'))!r}; refused, and not run. A"
            " state dict is read, as torch.save(model.state_dict(), ...) writes it"
        )
    return ALLOWED[name]


def call(function: Any, arguments: Any) -> Any:
    """What one of the two functions in ALLOWED makes of its arguments."""
    if function is OrderedDict and type(arguments) is tuple and not arguments:
        return OrderedDict()
    if function is rebuild_tensor and isinstance(arguments, tuple):
        return rebuild_tensor(*arguments)
    raise ValueError("its pickle calls something that is no function of a state dict; refused")


def storage_of(described: Any) -> Storage:
    """The storage of a persistent id: ("storage", type, key, device, count)."""
    if not isinstance(described, tuple) or len(described) not in (5, 6):
        raise ValueError("its pickle refers to something other than a storage")
    kind, dtype, key, _, size, *view = described
    if kind != "storage" or dtype not in STORAGES.values() or any(view):
        raise ValueError("a storage of an unknown kind")
    if type(key) is not str or not is_count(size) or not 0 < size < 1 << 40:
        raise ValueError("a storage without a name, or of an impossible number of numbers")
    return Storage(key, size, dtype)
