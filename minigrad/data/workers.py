"""Processes that decode pictures into shared memory.

Batch k goes to worker k mod W, and batches come back in order: no queue, no lock. A worker is a Python that runs main() below, told what
to read through its standard input; it writes uint8 pictures into its places of one shared block of memory, and answers on its
standard output which of them could be read. The block is a file without a name, so nothing is left behind however a run ends; a worker
whose parent is gone finds its input closed and ends.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
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

from minigrad.data.images import SIZE, ImageError
from minigrad.data.sources import DataError

AHEAD = 2  # batches a worker is given before its first is asked for
POSSIBLE = os.name == "posix"  # elsewhere a child does not inherit a file
PICTURE = (SIZE, SIZE, 3)
PICTURE_BYTES = SIZE * SIZE * 3


class Readable(Protocol):
    """What workers read from; it travels to them by pickle."""

    def read(self, i: int) -> np.ndarray: ...

    def where(self, i: int) -> str: ...


@dataclass
class Batch:
    """Pictures (n, 256, 256, 3) uint8, valid until the next batch is asked for; which they are; and what could not be read, and why."""

    pictures: np.ndarray
    indices: np.ndarray  # (n,) int64
    skipped: dict[int, str]
    seconds: float  # that reading took


def read_batch(source: Readable, indices: np.ndarray, out: np.ndarray) -> Batch:
    """Read pictures into the first places of `out`."""
    began = time.perf_counter()
    good: list[int] = []
    skipped: dict[int, str] = {}
    for i in map(int, indices):
        try:
            out[len(good)] = source.read(i)
        except ImageError as error:
            skipped[i] = str(error)
        else:
            good.append(i)
    return Batch(out[: len(good)], np.array(good, np.int64), skipped, time.perf_counter() - began)


@dataclass
class Worker:
    process: subprocess.Popen
    tasks: deque = field(default_factory=deque)  # (place in memory, number of pictures), sent and not yet answered

    def send(self, task: tuple[int, int]) -> None:
        self.tasks.append(task)
        with contextlib.suppress(BrokenPipeError):  # dead: noticed when its answer is awaited
            write(self.process.stdin, task)

    def dismiss(self) -> int:
        """End the process; returns how it ended."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what was not yet sent to a dead process
                pipe.close()
        return self.process.wait()


