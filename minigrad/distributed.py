"""One process among several: who it is, and what it exchanges with the others.

`connect()` gives a Communicator: alone, or over MPI (mpi4py, the extra `mpi`) where a launcher such
as mpiexec or srun started this process. Nothing else in the product knows which one it has, and
without a launcher mpi4py is not imported. Arrays on a GPU travel through the host's memory.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from minigrad import backend
from minigrad.backend import Array

# Set by launchers: the number of processes (MPICH's and Intel's, Open MPI's, SLURM's through PMIx).
COUNTS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_SIZE")
PIECE = 16 << 20  # bytes summed at a time: pieces of 8 to 25 MB measured best (docs/distributed.md)


T = TypeVar("T")


def share(count: int, part: int, parts: int) -> slice:
    """The contiguous part number `part` of `count` things; parts differ by at most one."""
    return slice(count * part // parts, count * (part + 1) // parts)


class DistributedError(RuntimeError):
    """Processes cannot work together; the message says why, and what to do."""


class Communicator:
    """One process alone: rank 0 of 1.

    rank, size: this process's number, and how many there are. local_rank, local_size: the same
    among the processes of this host. Every call below is made by all ranks, in one order.
    """

    rank, size = 0, 1
    local_rank, local_size = 0, 1
    host = socket.gethostname()

    def exchange(self, value: Any) -> list[Any]:
        """The values of all ranks, by rank. Small Python objects."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value."""
        return value

    def sum(self, array: Array) -> None:
        """Add up the contiguous arrays of all ranks, in place."""

    def join(self, array: Array, sizes: Sequence[int]) -> Array:
        """The arrays of all ranks one after the other along the last axis, of these sizes."""
        return array

    def scatter_sum(self, array: Array, sizes: Sequence[int]) -> Array:
        """The transpose of join: the sum of all ranks' arrays, of which each takes its part of the
        last axis. Added in the order of the ranks."""
        return array

    def abort(self, code: int) -> None:
        """End all ranks. Alone: nothing, the caller ends."""

    def in_turn(self, action: Callable[[], T]) -> T:
        """What the action returns: called by one rank of each host first, so that the others find
        what it leaves on the disk."""
        if self.local_rank == 0:
            result = action()
        self.exchange(None)
        if self.local_rank != 0:
            result = action()
        return result


class Mpi(Communicator):
    """Ranks over MPI."""

    def __init__(self, mpi: Any) -> None:
        self.world, self.in_place = mpi.COMM_WORLD, mpi.IN_PLACE
        self.rank, self.size = self.world.Get_rank(), self.world.Get_size()
        hosts = self.world.allgather(self.host)
        self.local_rank = hosts[: self.rank].count(self.host)
        self.local_size = hosts.count(self.host)

    def exchange(self, value: Any) -> list[Any]:
        return self.world.allgather(value)

    def broadcast(self, value: Any) -> Any:
        return self.world.bcast(value)

    def sum(self, array: Array) -> None:
        host = backend.to_numpy(array)  # the array itself on a CPU, a copy of one on a GPU
        flat = host.reshape(-1)
        step = max(1, PIECE // array.itemsize)
        for i in range(0, flat.size, step):
            self.world.Allreduce(self.in_place, flat[i : i + step])
        if host is not array:
            array[...] = backend.to_device(host, backend.device_of(array))

    def join(self, array: Array, sizes: Sequence[int]) -> Array:
        own, device = np.ascontiguousarray(backend.to_numpy(array)), backend.device_of(array)
        rows = math.prod(own.shape[:-1])
        counts = [rows * size for size in sizes]
        received = np.empty(sum(counts), own.dtype)
        self.world.Allgatherv(own, [received, counts])
        parts = np.split(received, np.cumsum(counts)[:-1])
        shaped = [part.reshape(*own.shape[:-1], size) for part, size in zip(parts, sizes)]
        return backend.to_device(np.concatenate(shaped, axis=-1), device)

    def scatter_sum(self, array: Array, sizes: Sequence[int]) -> Array:
        whole, device = backend.to_numpy(array), backend.device_of(array)
        parts = np.split(whole, np.cumsum(sizes)[:-1], axis=-1)
        own = parts[self.rank]
        sent = [part.reshape(-1) for part in parts]
        sent[self.rank] = sent[self.rank][:0]  # stays here
        counts = [0 if r == self.rank else own.size for r in range(self.size)]
        received = np.empty(sum(counts), own.dtype)
        self.world.Alltoallv([np.concatenate(sent), [s.size for s in sent]], [received, counts])
        others = iter(received.reshape(self.size - 1, *own.shape))
        terms = [own if r == self.rank else next(others) for r in range(self.size)]
        total = terms[0] + terms[1]
        for term in terms[2:]:
            total += term
        return backend.to_device(total, device)

    def abort(self, code: int) -> None:
        time.sleep(0.2)  # for the launcher to pass on what was said
        self.world.Abort(code)


def connect(environment: Mapping[str, str] = os.environ) -> Communicator:
    """The Communicator of this process. Raises DistributedError where a launcher started several
    processes that do not see each other."""
    counts = {name: environment[name] for name in COUNTS if environment.get(name)}
    if not counts:
        return Communicator()
    name, count = next(iter(counts.items()))
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise DistributedError(
            f"a launcher started {count} processes ({name}), but mpi4py cannot be loaded ({error}):"
            " pip install 'minigrad[mpi]'"
        ) from error
    comm = Mpi(MPI)
    if str(comm.size) != count:
        raise DistributedError(
            f"the launcher started {count} processes ({name}), but MPI sees {comm.size}: mpiexec"
            " and mpi4py belong to different MPIs; use the mpiexec of the environment with mpi4py"
            f" ({MPI.Get_library_version().splitlines()[0].strip()})"
        )
    return comm
