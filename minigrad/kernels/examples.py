"""A launch of every kernel that a GPU is given, for tracing, and the table of what each one moves.

A layer's launches are those of ALEXNET in its file, a call as AlexNet makes it for one picture;
where there is no ALEXNET, those of its CASES. SGD and the preparation of pictures belong to no
layer.
"""

from __future__ import annotations

from unittest import mock

import numpy as np

from minigrad import functions
from minigrad.data.preparation import prepare_images
from minigrad.engine import Tensor
from minigrad.functions import conv2d_direct
from minigrad.kernels.findings import Request, requests
from minigrad.kernels.trace import Launch, launches
from minigrad.optim import sgd_update


def examples() -> dict[str, Launch]:
    """The first launch of each kernel, by name."""
    rng = np.random.default_rng(0)

    def numbers(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    # On a CPU convolution would take the other way, without columns.
    with launches() as kept, mock.patch.object(conv2d_direct, "ready", return_value=False):
        for case in functions.examples():
            leaves = [Tensor(a, requires_grad=a.dtype.kind == "f") for a in case.draw("float32")]
            y = case(*leaves)
            y.backward(numbers(*y.shape))
        w, v, g = numbers(3, 43_264)
        sgd_update(w, v, g, 0.01, 0.9, 5e-4, "paper")
        pictures = rng.integers(0, 256, (1, 256, 256, 3)).astype(np.uint8)
        crop, mean = np.array([[5, 9, 1]], np.int32), numbers(227, 227, 3)
        prepare_images(pictures, crop, mean, numbers(1, 3), numbers(3), np.empty_like(mean[None]))
    return {launch.kernel: launch for launch in reversed(kept)}


def sector_table() -> str:
    """For kernels/README.md: what each request of a warp moves, in the middle block of a launch of
    one of AlexNet's layers: sectors of global memory, words of one bank of shared memory; behind a
    slash the fewest that would do, where that is less."""
    lines = ["| kernel | sectors a load | sectors a store | words of a bank |", "|---|---|---|---|"]
    for name, launch in sorted(examples().items()):
        middle = launch.blocks // 2
        found = requests(launch.run(some=range(middle, middle + 1)))
        cells = [
            ", ".join(dict.fromkeys(cell(r) for r in found if kind(r) == column))
            for column in ("load", "store", "shared")
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines)


def kind(r: Request) -> str:
    return "shared" if r.array == "shared" else "store" if r.write else "load"


def cell(r: Request) -> str:
    more = f" / {r.fewest:.3g}" if r.each > r.fewest else ""
    return f"{r.each:.3g}{more}" if r.array == "shared" else f"{r.array} {r.each:.3g}{more}"
