"""The figures of a run as CSV files in its folder, and for TensorBoard where that is installed.

metrics.csv: a line an epoch; steps.csv: a line a step; health.csv: every few hundred steps, a line for each parameter and each ReLU.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from minigrad.files import replacing

METRICS = (
    "epoch", "step", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "val_top5", "images_per_second", "seconds",
    "reading_images_per_second", "waiting",
)  # fmt: skip
STEPS = ("step", "epoch", "loss", "top1")
HEALTH = ("step", "layer", "mean_w", "mean_dw", "ratio", "dead")
FILES = {"metrics.csv": METRICS, "steps.csv": STEPS, "health.csv": HEALTH}


def read(path: Path) -> list[list[str]]:
    """The rows of a file without its header and without lines that a crash has torn; none if there is no file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8", errors="backslashreplace") as file:
        rows = [row for row in csv.reader(file) if row]
    return [row for row in rows[1:] if len(row) == len(rows[0])]


def start(folder: Path, step: int) -> None:
    """Start the files with their headers; rows up to `step` stay, later ones (of a run that is resumed from there) go."""
    for name, header in FILES.items():
        column = header.index("step")
        rows = [
            row
            for row in read(folder / name)
            if len(row) == len(header) and row[column].isdigit() and int(row[column]) <= step
        ]
        replace(folder / name, [header, *rows])


def replace(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write a file anew, whole or not at all."""
    with (
        replacing(path) as unfinished,
        open(unfinished, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        csv.writer(file).writerows(rows)


def write_skipped(folder: Path, skipped: dict[str, str]) -> None:
    """skipped.csv: the pictures that could not be read, and why; those of the run's earlier lives stay."""
    path = folder / "skipped.csv"
    replace(path, [("picture", "reason"), *sorted((dict(read(path)) | skipped).items())])


def tensorboard(folder: Path) -> Any:
    """A writer of TensorBoard's event files into the folder, if tensorboardX is installed; else None."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


def append(folder: Path, name: str, rows: list[list]) -> None:
    """Add rows to a file; all of them, or on a full disk none."""
    path = folder / name
    size = path.stat().st_size if path.is_file() else 0
    try:
        with open(path, "a", newline="") as file:
            csv.writer(file).writerows(rows)
    except OSError:
        os.truncate(path, size)
        raise
