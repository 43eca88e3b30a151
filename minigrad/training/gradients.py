"""The gradients of a batch: in parts, on one rank or several, added up.

Each rank has a part of the batch, and may take it through the network in further parts. With n_k
of N rows in part k,

    dL/dw = sum over k of (n_k / N) dL_k/dw,    L_k the mean loss of part k,

so the sum is the gradient of the mean over the batch, uneven parts included.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np

from minigrad import backend, kernels, nn, random
from minigrad import functions as F
from minigrad.distributed import Communicator, share
from minigrad.engine import Tensor
from minigrad.training.evaluation import top_k


class Gradients:
    """Fills `.grad` of a model's parameters.

    Args:
        model: the network, on its device.
        comm: the ranks that share out each batch.
        accumulate: parts that a rank's rows go through the network in, one after the other.
    """

    def __init__(
        self,
        model: nn.Module,
        device: str = "cpu",
        comm: Communicator | None = None,
        accumulate: int = 1,
    ) -> None:
        self.model, self.device, self.accumulate = model, device, accumulate
        self.comm = comm or Communicator()
        # A network or a GPU carries the sums while the backward pass goes on. Within one host the
        # sums are the processors' own work, and nothing is won (docs/distributed.md).
        self.thread = ThreadPoolExecutor(1, "sums") if self.comm.overlaps else None

    def of(self, x: np.ndarray, t: np.ndarray) -> tuple[float, float]:
        """The gradients of a batch, of which this rank has the part x, t: (loss, top-1)."""
        counts = self.comm.exchange(len(t))
        self.clear()
        sums = Sums(self.comm, self.model.parameters(), self.thread)
        own = self.add(x, t, sum(counts[: self.comm.rank]), sum(counts), sums)
        sums.finish()
        loss, top1 = (sum(each) for each in zip(*self.comm.exchange(own)))
        return loss, top1

    def alone(self, x: np.ndarray, t: np.ndarray) -> None:
        """Forward and backward as in a step, of this rank alone; the random streams stay."""
        with random.rewound():
            self.add(x, t, 0, len(t))
        backend.synchronize(self.device)

    def clear(self) -> None:
        for p in self.model.parameters():
            p.grad = None

    def add(
        self, x: np.ndarray, t: np.ndarray, first: int, total: int, sums: Sums | None = None
    ) -> tuple[float, float]:
        """Forward and backward of rows `first`, ... of a batch of `total`, part after part: what
        they add to its loss and top-1, and to the gradients."""
        loss = top1 = 0.0
        parts = [share(len(t), k, self.accumulate) for k in range(self.accumulate)]
        for k, rows in enumerate(parts):
            part, labels = (backend.to_device(a[rows], self.device) for a in (x, t))
            last = k == self.accumulate - 1  # only then the random streams go on
            with random.part(first + rows.start), nullcontext() if last else random.rewound():
                logits = self.model(part)
            if len(labels):
                weight = len(labels) / total
                mean = F.softmax_cross_entropy(logits, labels)
                ready = sums.ready if sums is not None and last else None
                mean.backward(np.full_like(mean.data, weight), ready)
                loss += weight * mean.item()
                top1 += weight * top_k(logits.numpy(), t[rows], 1)
        return loss, top1


class Sums:
    """Adds up the gradients of all ranks, always from the last parameter to the first.

    That is about the order in which a backward pass completes them, and every rank keeps it,
    whether it has rows or not. With a thread, the sums are made there, each as soon as it can be;
    without, at the end.
    """

    def __init__(
        self, comm: Communicator, parameters: Iterable[Tensor], thread: ThreadPoolExecutor | None
    ) -> None:
        self.comm, self.thread = comm, thread
        self.left = list(parameters) if comm.size > 1 else []
        self.complete: set[Tensor] = set()
        self.going: list[Future] = []
        self.failed = False

    def ready(self, parameter: Tensor) -> None:
        """This rank's gradient of the parameter is complete."""
        self.complete.add(parameter)
        while self.thread is not None and self.left and self.left[-1] in self.complete:
            own, mark = gradient(self.left.pop()), self.comm.mark()
            self.going.append(self.thread.submit(self.add, own, mark))
        if self.failed:
            self.finish()

    def add(self, own: backend.Array, mark: Any) -> None:
        """One sum; none behind one that failed, which would meet another rank's next one."""
        if not self.failed:
            try:
                self.comm.sum(own, mark)
            except BaseException:
                self.failed = True
                raise

    def finish(self) -> None:
        """Return when every parameter has its sum, those that no backward pass reached too."""
        for sent in self.going:
            sent.result()
        while self.left:
            self.comm.sum(gradient(self.left.pop()))


def gradient(p: Tensor) -> backend.Array:
    """The gradient of a parameter as one block of memory; zeros where this rank has none."""
    p.grad = np.zeros_like(p.data) if p.grad is None else kernels.contiguous(p.grad)
    return p.grad
