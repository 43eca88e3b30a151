"""Pictures that a network finds similar: the nearest ones in the features of the last hidden layer
(Krizhevsky et al. 2012, section 6.1 and figure 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minigrad import backend, nn
from minigrad.data import DataError, Loader
from minigrad.engine import Tensor, no_grad
from minigrad.look.sheet import enlarged, photograph, save, sheet, shrunk


@dataclass(frozen=True)
class Neighbours:
    """For the pictures `queries` (Q,): the numbers of the k nearest in the set, the nearest
    first, and their Euclidean distances, (Q, k) each, with fewer columns if the set is small."""

    queries: np.ndarray
    pictures: np.ndarray
    distances: np.ndarray


def features(model: nn.Module, x: np.ndarray, stage: str, device: str = "cpu") -> np.ndarray:
    """The output of a stage for prepared pictures, flattened, in float64: (N, F)."""
    names = []
    for name, _, y in model.walk(Tensor(backend.to_device(x, device))):
        names.append(name)
        if name == stage:
            return backend.to_numpy(y.data).reshape(len(x), -1).astype(np.float64)
    raise ValueError(f"unknown stage {stage!r}: choose from {', '.join(names)}")


def find_neighbours(
    model: nn.Module,
    loader: Loader,
    queries: Sequence[int] | np.ndarray,
    stage: str,
    device: str = "cpu",
    k: int = 6,
) -> Neighbours:
    """The k pictures of the loader's set nearest to each of its pictures `queries`, without the
    picture itself. The search is exact: every distance is computed, from differences in float64. In
    a tie the lower number comes first. Memory use does not depend on the size of the set."""
    with model.in_test_mode(), no_grad():
        x, _, readable = loader.prepare(np.asarray(queries))
        if len(readable) == 0:
            raise DataError("not one of the pictures whose neighbours are wanted can be read")
        own = features(model, x, stage, device)
        best = np.full((len(own), k), np.inf), np.full((len(own), k), -1)
        for x, _, numbers in tqdm(
            loader.batches(), "neighbours", len(loader), leave=False, disable=None
        ):
            if len(numbers) == 0:
                continue
            others = features(model, x, stage, device)
            for q, query in enumerate(own):
                far = np.sqrt(((others - query) ** 2).sum(axis=1))
                far = np.where(numbers == readable[q], np.inf, far)
                far = np.concatenate([best[0][q], far])
                first = np.argsort(far, kind="stable")[:k]
                best[1][q] = np.concatenate([best[1][q], numbers])[first]
                best[0][q] = far[first]
    there = np.isfinite(best[0]).all(axis=0)
    return Neighbours(readable, best[1][:, there], best[0][:, there])


def draw_neighbours(
    found: Neighbours, crops: Callable[[int], np.ndarray], stage: str, path: Path, side: int = 96
) -> Path:
    """Draw a row for each picture: itself, then the nearest ones with their distances.
    crops(number) is the crop of a picture that the network sees."""
    tiles, captions = [], []
    for query, numbers, distances in zip(found.queries, found.pictures, found.distances):
        for number, caption in zip(
            (query, *numbers), ("picture", *(f"{distance:.4g}" for distance in distances))
        ):
            tiles.append(shrunk(enlarged(photograph(crops(int(number))), side), side))
            captions.append(f"{number}: {caption}")
    title = f"{stage}: pictures and those nearest to them, by Euclidean distance"
    return save(sheet(tiles, 1 + found.pictures.shape[1], captions, title), path)
