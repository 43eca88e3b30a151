"""From pictures to batches, the same ones whatever the number of workers: a sample depends on (seed, epoch, picture) alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from minigrad import random
from minigrad.data.cache import Pictures
from minigrad.data.images import SIZE, ImageError
from minigrad.data.preparation import Preparation


class Loader:
    """Batches of prepared pictures.

    Args:
        pictures: what to read; preparation: how to prepare it; batch_size: pictures in a batch (the last may have fewer).
        training: shuffle, crop at random, mirror, colour; otherwise every picture's centre, in order.
        seed, workers: the numbers drawn depend on (seed, epoch, picture) alone, never on workers. Workers are threads (Pillow and
            NumPy release the interpreter); 0 prepares batches in the caller.

    `skipped` collects pictures that could not be read, path -> reason; their batch is smaller by as many.
    """

    def __init__(
        self, pictures: Pictures, preparation: Preparation, batch_size: int, training: bool, seed: int = 0, workers: int = 2
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch size must be at least 1, not {batch_size}")
        self.pictures, self.preparation, self.batch_size = pictures, preparation, batch_size
        self.training, self.seed, self.workers = training, seed, workers
        self.skipped: dict[str, str] = {}

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.pictures) // self.batch_size)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(x, labels, indices) for the batches of an epoch, from number `start` on.

        x: (n, size, size, 3) float32; labels: (n,) int64; indices: (n,) of the pictures.
        """
        n = len(self.pictures)
        order, draws = np.arange(n), None
        if self.training:
            order = random.Stream(self.seed, f"shuffle {epoch}").permutation(n)
            rng = random.Stream(self.seed, f"augment {epoch}")
            margin = SIZE - self.preparation.size + 1
            draws = rng.integers(margin, (n, 2)), rng.integers(2, n), rng.normal((n, 3)).astype(np.float32)
        pieces = [order[i : i + self.batch_size] for i in range(start * self.batch_size, n, self.batch_size)]
        if self.workers == 0:
            yield from (self.prepare(piece, draws) for piece in pieces)
            return
        with ThreadPoolExecutor(self.workers) as pool:
            queue: deque[Future] = deque()
            try:
                for piece in pieces:
                    queue.append(pool.submit(self.prepare, piece, draws))
                    if len(queue) > self.workers:
                        yield queue.popleft().result()
                while queue:
                    yield queue.popleft().result()
            finally:
                for future in queue:
                    future.cancel()

    def prepare(self, indices: np.ndarray, draws: tuple | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One batch: read, crop, mirror, subtract, colour."""
        size = self.preparation.size
        x = np.empty((len(indices), size, size, 3), np.float32)
        good: list[int] = []
        for i in map(int, indices):
            try:
                p = self.pictures.read(i)
            except ImageError as error:
                self.skipped[str(self.pictures.images.paths[i])] = str(error)
                continue
            if draws is None:
                x[len(good)] = self.preparation.centre(p)[0]
            else:
                (top, left), mirror, noise = draws[0][i], draws[1][i], draws[2][i]
                self.preparation.into(x[len(good)], p, top, left, bool(mirror), noise)
            good.append(i)
        return x[: len(good)], self.pictures.images.labels[good], np.array(good, np.int64)
