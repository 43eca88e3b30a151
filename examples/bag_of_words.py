"""What came before: a bag of visual words, and VLAD, on the pictures that the networks see.

    pip install ".[before]"                                # scikit-image and scikit-learn
    python examples/bag_of_words.py                        # downloads CIFAR-10 once, 170 MB
    python examples/bag_of_words.py --data cifar-10.zip    # or with train/CLASS/ and test/CLASS/

Until 2012 pictures were classified in separate steps, of which only the last one learnt from
labels:

    1. Describe small patches by histograms of oriented gradients (Dalal, Triggs: "Histograms of
       oriented gradients for human detection", 2005): here all patches of 8 x 8 pixels, 4 apart.
    2. Find "visual words" with k-means: the centres of clusters of such descriptors.
    3. Count the words of a picture (Csurka et al.: "Visual categorization with bags of keypoints",
       2004), in the whole and in each quarter (Lazebnik, Schmid, Ponce: "Beyond bags of features",
       2006). VLAD instead adds up how far the patches are from their word (Jegou et al.:
       "Aggregating local descriptors into a compact image representation", 2010).
    4. Classify these numbers with a linear support vector machine. Its C is the one of PENALTIES
       that is best on a tenth of the training pictures, held out.

The rows are in bag_of_words.csv, each as soon as it is known. Stop it whenever you like: the same
command goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from minigrad import commands, data
from minigrad.training import runs
from minigrad.training.options import Options
from minigrad.training.run_folder import RunFolder
from minigrad.training.series import remember, rows_in

try:
    from skimage.feature import hog
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.preprocessing import normalize
    from sklearn.svm import LinearSVC
except ImportError as error:
    sys.exit(f"error: {error}: this example needs scikit-image and scikit-learn, '.[before]'")

SIDE, CELL, ORIENTATIONS = 32, 4, 8  # of a picture, of a histogram's cell; directions of gradients
WORDS, VLAD_WORDS, SAMPLE = 400, 64, 200_000  # SAMPLE: descriptors that k-means sees
PENALTIES = (0.001, 0.01, 0.1, 1.0)
TABLE = "bag_of_words.csv"
COLUMNS = ("method", "seed", "words", "numbers", "C", "train_error", "test_error")
ERRORS = ("train_error", "test_error")


def descriptors(pictures: np.ndarray) -> np.ndarray:
    """(N, 7, 7, 32): of each patch, the histograms of its four cells, together of length 1."""
    cells = {"pixels_per_cell": (CELL, CELL), "cells_per_block": (2, 2)}
    found = [hog(p, ORIENTATIONS, **cells, feature_vector=False, channel_axis=-1) for p in pictures]
    stacked = np.stack(found).astype(np.float32)
    return stacked.reshape(*stacked.shape[:3], -1)


def quarters(side: int) -> list[tuple[slice, slice]]:
    """The whole of a grid of patches, and its four quarters."""
    halves = slice(0, side // 2), slice(side // 2, side)
    return [(slice(0, side), slice(0, side)), *((a, b) for a in halves for b in halves)]


def bag_of_words(grids: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(N, 5 k): how often each of the k words occurs in the whole picture and in each quarter; the
    square roots of the shares, which compare better than counts."""
    k, words = len(centres), nearest(grids, centres)
    rows = []
    for tall, wide in quarters(words.shape[1]):
        part = words[:, tall, wide].reshape(len(words), -1)
        offset = part + k * np.arange(len(part))[:, None]
        counts = np.bincount(offset.ravel(), minlength=k * len(part)).reshape(-1, k)
        rows.append(counts / part.shape[1])
    return np.sqrt(np.concatenate(rows, axis=1)).astype(np.float32)


