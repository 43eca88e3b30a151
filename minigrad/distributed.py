"""One process among several: who it is, and what it exchanges with the others.

`connect()` returns a Communicator: one for a single process, or one over MPI (mpi4py, the extra
`mpi`) if a launcher such as mpiexec or srun started this process. No other module needs to know
which one it has, and without a launcher mpi4py is not imported. Arrays on a GPU travel through the
host's memory, or from GPU to GPU (nccl.py).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from minigrad import backend
from minigrad.backend import Array

# The variables in which launchers give the number of processes: MPICH, Intel MPI, and SLURM through
# PMI-2; Open MPI; and SLURM in any step, because PMIx gives only a rank.
COUNTS = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
PIECE = 16 << 20  # bytes summed at a time: pieces of 8 to 25 MB measured best (docs/distributed.md)


T = TypeVar("T")


def share(count: int, part: int, parts: int) -> slice:
    """The slice of `count` items that is part number `part` of `parts`. Part sizes differ by at
    most one."""
    return slice(count * part // parts, count * (part + 1) // parts)


BEATS = "MINIGRAD_BEATS"  # the folder of the ranks' heartbeats, set by launcher.py


class Beat:
    """A rank's heartbeat: a small file, rewritten at each step and around each exchange."""

    SIZE = 1024

    def __init__(self, folder: str, rank: int, host: str) -> None:
        self.file = os.open(os.path.join(folder, f"rank-{rank}"), os.O_WRONLY | os.O_CREAT, 0o600)
        self.now = {"rank": rank, "host": host, "pid": os.getpid(), "step": None, "run": None,
                    "done": False}  # fmt: skip
        self(waiting=False)

    def __call__(self, **values: Any) -> None:
        self.now |= {"time": time.time(), **values}
        os.pwrite(self.file, json.dumps(self.now).encode()[: self.SIZE].ljust(self.SIZE), 0)


def read_beats(folder: str) -> list[dict[str, Any]]:
    """The last heartbeat of each rank that has started, in order of rank."""
    found = []
    for name in os.listdir(folder):
        text = Path(folder, name).read_bytes()
        with contextlib.suppress(ValueError):  # the file exists, but nothing is written yet
            found.append(json.loads(text))
    return sorted(found, key=lambda beat: beat["rank"])


class DistributedError(RuntimeError):
    """Processes cannot work together; the message says why, and what to do."""


class Communicator:
    """One process alone: rank 0 of 1.

    rank, size: this process's number, and how many there are. local_rank, local_size: the same
    among the processes of this host. overlaps: whether sums run in parallel with this rank's
    computation, over a network or on a GPU. All ranks make the calls below in the same order.
    """

    rank, size = 0, 1
    local_rank, local_size = 0, 1
    overlaps = False
    host = socket.gethostname()

    def exchange(self, value: Any) -> list[Any]:
        """The values of all ranks, in order of rank. For small Python objects."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value."""
        return value

    def mark(self) -> Any:
        """A mark after the work that this thread has queued on its device so far; see `sum`."""

    def sum(self, array: Array, after: Any = None) -> None:
        """Add up the contiguous arrays of all ranks, in place. after: the mark after which this
        array is complete; None means after all work queued so far."""

    def join(self, array: Array, sizes: Sequence[int]) -> Array:
        """All ranks' arrays, concatenated along the last axis. sizes: each rank's size there."""
        return array

    def scatter_sum(self, array: Array, sizes: Sequence[int]) -> Array:
        """The transpose of join: adds the arrays of all ranks, in order of rank, and returns this
        rank's part of the sum along the last axis."""
        return array

    def abort(self, code: int) -> None:
        """End all ranks. A single process does nothing here: the caller ends."""

    def beat(self, **values: Any) -> None:
        """Tell the launcher, if there is one, that this rank is making progress: step=, run=."""

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, this rank waits for the others."""
        self.beat(waiting=True)
        yield
        self.beat(waiting=False)

    def in_turn(self, action: Callable[[], T]) -> T:
        """Call the action and return its result. One rank of each host goes first, so that the
        others find the files that it leaves on disk."""
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
        self.overlaps = self.local_size < self.size
        folder = os.environ.get(BEATS)
        self.heart = Beat(folder, self.rank, self.host) if folder else None

    def beat(self, **values: Any) -> None:
        if self.heart is not None:
            self.heart(**values)

    def exchange(self, value: Any) -> list[Any]:
        with self.waiting():
            return self.world.allgather(value)

    def broadcast(self, value: Any) -> Any:
        with self.waiting():
            return self.world.bcast(value)

    def sum(self, array: Array, after: Any = None) -> None:
        host = backend.to_numpy(array)  # the array itself on a CPU, a copy if it is on a GPU
        flat = host.reshape(-1)
        step = max(1, PIECE // array.itemsize)
        for i in range(0, flat.size, step):
            with self.waiting():
                self.world.Allreduce(self.in_place, flat[i : i + step])
        if host is not array:
            device = backend.device_of(array)
            with backend.on_device(device):
                array[...] = backend.to_device(host, device)

    def join(self, array: Array, sizes: Sequence[int]) -> Array:
        own, device = np.ascontiguousarray(backend.to_numpy(array)), backend.device_of(array)
        rows = math.prod(own.shape[:-1])
        counts = [rows * size for size in sizes]
        received = np.empty(sum(counts), own.dtype)
        with self.waiting():
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
        outgoing = [np.concatenate(sent), [part.size for part in sent]]
        with self.waiting():
            self.world.Alltoallv(outgoing, [received, counts])
        others = iter(received.reshape(self.size - 1, *own.shape))
        terms = [own if r == self.rank else next(others) for r in range(self.size)]
        total = terms[0] + terms[1]
        for term in terms[2:]:
            total += term
        return backend.to_device(total, device)

    def abort(self, code: int) -> None:
        time.sleep(0.2)  # for the launcher to pass on what was said
        self.world.Abort(code)


def told(environment: Mapping[str, str]) -> tuple[str, int] | None:
    """(variable, number of processes) as a launcher set it for this process; None without a
    launcher. A SLURM step with one task counts as no launcher: a shell may run in it."""
    for name in COUNTS:
        count = environment.get(name, "")
        if count.isdecimal() and (int(count) > 1 or name != "SLURM_STEP_NUM_TASKS"):
            return name, int(count)
    return None


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher started this process."""
    return told(environment) is not None


def connect(environment: Mapping[str, str] = os.environ) -> Communicator:
    """The Communicator of this process. Raises DistributedError if a launcher started several
    processes that do not see each other."""
    launcher = told(environment)
    if launcher is None:
        return Communicator()
    name, count = launcher
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise DistributedError(
            f"a launcher started {count} processes ({name}), but mpi4py cannot be loaded ({error}):"
            " pip install 'minigrad[mpi]'"
        ) from error
    comm = Mpi(MPI)
    if comm.size != count:
        library = MPI.Get_library_version().splitlines()[0].strip()
        raise DistributedError(
            f"the launcher started {count} processes ({name}), but MPI sees {comm.size}: launcher"
            " and mpi4py belong to different MPIs; use the mpiexec of the environment with mpi4py,"
            f" or srun with the --mpi that it needs ({library})"
        )
    return comm
