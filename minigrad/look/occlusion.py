"""Occlusion: find what a prediction depends on by covering the picture piece by piece (Zeiler and
Fergus, arXiv 1311.2901v3, section 4.2 and figure 7).

A grey square covers one position after the other. For each, the network gives the probability of
the right class, the likeliest label, and the activation of a map of a late convolution, summed over
the map. The paper does not print the square's size and stride. Here the size is a seventh of the
picture's side, and the stride a quarter of the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minigrad import backend, nn
from minigrad import functions as F
from minigrad.data import Preparation
from minigrad.engine import Tensor, no_grad
from minigrad.look.pictures import new_figure, short
from minigrad.look.sheet import photograph


@dataclass(frozen=True)
class Occlusion:
    """For squares of `size` with their upper left corners at (starts[r], starts[c]): (R, R) each.

    probability: that of the class `label`. likeliest: the most probable class. strength: the sum of
    the activations of `map` of `stage`, by default the strongest map when nothing is covered.
    """

    size: int
    starts: np.ndarray
    probability: np.ndarray
    likeliest: np.ndarray
    strength: np.ndarray
    label: int
    stage: str
    map: int


def positions(side: int, size: int, stride: int) -> np.ndarray:
    """Starts of squares that together cover every pixel; the last square ends at the border."""
    if not 1 <= stride <= size <= side:
        raise ValueError(
            f"squares of {size} moved by {stride} do not cover every pixel of {side}: the size must"
            f" be 1 to {side}, the stride 1 to the size"
        )
    return np.unique(np.append(np.arange(0, side - size + 1, stride), side - size))


def occlude(
    model: nn.Module,
    picture: np.ndarray,
    preparation: Preparation,
    stage: str,
    label: int | None = None,
    size: int | None = None,
    stride: int | None = None,
    grey: int = 128,
    batch_size: int = 64,
    device: str = "cpu",
    map: int | None = None,
) -> Occlusion:
    """Cover a picture square by square.

    Args:
        picture: (side, side, C) uint8, the crop that the network sees, before it is prepared.
        stage, map: the map that is summed, such as "relu5", 173; None takes the strongest.
        label: the class whose probability is wanted; None takes the network's answer when nothing
            is covered.
        size, stride: those of the square, in pixels. grey: its value, 0 to 255.
    Raises ValueError for sizes that do not cover every pixel, and for a stage that does not exist.
    """
    side = picture.shape[0]
    size = max(1, round(side / 7)) if size is None else size
    starts = positions(side, size, max(1, size // 4) if stride is None else stride)
    corners = [(-1, -1), *((v, u) for v in starts for u in starts)]  # first, nothing is covered
    probabilities, sums = [], []
    with model.in_test_mode(), no_grad():
        for i in range(0, len(corners), batch_size):
            some = corners[i : i + batch_size]
            batch = np.repeat(picture[None], len(some), axis=0)
            for covered, (v, u) in zip(batch, some):
                if v >= 0:
                    covered[v : v + size, u : u + size] = grey
            x = backend.to_device(preparation.centre(batch), device)
            names, y = [], None
            for name, _, y in model.walk(Tensor(x)):
                names.append(name)
                if name == stage:
                    a = backend.to_numpy(y.data)
                    sums.append(a.sum(axis=tuple(range(1, a.ndim - 1))))
            if stage not in names:
                raise ValueError(f"unknown stage {stage!r}: choose from {', '.join(names)}")
            probabilities.append(F.softmax(y).numpy())
            if i == 0:
                strongest = int(a[0].max(axis=tuple(range(a.ndim - 2))).argmax())
                summed = strongest if map is None else map
                if not 0 <= summed < a.shape[-1]:
                    raise ValueError(f"{stage} has maps 0 to {a.shape[-1] - 1}, not {map}")
    p, strength = np.concatenate(probabilities), np.concatenate(sums)[:, summed]
    label = int(p[0].argmax()) if label is None else label
    shape = len(starts), len(starts)
    return Occlusion(
        size,
        starts,
        p[1:, label].reshape(shape),
        p[1:].argmax(axis=1).reshape(shape),
        strength[1:].reshape(shape),
        label,
        stage,
        summed,
    )


def draw_occlusion(
    found: Occlusion,
    picture: np.ndarray,
    names: Sequence[str],
    path: Path,
    predicted: bool = False,
) -> Path:
    """Draw the picture, and maps of the probability of its class, the likeliest label and the
    strength of the map, each value at the centre of its square (figure 7, columns a, b, d and e).
    predicted: the class is the network's own answer."""
    from matplotlib.patches import Rectangle

    figure = new_figure((15, 4.2))
    first, *rest = figure.subplots(1, 4)
    first.imshow(photograph(picture))
    first.add_patch(Rectangle((2, 2), found.size, found.size, color="0.5"))
    answer = " (predicted)" if predicted else ""
    first.set_title(f"{short(names[found.label])}{answer}; the square", fontsize=9)
    middles = found.starts + found.size / 2
    step = np.diff(middles, prepend=middles[0] - found.size, append=middles[-1] + found.size)
    edges = np.append(middles - step[:-1] / 2, middles[-1] + step[-1] / 2)
    labels, counts = np.unique(found.likeliest, return_counts=True)
    most = labels[np.argsort(-counts, kind="stable")[:11]]
    numbers = np.full(found.likeliest.shape, len(most))
    for n, k in enumerate(most):
        numbers[found.likeliest == k] = n
    for axes, what, values in zip(
        rest,
        ("probability of the class", "likeliest label", f"{found.stage}, map {found.map}, summed"),
        (found.probability, numbers, found.strength),
    ):
        if values is numbers:
            image = axes.pcolormesh(edges, edges, values, cmap="tab20", vmin=-0.5, vmax=19.5)
            for n, name in enumerate([short(names[k]) for k in most] + ["another"]):
                if (numbers == n).any():
                    axes.plot([], [], "s", color=image.cmap(image.norm(n)), label=name)
            axes.legend(fontsize=6, loc="lower left")
        else:
            low, high = min(0.0, float(values.min())), float(values.max())
            high = 1 if values is found.probability else max(high, low + 1e-30)
            image = axes.pcolormesh(edges, edges, values, vmin=low, vmax=high)
            figure.colorbar(image, ax=axes, shrink=0.75)
        side = picture.shape[0]
        axes.set(xlim=(0, side), ylim=(side, 0), aspect="equal")
        axes.set_title(what, fontsize=9)
    figure.savefig(path, dpi=110)
    return path
