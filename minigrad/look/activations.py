"""Which pictures excite a map most (Zeiler and Fergus, figure 2), and which part a unit sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minigrad import backend, nn
from minigrad.backend import Array
from minigrad.data import DataError, Loader
from minigrad.engine import Tensor, no_grad
from minigrad.look.deconvnet import peaks, project
from minigrad.look.sheet import (
    beside,
    coloured,
    contrast,
    enlarged,
    hatched,
    photograph,
    save,
    sheet,
    shrunk,
)
from minigrad.network import Row


@dataclass(frozen=True)
class Strongest:
    """The strongest activations of every map of a stage over a set, at most one per picture.

    values: (k, M), the strongest first; among equal ones, the picture with the lower number comes
    first. Only values above 0 count: if fewer than k pictures excite a map, the rest is 0.
    pictures: (k, M), their numbers in the set, -1 if there is none. at: (k, M, 2), row and column
    in the map. active: (M,), how many of the `seen` pictures excite the map at all.
    """

    values: np.ndarray
    pictures: np.ndarray
    at: np.ndarray
    active: np.ndarray
    seen: int

    def order(self) -> np.ndarray:
        """Maps that are ever active, the one with the strongest activation first."""
        best = np.argsort(-self.values[0], kind="stable")
        return best[self.active[best] > 0]


def find_strongest(
    model: nn.Module, loader: Loader, stages: Sequence[str], device: str = "cpu", k: int = 9
) -> dict[str, Strongest]:
    """The k strongest activations of every map of these stages, in one pass over the loader's
    pictures. Memory use does not depend on their number."""
    found: dict[str, Strongest] = {}
    with model.in_test_mode(), no_grad():
        for x, _, numbers in tqdm(
            loader.batches(), "strongest", len(loader), leave=False, disable=None
        ):
            if len(numbers) == 0:  # no picture of this batch can be read
                continue
            names, missing = [], set(stages)
            for name, _, y in model.walk(Tensor(backend.to_device(x, device))):
                names.append(name)
                if name in missing:
                    missing.remove(name)
                    found[name] = merged(found.get(name), *peaks(y.data), numbers, k)
                if not missing:
                    break
            if missing:
                raise ValueError(
                    f"unknown stage {', '.join(sorted(missing))}: choose from {', '.join(names)}"
                )
    if not found:
        raise DataError("there is not one readable picture to look at")
    return {name: found[name] for name in stages}


def merged(
    held: Strongest | None, values: np.ndarray, at: np.ndarray, numbers: np.ndarray, k: int
) -> Strongest:
    """The strongest among `held` and the peaks of a batch. Batches come in the order of the
    pictures' numbers, so a stable sort puts the lower number first in ties."""
    N, M = values.shape
    if held is None:
        none = np.zeros((k, M), values.dtype)
        held = Strongest(none, np.full((k, M), -1), np.zeros((k, M, 2), int), np.zeros(M, int), 0)
    values = np.concatenate([held.values, np.where(values > 0, values, 0)])
    pictures = np.concatenate([held.pictures, np.repeat(numbers[:, None], M, axis=1)])
    at = np.concatenate([held.at, at])
    first = np.argsort(-values, axis=0, kind="stable")[:k]
    best = np.take_along_axis(values, first, axis=0)
    return Strongest(
        best,
        np.where(best > 0, np.take_along_axis(pictures, first, axis=0), -1),
        np.take_along_axis(at, first[..., None], axis=0),
        held.active + (values[k:] > 0).sum(axis=0),
        held.seen + N,
    )


def project_strongest(
    model: nn.Module,
    loader: Loader,
    stage: str,
    found: Strongest,
    maps: Sequence[int],
    device: str = "cpu",
    **rules: str,
) -> dict[tuple[int, int], np.ndarray]:
    """The projections (deconvnet.project) of the strongest activations of these maps, by (map,
    rank): (H, W, C) each."""
    places = [(m, r) for m in maps for r in range(len(found.values)) if found.pictures[r, m] >= 0]
    pixels: dict[tuple[int, int], np.ndarray] = {}
    for i in range(0, len(places), loader.batch_size):
        some = places[i : i + loader.batch_size]
        index = tuple(np.array([(r, m) for m, r in some]).T)
        x = loader.prepare(found.pictures[index])[0]
        projection = project(
            model, backend.to_device(x, device), stage, [m for m, _ in some], found.at[index],
            **rules,
        )  # fmt: skip
        pixels |= zip(some, projection.pixels)
    return pixels


