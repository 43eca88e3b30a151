"""Learning curves, pictures with their predictions, and confusions, by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def new_figure(size: tuple[float, float]) -> Any:
    """A figure of so many inches, of no window and no global state. Here, because loading
    matplotlib takes half a second."""
    from matplotlib.figure import Figure

    return Figure(size, layout="constrained")


def draw_curves(
    steps: Sequence[Mapping[str, str]], epochs: Sequence[Mapping[str, str]], path: Path
) -> Path:
    """Loss and accuracy of a run, from the rows of its steps.csv and metrics.csv."""

    def column(name: str, rows: Sequence[Mapping[str, str]] = epochs) -> np.ndarray:
        return np.array([float(row[name]) for row in rows])

    figure = new_figure((11, 4))
    left, right = figure.subplots(1, 2)
    each = column("epoch", steps), column("loss", steps)
    left.plot(*each, color="0.75", linewidth=0.7, label="training, each step")
    left.plot(column("epoch"), column("train_loss"), label="training")
    left.plot(column("epoch"), column("val_loss"), label="held out")
    left.set(xlabel="epoch", ylabel="cross-entropy (nats)", ylim=(0, None))
    right.plot(
        column("epoch"), 100 * column("train_top1"), label="training (augmented, with dropout)"
    )
    right.plot(column("epoch"), 100 * column("val_top1"), label="held out, top-1")
    right.plot(column("epoch"), 100 * column("val_top5"), label="held out, top-5", linestyle="--")
    right.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(0, 101))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return _save(figure, path)


def draw_predictions(
    pictures: Sequence[np.ndarray],
    labels: Sequence[int],
    probabilities: np.ndarray,
    names: Sequence[str],
    path: Path,
    best: int = 4,
) -> Path:
    """Pictures with their class above and the `best` most probable classes as bars below (the
    paper's figure 4)."""
    columns = min(4 if len(pictures) <= 8 else 6, len(pictures))
    rows = -(-len(pictures) // columns)
    figure = new_figure((2.1 * columns, 3.3 * rows))
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=[3, 1.3] * rows)
    for axes in grid.flat:
        axes.axis("off")
    for i, picture in enumerate(pictures):
        r, c = divmod(i, columns)
        above, below = grid[2 * r, c], grid[2 * r + 1, c]
        above.imshow(picture, cmap="gray", vmin=0, vmax=255)  # the three are for one channel
        above.set_title(short(names[labels[i]]), fontsize=8)
        classes = np.argsort(-probabilities[i], kind="stable")[:best]
        colours = ["tab:green" if k == labels[i] else "tab:gray" for k in classes]
        below.barh(range(len(classes)), probabilities[i, classes], color=colours, alpha=0.6)
        for place, k in enumerate(classes):
            below.text(0.02, place, short(names[k]), va="center", fontsize=7)
        below.set(xlim=(0, 1), ylim=(len(classes) - 0.5, -0.5))
    return _save(figure, path)


def draw_confusion(counts: np.ndarray, names: Sequence[str], path: Path) -> Path:
    """Counts (right class, most probable class) as shares of each row."""
    C = len(counts)
    side = min(14.0, 3 + 0.35 * C)
    figure = new_figure((side, side))
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="most probable class", ylabel="right class")
    if C <= 40:
        axes.set_xticks(range(C), [short(n) for n in names], rotation=90, fontsize=7)
        axes.set_yticks(range(C), [short(n) for n in names], fontsize=7)
        for r, c in np.argwhere(counts > 0):
            axes.text(
                c,
                r,
                f"{counts[r, c]:d}",
                ha="center",
                va="center",
                fontsize=6,
                color="white" if shares[r, c] > 0.6 else "black",
            )
    return _save(figure, path)


def short(name: str) -> str:
    """The first of several comma-separated names, at most 22 characters."""
    first = name.split(",")[0]
    return first if len(first) <= 22 else first[:21] + "…"


def _save(figure, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    return path
