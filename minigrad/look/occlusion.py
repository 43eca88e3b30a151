"""Occlusion: what a prediction hangs on, by covering the picture piece by piece (Zeiler and Fergus,
arXiv 1311.2901v3, section 4.2 and figure 7).

A grey square is laid over one place after the other; for each, the network says how probable the
right class still is, which label is the likeliest, and how strong a map of a late convolution is,
summed over its places. The paper does not print the square's size and stride: here a seventh of the
picture's side, moved by a quarter of that.
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

    probability: of the class `label`. likeliest: the most probable class. strength: the sum over
    its places of the map that is the strongest where nothing is covered, `map` of `stage`.
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
    """Where squares start, so that together they cover every pixel; the last ends at the border."""
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
) -> Occlusion:
    """Cover a picture square by square.

    Args:
        picture: (side, side, C) uint8, the crop that the network sees, before it is prepared.
        stage: whose strongest map is summed, such as "relu5". label: whose probability is asked;
            None takes what the network says where nothing is covered.
        size, stride: of the square, in pixels. grey: its value, 0 to 255.
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
                peaks = a[0].max(axis=tuple(range(a.ndim - 2)))
                strongest = int(peaks.argmax())
    p, strength = np.concatenate(probabilities), np.concatenate(sums)[:, strongest]
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
        strongest,
    )


def draw_occlusion(found: Occlusion, picture: np.ndarray, names: Sequence[str], path: Path) -> Path:
    """The picture, and what is left of its class, its label and its strongest map, each place drawn
    where the middle of the square was (figure 7, columns a, b, d and e)."""
    from matplotlib.patches import Rectangle

    figure = new_figure((15, 4.2))
    first, *rest = figure.subplots(1, 4)
    first.imshow(photograph(picture))
    first.add_patch(Rectangle((2, 2), found.size, found.size, color="0.5"))
    first.set_title(f"{short(names[found.label])}; the square", fontsize=9)
    step = found.starts[1] - found.starts[0] if len(found.starts) > 1 else found.size
    ends = found.starts[[0, -1]] + found.size / 2 + np.array([-step, step]) / 2
    extent = (ends[0], ends[1], ends[1], ends[0])
    labels, numbers = np.unique(found.likeliest, return_inverse=True)
    for axes, what, values in zip(
        rest,
        ("probability of the class", "likeliest label", f"{found.stage}, map {found.map}, summed"),
        (found.probability, numbers.reshape(found.likeliest.shape), found.strength),
    ):
        if what == "likeliest label":
            image = axes.imshow(values, cmap="tab20", extent=extent, vmin=-0.5, vmax=19.5)
            for n, k in enumerate(labels[:12]):
                axes.plot([], [], "s", color=image.cmap(image.norm(n)), label=short(names[k]))
            axes.legend(fontsize=6, loc="lower left")
        else:
            top = 1 if what.startswith("probability") else max(float(values.max()), 1e-30)
            image = axes.imshow(values, cmap="viridis", extent=extent, vmin=0, vmax=top)
            figure.colorbar(image, ax=axes, shrink=0.75)
        axes.set(xlim=(0, picture.shape[1]), ylim=(picture.shape[0], 0))
        axes.set_title(what, fontsize=9)
    figure.savefig(path, dpi=110)
    return path
