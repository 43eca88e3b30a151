"""Checkpoints: arrays and a description in one safetensors file, written so that the last good one is never lost.

The file is written under another name, synced to disk and renamed: a checkpoint that exists is whole. No pickle: opening one runs no
code.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

FORMAT = "minigrad 1"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or does not fit; the message names the file and the reason."""


def save(path: str | Path, tensors: dict[str, np.ndarray], description: dict[str, Any]) -> None:
    """Write arrays, by name, and a JSON-able description to `path`, replacing what was there in one step."""
    path = Path(path)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        tensors = {name: np.array(array, order="C", copy=None) for name, array in tensors.items()}
        save_file(tensors, temporary, {"format": FORMAT, "description": json.dumps(description)})
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"could not write {path} ({error}); the checkpoint before it, if any, is untouched") from error
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | Path, prefix: str | tuple[str, ...] = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays whose name starts with the prefix, or one of the prefixes; description) from a file that `save` wrote."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path} is not a checkpoint of this program (format {metadata.get('format')!r}, expected {FORMAT!r})"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
            return tensors, json.loads(metadata["description"])
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is damaged or cut off ({error})") from error
