"""Tells in words how a kernel computed one element: `python -m minigrad.kernels trace`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad import kernels
from minigrad.kernels.trace import Launch


def made_of(accesses: np.ndarray, store: int) -> np.ndarray:
    """The accesses that one thread made for the store at index `store`: everything after its
    previous store, up to and including this one."""
    before = np.flatnonzero(accesses["write"][:store])
    return accesses[before[-1] + 1 if len(before) else 0 : store + 1]


def story(name: str, at: Sequence[int], launch: Launch) -> list[str]:
    """How a kernel computed one element of its output: the block, the threads, each access in
    order, and the lines of the source. Raises ValueError if there is no such element."""
    rows = kernels.signatures()[name][1]
    output = next(n for n, p in enumerate(rows) if p.pointer and not p.const)
    array = launch.args[output]
    if len(at) != array.ndim or any(not 0 <= i < side for i, side in zip(at, array.shape)):
        raise ValueError(
            f"{name}'s output {rows[output].name} has shape {array.shape}; there is no element"
            f" {', '.join(map(str, at))}"
        )
    byte = int(np.ravel_multi_index(tuple(at), array.shape)) * array.itemsize
    # Find the block: with one thread per block, the whole launch runs in moments.
    found = launch.run(threads=1, watch=(output, byte)).accesses
    block = int(found[found["write"] == 1][-1]["block"])
    trace = launch.run(some=range(block, block + 1))
    a = trace.accesses
    mine = (a["array"] == output) & (a["offset"] == byte) & (a["write"] == 1)
    owner = int(a[mine][-1]["thread"])
    own = a[a["thread"] == owner]
    stores = np.flatnonzero(
        (own["array"] == output) & (own["offset"] == byte) & (own["write"] == 1)
    )
    lines = [
        f"{rows[output].name}[{', '.join(map(str, at))}] is stored by thread {owner} of block"
        f" {block}; the launch has {launch.blocks:,} blocks of {trace.threads} threads. What"
        " each thread loaded since its previous store (registers are not recorded):",
    ]
    used: list[str] = []

    def describe(access: Any, words: str) -> None:
        used.append(trace.line(access))
        lines.append(f"  thread {int(access['thread'])} {words} ({trace.line(access)})")

    epoch = 0
    for store in stores:
        needed = made_of(own, int(store))
        for load in needed[(needed["array"] < 0) & (needed["write"] == 0)]:
            put = a[(a["array"] < 0) & (a["offset"] == load["offset"]) & (a["write"] == 1)]
            put = put[put["epoch"] < load["epoch"]]
            if not len(put):
                continue
            other = a[a["thread"] == put[put["epoch"].argmax()]["thread"]]
            last = np.flatnonzero(
                (other["array"] < 0)
                & (other["offset"] == load["offset"])
                & (other["write"] == 1)
                & (other["epoch"] < load["epoch"])
            )[-1]
            sources = [each for each in made_of(other, int(last))[:-1] if not each["write"]]
            names = list(dict.fromkeys(trace.where(each) for each in sources))
            made = f", made of {', '.join(names)}" if names else ", a number by itself"
            describe(other[last], f"stores {trace.where(other[last])}{made}")
            epoch = max(epoch, int(load["epoch"]))
        if epoch:
            lines.append("  a barrier: no thread continues before all of these are stored")
        for access in needed:
            verb = "stores" if access["write"] else "loads"
            describe(access, f"{verb} {trace.where(access)}")
    return [*shortened(lines), "", *quoted(used)]


def shortened(lines: list[str], most: int = 48) -> list[str]:
    """The lines; of a long story without its middle."""
    if len(lines) <= most:
        return lines
    left = len(lines) - most
    return [*lines[: most // 2], f"  ... {left} more ...", *lines[-most // 2 :]]


def quoted(places: Sequence[str]) -> list[str]:
    """The lines of the source at these places, in the order of the source."""
    found = sorted({(name, int(n)) for name, n in (p.split(":") for p in places)})
    texts = {name: (kernels.folder() / name).read_text().splitlines() for name, _ in found}
    return [f"{name}:{n:<5}{texts[name][n - 1]}" for name, n in found]
