"""Pictures that a network finds alike: the nearest in the last hidden layer's features (Krizhevsky
et al. 2012, section 6.1 and figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from minigrad import backend, nn
from minigrad.data import Loader
from minigrad.engine import Tensor, no_grad


@dataclass(frozen=True)
class Neighbours:
    """Of Q pictures, numbers of the k nearest in the set, the nearest first, and their Euclidean
    distances: (Q, k) each; fewer columns where the set is smaller."""

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
    queries: Sequence[int],
    stage: str,
    device: str = "cpu",
    k: int = 6,
) -> Neighbours:
    """The k pictures of the loader's set nearest to each of its pictures `queries`, without the
    picture itself. Exact: every distance is computed, from differences in float64; of equal ones
    the lower number. What is held does not grow with the set."""
    with model.in_test_mode(), no_grad():
        own = features(model, loader.prepare(np.array(queries))[0], stage, device)
        best = np.full((len(queries), k), np.inf), np.full((len(queries), k), -1)
        for x, _, numbers in tqdm(
            loader.batches(), "neighbours", len(loader), leave=False, disable=None
        ):
            if len(numbers) == 0:
                continue
            others = features(model, x, stage, device)
            for q, query in enumerate(own):
                far = np.sqrt(((others - query) ** 2).sum(axis=1))
                far = np.where(numbers == queries[q], np.inf, far)
                far = np.concatenate([best[0][q], far])
                first = np.argsort(far, kind="stable")[:k]
                best[1][q] = np.concatenate([best[1][q], numbers])[first]
                best[0][q] = far[first]
    there = np.isfinite(best[0]).all(axis=0)
    return Neighbours(best[1][:, there], best[0][:, there])
