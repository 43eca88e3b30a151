"""Processes that decode pictures into shared memory.

Batch k goes to worker k mod W, and batches come back in order, without a queue or a lock. A worker
is a Python process that runs main() below. It gets its tasks through its standard input, writes
uint8 pictures into its places of one shared block of memory, and reports on its standard output
which of them could not be read. The block is a file without a name, so nothing is left behind
however a run ends. A worker that dies or hangs for too long is replaced; a worker whose parent has
gone ends itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import os
import pickle
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Protocol

import numpy as np

from minigrad.data.images import ImageError
from minigrad.data.sources import DataError

TIMEOUT = 30.0  # seconds that a worker may hang
AHEAD = 2  # batches that a worker is given in advance
POSSIBLE = os.name == "posix"  # elsewhere a child does not inherit a file
Shape = tuple[int, int, int]  # of a picture: (side, side, channels)


class Readable(Protocol):
    """A source that workers read from; they get it by pickle. shape: that of each picture."""

    @property
    def shape(self) -> Shape: ...

    def read(self, i: int) -> np.ndarray: ...

    def where(self, i: int) -> str: ...


@dataclass
class Batch:
    """Pictures (n, *shape) uint8, valid until the next batch is requested; their indices; and the
    pictures that could not be read, with the reasons."""

    pictures: np.ndarray
    indices: np.ndarray  # (n,) int64
    skipped: dict[int, str]
    seconds: float  # how long reading took


def read_batch(
    source: Readable, indices: np.ndarray, out: np.ndarray, begun: np.ndarray | None = None
) -> Batch:
    """Read pictures into the first places of `out`. `begun`, if given, counts the pictures that
    have been begun."""
    began = time.perf_counter()
    good: list[int] = []
    skipped: dict[int, str] = {}
    for i in map(int, indices):
        if begun is not None:
            begun += 1
        try:
            out[len(good)] = source.read(i)
        except ImageError as error:
            skipped[i] = str(error)
        else:
            good.append(i)
    return Batch(out[: len(good)], np.array(good, np.int64), skipped, time.perf_counter() - began)


class WorkerLost(Exception):
    """A worker died or hangs; the message says which of the two, and how."""


@dataclass
class Worker:
    process: subprocess.Popen
    # (places,) int64, in the shared memory: how many of a place's pictures the worker has begun to
    # read
    begun: np.ndarray
    tasks: deque = field(
        default_factory=deque
    )  # (place in memory, number of pictures), sent and not yet answered

    def send(self, task: tuple[int, int]) -> None:
        self.tasks.append(task)
        self.begun[task[0]] = 0
        with contextlib.suppress(BrokenPipeError):  # dead: noticed when its answer is awaited
            write(
                self.process.stdin, pickle.dumps(task)
            )  # few and short messages: the pipe has room for them, so this does not block

    def answer(self, timeout: float) -> tuple[dict[int, str] | BaseException, float]:
        """The worker's answer to its first task: (what could not be read, seconds). Raises
        WorkerLost.

        Time in which this process was stopped or the machine was asleep does not count as hanging:
        each turn of the loop counts as one slice, however long it took.
        """
        pipe, slice_ = self.process.stdout, min(1.0, timeout / 4)
        assert pipe is not None
        received, length, still, seen = (
            bytearray(),
            8,
            0.0,
            -1,
        )  # eight bytes that say how many follow
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while len(received) < length:
                if selector.select(slice_):
                    piece = os.read(pipe.fileno(), length - len(received))
                    if not piece:
                        how = self.dismiss()
                        raise WorkerLost(
                            "a worker died "
                            + (f"(signal {-how})" if how < 0 else f"(exit code {how})")
                        )
                    received += piece
                    still = 0.0
                    if len(received) == 8:
                        length += int.from_bytes(received, "little")
                elif (now := int(self.begun[self.tasks[0][0]])) != seen:
                    still, seen = 0.0, now
                elif (still := still + slice_) >= timeout:
                    self.dismiss()
                    raise WorkerLost(
                        f"worker process {self.process.pid} stood still for {timeout:g} seconds"
                        " (--worker-timeout)"
                    )
        return pickle.loads(received[8:])

    def dismiss(self) -> int:
        """End the process and return its exit code, negative for a signal."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # data not yet sent to a dead process
                pipe.close()
        with contextlib.suppress(
            subprocess.TimeoutExpired
        ):  # blocked in the system: it ends when its disk or network answers
            self.process.wait(10)
        return -signal.SIGKILL if self.process.returncode is None else self.process.returncode


