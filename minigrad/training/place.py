"""Where a training is, as its checkpoint holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import msgspec

from minigrad.training.checkpoint import CheckpointError
from minigrad.written import read

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


@dataclass(frozen=True)
class Plateau:
    """The state of a PlateauSchedule."""

    best: float
    waited: Count
    dropped: Count
    factor: float


@dataclass(frozen=True)
class Place:
    """Where a training is, as its checkpoint holds it: the fields of a Trainer that have these
    names, the counters of the random streams, and the state of a PlateauSchedule."""

    epoch: Count
    batch: Count
    step: Count
    seconds: float
    last_error: float | None
    best_error: float
    noted: Count
    epoch_sums: Annotated[list[float], msgspec.Meta(min_length=3, max_length=3)]
    streams: dict[str, Count]
    plateau: Plateau | None = None


PLACE = [f.name for f in fields(Place) if f.name not in ("streams", "plateau")]


def place_of(description: Mapping[str, Any], path: Path) -> Place:
    """The place in a checkpoint's description. Raises CheckpointError, with the file and the key
    that does not fit."""
    try:
        return read(Place, description.get("place"), "place")
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