def vlad(grids: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(N, k d): for each word, the sum over its patches of descriptor - word; then the square root
    of each number, with its sign, and length 1."""
    n, (k, d) = len(grids), centres.shape
    words, patches = nearest(grids, centres).reshape(n, -1), grids.reshape(n, -1, d)
    sums = np.zeros((n, k, d), np.float32)
    for j in range(words.shape[1]):
        sums[np.arange(n), words[:, j]] += patches[:, j] - centres[words[:, j]]
    flat = sums.reshape(n, -1)
    return normalize(np.sign(flat) * np.sqrt(np.abs(flat)))


def nearest(grids: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(N, 7, 7): the number of the nearest centre: the smallest |c|^2 - 2 x c."""
    norms = (centres**2).sum(axis=1)
    chunks = np.array_split(grids, -(-len(grids) // 1000))
    return np.concatenate([(norms - 2 * (part @ centres.T)).argmin(axis=-1) for part in chunks])


METHODS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], int]] = {
    "bag of words": (bag_of_words, WORDS),
    "VLAD": (vlad, VLAD_WORDS),
}


def classified(
    x: np.ndarray, labels: np.ndarray, x_test: np.ndarray, test_labels: np.ndarray, seed: int
) -> dict[str, str]:
    """The errors of a linear support vector machine, and its C."""
    order = np.random.default_rng(seed).permutation(len(x))
    held, kept = order[: len(x) // 10], order[len(x) // 10 :]

    def fitted(rows: np.ndarray, C: float) -> LinearSVC:
        return LinearSVC(C=C, dual=False, tol=1e-3, random_state=seed).fit(x[rows], labels[rows])

    scores = [fitted(kept, C).score(x[held], labels[held]) for C in PENALTIES]
    best = PENALTIES[int(np.argmax(scores))]
    last = fitted(order, best)
    errors = 1 - last.score(x, labels), 1 - last.score(x_test, test_labels)
    return {"C": f"{best:g}", "train_error": f"{errors[0]:.4f}", "test_error": f"{errors[1]:.4f}"}


def run(given: argparse.Namespace, files: RunFolder) -> None:
    """Describe the pictures, and print and write the errors of both methods."""
    where = Options(data=given.data).to_json()["data"]
    remember(files.path, {"data": where, "penalties": PENALTIES})
    rows = rows_in(files.path / TABLE, COLUMNS, ERRORS)
    grids, labels = [], []
    for some in runs.open_sets(Options(data=given.data, cache=given.cache)):
        opened = data.open_pictures(some, runs.cache_folder(given.cache), shape=(SIDE, SIDE, 3))
        grids.append(descriptors(np.stack([opened.read(i) for i in range(len(opened))])))
        labels.append(some.labels)
        print(f"{len(opened):,} pictures, {grids[-1][0, ..., 0].size} patches in each", flush=True)
    for seed in range(given.seeds):
        for name, (encode, count) in METHODS.items():
            row = next((r for r in rows if (r["method"], r["seed"]) == (name, str(seed))), None)
            if row is None:
                flat = grids[0].reshape(-1, grids[0].shape[-1])
                drawn = np.random.default_rng(seed).choice(len(flat), min(SAMPLE, len(flat)), False)
                means = MiniBatchKMeans(count, random_state=seed, n_init=3, batch_size=4096)
                centres = means.fit(flat[drawn]).cluster_centers_.astype(np.float32)
                x, x_test = (encode(g, centres) for g in grids)
                found = classified(x, labels[0], x_test, labels[1], seed)
                own = {"method": name, "seed": seed, "words": count, "numbers": x.shape[1]}
                row = {k: str(v) for k, v in (own | found).items()}
                rows.append(row)
                files.write(TABLE, COLUMNS, ([r[column] for column in COLUMNS] for r in rows))
            print(
                f"{name}, seed {seed}: {row['words']} words, {row['numbers']} numbers a picture,"
                f" C {row['C']}, training error {float(row['train_error']):.2%},"
                f" test error {float(row['test_error']):.2%}",
                flush=True,
            )


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--data", default="cifar10", help="pictures, as `train` takes them")
    parser.add_argument("--seeds", type=commands.at_least_one, default=1)
    parser.add_argument("--cache", help="where decoded pictures are kept, or off")
    parser.add_argument("--output", default="runs/bag_of_words", help="folder of the table")
    given = parser.parse_args()

    def locked(comm: object) -> None:
        Path(given.output).mkdir(parents=True, exist_ok=True)
        with closing(RunFolder.resume(given.output)) as files:
            run(given, files)

    return commands.run_command(locked, vars(given))


if __name__ == "__main__":
    sys.exit(main())
