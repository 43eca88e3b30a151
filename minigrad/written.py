"""Reads what a file of ours says, as JSON gives it, into records. A file may have been edited, cut
off or written by another program: a value that does not fit is named, with its place."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import msgspec


def read(kind: Any, written: Any, where: str) -> Any:
    """`written` as a `kind`, a dataclass or a type such as list[str]. Raises ValueError with
    `where` and the place of the first value that is missing, unknown, of another type, or refused
    by the dataclass."""
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(written, dict):
        unknown = sorted(map(str, set(written) - {f.name for f in fields(kind)}))
        if unknown:
            raise ValueError(f"{where}: there is no {unknown[0]!r} in a {kind.__name__}")
    try:
        return msgspec.convert(written, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}") from error
