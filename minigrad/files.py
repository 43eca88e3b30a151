"""Writes files so that they appear whole or not at all: in a temporary folder beside the target,
then synced to disk, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# The names of folders for unfinished files begin with this; `sweep` removes no other folders.
PREFIX = ".minigrad-"
# Seconds after which an unfinished file counts as abandoned by the process that wrote it.
ABANDONED = 24 * 3600.0


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write a file or folder to. When the block ends without an error, the result
    replaces `path`: a file in one step, a folder in two, because the old one is moved away first.

    Anything else that the block, or a library that it calls, leaves beside that path is deleted. If
    the process is killed, `sweep` deletes it later.
    """
    path = path.resolve() if path.is_symlink() else path
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no folder", str(path.parent))
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise FileExistsError(errno.EEXIST, "is no file that can be written over", str(path))
    own = Path(tempfile.mkdtemp(prefix=PREFIX, dir=path.parent))
    try:
        unfinished = own / path.name
        yield unfinished
        if unfinished.is_dir() and path.exists():
            os.replace(path, own / "before")  # a folder cannot be renamed onto another
        elif unfinished.is_file():
            (own / "mode").touch()  # some libraries make files that only their owner can read
            os.chmod(unfinished, (own / "mode").stat().st_mode)
            with open(unfinished, "rb") as file:
                os.fsync(file.fileno())
        os.replace(unfinished, path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def load_json(path: Path) -> Any:
    """What a JSON file holds. Raises OSError, or ValueError for a file that is no JSON."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a file")
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("its lists are nested too deeply") from error


def write_record(path: Path, content: Any) -> None:
    """Write a JSON file with a checksum of its content. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps({"checksum": digest_of(content), "content": content}))


def save_record(path: Path, content: Any) -> None:
    """write_record for what can be made again: it is not an error if the folder cannot be written
    to."""
    with suppress(OSError):
        write_record(path, content)


def load_record(path: Path) -> Any:
    """The content that write_record wrote. Raises OSError, or ValueError if the file is not exactly
    what was written."""
    written = load_json(path)
    if not isinstance(written, dict) or set(written) != {"checksum", "content"}:
        raise ValueError(f"{path} is no record of this version")
    if digest_of(written["content"]) != written["checksum"]:
        raise ValueError(f"{path} is damaged: its content is not what was written")
    return written["content"]


def digest_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def sweep(folder: Path, age: float = 0.0) -> None:
    """Remove what `replacing` left unfinished in a folder when its process was killed, unless it is
    younger than `age` seconds."""
    for own in folder.glob(f"{PREFIX}*"):
        try:
            youngest = max(p.lstat().st_mtime for p in (own, *own.rglob("*")))
        except OSError:
            continue  # its process has just finished with it
        if time.time() - youngest >= age:
            shutil.rmtree(own, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Have the system write a folder's entries to disk, so that a rename survives a power cut."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def default_cache_folder() -> Path:
    """$XDG_CACHE_HOME/minigrad, or ~/.cache/minigrad, or for a user without a home folder one below
    the system's folder of temporary files."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder) / "minigrad"
    try:
        return Path.home() / ".cache" / "minigrad"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"minigrad-{os.getuid()}"
