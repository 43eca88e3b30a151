"""Sources of pictures: a folder of files, a tar or zip archive read in place, or the files of MNIST
and CIFAR-10.

A source knows its items by name and reads one at a time; nothing is unpacked. Archives are not
trusted. A member that could reach outside (an absolute path, `..`, a link) or that has an absurd
size is refused by name, and any kind of damage raises a DataError.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

import numpy as np

from minigrad.files import load_record, save_record
from minigrad.text import shown

SUFFIXES = (".jpg", ".jpeg", ".png")
LARGEST_MEMBER = 256 * 2**20  # bytes of one picture
LARGEST_DECOMPRESSED = 2 * 2**30  # bytes of one compressed file of labels or pixels
# Bytes of the largest extended header of a tar; also the limit for all global headers together.
LARGEST_HEADER = 16 * 2**10
EXTENDED = {b"x": "pax", b"g": "pax", b"X": "pax", b"L": "GNU long name", b"K": "GNU long link"}


class DataError(ValueError):
    """Data that cannot be used as asked; the message says what is wrong and what would be right."""


def is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


@dataclass(frozen=True)
class Files:
    """Picture files below a folder; an item is a path relative to it."""

    root: Path

    def read(self, item: str) -> bytes:
        return (self.root / item).read_bytes()

    def where(self, item: str) -> str:
        return shown(str(self.root / item))

    def stamp(self, item: str) -> str:
        """A text that changes when the item changes."""
        stat = os.stat(self.root / item)
        return f"{stat.st_size} {stat.st_mtime_ns}"

    def tree(self, part: str = "") -> dict[str, list[str]]:
        """{class folder: its pictures, at any depth, sorted}; hidden folders are left out."""
        return {
            entry: sorted(self.below(os.path.join(part, entry)))
            for entry in sorted(self.folders(part))
        }

    def folders(self, part: str = "") -> list[str]:
        with os.scandir(self.root / part) as entries:
            return [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]

    def below(self, folder: str) -> Iterator[str]:
        """Pictures at any depth, in no order. Not what is hidden, such as .ipynb_checkpoints, nor
        what a link to a folder holds."""
        ahead = [folder]
        while ahead:
            with os.scandir(self.root / (folder := ahead.pop())) as entries:
                for e in entries:
                    if e.name.startswith("."):
                        continue
                    if e.is_dir(follow_symlinks=False):
                        ahead.append(os.path.join(folder, e.name))
                    elif is_picture(e.name) and os.path.isfile(e.path):  # False for a looping link
                        yield os.path.join(folder, e.name)


class Archive:
    """The common part of tar and zip: the members, found once and kept in an index file, and the
    tree of their names."""

    def __init__(self, path: str | Path, index_folder: Path | None = None) -> None:
        self.path, self.index_folder = Path(path), index_folder

    def read(self, item: str) -> bytes:
        raise NotImplementedError

    def scan(self) -> Iterator[tuple[str, int, int]]:
        """(name, offset, size) of every picture."""
        raise NotImplementedError

    def where(self, item: str) -> str:
        return shown(f"{self.path}: {item}")

    def stamp(self, item: str = "") -> str:
        stat = self.path.stat()
        return f"{self.path.resolve()} {stat.st_size} {stat.st_mtime_ns}"

    @cached_property
    def members(self) -> dict[str, tuple[int, int]]:
        """{name: (offset, size)}, from the index file if there is one for exactly this archive."""
        if not self.path.is_file():
            raise DataError(f"there is no file {self.path}")
        index = None
        if self.index_folder is not None:
            key = hashlib.sha256(self.stamp().encode(errors="surrogateescape")).hexdigest()
            index = self.index_folder / f"{key[:24]}.index.json"
            try:
                return {name: (offset, size) for name, offset, size in load_record(index)}
            except (OSError, ValueError):  # no index yet, or not whole: build it again
                pass
        try:
            found = {}
            for name, offset, size in self.scan():
                if name in found:
                    raise DataError(f"{self.path} holds two members called {name!r}")
                found[name] = (offset, size)
        except (DataError, MemoryError):
            raise
        except Exception as error:  # the readers of archives raise many types for damage
            raise DataError(
                f"{self.path} is damaged, cut off or no archive ({type(error).__name__}: {error})"
            ) from error
        if index is not None:
            save_record(index, [[name, *place] for name, place in found.items()])
        return found

    def tree(self, part: str = "") -> dict[str, list[str]]:
        """{class folder: its pictures} below `part`; a single outermost folder around everything is
        skipped."""
        parts = tuple(p for p in part.split("/") if p)
        tree: dict[str, list[str]] = {}
        for name in self.members:
            inside = PurePosixPath(name).parts[len(self.top) :]
            hidden = any(part.startswith(".") for part in inside)
            if inside[: len(parts)] == parts and len(inside) > len(parts) + 1 and not hidden:
                tree.setdefault(inside[len(parts)], []).append(name)
        return {c: sorted(tree[c]) for c in sorted(tree)}

    @cached_property
    def top(self) -> tuple[str, ...]:
        """The outermost folder, if the archive has a single one around its parts or classes."""
        deep = [p for p in (PurePosixPath(n).parts for n in self.members) if len(p) > 1]
        outer, below, known = (
            {p[0] for p in deep},
            {p[1] for p in deep if len(p) > 2},
            {"train", "val", "test"},
        )
        return (
            tuple(outer)
            if len(outer) == 1 and not outer & known and (len(below) > 1 or below & known)
            else ()
        )

    def folders(self) -> list[str]:
        depth = len(self.top)
        return sorted(
            {p[depth] for p in (PurePosixPath(n).parts for n in self.members) if len(p) > depth + 1}
        )

    def checked(self, name: str, size: int, link: bool = False, sparse: bool = False) -> str:
        """The name, if it stays inside the archive and its size is plausible; else DataError."""
        path = PurePosixPath(name)
        reason = (
            "is a link"
            if link
            else "has an absolute path"
            if path.is_absolute() or name[1:3] == ":\\" or name.startswith("\\")
            else "reaches outside by '..'"
            if ".." in path.parts or "..\\" in name
            else "is stored sparsely"
            if sparse
            else f"claims {size:,} bytes, which no picture has"
            if not 0 <= size <= LARGEST_MEMBER
            else ""
        )
        if reason or "\0" in name:
            raise DataError(
                f"{self.path}: refused, its member {name!r} {reason or 'has an invalid name'}"
            )
        return str(path)

    def __getstate__(self) -> dict:
        return {
            "path": self.path,
            "index_folder": self.index_folder,
            **({"members": self.members} if "members" in self.__dict__ else {}),
        }


def open_tar(
    path: Path, file: BinaryIO | io.RawIOBase | None = None, mode: Literal["r:", "r:*"] = "r:*"
) -> tarfile.TarFile:
    """Open a tar. A member whose extended headers are larger than any name or attribute needs is
    refused before they are parsed.

    Python's parser takes time that grows with the square of their size, or hangs (CVE-2024-6232),
    and it copies a chain of global headers for each member. Args: path: the name for messages, and
    the file to open if `file` is None.
    """
    total = 0  # bytes of global headers

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf, encoding, errors):
            nonlocal total
            header = super().frombuf(buf, encoding, errors)
            total += header.size if header.type == b"g" else 0
            size = total if header.type == b"g" else header.size
            if header.type in EXTENDED and not 0 <= size <= LARGEST_HEADER:
                raise DataError(
                    f"{path}: refused, a {EXTENDED[header.type]} header of {size:,} bytes"
                    f" ({header.name!r}); at most {LARGEST_HEADER:,} are read: pack the archive"
                    " again, with shorter names and without extra attributes"
                )
            return header

    return tarfile.open(None if file else path, mode, fileobj=file, tarinfo=Header)


class Tar(Archive):
    """An uncompressed tar. Tars inside it, as in ILSVRC2012_img_train.tar, count as folders:
    n01440764.tar is the folder n01440764."""

    def scan(self) -> Iterator[tuple[str, int, int]]:
        with open(self.path, "rb") as file:
            yield from self.scan_stream(file, 0, os.fstat(file.fileno()).st_size, "")

    def scan_stream(
        self, file: BinaryIO, start: int, size: int, prefix: str
    ) -> Iterator[tuple[str, int, int]]:
        with open_tar(self.path, Window(file, start, size), "r:") as tar:
            for m in tar:
                name = prefix + m.name
                nested = not prefix and m.isfile() and name.endswith(".tar")
                if not m.isdir() and (not nested or m.size > size):
                    self.checked(
                        name, m.size, m.issym() or m.islnk() or not m.isfile(), m.issparse()
                    )
                if m.isfile() and m.offset_data + m.size > size:
                    raise DataError(
                        f"{self.path} is cut off: {name} should end at byte"
                        f" {start + m.offset_data + m.size:,}"
                    )
                if nested:
                    self.checked(name, 0)
                    yield from self.scan_stream(
                        file, start + m.offset_data, m.size, name.removesuffix(".tar") + "/"
                    )
                elif m.isfile() and is_picture(name):
                    yield str(PurePosixPath(name)), start + m.offset_data, m.size
            # tarfile takes a damaged header for the end, but a whole tar ends in blocks of zeros.
            file.seek(start + tar.offset)
            rest = file.read(min(1024, max(0, size - tar.offset)))
            if len(rest) < 512 or any(rest):
                where = f" in {prefix.rstrip('/')}.tar" if prefix else ""
                raise DataError(
                    f"{self.path} is damaged or cut off{where}: at byte {start + tar.offset:,}"
                    " there is neither a member nor the end"
                )

    def read(self, item: str) -> bytes:
        offset, size = self.members[item]
        with open(self.path, "rb") as file:
            file.seek(offset)
            return file.read(size)


class Window(io.RawIOBase):
    """A part of a file, to be read like a separate file."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self.file, self.start, self.size, self.at = file, start, size, 0

    def read(self, count: int | None = -1) -> bytes:
        left = max(0, self.size - self.at)
        self.file.seek(self.start + self.at)
        data = self.file.read(
            left if count is None or count < 0 else min(count, left)
        )  # headers may claim any size
        self.at += len(data)
        return data

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def tell(self) -> int:
        return self.at


