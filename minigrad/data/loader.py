"""From pictures to batches: the paper's preparation and augmentation, drawn the same whatever the number of workers.

For a picture p, 256 x 256 x 3 of 0 .. 255, in training (Krizhevsky et al. 2012, section 4.1):

    x = (mirror(crop(p)) - mean) * scale + colour        crop: random size x size, each picture its own; mirror: every second one
    colour = [p1 p2 p3] [a1 s1, a2 s2, a3 s3]^T          p, s^2: eigenvectors and eigenvalues of the RGB covariance of the training
                                                         pixels; a: Gaussian, standard deviation 0.1, drawn for each picture

and in testing the centre crop, no mirror, no colour. The paper writes the eigenvalue where s stands here; on a scale of 0 .. 255
that would be some thousand grey levels, and the 2012 code takes its square root (convdata.py), as here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from minigrad import random
from minigrad.data.cache import Pictures
from minigrad.data.images import SIZE, ImageError


@dataclass
class Statistics:
    """Of the training pictures: mean image (256, 256, 3) float32, and the RGB covariance's decomposition."""

    mean: np.ndarray
    eigenvalues: np.ndarray  # (3,) float32, descending
    eigenvectors: np.ndarray  # (3, 3) float32, one a column
    std: float  # standard deviation of all pixels about their channel's mean


def statistics(pictures: Pictures, most: int = 10_000, seed: int = 0) -> Statistics:
    """Mean image and RGB covariance of the pictures; of `most` of them, chosen at random, if there are more."""
    order = np.arange(len(pictures))
    if len(order) > most:
        order = np.sort(random.Stream(seed, "statistics").permutation(len(order))[:most])
    total = np.zeros((SIZE, SIZE, 3), np.int64)
    products = np.zeros((3, 3))
    count = 0
    for i in tqdm(order, "mean and colours", leave=False, disable=None):
        try:
            p = pictures.read(int(i))
        except ImageError:
            continue
        total += p
        flat = p.reshape(-1, 3).astype(np.float32)
        products += flat.T @ flat
        count += 1
    if count == 0:
        raise ImageError(f"none of the {len(pictures)} pictures in {pictures.images.root} can be read")
    mean = total / count
    centre = mean.mean(axis=(0, 1))
    covariance = products / (count * SIZE * SIZE) - np.outer(centre, centre)
    values, vectors = np.linalg.eigh(covariance)
    vectors = vectors * np.where(vectors.sum(axis=0) < 0, -1, 1)  # a sign of our own, so that every LAPACK agrees
    return Statistics(
        mean.astype(np.float32), values[::-1].clip(0).astype(np.float32), vectors[:, ::-1].astype(np.float32),
        float(np.sqrt(max(np.trace(covariance) / 3, 1e-12))),
    )  # fmt: skip


@dataclass
class Preparation:
    """How a picture becomes input. size: side of the crop; mean: (size, size, 3) or (3,); scale: factor or (3,) factors;
    colour: (3, 3) columns p_i s_i times 0.1, or None for no colour noise; shrink: the 2012 code divides coloured pictures by 1.1."""

    size: int
    mean: np.ndarray
    scale: np.ndarray
    colour: np.ndarray | None = None
    shrink: float = 1.0

    def into(self, out: np.ndarray, p: np.ndarray, top: int, left: int, mirror: bool, noise: np.ndarray | None) -> None:
        """Write the prepared picture p into out (size, size, 3) float32."""
        crop = p[top : top + self.size, left : left + self.size]
        np.subtract(crop[:, ::-1] if mirror else crop, self.mean, out=out)
        if self.colour is not None and noise is not None:
            out += self.colour @ noise
            out /= self.shrink
        out *= self.scale

    def centre(self, p: np.ndarray) -> np.ndarray:
        """The test view of one picture: (1, size, size, 3)."""
        out = np.empty((1, self.size, self.size, 3), np.float32)
        margin = (p.shape[0] - self.size) // 2
        self.into(out[0], p, margin, margin, False, None)
        return out


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
        good = []
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
