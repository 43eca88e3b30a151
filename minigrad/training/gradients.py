"""The gradients of a batch, computed in parts on one rank or several and added up.

Each rank has a part of the batch, and may send it through the network in smaller parts. With n_k
of N rows in part k,

    dL/dw = sum over k of (n_k / N) dL_k/dw,    L_k the mean loss of part k,

so the sum is the gradient of the mean over the batch, even if the parts have different sizes.
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
        accumulate: the number of parts in which a rank's rows go through the network in turn.
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
        # Over a network or on a GPU, the sums run during the backward pass. Within one host the
        # processors have to do the sums themselves, which gains nothing (docs/distributed.md).
        self.thread = ThreadPoolExecutor(1, "sums") if self.comm.overlaps else None

    def of(self, x: np.ndarray, t: np.ndarray) -> tuple[float, float]:
        """Compute the gradients of a batch; x, t is this rank's part. Returns (loss, top-1)."""
        counts = self.comm.exchange(len(t))
        self.clear()
        sums = Sums(self.comm, self.model.parameters(), self.thread)
        own = self.add(x, t, sum(counts[: self.comm.rank]), sum(counts), sums)
        sums.finish()
        loss, top1 = (sum(each) for each in zip(*self.comm.exchange(own)))
        return loss, top1

    def alone(self, x: np.ndarray, t: np.ndarray) -> None:
        """Forward and backward as in a step, on this rank alone. Random streams do not advance."""
        with random.rewound():
            self.add(x, t, 0, len(t))
        backend.synchronize(self.device)

    def clear(self) -> None:
        for p in self.model.parameters():
            p.grad = None

    def add(
        self, x: np.ndarray, t: np.ndarray, first: int, total: int, sums: Sums | None = None
    ) -> tuple[float, float]:
        """Forward and backward, part after part, of the rows from `first` on of a batch of `total`.
        Adds to the gradients, and returns what the rows contribute to loss and top-1."""
        loss = top1 = 0.0
        parts = [share(len(t), k, self.accumulate) for k in range(self.accumulate)]
        for k, rows in enumerate(parts):
            part, labels = (backend.to_device(a[rows], self.device) for a in (x, t))
            last = k == self.accumulate - 1  # random streams advance only after the last part
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

    That is about the order in which a backward pass completes them. Every rank keeps this order,
    even if it has no rows. With a thread, each sum runs there as soon as it can; without one, all
    sums run at the end.
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
        """Run one sum. After a failed sum none may follow: it would pair with another rank's sum of
        a different parameter."""
        if not self.failed:
            try:
                self.comm.sum(own, mark)
            except BaseException:
                self.failed = True
                raise

    def finish(self) -> None:
        """Return when every parameter has its sum, including those no backward pass reached."""
        for sent in self.going:
            sent.result()
        while self.left:
            self.comm.sum(gradient(self.left.pop()))


def gradient(p: Tensor) -> backend.Array:
    """The gradient of a parameter as a contiguous array; zeros if this rank has none."""
    p.grad = np.zeros_like(p.data) if p.grad is None else kernels.contiguous(p.grad)
    return p.grad
