"""Writes small files of weights, as Caffe and PyTorch do, for tests of what reads them."""

from __future__ import annotations

import io
import zipfile

import numpy as np


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def blob(array: np.ndarray, old: bool, double: bool = False, packed: bool = True) -> bytes:
    """A BlobProto; old: with num, channels, height and width."""
    if old:
        sides = (1,) * (4 - array.ndim) + array.shape
        shape = b"".join(field(i + 1, side) for i, side in enumerate(sides))
    else:
        shape = field(7, field(1, b"".join(map(varint, array.shape))))
    numbers = array.astype("<f8" if double else "<f4")
    if packed:
        return shape + field(8 if double else 5, numbers.tobytes())
    key = varint(8 << 3 | 1) if double else varint(5 << 3 | 5)
    return shape + b"".join(key + number.tobytes() for number in numbers.reshape(-1))


def caffemodel(layers: dict[str, list[np.ndarray]], old: bool = False, **how: bool) -> bytes:
    """A NetParameter with V1 layers (old) or V2 layers, and one layer without weights."""
    number, name_at, blobs_at = (2, 4, 6) if old else (100, 1, 7)
    out = field(1, b"a network") + field(number, field(name_at, b"data"))
    for name, arrays in layers.items():
        message = field(name_at, name.encode()) + (field(5, 4) if old else field(2, b"Convolution"))
        message += b"".join(field(blobs_at, blob(a, old, **how)) for a in arrays)
        out += field(number, message)
    return out


def number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little")


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def tensor(
    key: str,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    size: int,
    kind: str = "FloatStorage",
) -> bytes:
    """The opcodes that leave a tensor on the stack, as PyTorch writes them."""
    storage = b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu")
    storage += number(size) + b"tQ"
    sides, steps = (b"(" + b"".join(map(number, n)) + b"t" for n in (shape, strides))
    called = b"ctorch._utils\n_rebuild_tensor_v2\n"
    return called + b"(" + storage + number(offset) + sides + steps + b"\x89NtR"


def state_dict(tensors: dict[str, bytes]) -> bytes:
    """The pickle of a dict of tensors."""
    return b"\x80\x02}(" + b"".join(text(n) + t for n, t in tensors.items()) + b"u."


def pt(tensors: dict[str, np.ndarray]) -> bytes:
    """A .pt file of the zip layout."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        described = {}
        for key, (name, array) in enumerate(tensors.items()):
            strides = tuple(step // array.itemsize for step in np.ascontiguousarray(array).strides)
            described[name] = tensor(str(key), 0, array.shape, strides, array.size)
            archive.writestr(f"net/data/{key}", array.astype("<f4").tobytes())
        archive.writestr("net/data.pkl", state_dict(described))
    return content.getvalue()