class Workers:
    """`count` processes that read batches of at most `size` pictures of `source`. With 0, or where
    a child process cannot inherit a file, the caller reads. A worker that neither answers nor
    begins another picture for `timeout` seconds is replaced. Use as a context, or call close()."""

    def __init__(
        self,
        source: Readable,
        size: int,
        count: int,
        say: Callable[[str], None] = print,
        timeout: float = TIMEOUT,
    ) -> None:
        if not timeout > 0:
            raise ValueError(
                "the time that a worker may stand still must be more than 0 seconds, not"
                f" {timeout:g}"
            )
        self.source, self.count, self.say, self.timeout = (
            source,
            count if POSSIBLE else 0,
            say,
            timeout,
        )
        self.descriptors: list[int] = []  # of the shared memory, and of the pickled source
        self.workers: list[Worker] = []
        if self.count == 0:
            self.view = np.empty((1, size, *source.shape), np.uint8)
            return
        self.shape = self.count * AHEAD, size
        pickled = pickle.dumps(source, pickle.HIGHEST_PROTOCOL)
        block = self.share(self.shape[0] * (size * (math.prod(source.shape) + 8) + 8))
        self.view, self.orders, self.begun = views(block, self.shape, source.shape)
        self.share(len(pickled)).write(pickled)
        self.workers = [self.hire() for _ in range(self.count)]

    def share(self, size: int) -> mmap.mmap:
        """A block of `size` bytes of memory that the workers will inherit."""
        descriptor, block = memory(size)
        self.descriptors.append(descriptor)
        return block

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hire(self) -> Worker:
        environment = os.environ | {
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "MINIGRAD_KERNELS": "none",
        }
        path = os.pathsep.join(map(os.path.abspath, sys.path))
        numbers = ", ".join(map(str, (os.getpid(), *self.descriptors, *self.shape)))
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-c",
                f"from minigrad.data.workers import main; main({numbers})",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=self.descriptors,
            env=environment | {"PYTHONPATH": path},
            bufsize=0,
        )
        return Worker(process, self.begun)

    def batches(self, pieces: Sequence[np.ndarray]) -> Iterator[Batch]:
        """Read each piece (indices of at most `size` pictures), in order. Only one such iteration
        may run at a time."""
        if self.count == 0:
            yield from (read_batch(self.source, piece, self.view[0]) for piece in pieces)
            return
        self.drain()
        for k in range(min(len(pieces), self.count * AHEAD)):
            self.send(k, pieces[k])
        for k in range(len(pieces)):
            yield self.answer(k % self.count)
            later = k + self.count * AHEAD  # it reuses the place that has just become free
            if later < len(pieces):
                self.send(later, pieces[later])

    def send(self, k: int, piece: np.ndarray) -> None:
        """Request batch k. The indices to read, and the source, are in shared memory: a pipe could
        fill up, and both sides would wait for each other."""
        place = k % len(self.orders)
        self.orders[place, : len(piece)] = piece
        self.workers[k % self.count].send((place, len(piece)))

    def drain(self) -> None:
        """Let workers finish the batches that an abandoned iteration had requested."""
        for k in range(self.count):
            while self.workers[k].tasks:
                self.answer(k)

    def answer(self, k: int) -> Batch:
        """The next batch of worker k. A lost worker is replaced, and the new one reads the batch
        again; a batch on which three workers are lost is given up."""
        for _ in range(3):
            worker = self.workers[k]
            place, count = worker.tasks[0]
            indices = self.orders[place, :count].copy()
            try:
                skipped, seconds = worker.answer(self.timeout)
            except WorkerLost as lost:
                begun = int(self.begun[place])
                picture = self.source.where(int(indices[max(begun - 1, 0)]))
                self.say(
                    f"{lost} {'while reading' if begun else 'before reading'} {picture}; another"
                    " takes its place"
                )
                tasks = worker.tasks
                worker = self.workers[k] = self.hire()
                for task in tasks:
                    worker.send(task)
                continue
            worker.tasks.popleft()
            if isinstance(
                skipped, BaseException
            ):  # a problem of the system, or a bug: not to be skipped
                raise skipped
            good = indices[~np.isin(indices, list(skipped))] if skipped else indices
            return Batch(self.view[place, : len(good)], good, skipped, seconds)
        raise DataError(
            f"three workers in turn died or stood still while reading the same {len(indices)}"
            f" pictures, the last of them at {picture}: look at this file and the disk that it is"
            " on, or give --worker-timeout more seconds"
        )

    def close(self) -> None:
        """End the processes and give the memory back."""
        for worker in self.workers:
            worker.process.kill()
        while self.workers:
            self.workers.pop().dismiss()
        while self.descriptors:
            os.close(self.descriptors.pop())


