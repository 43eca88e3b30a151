"""Evaluate a model on a set of pictures: probabilities, top-k accuracy, accuracy by class, and the
table of predictions."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minigrad import backend, nn
from minigrad import functions as F
from minigrad.data import DataError, Loader
from minigrad.distributed import Communicator
from minigrad.engine import no_grad
from minigrad.text import shown


@dataclass
class Evaluation:
    """Class probabilities for a set of pictures. For several views or models, these are averages
    of the softmax outputs."""

    probabilities: np.ndarray  # (N, classes)
    labels: np.ndarray  # (N,)
    indices: np.ndarray  # (N,), of the pictures
    loss: float  # mean of -log probability of the right class, in nats

    def top(self, k: int) -> float:
        """Share of pictures whose class is among the k most probable (all classes, if there are
        fewer)."""
        return top_k(self.probabilities, self.labels, k)

    def by_class(self) -> np.ndarray:
        """(classes, 3): the number of pictures, top-1 and top-5 accuracy of each class; NaN if it
        has no picture."""
        rows = []
        for c in range(self.probabilities.shape[1]):
            own = self.labels == c
            rows.append(
                [own.sum(), *(top_k(self.probabilities[own], self.labels[own], k) for k in (1, 5))]
            )
        return np.array(rows, float)

    def confusion(self) -> np.ndarray:
        """(classes, classes) counts: row, the right class; column, the most probable one."""
        C = self.probabilities.shape[1]
        return np.bincount(
            self.labels * C + self.probabilities.argmax(axis=1), minlength=C * C
        ).reshape(C, C)


def top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of rows whose label is among the k highest scores; ties and NaN count against the
    label."""
    own = scores[np.arange(len(labels)), labels][:, None]
    higher = (~(scores < own)).sum(axis=1) - 1  # itself is not lower than itself
    return float((higher < k).mean()) if len(labels) else math.nan


def evaluate(
    model: nn.Module,
    loader: Loader,
    device: str = "cpu",
    what: str = "evaluating",
    comm: Communicator | None = None,
) -> Evaluation:
    """Run a model, in test mode, over every picture of a loader. With a Communicator, run it over
    the pictures of all ranks' loaders; each rank returns the whole result.

    If the loader gives ten views of a picture, the outputs for them are averaged: "averaging the
    predictions made by the network's softmax layer on the ten patches" (Krizhevsky et al. 2012,
    section 4.1).
    """
    comm = comm or Communicator()
    rows, labels, indices = [], [], []
    with model.in_test_mode(), no_grad():
        for x, t, i in tqdm(loader.batches(), what, len(loader), leave=False, disable=None):
            comm.beat()
            if len(t) == 0:
                continue
            views = [
                F.softmax(model(backend.to_device(view, device))).numpy()
                for view in np.split(x, len(x) // len(t))
            ]
            rows.append(np.mean(views, axis=0))
            labels.append(t)
            indices.append(i)
    own = [np.concatenate(part) for part in (rows, labels, indices)] if rows else []
    found = [parts for parts in comm.exchange(own) if parts]
    if not found:
        raise DataError("there is not one readable picture to evaluate")
    probabilities, truth, numbers = (np.concatenate(part) for part in zip(*found))
    order = np.argsort(numbers, kind="stable")  # the order in which one process reads them
    return scored(probabilities[order], truth[order], numbers[order])


def scored(probabilities: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> Evaluation:
    """The Evaluation of these probabilities. In the loss, a probability of 0 counts as the smallest
    normal float32."""
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return Evaluation(
        probabilities,
        labels,
        indices,
        float(-np.log(np.maximum(own, np.finfo(np.float32).tiny)).mean()),
    )


def ensemble(results: Sequence[Evaluation]) -> Evaluation:
    """Average the softmax outputs of several models on the same pictures (section 6 averages five
    and seven networks)."""
    first = results[0]
    for other in results[1:]:
        same = first.probabilities.shape == other.probabilities.shape and np.array_equal(
            first.indices, other.indices
        )
        if not same or not np.array_equal(first.labels, other.labels):
            raise ValueError("an ensemble needs results for the same pictures and classes")
    return scored(np.mean([r.probabilities for r in results], axis=0), first.labels, first.indices)


def write_by_class(
    path: Path, result: Evaluation, classes: Sequence[str], names: Sequence[str]
) -> None:
    """Write a CSV line for each class: folder name, words, number of pictures, top-1, top-5, and
    the class that it is most often mistaken for."""
    confusion = result.confusion()
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        out = csv.writer(file)
        out.writerow(["class", "name", "pictures", "top1", "top5", "most_often_taken_for"])
        for c, (count, top1, top5) in enumerate(result.by_class()):
            others = np.where(np.arange(len(classes)) == c, 0, confusion[c])
            out.writerow(
                [
                    shown(classes[c]),
                    shown(names[c]),
                    int(count),
                    f"{top1:.4f}",
                    f"{top5:.4f}",
                    shown(classes[int(others.argmax())]) if others.any() else "",
                ]
            )


def write_predictions(
    path: Path, result: Evaluation, where: Sequence[str], classes: Sequence[str]
) -> None:
    """Write a CSV line for each picture: its name, its class, and the five most probable classes
    with their probabilities."""
    best = np.argsort(-result.probabilities, axis=1, kind="stable")[:, :5]
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        out = csv.writer(file)
        out.writerow(
            [
                "picture",
                "class",
                *(
                    f"{what}{i}"
                    for i in range(1, best.shape[1] + 1)
                    for what in ("guess", "probability")
                ),
            ]
        )
        folders = [shown(name) for name in classes]
        for name, label, order, p in zip(where, result.labels, best, result.probabilities):
            guesses = [v for k in order for v in (folders[k], f"{p[k]:.6f}")]
            out.writerow([shown(name), folders[label], *guesses])