def patch(picture: np.ndarray, row: Row, at: Sequence[int], fill: int = 128) -> np.ndarray:
    """The receptive field of the unit at (row, column) of a stage, cut out of a picture
    (size, size, C), the crop that the network sees. `fill` is the value of places beyond the
    border. A dense unit sees the whole picture."""
    if len(row.shape) < 3:
        return picture
    seen = np.full((row.field, row.field, picture.shape[2]), fill, picture.dtype)
    (top, bottom), (left, right) = (
        (row.start + place * row.jump, row.start + place * row.jump + row.field) for place in at
    )
    H, W = picture.shape[:2]
    inside = picture[max(top, 0) : max(min(bottom, H), 0), max(left, 0) : max(min(right, W), 0)]
    seen[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]] = inside
    return seen


def peaks_of(y: Array, numbers: np.ndarray, k: int = 9) -> Strongest:
    """The strongest activations of one batch: y of the pictures `numbers`, in ascending order."""
    return merged(None, *peaks(y), numbers, k)


def draw_nine(
    found: Strongest,
    row: Row,
    maps: Sequence[int],
    crops: Callable[[int], np.ndarray],
    pixels: Mapping[tuple[int, int], np.ndarray],
    path: Path,
    side: int = 64,
) -> Path:
    """Draw for each map what its nine strongest units saw, beside their projections (Zeiler and
    Fergus, figure 2); crops(number) is the crop of a picture that the network sees.

    The area outside the picture is grey. A map with fewer than nine activations has empty tiles;
    the caption of each map says how many pictures excite it. In the projections grey is zero, and
    each is scaled by itself, as in the figure, to the value that 1 % of its pixels exceed.
    """
    tiles, captions = [], []
    for m in maps:
        halves = []
        for kind in ("patch", "projection"):
            nine = []
            for r in range(9):
                if (m, r) not in pixels:
                    nine.append(hatched(side, side))
                    continue
                if kind == "patch":
                    tile = photograph(patch(crops(int(found.pictures[r, m])), row, found.at[r, m]))
                else:
                    small = shrunk(patch(pixels[m, r], row, found.at[r, m], fill=0), side)
                    tile = coloured(small, contrast(small))
                nine.append(shrunk(enlarged(tile, side), side))
            halves.append(sheet(nine, columns=3))
        tiles.append(beside(halves))
        captions.append(f"map {m}: active in {found.active[m]} of {found.seen} pictures")
    active = int((found.active > 0).sum())
    title = (
        f"{row.stage}: the nine strongest of each map, and what caused them;"
        f" {active} of {len(found.active)} maps are ever active"
    )
    return save(sheet(tiles, captions=captions, title=title), path)


def draw_projections(
    picture: np.ndarray,
    row: Row,
    by_method: Mapping[str, Sequence[np.ndarray]],
    maps: Sequence[int],
    values: Sequence[float],
    path: Path,
    side: int = 227,
) -> Path:
    """Draw a row for each map: the crop that the network sees, and the map's projection by each
    method. Grey is zero; full colour is the number in the caption, which 1 % of the pixels exceed.
    """
    tiles, captions = [], []
    for n, (m, value) in enumerate(zip(maps, values)):
        tiles.append(enlarged(photograph(picture), side))
        captions.append(f"map {m}: {value:.4g}")
        for method, pixels in by_method.items():
            limit = contrast(pixels[n])
            tiles.append(enlarged(coloured(pixels[n], limit), side))
            captions.append(f"{method}, to {limit:.2g}")
    title = f"{row.stage}: one activation of a map, projected to the pixels"
    return save(sheet(tiles, 1 + len(by_method), captions, title), path)
