"""Batches of pictures, the same for any number of workers: a sample depends on (seed, epoch,
picture) alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator

import numpy as np

from minigrad import random
from minigrad.data.cache import Pictures
from minigrad.data.preparation import Preparation
from minigrad.data.sources import DataError
from minigrad.data.workers import POSSIBLE, TIMEOUT, Batch, Workers, read_batch
from minigrad.distributed import share

MOST_SKIPPED = 0.1  # share of a set's pictures that may be unreadable


class Loader:
    """Batches of prepared pictures.

    Args:
        pictures: what to read; preparation: how to prepare it; batch_size: pictures in a batch (the
            last may have fewer).
        training: shuffle, crop at random, mirror and add colour noise; otherwise take the centre of
            every picture, in order.
        seed, workers: the random numbers depend on (seed, epoch, picture) alone, never on workers.
            Workers are processes that read and decode (workers.py). With 0, and on Windows with any
            number, the calling process reads.
        worker_timeout: seconds after which a worker that hangs is replaced.
        colour_until: the epoch from which training pictures have no colour noise.
        most_skipped: the share of all pictures that may be unreadable; above it, DataError.
        ten_views: in testing, x holds the paper's ten views of each picture instead of its centre:
            (10 n, size, size, channels), the first view of every picture, then the second.
        part: (rank, ranks): in training, deliver this rank's contiguous part of each batch, which
            may be empty; otherwise the batches whose number modulo `ranks` is `rank`.

    `skipped` maps the name of each picture that could not be read to the reason; its batch is one
    picture smaller. `images`, `reading` and `waiting` count the pictures delivered, the seconds of
    work that reading them took, and the seconds that the caller waited.
    """

    def __init__(
        self,
        pictures: Pictures,
        preparation: Preparation,
        batch_size: int,
        training: bool,
        seed: int = 0,
        workers: int = 2,
        most_skipped: float = MOST_SKIPPED,
        ten_views: bool = False,
        say: Callable[[str], None] = print,
        worker_timeout: float = TIMEOUT,
        colour_until: float = float("inf"),
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.processes: Workers | None = None
        if batch_size < 1:
            raise ValueError(f"batch size must be at least 1, not {batch_size}")
        if workers < 0:
            raise ValueError(f"workers must be 0 or more, not {workers}")
        self.pictures, self.preparation, self.batch_size = pictures, preparation, batch_size
        self.training, self.seed, self.most_skipped, self.say = training, seed, most_skipped, say
        self.worker_timeout, self.colour_until = worker_timeout, colour_until
        self.part = part
        self.workers = workers if POSSIBLE else 0
        self.ten_views = ten_views and not training
        self.skipped: dict[str, str] = {}
        self.images, self.reading, self.waiting = 0, 0.0, 0.0

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return -(-len(self.pictures) // self.batch_size)

    def close(self) -> None:
        """End the worker processes; they are started again when batches are requested."""
        if self.processes is not None:
            self.processes.close()
            self.processes = None

    def __del__(self) -> None:
        self.close()

    def batches(
        self, epoch: int = 0, start: int = 0
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(x, labels, picture numbers) of each batch of an epoch, from batch `start` on."""
        n, draws = len(self.pictures), None
        order = np.arange(n)
        if self.training:
            order = random.Stream(self.seed, f"shuffle {epoch}").permutation(n)
            rng = random.Stream(self.seed, f"augment {epoch}")
            side, _, channels = self.pictures.shape
            margin = side - self.preparation.size + 1
            corners, mirrors = rng.integers(margin, (n, 2)), rng.integers(2, n)
            noise = rng.normal((n, channels)).astype(np.float32)
            draws = corners, mirrors, noise if epoch < self.colour_until else None
        pieces = [
            order[i : i + self.batch_size]
            for i in range(start * self.batch_size, n, self.batch_size)
        ]
        if self.training:
            pieces = [piece[share(len(piece), *self.part)] for piece in pieces]
        else:
            pieces = pieces[self.part[0] :: self.part[1]]
        reader = self.read(pieces)
        try:
            while True:
                began = time.perf_counter()
                batch = next(reader, None)
                if batch is None:
                    return
                prepared = self.prepared(batch, draws)
                self.waiting += time.perf_counter() - began
                yield prepared
        finally:
            reader.close()

    def read(self, pieces: list[np.ndarray]) -> Generator[Batch]:
        """The pictures of each piece. Workers are kept from one epoch to the next."""
        if pieces and self.processes is None:
            # No more memory and no more processes than an epoch has pictures and batches.
            largest = min(self.batch_size, len(self.pictures))
            count = min(self.workers, len(self))
            self.processes = Workers(self.pictures, largest, count, self.say, self.worker_timeout)
        if self.processes is not None:
            yield from self.processes.batches(pieces)

    def prepare(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The test views of some pictures, as one batch."""
        return self.prepared(
            read_batch(
                self.pictures, indices, np.empty((len(indices), *self.pictures.shape), np.uint8)
            ),
            None,
        )

    def prepared(
        self, batch: Batch, draws: tuple | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Crop and mirror the pictures, subtract the mean and add colour noise."""
        self.images += len(batch.indices)
        self.reading += batch.seconds
        for broken, reason in batch.skipped.items():
            self.skipped[self.pictures.where(broken)] = reason
        if len(self.skipped) > self.most_skipped * len(self.pictures):
            some = "; ".join(list(self.skipped.values())[:3])
            raise DataError(
                f"{len(self.skipped)} of {len(self.pictures)} pictures cannot be read, more than"
                f" the share of {self.most_skipped:g} that --most-skipped allows: {some}"
            )
        i, n = batch.indices, len(batch.indices)
        if self.ten_views:
            x = np.concatenate(list(self.preparation.views(batch.pictures)))
        elif draws is None:
            x = self.preparation.centre(batch.pictures)
        else:
            corners, mirrors, noise = draws
            if not self.preparation.mirror:
                mirrors = 0 * mirrors
            if not self.preparation.random_crops:
                corners = 0 * corners + (self.pictures.shape[0] - self.preparation.size) // 2
            crops = np.concatenate([corners[i], mirrors[i][:, None]], axis=1).astype(np.int32)
            x = np.empty((n, *self.preparation.mean.shape), np.float32)
            self.preparation.prepare_into(
                x, batch.pictures, crops, None if noise is None else noise[i]
            )
        return x, self.pictures.images.labels[i], i
