"""The figures of a run as CSV files in its folder, and for TensorBoard where that is installed.

metrics.csv: a line an epoch; steps.csv: a line a step; health.csv: every few hundred steps, a line for each parameter and each ReLU.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

METRICS = (
    "epoch", "step", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "val_top5", "images_per_second", "seconds",
    "reading_images_per_second", "waiting",
)  # fmt: skip
STEPS = ("step", "epoch", "loss", "top1")
HEALTH = ("step", "layer", "mean_w", "mean_dw", "ratio", "dead")
FILES = {"metrics.csv": METRICS, "steps.csv": STEPS, "health.csv": HEALTH}


def read(path: Path) -> list[list[str]]:
    """The rows of a file without its header; none if there is no file."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return [row for row in csv.reader(file) if row][1:]


def start(folder: Path, step: int) -> None:
    """Start the files with their headers; rows up to `step` stay, later ones (of a run that is resumed from there) go."""
    for name, header in FILES.items():
        column = header.index("step")
        whole = [row for row in read(folder / name) if len(row) == len(header) and row[column].isdigit()]  # a crash may tear a line
        rows = [row for row in whole if int(row[column]) <= step]
        temporary = folder / f"{name}.tmp"
        with open(temporary, "w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        os.replace(temporary, folder / name)


def write_skipped(folder: Path, skipped: dict[str, str]) -> None:
    """skipped.csv: the pictures that could not be read, and why."""
    with open(folder / "skipped.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("picture", "reason"), *sorted(skipped.items())])


def tensorboard(folder: Path) -> Any:
    """A writer of TensorBoard's event files into the folder, if tensorboardX is installed; else None."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


def append(folder: Path, name: str, rows: list[list]) -> None:
    """Add rows to a file."""
    with open(folder / name, "a", newline="") as file:
        csv.writer(file).writerows(rows)
