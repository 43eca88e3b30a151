"""Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random
numbers: as easy as 1, 2, 3", SC 2011).

A random number here is a pure function of (seed, stream, counter, element):

    key     = (seed, stream)                          which sequence
    counter = (element // 4, 0, draw low, draw high)  where in it; word element % 4 of the four

The only state is the number of draws that each stream has made. So the random numbers do not depend
on the number of workers or threads, the backward pass can make a dropout mask again, and resuming a
run means setting a few integers. kernels/dropout.cu computes the same function, bit for bit.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from minigrad.backend import Array

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
LOW = 0xFFFFFFFF
PIECE = 1 << 18  # numbers made at a time: temporaries stay small


def philox(counter: tuple[Array | int, ...], key: tuple[int, int]) -> tuple[Array, ...]:
    """Four words of 32 random bits for a counter of four words and a key of two; words may be
    arrays (held in uint64)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> 32) ^ c1 ^ k0,
            product1 & LOW,
            (product0 >> 32) ^ c3 ^ k1,
            product0 & LOW,
        )
        k0, k1 = (k0 + KEY_STEPS[0]) & LOW, (k1 + KEY_STEPS[1]) & LOW
    return c0, c1, c2, c3


def bits(
    seed: int, stream: int, draw: int, size: int, like: Array | None = None, start: int = 0
) -> Array:
    """Words start .. start + size - 1 of draw number `draw` of a stream, uint32. Made on the device
    of `like`."""
    blocks = np.arange(start // 4, (start + size + 3) // 4, dtype=np.uint64, like=like)
    low, high = np.full_like(blocks, draw & LOW), np.full_like(blocks, draw >> 32)
    words = philox((blocks, np.zeros_like(blocks), low, high), (seed, stream))
    return np.stack(words, axis=-1).astype(np.uint32).reshape(-1)[start % 4 :][:size]


class Stream:
    """One sequence of random draws. Each layer that needs randomness has its own, and so does each
    other purpose (crops, ...).

    Args:
        seed: 0 <= seed < 2**32; a run has one seed.
        name: tells the streams of one seed apart: a string (hashed to 32 bits) or an integer.

    `counter` is the number of draws made so far; it is the whole state.
    """

    def __init__(self, seed: int, name: str | int) -> None:
        if not 0 <= seed <= LOW:
            raise ValueError(
                f"seed {seed} is out of range: it must be a whole number from 0 to 2**32 - 1"
            )
        self.seed, self.name = int(seed), name
        self.stream = zlib.crc32(name.encode()) if isinstance(name, str) else int(name) & LOW
        self.counter = 0

    def __repr__(self) -> str:
        return f"Stream(seed={self.seed}, name={self.name!r}, counter={self.counter})"

    def next_draw(self) -> int:
        """Return the number of the next draw and advance the stream by one."""
        if (counters := getattr(_rewinding, "counters", None)) is not None:
            counters.setdefault(self, self.counter)
        self.counter += 1
        return self.counter - 1

    def uniform(self, shape: tuple[int, ...] | int = ()) -> np.ndarray:
        """float64 in [0, 1), 53 random bits each."""
        draw, size = self.next_draw(), int(np.prod(shape))
        out = np.empty(size)
        for i in range(0, size, PIECE):
            words = bits(
                self.seed, self.stream, draw, 2 * min(PIECE, size - i), start=2 * i
            ).astype(np.uint64)
            out[i : i + PIECE] = (((words[0::2] >> 5) << 26) + (words[1::2] >> 6)) * 2.0**-53
        return out.reshape(shape)

    def normal(self, shape: tuple[int, ...] | int = ()) -> np.ndarray:
        """float64, mean 0, standard deviation 1: sqrt(-2 ln u) cos(2 pi v), u in (0, 1] (Box and
        Muller)."""
        u, v = self.uniform((2, int(np.prod(shape))))
        np.subtract(1, u, out=u)
        for i in range(0, u.size, PIECE):
            u_, v_ = u[i : i + PIECE], v[i : i + PIECE]
            u_[...] = np.sqrt(-2 * np.log(u_)) * np.cos(2 * np.pi * v_)
        return u.reshape(shape)

    def integers(self, high: int, shape: tuple[int, ...] | int = ()) -> np.ndarray:
        """int64 in 0 .. high - 1 (high up to 2**32; the bias of the multiplication is below high /
        2**53)."""
        return (self.uniform(shape) * high).astype(np.int64)

    def permutation(self, n: int) -> np.ndarray:
        """The numbers 0 .. n - 1 in random order."""
        return np.argsort(self.uniform(n), kind="stable")


_rewinding = threading.local()  # .counters: {stream: its counter before}, inside `rewound`


@contextmanager
def rewound() -> Iterator[None]:
    """Inside this context streams run as usual; at its end each is set back to where it was, so
    that the next pass draws the same numbers.

    A gradient check freezes dropout in this way: every evaluation sees the same masks.
    """
    outer, _rewinding.counters = getattr(_rewinding, "counters", None), {}
    try:
        yield
    finally:
        for stream, counter in _rewinding.counters.items():
            stream.counter = counter
        _rewinding.counters = outer


_parts = threading.local()  # .row, inside `part`


@contextmanager
def part(row: int) -> Iterator[None]:
    """Inside this context a batch is a part of a larger one, from row `row` of that on: dropout
    draws the numbers that the larger batch would have in these rows."""
    before, _parts.row = first_row(), row
    try:
        yield
    finally:
        _parts.row = before


def first_row() -> int:
    """The row of the whole batch at which the current batch begins (`part`)."""
    return getattr(_parts, "row", 0)


_default = Stream(0, "default")


def default_stream() -> Stream:
    """The stream that functions use when they are given none."""
    return _default


def stream(rng: Stream | None, who: str) -> Stream:
    """The stream that a function or layer draws from: the one it was given, or the default one."""
    if not isinstance(rng, (Stream, type(None))):
        raise TypeError(
            f"{who}: rng must be a minigrad.random.Stream, such as random.Stream(0, 'weights'), or"
            f" None; not {type(rng).__name__}"
        )
    return _default if rng is None else rng


def seed(value: int) -> None:
    """Start the default stream anew from `value`."""
    global _default
    _default = Stream(value, "default")
