"""Finds mistakes and unnecessary memory traffic in the recorded accesses of a kernel.

- races: two threads access one address, at least one of them stores, and no barrier lies between.
  Between two blocks there never is a barrier;
- overruns: accesses outside their array;
- requests: the loads or stores that the 32 threads of a warp make together at one place of the
  source. A GPU moves memory in sectors of 32 bytes, so a request for 32 neighbours in float32 is
  four sectors, and one for 32 numbers far apart is 32 (CUDA C++ Best Practices Guide, "Coalesced
  Access to Global Memory"). Shared memory lies in 32 banks, each 4 bytes wide; different words of
  one bank are served one after the other ("Shared Memory and Memory Banks").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad.kernels.trace import Trace

WARP, SECTOR, BANKS, WORD = 32, 32, 32, 4


def races(trace: Trace) -> list[str]:
    """A sentence for each pair of source lines at which two threads access the same address, at
    least one of them to store, without a barrier between them. Two blocks have no barriers."""
    a = trace.accesses
    if not len(a):
        return []
    # Two parameters may be the same array. Each block has its own shared memory.
    begin = np.zeros(len(a), np.int64)
    for n, array in trace.arrays.items():
        begin[a["array"] == n] = array.address
    space = np.where(a["array"] < 0, a["block"].astype(np.int64), -1)
    address = begin + a["offset"]
    found: dict[tuple, str] = {}
    order = np.lexsort((address, space))
    edges = np.flatnonzero((np.diff(space[order]) != 0) | (np.diff(address[order]) != 0))
    for group in np.split(order, edges + 1):
        some = a[group]
        if not some["write"].any() or len({(int(r["block"]), int(r["thread"])) for r in some}) < 2:
            continue
        for one in some[some["write"] == 1]:
            apart = (some["block"] != one["block"]) | (
                (some["thread"] != one["thread"]) & (some["epoch"] == one["epoch"])
            )
            for other in some[apart]:
                key = tuple(sorted({trace.line(one), trace.line(other)}))
                if key not in found:
                    what = "stores" if other["write"] else "loads"
                    found[key] = (
                        f"{trace.kernel}: {trace.where(one)} is stored at {trace.line(one)} by"
                        f" {who(one)}, and {who(other)} {what} it at {trace.line(other)}, with no"
                        " barrier between them"
                    )
    return list(found.values())


def who(access: Any) -> str:
    return f"thread {int(access['thread'])} of block {int(access['block'])}"


def overruns(trace: Trace) -> list[str]:
    """A sentence for each line of the source that accesses memory outside an array."""
    found: dict[str, str] = {}
    for access in trace.accesses:
        array = trace.arrays.get(int(access["array"]))
        size = trace.shared if array is None else array.size * array.itemsize
        if not 0 <= access["offset"] <= size - int(access["size"]):
            what = "stores" if access["write"] else "loads"
            found.setdefault(
                trace.line(access),
                f"{trace.kernel}: {who(access)} {what} {trace.where(access)} at"
                f" {trace.line(access)}, outside the array",
            )
    return list(found.values())


@dataclass(frozen=True)
class Request:
    """The accesses at one place of the source. `requests` is how many requests warps make there,
    `each` is how many sectors one moves on average (in shared memory: for how many words of one
    bank it waits), and `fewest` is the smallest number that would do for its bytes."""

    line: str
    array: str
    write: bool
    requests: int
    each: float
    fewest: float


def requests(trace: Trace) -> list[Request]:
    """The requests of a launch, place by place, in the order of the source."""
    a = trace.accesses
    site = ["file", "line", "column", "array", "write"]
    thread = a["block"].astype(np.int64) * trace.threads + a["thread"]
    sites = np.unique(a[site], return_inverse=True)[1].reshape(-1)
    # The n-th access of a thread at a place belongs to the n-th request of its warp there.
    order = np.lexsort((np.arange(len(a)), thread, sites))
    same = np.r_[False, (np.diff(sites[order]) == 0) & (np.diff(thread[order]) == 0)]
    starts = np.where(same, 0, np.arange(len(a)))
    turn = np.empty(len(a), np.int64)
    turn[order] = np.arange(len(a)) - np.maximum.accumulate(starts)
    found = []
    for s in range(sites.max(initial=-1) + 1):
        at = sites == s
        some = a[at]
        keys = np.stack([some["block"], some["thread"] // WARP, turn[at]], axis=1)
        groups = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
        each, fewest = [], []
        for g in range(groups.max() + 1):
            one = some[groups == g]
            wide = max(1, int(one["size"][0]) // WORD)
            words = np.unique(one["offset"][:, None] // WORD + np.arange(wide))
            if int(one["array"][0]) < 0:
                each.append(np.bincount(words % BANKS, minlength=BANKS).max())
                fewest.append(-(-len(words) // BANKS))
            else:
                last = (one["offset"] + one["size"] - 1) // SECTOR
                sectors = np.unique(np.concatenate([one["offset"] // SECTOR, last]))
                each.append(len(sectors))
                moved = len(np.unique(one["offset"])) * int(one["size"][0])
                fewest.append(-(-moved // SECTOR))
        first = some[0]
        found.append(
            Request(
                trace.line(first),
                trace.array_name(int(first["array"])),
                bool(first["write"]),
                len(each),
                float(np.mean(each)),
                float(np.mean(fewest)),
            )
        )
    return sorted(found, key=lambda r: (r.line.split(":")[0], int(r.line.split(":")[1]), r.write))


def conflicts(trace: Trace, most: float = 1.0) -> list[str]:
    """A sentence for each place where a warp waits for words of one bank of shared memory, more
    than `most` times as many as necessary."""
    return [
        f"{trace.kernel}: a warp waits for {r.each:.3g} words of one bank of shared memory at"
        f" {r.line}, where {r.fewest:.3g} would do"
        for r in requests(trace)
        if r.array == "shared" and r.each > most * r.fewest
    ]


def strided(trace: Trace, most: float = 2.0) -> list[str]:
    """A sentence for each place where a warp moves more than `most` times the sectors that its
    bytes need."""
    return [
        f"{trace.kernel}: a warp {'stores' if r.write else 'loads'} {r.array} at {r.line} in"
        f" {r.each:.3g} sectors, where {r.fewest:.3g} would do"
        for r in requests(trace)
        if r.array != "shared" and r.each > most * r.fewest
    ]
