"""A cache of decoded pictures on disk, if they fit, so that only the first epoch decodes them.

The cache is one file of bytes with N pictures of one shape, mapped into memory. A small JSON file
beside it lists the pictures that could not be read and has a checksum of a sample of the others.
The cache is named by a hash of the files' names, sizes and times, so changed pictures get a new
cache. It is written under another name and renamed when complete: a cache that exists is whole.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import PIL
from tqdm import tqdm

from minigrad.data.folder import ImageSet
from minigrad.data.images import ImageError, read_image
from minigrad.data.sources import Files
from minigrad.data.workers import TIMEOUT, Shape, Workers
from minigrad.files import ABANDONED, load_record, replacing, save_record, sweep
from minigrad.models.records import PHOTOGRAPH

LARGEST_CACHE = 10 * 2**30
BUILD_BATCH = 32
SAMPLE = 64  # pictures that the checksum of a cache covers


@dataclass
class Pictures:
    """The pictures of an ImageSet as arrays: pictures.read(i) -> uint8 of `shape`, or
    ImageError."""

    images: ImageSet
    cache: Path | None = None  # file of decoded pictures; None: decode each time
    broken: dict[int, str] | None = None  # index -> why the cache could not decode that picture
    shape: Shape = PHOTOGRAPH

    def __len__(self) -> int:
        return len(self.images)

    def where(self, i: int) -> str:
        return self.images.where(i)

    @cached_property
    def decoded(self) -> np.ndarray:
        """(N, *shape), mapped from the cache."""
        assert self.cache is not None
        return (
            np.memmap(self.cache, np.uint8, "r", shape=(len(self), *self.shape))
            if len(self)
            else np.empty((0, *self.shape), np.uint8)
        )

    def read(self, i: int) -> np.ndarray:
        if self.cache is None:
            return read_image(
                self.images.source.read(self.images.items[i]), self.shape, self.where(i)
            )
        if self.broken and i in self.broken:
            raise ImageError(self.broken[i])
        return self.decoded[i]

    def __getstate__(self) -> dict:
        return {key: value for key, value in vars(self).items() if key != "decoded"}  # the mapping


def cache_key(images: ImageSet, shape: Shape) -> str:
    """A hash of everything that the decoded bytes depend on."""
    h = hashlib.sha256(f"{shape} Pillow {PIL.__version__}".encode())
    files = isinstance(images.source, Files)
    h.update(b"" if files else images.source.stamp("").encode(errors="surrogateescape"))
    for i, item in enumerate(images.items):
        h.update(f"\n{images.where(i)}\t{images.source.stamp(item) if files else ''}".encode())
    return h.hexdigest()[:24]


def checksum(decoded: np.ndarray) -> int:
    """A checksum of SAMPLE pictures, spread evenly. It detects a file that is not the one that was
    written, without reading all of it."""
    value = 0
    for i in (
        np.unique(np.linspace(0, len(decoded) - 1, SAMPLE).astype(int)) if len(decoded) else ()
    ):
        value = zlib.crc32(decoded[i].tobytes(), value)
    return value


def open_pictures(
    images: ImageSet,
    folder: Path | None,
    workers: int = 2,
    say: Callable[[str], None] = print,
    what: str = "pictures",
    worker_timeout: float = TIMEOUT,
    shape: Shape = PHOTOGRAPH,
) -> Pictures:
    """The pictures of a set, decoded into a cache in `folder` if it is not None and they fit.

    They fit if they take at most 10 GB and at most a fifth of the free space. Otherwise a sentence
    says so, and the files are decoded each time.
    """
    size = len(images) * math.prod(shape)
    if folder is None:
        return Pictures(images, shape=shape)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{cache_key(images, shape)}.rgb"
        found = existing(images, path, shape)
        if found is not None:
            say(f"{len(images):,} {what}: decoded before, {size / 1e9:.2f} GB in {path}")
            return found
        free = shutil.disk_usage(folder).free
        if size > min(LARGEST_CACHE, free // 5):
            say(
                f"{len(images):,} {what}: not cached; decoded they take {size / 1e9:.1f} GB, more"
                f" than 10 GB or a fifth of the {free / 1e9:.0f} GB free in {folder}. They are"
                " decoded anew each epoch"
            )
            return Pictures(images, shape=shape)
        say(f"{len(images):,} {what}: decoding once into {size / 1e9:.2f} GB in {folder}")
        return build(images, path, workers, say, what, worker_timeout, shape)
    except OSError as error:
        say(f"{len(images):,} {what}: not cached ({error}); they are decoded anew each epoch")
        return Pictures(images, shape=shape)


def existing(images: ImageSet, path: Path, shape: Shape) -> Pictures | None:
    """The cache at `path`, if it is whole and holds what was written."""
    try:
        record = load_record(path.with_suffix(".json"))
        broken = {int(i): str(reason) for i, reason in record["broken"].items()}
        pictures = Pictures(images, path, broken, shape)
        if (
            path.stat().st_size == len(images) * math.prod(shape)
            and checksum(pictures.decoded) == record["checksum"]
        ):
            return pictures
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # there is no cache yet, or it is not whole: it is built again
    return None


def build(
    images: ImageSet,
    path: Path,
    workers: int,
    say: Callable[[str], None],
    what: str,
    worker_timeout: float,
    shape: Shape,
) -> Pictures:
    """Decode everything into `path`."""
    sweep(path.parent, ABANDONED)  # leftovers of killed runs only: other runs may be at work
    size = max(len(images), 1) * math.prod(shape)
    broken: dict[int, str] = {}
    pieces = [
        np.arange(i, min(i + BUILD_BATCH, len(images))) for i in range(0, len(images), BUILD_BATCH)
    ]
    with replacing(path) as unfinished:
        decoded = np.memmap(unfinished, np.uint8, "w+", shape=(max(len(images), 1), *shape))
        if hasattr(os, "posix_fallocate"):
            with open(unfinished, "r+b") as file:
                os.posix_fallocate(
                    file.fileno(), 0, size
                )  # a full disk is an error now, not a bus error later
        with Workers(
            Pictures(images, shape=shape),
            BUILD_BATCH,
            workers if pieces else 0,
            say,
            worker_timeout,
        ) as processes:
            for batch in tqdm(
                processes.batches(pieces),
                f"decoding {what}",
                len(pieces),
                leave=False,
                disable=None,
            ):
                decoded[batch.indices] = batch.pictures
                broken |= batch.skipped
        decoded.flush()
    record = {
        "broken": {str(i): reason for i, reason in broken.items()},
        "checksum": checksum(decoded[: len(images)]),
    }
    save_record(path.with_suffix(".json"), record)  # last: the cache is not valid without it
    return Pictures(images, path, broken, shape)
