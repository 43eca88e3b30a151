"""Reads Caffe's .caffemodel and .binaryproto files.

Both are protocol buffers: a message is a sequence of fields, each with a key, number * 8 + wire
type, and a value. Wire types: 0, a variable-length integer (varint); 1 and 5, 8 and 4 bytes; 2, a
length and that many bytes. The numbers of the fields are those of src/caffe/proto/caffe.proto:

    NetParameter      layers = 2 (V1, until 2015)    layer = 100 (V2)
    V1LayerParameter  name = 4    blobs = 6
    LayerParameter    name = 1    blobs = 7
    BlobProto         num, channels, height, width = 1 .. 4 (old)    data = 5    shape = 7
                      double_data = 8
    BlobShape         dim = 1

Every length is checked against the bytes that are there. Messages are not nested deeper than this
list, so no file leads to a deep recursion.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minigrad.weights.file import Weights, WeightsError, clipped

MOST_FIELDS = 1 << 22
V1 = {"layer": 2, "name": 4, "blobs": 6}
V2 = {"layer": 100, "name": 1, "blobs": 7}


def read_caffemodel(path: Path) -> Weights:
    """The layers with weights of a .caffemodel. Raises WeightsError."""
    content = memoryview(path.read_bytes())
    layers: dict[str, dict[str, np.ndarray]] = {}
    try:
        for number, value in messages(content):
            version = {V1["layer"]: V1, V2["layer"]: V2}.get(number)
            if version is None or not isinstance(value, memoryview):
                continue
            name, blobs = "", []
            for number_, part in messages(value):
                if number_ == version["name"] and isinstance(part, memoryview):
                    name = bytes(part).decode("utf-8")
                elif number_ == version["blobs"] and isinstance(part, memoryview):
                    blobs.append(read_blob(part))
            if not blobs:
                continue
            if name in layers or len(blobs) > 2:
                what = "is there twice" if name in layers else f"has {len(blobs)} arrays"
                raise ValueError(f"the layer {clipped(name)!r} {what}")
            layers[name] = dict(zip(("weight", "bias"), blobs))
    except ValueError as error:
        raise WeightsError(
            f"{path}: no whole .caffemodel, and none of the other formats ({error})"
        ) from error
    if not layers:
        raise WeightsError(f"{path}: no .caffemodel: it holds no layer with weights")
    return Weights(path, "Caffe", layers)


def read_binaryproto(path: Path) -> np.ndarray:
    """The array of a .binaryproto, such as a mean image, (1, C, H, W). Raises WeightsError."""
    try:
        return read_blob(memoryview(path.read_bytes()))
    except ValueError as error:
        raise WeightsError(f"{path}: no whole .binaryproto ({error})") from error


def read_blob(message: memoryview) -> np.ndarray:
    """The array of a BlobProto, float32."""
    old = {1: 0, 2: 0, 3: 0, 4: 0}
    shape: list[int] | None = None
    parts = {5: bytearray(), 8: bytearray()}  # float and double numbers
    for number, value in messages(message):
        if number in old and isinstance(value, int):
            old[number] = value
        elif number == 7 and isinstance(value, memoryview):
            shape = dimensions(value)
        elif number in parts and isinstance(value, memoryview):
            parts[number] += value  # packed, or one number
    sides = list(old.values()) if shape is None else shape
    data = np.frombuffer(parts[5], "<f4") if parts[5] else np.frombuffer(parts[8], "<f8")
    if any(side < 1 for side in sides) or math.prod(sides) != data.size:
        raise ValueError(f"{data.size} numbers for an array of the shape {tuple(sides[:8])}")
    return data.astype(np.float32).reshape(sides)


def dimensions(message: memoryview) -> list[int]:
    """The numbers of a BlobShape."""
    found: list[int] = []
    for number, value in messages(message):
        if number == 1 and isinstance(value, int):
            found.append(value)
        elif number == 1 and isinstance(value, memoryview):
            at = 0
            while at < len(value):
                side, at = varint(value, at)
                found.append(side)
    if len(found) > 8:
        raise ValueError(f"an array of {len(found)} dimensions")
    return found


def messages(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) for each field of a message: an int for a varint, else its bytes."""
    at, count = 0, 0
    while at < len(message):
        key, at = varint(message, at)
        number, wire, count = key >> 3, key & 7, count + 1
        if number == 0 or count > MOST_FIELDS:
            raise ValueError(f"field {count} of a message, of number {number}, at byte {at}")
        if wire == 0:
            value, at = varint(message, at)
            yield number, value
            continue
        if wire == 2:
            size, at = varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if size > len(message) - at:
            raise ValueError(
                f"it is cut off: a field of {size:,} bytes, {len(message) - at:,} left"
            )
        yield number, message[at : at + size]
        at += size


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """The integer at a position, 7 bits a byte, lowest first; and the position after it."""
    value = 0
    for i in range(10):
        if at + i >= len(message):
            raise ValueError("it is cut off within a number")
        byte = message[at + i]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise ValueError(f"a number of more than ten bytes at byte {at}")
