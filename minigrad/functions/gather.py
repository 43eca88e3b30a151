"""Joins the maps of several columns, each in its own process, where a layer of the paper's network
sees both GPUs (Krizhevsky et al. 2012, figure 2).

    y = x of column 0, x of column 1, ... along the last axis
    gx = this column's part of gy, summed over the columns

Each column continues from y by itself, so each has its own gradient with respect to y, and these
are added. If all columns compute the same from y, as with the logits and their loss, every gy is
already the whole gradient. That case is `shared`: gx is this column's part of its own gy. Saved:
nothing.
"""

from __future__ import annotations

import numpy as np

from minigrad import kernels
from minigrad.distributed import Communicator
from minigrad.engine import Function, Tensor, as_tensor
from minigrad.functions.cases import Case


class Gather(Function):
    def __init__(self, comm: Communicator, sizes: tuple[int, ...], shared: bool) -> None:
        self.comm, self.sizes, self.shared = comm, sizes, shared

    def forward(self, x):
        return self.comm.join(x, self.sizes)

    def backward(self, gy):
        if not self.shared:
            return self.comm.scatter_sum(gy, self.sizes)
        edges = np.cumsum((0, *self.sizes))
        return kernels.contiguous(gy[..., edges[self.comm.rank] : edges[self.comm.rank + 1]])


def gather(x, comm: Communicator, sizes: tuple[int, ...], shared: bool = False) -> Tensor:
    """Join the x (..., C) of all columns; this one has C = sizes[comm.rank]. Returns (..., sum of
    sizes)."""
    x = as_tensor(x)
    if len(sizes) != comm.size or x.shape[-1] != sizes[comm.rank]:
        raise ValueError(
            f"gather: rank {comm.rank} of {comm.size} has x of shape {x.shape}; its last axis must"
            f" be its part of {sizes}, one for each rank"
        )
    return Gather(comm, tuple(sizes), shared)(x)


CASES = [Case("gather", gather, (3, 5), comm=Communicator(), sizes=(5,))]