def views(
    block: mmap.mmap, shape: tuple[int, int], picture: Shape
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The shared memory as pictures (places, size, *picture), followed by int64: the indices to
    read (places, size), and how many pictures of each place have been begun (places,)."""
    pictures = np.frombuffer(block, np.uint8, count=math.prod((*shape, *picture))).reshape(
        *shape, *picture
    )
    orders = np.frombuffer(
        block, np.int64, count=shape[0] * shape[1], offset=pictures.size
    ).reshape(shape)
    return (
        pictures,
        orders,
        np.frombuffer(block, np.int64, count=shape[0], offset=pictures.size + 8 * orders.size),
    )


def memory(size: int) -> tuple[int, mmap.mmap]:
    """An unnamed file and its bytes: in memory, or on disk if the memory file system is too small
    (as a container's /dev/shm often is).

    Its descriptor is not 0, 1 or 2, which a child's pipes take.
    """
    for folder in ("/dev/shm", None):
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, size)  # reserved now: no bus error later
                else:
                    file.truncate(size)
                block = mmap.mmap(file.fileno(), size)
                return above_standard(file.fileno()), block
        except OSError as error:
            refused = error
    raise DataError(
        f"there is no room for {size / 1e6:.0f} MB of pictures that workers read ahead ({refused}):"
        " use --workers 0"
    )


def above_standard(descriptor: int) -> int:
    """A duplicate of the descriptor that is not 0, 1 or 2."""
    duplicate = os.dup(descriptor)
    if duplicate > 2:
        return duplicate
    try:
        return above_standard(descriptor)
    finally:
        os.close(duplicate)


def write(pipe: IO[bytes] | None, message: bytes) -> None:
    assert pipe is not None
    pipe.write(message)
    pipe.flush()


def end_with_parent(parent: int) -> None:
    """End this worker when its parent has gone. On Linux the system kills it, even if it is
    blocked; elsewhere it finds its input closed and ends."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1  # linux/prctl.h
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the call above
            os._exit(0)


def main(parent: int, descriptor: int, source_descriptor: int, places: int, size: int) -> None:
    """The main loop of a worker process."""
    end_with_parent(parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, signal.SIG_IGN
        )  # Ctrl-C and other signals to the whole group are handled by the parent
    answers, sys.stdout = sys.stdout.buffer, sys.stderr
    try:
        source = pickle.loads(mmap.mmap(source_descriptor, 0))
        view, orders, begun = views(mmap.mmap(descriptor, 0), (places, size), source.shape)
        while True:
            place, count = pickle.load(sys.stdin.buffer)
            try:
                batch = read_batch(
                    source, orders[place, :count], view[place], begun[place : place + 1]
                )
                answer: tuple = batch.skipped, batch.seconds
            except Exception as error:
                answer = error, 0.0
            pickled = pickle.dumps(answer)
            write(answers, len(pickled).to_bytes(8, "little") + pickled)
    except (EOFError, BrokenPipeError):  # the parent is done, or gone
        os._exit(0)