class Zip(Archive):
    """A zip archive; its members are decompressed one at a time."""

    def scan(self) -> Iterator[tuple[str, int, int]]:
        for info in self.opened().infolist():
            if not info.is_dir():
                name = self.checked(
                    info.filename, info.file_size, (info.external_attr >> 28) == 0xA
                )
                if info.file_size > 1000 * max(info.compress_size, 1):
                    raise DataError(
                        f"{self.path}: refused, its member {name!r} would grow"
                        f" {info.file_size // info.compress_size}-fold"
                    )
                if is_picture(name):
                    yield info.filename, info.header_offset, info.file_size

    def opened(self) -> zipfile.ZipFile:
        """The open archive, one for each process, because processes that inherit an open file share
        its position."""
        if self.__dict__.get("process") != os.getpid():
            self.process, self.zip = os.getpid(), zipfile.ZipFile(self.path)
        return self.zip

    def read(self, item: str) -> bytes:
        try:
            with self.opened().open(item) as member:
                return member.read(LARGEST_MEMBER)
        except (
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            EOFError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            return error_bytes(error)
        except OSError as error:
            if error.errno is not None:  # a problem of the disk, not of the member
                raise
            return error_bytes(error)


def error_bytes(error: Exception) -> bytes:
    """Bytes that are not a picture and give the reason, so that a damaged member is skipped like a
    damaged file."""
    return f"damaged in the archive: {error}".encode()


class Pixels:
    """Uncompressed pictures from binary files: item i is `pixels[i]`, (H, W) or (H, W, 3) uint8."""

    def __init__(self, files: list[Path], kind: str) -> None:
        self.files, self.kind = files, kind

    def read(self, item: str) -> np.ndarray:
        return self.pixels[int(item)]

    def where(self, item: str) -> str:
        return f"{self.files[0].parent}: {self.kind} picture {item}"

    def stamp(self, item: str) -> str:
        return " ".join(
            f"{f.resolve()} {f.stat().st_size} {f.stat().st_mtime_ns}" for f in self.files
        )

    @cached_property
    def pixels(self) -> np.ndarray:
        if self.kind == "IDX":
            return read_idx(self.files[0])
        rows = np.concatenate([read_cifar(f)[1] for f in self.files])
        return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)

    def __getstate__(self) -> dict:
        return {"files": self.files, "kind": self.kind}


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of an IDX file (yann.lecun.com/exdb/mnist: two zero bytes, type, rank,
    big-endian sizes, the data), plain or gzip."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] != 8 or not 1 <= head[3] <= 3:
                raise DataError(
                    f"{path} is no IDX file of bytes: it begins with {head.hex(' ')}, not with 00"
                    " 00 08 and a rank of 1 to 3"
                )
            sizes = file.read(4 * head[3])
            if len(sizes) < 4 * head[3]:
                raise DataError(f"{path} is cut off within its sizes")
            shape = struct.unpack(f">{head[3]}I", sizes)
            count = int(np.prod([int(s) for s in shape], dtype=object))
            if count > LARGEST_DECOMPRESSED:
                raise DataError(f"{path} claims the shape {shape}, {count:,} bytes: refused")
            data = file.read(count + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged or cut off ({error})") from error
    if len(data) != count:
        raise DataError(
            f"{path} has {'more' if len(data) > count else 'fewer'} bytes than its shape {shape}"
            " says"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def read_cifar(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(labels (N,), pixels (N, 3072): red, green, blue planes of 32 x 32) of a CIFAR-10 binary
    batch (cs.toronto.edu/~kriz/cifar.html)."""
    data = np.fromfile(path, np.uint8)
    if len(data) == 0 or len(data) % 3073:
        raise DataError(
            f"{path} is no whole CIFAR-10 batch: {len(data):,} bytes are not a multiple of 3,073"
        )
    rows = data.reshape(-1, 3073)
    if rows[:, 0].max() > 9:
        raise DataError(f"{path}: label {rows[:, 0].max()}; CIFAR-10 has 0 to 9")
    return rows[:, 0].astype(np.int64), rows[:, 1:]