class Workers:
    """`count` processes that read batches of at most `size` pictures of `source`; with 0, and where a child inherits no file, batches are
    read in the caller. Use as a context, or call close()."""

    def __init__(self, source: Readable, size: int, count: int, say: Callable[[str], None] = print) -> None:
        self.source, self.count, self.say = source, count if POSSIBLE else 0, say
        self.descriptor, self.workers = -1, []  # type: int, list[Worker]
        if self.count == 0:
            self.view = np.empty((1, size, *PICTURE), np.uint8)
            return
        self.shape = self.count * AHEAD, size
        self.descriptor, block = memory(self.shape[0] * size * (PICTURE_BYTES + 8))
        self.view, self.orders = views(block, self.shape)
        self.workers = [self.hire() for _ in range(self.count)]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hire(self) -> Worker:
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MINIGRAD_KERNELS": "none"}
        path = os.pathsep.join(map(os.path.abspath, sys.path))
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from minigrad.data.workers import main; main()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            pass_fds=(self.descriptor,), env=environment | {"PYTHONPATH": path},
        )  # fmt: skip
        with contextlib.suppress(BrokenPipeError):
            write(process.stdin, (self.descriptor, self.shape, self.source))
        return Worker(process)

    def batches(self, pieces: Sequence[np.ndarray]) -> Iterator[Batch]:
        """Read each piece (indices of at most `size` pictures), in order. One such iteration at a time."""
        if self.count == 0:
            yield from (read_batch(self.source, piece, self.view[0]) for piece in pieces)
            return
        self.drain()
        for k in range(min(len(pieces), self.count * AHEAD)):
            self.send(k, pieces[k])
        for k in range(len(pieces)):
            yield self.answer(k % self.count)
            later = k + self.count * AHEAD  # into the place that has just been given back
            if later < len(pieces):
                self.send(later, pieces[later])

    def send(self, k: int, piece: np.ndarray) -> None:
        """Ask for batch k. What is to be read stands in the shared memory: a pipe could fill up, and each side wait for the other."""
        place = k % len(self.orders)
        self.orders[place, : len(piece)] = piece
        self.workers[k % self.count].send((place, len(piece)))

    def drain(self) -> None:
        """Let workers finish what an iteration that was broken off had asked for."""
        for k in range(self.count):
            while self.workers[k].tasks:
                self.answer(k)

    def answer(self, k: int) -> Batch:
        """The next batch of worker k. A worker that died is replaced, and reads again; a batch that kills three is given up."""
        for _ in range(3):
            worker = self.workers[k]
            place, count = worker.tasks[0]
            indices = self.orders[place, :count].copy()
            try:
                skipped, seconds = read(worker.process.stdout)
            except (EOFError, pickle.UnpicklingError, OSError):
                how = worker.dismiss()
                first, last = self.source.where(int(indices[0])), self.source.where(int(indices[-1]))
                cause = f"signal {-how}" if how < 0 else f"exit code {how}"
                self.say(f"a worker died ({cause}) while reading {len(indices)} pictures from {first} to {last}; another takes its place")
                tasks = worker.tasks
                worker = self.workers[k] = self.hire()
                for task in tasks:
                    worker.send(task)
                continue
            worker.tasks.popleft()
            if isinstance(skipped, BaseException):  # the system's trouble, or a mistake: not to be passed over
                raise skipped
            good = indices[~np.isin(indices, list(skipped))] if skipped else indices
            return Batch(self.view[place, : len(good)], good, skipped, seconds)
        raise DataError(
            f"three workers in turn died while reading {len(indices)} pictures from {first} to {last}: one of these files kills them"
        )

    def close(self) -> None:
        """End the processes and give the memory back."""
        for worker in self.workers:
            worker.process.kill()
        while self.workers:
            self.workers.pop().dismiss()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def views(block: mmap.mmap, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The shared memory as pictures (places, size, 256, 256, 3) and, behind them, what to read (places, size) int64."""
    pictures = np.frombuffer(block, np.uint8, count=shape[0] * shape[1] * PICTURE_BYTES).reshape(*shape, *PICTURE)
    return pictures, np.frombuffer(block, np.int64, count=shape[0] * shape[1], offset=pictures.size).reshape(shape)


def memory(size: int) -> tuple[int, mmap.mmap]:
    """An unnamed file in memory, or where that is too small (a container's /dev/shm often is) on disk; and its bytes.

    The descriptor is none of the three that a child's pipes take.
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
    raise DataError(f"there is no room for {size / 1e6:.0f} MB of pictures that workers read ahead ({refused}): use --workers 0")


def above_standard(descriptor: int) -> int:
    """A duplicate that is none of 0, 1 and 2."""
    duplicate = os.dup(descriptor)
    if duplicate > 2:
        return duplicate
    try:
        return above_standard(descriptor)
    finally:
        os.close(duplicate)


def write(pipe: IO[bytes] | None, value: object) -> None:
    assert pipe is not None
    pickle.dump(value, pipe, pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def read(pipe: IO[bytes] | None) -> tuple:
    assert pipe is not None
    return pickle.load(pipe)


def main() -> None:
    """A worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    answers, sys.stdout = sys.stdout.buffer, sys.stderr
    try:
        descriptor, shape, source = read(sys.stdin.buffer)
        view, orders = views(mmap.mmap(descriptor, 0), shape)
        while True:
            place, count = read(sys.stdin.buffer)
            try:
                batch = read_batch(source, orders[place, :count], view[place])
                write(answers, (batch.skipped, batch.seconds))
            except Exception as error:
                write(answers, (error, 0.0))
    except (EOFError, BrokenPipeError):  # the parent is done, or gone
        os._exit(0)
