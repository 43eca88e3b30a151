"""As much of CuPy's NCCL as minigrad uses, between threads, without a GPU.

It refuses what NCCL refuses (two ranks on one GPU), and what NCCL would hang on, crash at or get
wrong in silence: calls that differ between ranks, memory that no array of that device owns, a
stream that is not another one, work asked for after the stream's event, a result that is read
before the stream was waited for. Where CuPy has NCCL, the names and the numbers of arguments are
checked against it.
"""

import ctypes
import itertools
import threading
from typing import Any

import numpy as np
import stand_in_cupy

from minigrad import backend
from minigrad.distributed import Communicator

available = True
NCCL_SUM, NCCL_FLOAT32, NCCL_FLOAT64 = 0, 7, 8
TYPES = {NCCL_FLOAT32: ctypes.c_float, NCCL_FLOAT64: ctypes.c_double}
REAL = backend.nccl()
TIMEOUT = 20  # seconds until a rank that waits alone is an error


class NcclError(RuntimeError):
    """What NCCL would have said, or the hang or the crash that it would have been."""


class Meeting:
    """Where the threads of all ranks meet: each call gives what everyone brought."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.brought: list[Any] = [None] * size

    def meet(self, rank: int, value: Any) -> list[Any]:
        self.brought[rank] = value
        self.wait()
        all_of_it = list(self.brought)
        self.wait()
        return all_of_it

    def wait(self) -> None:
        try:
            self.barrier.wait(TIMEOUT)
        except threading.BrokenBarrierError:
            raise NcclError("a rank waits for one that does not come: a hang") from None


class Threads(Communicator):
    """Ranks that are threads of this process, for the objects that MPI would carry."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        self.rank, self.size, self.meeting = rank, len(meeting.brought), meeting
        self.local_rank, self.local_size = rank, self.size
        self.beats: list[dict[str, Any]] = []

    def exchange(self, value: Any) -> list[Any]:
        return self.meeting.meet(self.rank, value)

    def broadcast(self, value: Any) -> Any:
        return self.exchange(value)[0]

    def beat(self, **values: Any) -> None:
        self.beats.append(values)

    def join(self, array: Any, sizes: Any) -> Any:
        parts = self.exchange(backend.to_numpy(array))
        return backend.to_device(np.concatenate(parts, axis=-1), backend.device_of(array))

    def scatter_sum(self, array: Any, sizes: Any) -> Any:
        whole = np.sum(self.exchange(backend.to_numpy(array)), axis=0)
        own = np.split(whole, np.cumsum(sizes)[:-1], axis=-1)[self.rank]
        return backend.to_device(np.ascontiguousarray(own), backend.device_of(array))


meetings: dict[bytes, Meeting] = {}
numbers = itertools.count()
lock = threading.Lock()


def get_unique_id() -> bytes:
    return f"meeting {next(numbers)}".encode()


class NcclCommunicator:
    def __init__(self, ndev: int, commId: bytes, rank: int) -> None:
        with lock:
            self.rank, self.meeting = rank, meetings.setdefault(commId, Meeting(ndev))
        self.device = stand_in_cupy.current()
        if len(set(self.meet("init", ndev, self.device, same=2))) < ndev:
            raise NcclError("NCCL_ERROR_INVALID_USAGE: invalid usage")  # two ranks on one GPU

    def meet(self, *values: Any, same: int) -> list[Any]:
        """The last value of each rank; the first `same` must agree."""
        brought = self.meeting.meet(self.rank, values)
        if len({each[:same] for each in brought}) > 1:
            raise NcclError(f"ranks call {sorted({str(each[:same]) for each in brought})}: a hang")
        return [each[-1] for each in brought]

    def memory(self, pointer: int, count: int, datatype: int) -> np.ndarray:
        """The elements there, if an array of this rank's device owns them all."""
        kind = TYPES[datatype]
        end = pointer + count * ctypes.sizeof(kind)
        for array in list(stand_in_cupy.living.values()):
            start = array._host.ctypes.data
            if start <= pointer and end <= start + array._host.nbytes:
                if array.device.id != self.device:
                    raise NcclError("an illegal memory access: an array of another GPU")
                if not array._host.flags.c_contiguous:
                    raise NcclError("an array with gaps: other memory would be sent")
                return np.ctypeslib.as_array((kind * count).from_address(pointer))
        raise NcclError(f"an illegal memory access: {count} elements at {pointer:#x}")

    def ready(self, stream: int) -> None:
        if stand_in_cupy.current() != self.device:
            raise NcclError("the current device is not the communicator's")
        if stream not in stand_in_cupy.Stream.streams:
            raise NcclError("not a stream")
        own = stand_in_cupy.Stream.streams[stream]
        if own.waited < stand_in_cupy.asked():
            raise NcclError("work was asked for that this stream does not wait for")
        own.pending = True

    def allReduce(
        self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int
    ) -> None:
        self.ready(stream)
        sent = self.memory(sendbuf, count, datatype).copy()
        parts = self.meet("allReduce", count, datatype, op, sent, same=4)
        self.memory(recvbuf, count, datatype)[:] = np.sum(parts, axis=0)

    def allGather(self, sendbuf: int, recvbuf: int, count: int, datatype: int, stream: int) -> None:
        self.ready(stream)
        sent = self.memory(sendbuf, count, datatype).copy()
        parts = self.meet("allGather", count, datatype, sent, same=3)
        self.memory(recvbuf, count * len(parts), datatype)[:] = np.concatenate(parts)

    def reduceScatter(
        self, sendbuf: int, recvbuf: int, recvcount: int, datatype: int, op: int, stream: int
    ) -> None:
        self.ready(stream)
        size = len(self.meeting.brought)
        sent = self.memory(sendbuf, recvcount * size, datatype).copy()
        parts = self.meet("reduceScatter", recvcount, datatype, op, sent, same=4)
        total = np.sum(parts, axis=0).reshape(size, recvcount)
        self.memory(recvbuf, recvcount, datatype)[:] = total[self.rank]


if REAL is not None:
    for name in ("NCCL_SUM", "NCCL_FLOAT32", "NCCL_FLOAT64"):
        assert globals()[name] == getattr(REAL, name), name
    for name, count in (("allReduce", 6), ("allGather", 5), ("reduceScatter", 6)):
        signature = getattr(REAL.NcclCommunicator, name).__doc__.split("\n")[0]
        assert signature.count(",") == count, signature
