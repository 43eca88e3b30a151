"""How much features change when the picture is translated, scaled or rotated (Zeiler and Fergus,
arXiv 1311.2901v3, section 4.1 and figure 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from minigrad import backend, nn
from minigrad import functions as F
from minigrad.data import Preparation
from minigrad.engine import Tensor, no_grad
from minigrad.look.pictures import new_figure, short
from minigrad.look.sheet import photograph

# The figure's ranges: shift downwards in 256ths of the picture's side; scale factor; degrees.
CHANGES: Mapping[str, Sequence[float]] = {
    "translation": range(-60, 61, 6),
    "scale": [1 + i / 20 for i in range(17)],
    "rotation": range(0, 360, 15),
}
IDENTITY = {"translation": 0, "scale": 1, "rotation": 0}
GREY = 128  # value of pixels from outside the picture


@dataclass(frozen=True)
class Invariance:
    """The effect of A amounts of a change on P pictures. distances: by stage, (P, A), the Euclidean
    distance between the stage's features of the changed and the original picture. probability:
    (P, A), that of its label."""

    change: str
    amounts: np.ndarray
    distances: dict[str, np.ndarray]
    probability: np.ndarray


def changed(picture: np.ndarray, change: str, amount: float) -> np.ndarray:
    """A picture (H, W, C) uint8, moved down by `amount` pixels, scaled by that factor or rotated
    anticlockwise by that many degrees, about its centre."""
    if change not in CHANGES:
        raise ValueError(f"change must be one of {', '.join(CHANGES)}, not {change!r}")
    H, W = picture.shape[:2]
    turn = math.radians(amount) if change == "rotation" else 0.0
    size = amount if change == "scale" else 1.0
    down = amount if change == "translation" else 0.0
    c, s = math.cos(turn) / size, math.sin(turn) / size
    # The pixel p of the picture for a pixel q of the result: p = middle + M (q - middle) - shift.
    x0 = W / 2 - c * W / 2 + s * H / 2
    y0 = H / 2 - s * W / 2 - c * H / 2 - down
    image = Image.fromarray(photograph(picture))
    image = image.transform(
        (W, H), Image.Transform.AFFINE, (c, -s, x0, s, c, y0), Image.Resampling.BILINEAR,
        fillcolor=(GREY,) * 3,
    )  # fmt: skip
    return np.asarray(image)[..., : picture.shape[2]]


def measure_invariance(
    model: nn.Module,
    pictures: np.ndarray,
    labels: Sequence[int],
    preparation: Preparation,
    stages: Sequence[str],
    change: str,
    amounts: Sequence[float] | None = None,
    device: str = "cpu",
) -> Invariance:
    """Change each picture (P, side, side, C) uint8 by each amount, and measure how the features of
    `stages` and the probability of its label change. amounts: pixels, factors or degrees; None
    takes those of the figure. Raises ValueError for an unknown stage or change."""
    if change not in CHANGES:
        raise ValueError(f"change must be one of {', '.join(CHANGES)}, not {change!r}")
    if amounts is None:
        unit = pictures.shape[1] / 256 if change == "translation" else 1
        amounts = [unit * amount for amount in CHANGES[change]]
    distances: dict[str, list[np.ndarray]] = {stage: [] for stage in stages}
    probability = []
    with model.in_test_mode(), no_grad():
        for picture, label in zip(pictures, labels):
            every = [changed(picture, change, a) for a in (IDENTITY[change], *amounts)]
            x = backend.to_device(preparation.centre(np.stack(every)), device)
            names, y = [], None
            for name, _, y in model.walk(Tensor(x)):
                names.append(name)
                if name in distances:
                    a = backend.to_numpy(y.data).astype(np.float64).reshape(len(every), -1)
                    distances[name].append(np.sqrt(((a[1:] - a[0]) ** 2).sum(axis=1)))
            if missing := [stage for stage in stages if stage not in names]:
                raise ValueError(f"unknown stage {missing[0]!r}: choose from {', '.join(names)}")
            probability.append(F.softmax(y).numpy()[1:, label])
    stacked = {stage: np.stack(rows) for stage, rows in distances.items()}
    return Invariance(change, np.array(amounts, float), stacked, np.stack(probability))


def draw_invariance(
    found: Sequence[Invariance], labels: Sequence[int], names: Sequence[str], path: Path
) -> Path:
    """Draw a row of plots for each change, with a column for each stage and one for the
    probability, and in each plot a curve for each picture."""
    columns = len(found[0].distances) + 1
    figure = new_figure((4.2 * columns, 3 * len(found)))
    grid = figure.subplots(len(found), columns, squeeze=False)
    for row, one in zip(grid, found):
        for axes, (what, values) in zip(row, [*one.distances.items(), ("p", one.probability)]):
            for label, curve in zip(labels, values):
                axes.plot(one.amounts, curve, linewidth=1, label=short(names[label]))
            said = "probability of its class" if what == "p" else f"{what}: distance"
            axes.set(xlabel=one.change, ylabel=said, ylim=(0, 1.01 if what == "p" else None))
            axes.grid(alpha=0.3)
    grid[0, -1].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    return path
