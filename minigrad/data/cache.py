"""Decoded pictures: kept on disk where they fit, so that every epoch but the first finds them ready.

The cache is one file of bytes, N x 256 x 256 x 3, mapped into memory, and a small JSON file beside it with the pictures that could
not be read. Its name is a hash of the files' paths, sizes and times, so a changed folder gets a new cache. It is written under
another name and renamed when complete: a cache that exists is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from tqdm import tqdm

from minigrad.data.folder import ImageSet
from minigrad.data.images import SIZE, ImageError, read_image

PICTURE_BYTES = SIZE * SIZE * 3
LARGEST_CACHE = 10 * 2**30


@dataclass
class Pictures:
    """The pictures of an ImageSet as arrays: pictures.read(i) -> uint8 (256, 256, 3), or ImageError."""

    images: ImageSet
    decoded: np.ndarray | None = None  # (N, 256, 256, 3), mapped from disk; None: decode each time
    broken: dict[int, str] | None = None  # reasons, by index, for pictures that the cache could not decode

    def __len__(self) -> int:
        return len(self.images)

    def read(self, i: int) -> np.ndarray:
        if self.broken and i in self.broken:
            raise ImageError(self.broken[i])
        return read_image(self.images.paths[i]) if self.decoded is None else self.decoded[i]


def default_cache_folder() -> Path:
    """$XDG_CACHE_HOME/minigrad, or ~/.cache/minigrad."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minigrad"


def cache_key(images: ImageSet) -> str:
    """A hash of everything that the decoded bytes depend on."""
    h = hashlib.sha256(f"{SIZE} Pillow {PIL.__version__}".encode())
    for path in images.paths:
        stat = path.stat()
        h.update(f"\n{path.resolve()}\t{stat.st_size}\t{stat.st_mtime_ns}".encode())
    return h.hexdigest()[:24]


def open_pictures(
    images: ImageSet, folder: Path | None, workers: int = 2, say: Callable[[str], None] = print, what: str = "pictures"
) -> Pictures:
    """Pictures of a set, decoded into a cache below `folder` if that is not None and they fit.

    They fit when they take at most 10 GB and a fifth of the free space; otherwise a sentence says so and files are decoded each time.
    """
    size = len(images) * PICTURE_BYTES
    if folder is None:
        return Pictures(images)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{cache_key(images)}.rgb"
        broken_path = path.with_suffix(".json")
        if path.is_file() and path.stat().st_size == size and broken_path.is_file():
            broken = {int(i): reason for i, reason in json.loads(broken_path.read_text()).items()}
            say(f"{len(images):,} {what}: decoded before, {size / 1e9:.2f} GB in {path}")
            return Pictures(images, map_cache(path, len(images)), broken)
        free = shutil.disk_usage(folder).free
        if size > min(LARGEST_CACHE, free // 5):
            say(
                f"{len(images):,} {what}: not cached; decoded they take {size / 1e9:.1f} GB, more than 10 GB or a fifth of the "
                f"{free / 1e9:.0f} GB free in {folder}. They are decoded anew each epoch"
            )
            return Pictures(images)
        say(f"{len(images):,} {what}: decoding once into {size / 1e9:.2f} GB in {folder}")
        broken = build(images, path, broken_path, workers, what)
    except OSError as error:
        say(f"{len(images):,} {what}: not cached ({error}); they are decoded anew each epoch")
        return Pictures(images)
    return Pictures(images, map_cache(path, len(images)), broken)


def map_cache(path: Path, count: int) -> np.ndarray:
    return np.memmap(path, np.uint8, "r", shape=(count, SIZE, SIZE, 3)) if count else np.empty((0, SIZE, SIZE, 3), np.uint8)


def build(images: ImageSet, path: Path, broken_path: Path, workers: int, what: str) -> dict[int, str]:
    """Decode everything into `path`; returns the reasons for those that could not be."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    broken: dict[int, str] = {}
    try:
        decoded = np.memmap(temporary, np.uint8, "w+", shape=(len(images), SIZE, SIZE, 3))

        def decode(i: int) -> None:
            try:
                decoded[i] = read_image(images.paths[i])
            except ImageError as error:
                broken[i] = str(error)

        with ThreadPoolExecutor(max(workers, 1)) as pool:
            for _ in tqdm(pool.map(decode, range(len(images))), f"decoding {what}", len(images), leave=False, disable=None):
                pass
        decoded.flush()
        broken_path.write_text(json.dumps(broken))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return broken
