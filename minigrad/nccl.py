"""Ranks with a GPU each: arrays travel from GPU to GPU by NCCL, everything else over MPI.

NCCL takes pointers, counts and a stream, and checks none of them. Its calls run on a stream of
their own, in parallel with the layers. They begin after the work queued on the device before them,
and the methods here return when they have ended. The order in which NCCL adds depends on the number
of ranks and on its algorithm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from minigrad import backend, kernels
from minigrad.backend import Array
from minigrad.distributed import Communicator


class Nccl(Communicator):
    """The ranks of another Communicator, each with a device whose arrays travel over NCCL."""

    overlaps = True

    def __init__(self, ranks: Communicator, device: str, library: Any) -> None:
        self.ranks, self.device, self.library = ranks, device, library
        self.rank, self.size = ranks.rank, ranks.size
        self.local_rank, self.local_size = ranks.local_rank, ranks.local_size
        name = self.broadcast(library.get_unique_id() if self.rank == 0 else None)
        with backend.on_device(device):
            self.link = library.NcclCommunicator(self.size, name, self.rank)
            self.stream = backend.cupy().cuda.Stream(non_blocking=True)

    def exchange(self, value: Any) -> list[Any]:
        return self.ranks.exchange(value)

    def broadcast(self, value: Any) -> Any:
        return self.ranks.broadcast(value)

    def beat(self, **values: Any) -> None:
        self.ranks.beat(**values)

    def abort(self, code: int) -> None:
        self.ranks.abort(code)

    def mark(self) -> Any:
        with backend.on_device(self.device):
            return backend.cupy().cuda.get_current_stream().record()

    @contextmanager
    def sending(self, after: Any = None) -> Iterator[int]:
        """A context that yields a stream. Calls on it begin after the mark `after`, or if that is
        None after all work queued on the device; they have ended when the context is left."""
        with backend.on_device(self.device), self.waiting():
            self.stream.wait_event(self.mark() if after is None else after)
            yield self.stream.ptr
            self.stream.synchronize()

    def kind(self, array: Array) -> int:
        """NCCL's number for a dtype."""
        if array.dtype == np.float32:
            return self.library.NCCL_FLOAT32
        if array.dtype == np.float64:
            return self.library.NCCL_FLOAT64
        raise TypeError(f"NCCL adds up float32 and float64 here, not {array.dtype}")

    def sum(self, array: Array, after: Any = None) -> None:
        pointer, kind = array.data.ptr, self.kind(array)
        with self.sending(after) as stream:
            self.link.allReduce(pointer, pointer, array.size, kind, self.library.NCCL_SUM, stream)

    def join(self, array: Array, sizes: Sequence[int]) -> Array:
        if len(set(sizes)) > 1:  # NCCL gathers equal parts
            return self.ranks.join(array, sizes)
        own = kernels.contiguous(array)
        parts: Array = np.empty_like(own, shape=(self.size, *own.shape))
        with self.sending() as stream:
            self.link.allGather(own.data.ptr, parts.data.ptr, own.size, self.kind(own), stream)
        return np.concatenate(list(parts), axis=-1)

    def scatter_sum(self, array: Array, sizes: Sequence[int]) -> Array:
        if len(set(sizes)) > 1:
            return self.ranks.scatter_sum(array, sizes)
        parts: Array = np.stack(np.split(array, self.size, axis=-1))
        own: Array = np.empty_like(parts[0])
        with self.sending() as stream:
            self.link.reduceScatter(
                parts.data.ptr,
                own.data.ptr,
                own.size,
                self.kind(own),
                self.library.NCCL_SUM,
                stream,
            )
        return own


def between_gpus(
    comm: Communicator, device: str, report: Callable[[str], object] = print
) -> Communicator:
    """The Communicator for arrays on this device: over NCCL if every rank has it and a GPU of its
    own, otherwise `comm`. Reports which one it is, and why."""
    if comm.size == 1 or device == "cpu":
        return comm
    library = backend.nccl()
    places = comm.exchange((comm.host, backend.gpu_bus(device), library is not None))
    if not all(has for *_, has in places):
        why = "NCCL is not installed everywhere (pip install nvidia-nccl-cu13, or -cu12)"
    elif len(set(places)) < comm.size:
        why = "several ranks share a GPU, which NCCL refuses"
    else:
        report(f"{comm.size} GPUs, over NCCL: a run on more than one GPU has not been tried yet")
        return Nccl(comm, device, library)
    report(f"arrays travel through the hosts' memory: {why}")
    return comm
