"""Checkpoints: arrays and a description in one safetensors file, written so that the last good one
is never lost.

A checkpoint is written under another name, synced to disk and renamed: one that exists is whole.
Each array and the description have a SHA-256 checksum, so a file that was changed afterwards is
refused. Pickle is not used, so opening a checkpoint runs no code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from minigrad.files import replacing

FORMAT = "minigrad 2"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit; the message names the file and the
    reason."""


def digest(array: np.ndarray) -> str:
    """SHA-256 of dtype, shape and bytes."""
    h = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
    h.update(array.reshape(-1).view(np.uint8).data)
    return h.hexdigest()


def save(path: str | Path, tensors: dict[str, np.ndarray], description: dict[str, Any]) -> None:
    """Write arrays, by name, and a description that JSON can hold to `path`, replacing an existing
    file in one step."""
    path = Path(path)
    try:
        tensors = {name: np.array(array, order="C", copy=None) for name, array in tensors.items()}
        text = json.dumps(
            description | {"checksums": {name: digest(array) for name, array in tensors.items()}}
        )
        checksum = hashlib.sha256(text.encode()).hexdigest()
        with replacing(path) as unfinished:
            save_file(
                tensors, unfinished, {"format": FORMAT, "description": text, "checksum": checksum}
            )
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"could not write {path} ({error}); the checkpoint before it, if any, is untouched"
        ) from error


def link(path: Path, name: Path) -> None:
    """Keep the checkpoint at `path` under a second name: as a hard link if the file system has
    them, else as a copy."""
    with replacing(name) as unfinished:
        try:
            os.link(path, unfinished)
        except OSError:
            shutil.copyfile(path, unfinished)


def load(
    path: str | Path, prefix: str | tuple[str, ...] = ""
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays whose name starts with the prefix, or one of the prefixes; description) from a file
    that `save` wrote."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path} is not a checkpoint of this program (format"
                    f" {metadata.get('format')!r}, expected {FORMAT!r})"
                )
            text = metadata["description"]
            if hashlib.sha256(text.encode()).hexdigest() != metadata["checksum"]:
                raise CheckpointError(
                    f"{path} is damaged: its description is not the one that was written"
                )
            description = json.loads(text)
            checksums = description.pop("checksums")
            present = set(file.keys())
            if present != set(checksums):
                raise CheckpointError(
                    f"{path} is damaged: {min(present ^ set(checksums))} is missing, or was not"
                    " written by this program"
                )
            tensors = {
                name: file.get_tensor(name) for name in sorted(present) if name.startswith(prefix)
            }
            for name, array in tensors.items():
                if digest(array) != checksums[name]:
                    raise CheckpointError(
                        f"{path} is damaged: the values of {name} are not those that were written"
                    )
            return tensors, description
    except CheckpointError:
        raise
    except Exception as error:  # the reader raises many types for damaged files
        raise CheckpointError(f"{path} is damaged or cut off ({error})") from error


def part(tensors: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names start with the prefix, by the rest of their names."""
    chosen = {name: array for name, array in tensors.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): array for name, array in chosen.items()}
