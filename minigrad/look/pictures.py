"""Learning curves and confusion matrices, by matplotlib, and pictures with their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from minigrad.look.sheet import (
    BLACK,
    LINE,
    WHITE,
    enlarged,
    font,
    photograph,
    save,
    sheet,
    shrunk,
)
from minigrad.text import shown


def new_figure(size: tuple[float, float]) -> Any:
    """A figure of this size in inches, without a window or global state. matplotlib is imported
    here because loading it takes half a second."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["text.parse_math"] = False  # a class may be called $\\alpha$
    return Figure(size, layout="constrained")


def draw_curves(
    steps: Sequence[Mapping[str, str]], epochs: Sequence[Mapping[str, str]], path: Path
) -> Path:
    """Draw the loss and accuracy of a run, from the rows of its steps.csv and metrics.csv."""

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
    labels: Sequence[int] | None,
    probabilities: np.ndarray,
    names: Sequence[str],
    path: Path,
    best: int = 4,
    side: int = 150,
    captions: Sequence[str] = (),
) -> Path:
    """Draw pictures with their class above and the `best` most probable classes as bars below, the
    right one in green (the paper's figure 4). If the right classes are not known, labels is None
    and the captions stand above."""
    tiles = []
    known = [-1] * len(pictures) if labels is None else labels
    for picture, label, p in zip(pictures, known, probabilities):
        tile = shrunk(enlarged(photograph(picture), side), side)
        tiles.append(np.concatenate([tile, bars(p, label, names, tile.shape[1], best)]))
    if labels is not None:
        captions = [names[label] for label in labels]
    captions = [short(caption) for caption in captions]
    return save(sheet(tiles, 4 if len(tiles) <= 8 else 6, captions), path)


def bars(p: np.ndarray, label: int, names: Sequence[str], width: int, best: int) -> np.ndarray:
    """The most probable classes as bars, whose lengths are the probabilities."""
    image = Image.new("RGB", (width, LINE * min(best, len(p))), WHITE)
    draw = ImageDraw.Draw(image)
    for n, k in enumerate(np.argsort(-p, kind="stable")[:best]):
        colour = (128, 187, 128) if k == label else (200, 200, 200)
        draw.rectangle((0, LINE * n + 1, round(p[k] * (width - 1)), LINE * (n + 1) - 2), colour)
        draw.text((2, LINE * n), short(names[k]), BLACK, font())
    return np.asarray(image)


def draw_confusion(counts: np.ndarray, names: Sequence[str], path: Path) -> Path:
    """Draw counts (right class, most probable class) as shares of each row."""
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
    first = shown(name.split(",")[0])
    return first if len(first) <= 22 else first[:21] + "…"


def _save(figure, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    return path
