"""The speed-up of several devices: modelled from rates and links, and measured on this machine.

    python benchmarks/scaling.py                    # the model: 2 to 1,024 devices, and its checks
    python benchmarks/scaling.py --measure 1,2      # steps on 1 and on 2 ranks here, in turn
    python benchmarks/scaling.py --overlap 1,5,25   # steps over links of 1, 5 and 25 Gbit/s

The model of a step of N devices, each with b pictures:

    step = forward + max(backward, sums)

where the sum of a layer's gradients begins when its backward pass is done and the sums before it
have arrived, and takes 2 (N - 1) / N bytes / rate, as in a ring. `hybrid` sums only the gradients
of convolutions and splits the dense layers. All devices exchange the inputs of these layers and
their gradients, (N - 1) b values per unit (Krizhevsky 2014, arXiv 1404.5997). The check against his
measurements needs it, but minigrad does not do it. The model leaves out stragglers, reading and
latency, so it is an upper bound.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from setting import describe, whole_number

import alexnet
from minigrad import backend, machine
from minigrad.distributed import Communicator, connect
from minigrad.models.records import Dense, Preset
from minigrad.network import Network, ledger
from minigrad.training.gradients import Gradients

GIGABIT = 1e9 / 8
TCP, RDMA = 0.65, 0.85  # the share of a line's rate that is achieved; assumed
COUNTS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Cluster:
    """Devices of one kind and the links between them.

    images_per_second: that of one device in training. inside, between: bytes per second from a
    device to another one in its node, and from a node to another.
    """

    name: str
    images_per_second: float
    per_node: int
    inside: float
    between: float

    def rate(self, devices: int) -> float:
        """Bytes per second of the slowest link in a ring of this many devices."""
        return self.inside if devices <= self.per_node else min(self.inside, self.between)


CLUSTERS = [
    Cluster("16 CPU cores a rank, 10 GbE", 800, 1, math.inf, 10 * GIGABIT * TCP),
    Cluster("16 CPU cores a rank, 100 GbE", 800, 1, math.inf, 100 * GIGABIT * TCP),
    Cluster("2,000 images/s a GPU, 8 on PCIe 3, 10 GbE", 2000, 8, 10e9, 10 * GIGABIT * TCP),
    Cluster("10,000 images/s a GPU, 8 on PCIe 4, 100 GbE", 1e4, 8, 20e9, 100 * GIGABIT * RDMA),
    Cluster("10,000 images/s a GPU, 8 on NVLink, 400 GbE", 1e4, 8, 200e9, 400 * GIGABIT * RDMA),
]


@dataclass(frozen=True)
class Work:
    """One layer with weights: its share of a step, and what it sends."""

    forward: float  # share of the whole step's arithmetic
    backward: float
    bytes: int  # of its gradients
    dense: bool
    exchanged: int  # for hybrid: bytes per picture of its inputs, their gradients and the logits


def layers(preset: Preset) -> list[Work]:
    """The layers with weights of a preset, from its ledger. Backward computes two products where
    forward computes one; the first layer needs no gradient of its input."""
    rows = [row for row in ledger(preset) if row.parameters]
    total = sum(row.multiply_adds * (2 if i == 0 else 3) for i, row in enumerate(rows))
    works = []
    for i, row in enumerate(rows):
        dense, last = isinstance(row.layer, Dense), row is rows[-1]
        backward = 1 if i == 0 else 2
        works.append(
            Work(
                row.multiply_adds / total,
                backward * row.multiply_adds / total,
                4 * row.parameters,
                dense,
                4 * (2 * int(np.prod(row.inputs)) + last * row.shape[0]) if dense else 0,
            )
        )
    return works


def step(
    preset: Preset, pictures: int, devices: int, rate: float, speed: float, hybrid: bool = False
) -> float:
    """Seconds of a step with this many pictures per device. rate: bytes per second; speed: images
    per second of one device."""
    works, alone = layers(preset), pictures / speed
    forward = alone * sum(work.forward for work in works)
    sent = sum(work.exchanged for work in works) * pictures * (devices - 1) if hybrid else 0
    now = arrived = 0.0
    for work in reversed(works):
        now += alone * work.backward
        if not (hybrid and work.dense):
            arrived = max(arrived, now) + 2 * (devices - 1) / devices * work.bytes / rate
    return forward + sent / rate + max(now, arrived)


def speed_up(
    preset: Preset, pictures: int, devices: int, rate: float, speed: float, hybrid: bool = False
) -> float:
    """Images per second of this many devices, divided by those of one."""
    return devices * (pictures / speed) / step(preset, pictures, devices, rate, speed, hybrid)


@dataclass(frozen=True)
class Published:
    """A measured speed-up, and the link that the model assumes for it."""

    devices: int
    speed_up: float
    rate: float  # bytes a second


# Krizhevsky 2014, table 1: AlexNet with one tower on Tesla K20, hybrid, 128 pictures a device; one
# took 98.05 hours for 90 epochs of 1,281,167 pictures. The links are fitted: one rate for two and
# four cards, and half of it for eight, which share the root of the PCIe tree.
K20_SPEED = 90 * 1_281_167 / (98.05 * 3600)
K20 = [Published(2, 1.95, 2.7e9), Published(4, 3.74, 2.7e9), Published(8, 6.25, 1.35e9)]


def checks() -> Iterator[tuple[Published, float]]:
    """Published speed-ups, and the model's predictions."""
    preset = alexnet.PRESETS["torchvision"]  # the network of that paper
    for known in K20:
        yield known, speed_up(preset, 128, known.devices, known.rate, K20_SPEED, hybrid=True)


def print_model(preset: Preset) -> None:
    works = layers(preset)
    total, dense = (sum(w.bytes for w in works if w.dense >= which) for which in (False, True))
    print(
        f"gradients: {total / 1e6:.1f} MB, of which dense layers {dense / 1e6:.1f} MB\n\n"
        "Krizhevsky 2014, table 1, K20, hybrid          published   the model"
    )
    for known, value in checks():
        label = f"{known.devices} cards, {known.rate / 1e9:g} GB/s a card (fitted)"
        print(f"  {label:44} {known.speed_up:9.2f} {value:11.2f}")
    head = "".join(f"{n:6}" for n in COUNTS)
    print(f"\nefficiency, %; pictures a device; devices{'':8}{head}")
    for cluster in CLUSTERS:
        for pictures in (128, 256):
            cells = (
                speed_up(preset, pictures, n, cluster.rate(n), cluster.images_per_second) / n
                for n in COUNTS
            )
            print(f"{cluster.name:44} {pictures:4}" + "".join(f"{100 * c:6.0f}" for c in cells))


class Link(Communicator):
    """A stand-in for two ranks with the same rows and a link of `rate` bytes per second between
    them: a sum sleeps for as long as its transfer would take."""

    size = 2

    def __init__(self, rate: float, overlaps: bool) -> None:
        self.bytes_a_second, self.overlaps, self.slept = rate, overlaps, 0.0

    def exchange(self, value: object) -> list[object]:
        return [value, value]

    def sum(self, array: backend.Array, after: object = None) -> None:
        seconds = array.nbytes / self.bytes_a_second
        self.slept += seconds
        time.sleep(seconds)


class Stepper:
    """Whole training steps of a full-size preset on pictures of noise."""

    def __init__(self, preset: Preset, comm: Communicator, pictures: int) -> None:
        self.model = Network(preset, seed=0)
        self.optimizer = self.model.make_optimizer()
        self.comm = comm
        rng = np.random.default_rng(comm.rank)
        size = preset.preprocessing.size
        self.x = rng.standard_normal((pictures, size, size, 3), dtype=np.float32)
        self.t = rng.integers(0, 1000, pictures)
        self.gradients = Gradients(self.model, comm=comm)

    def __call__(self, comm: Communicator | None = None) -> float:
        """Seconds of one step, over another Communicator if one is given."""
        gradients = self.gradients if comm is None else Gradients(self.model, comm=comm)
        self.comm.exchange(None)
        began = time.perf_counter()
        gradients.of(self.x, self.t)
        self.optimizer.step()
        return time.perf_counter() - began


def print_overlap(preset: Preset, rates: Sequence[int], pictures: int, repeats: int) -> None:
    """Time steps over links of these Gbit/s, with sums during the backward pass and after it."""
    stepper = Stepper(preset, Communicator(), pictures)
    for _ in range(2):
        stepper()
    print(
        f"\n{pictures} pictures a rank, two ranks; seconds, medians of {repeats}\n"
        "Gbit/s   compute  transfer   after   during   during / max(compute, transfer)"
    )
    for rate in rates:
        rows = []
        for _ in range(repeats):
            after, during = (Link(rate * GIGABIT, overlaps) for overlaps in (False, True))
            rows.append((stepper(), stepper(after), stepper(during), during.slept))
        compute, after_s, during_s, slept = np.median(rows, axis=0)
        ratio = during_s / max(compute, slept)
        print(
            f"{rate:6} {compute:9.2f} {slept:9.2f} {after_s:7.2f} {during_s:8.2f} {ratio:12.2f}",
            flush=True,
        )


def print_measured(counts: Sequence[int], preset: str, batch: int, blocks: int, steps: int) -> None:
    """Time steps of the same joint batch on these numbers of ranks here, in alternating blocks."""
    beside = Path(sys.executable).with_name("mpiexec")
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec") or "mpiexec"
    best: dict[int, list[float]] = {n: [] for n in counts}
    for _ in range(blocks):
        for n in counts:
            threads = max(1, (os.cpu_count() or 1) // n)
            command = [sys.executable, __file__, "--rank", f"--preset={preset}"]
            command += [f"--batch={batch}", f"--steps={steps}"]
            launcher = [mpiexec, "-n", str(n)] if n > 1 else []
            out = subprocess.run(
                [*launcher, *command],
                env=os.environ | {"OPENBLAS_NUM_THREADS": str(threads)},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            ).stdout
            best[n] += [float(word) for word in out.split()]
    first = counts[0]
    print(f"\njoint batch {batch}; seconds of a step on this machine")
    print("ranks   median     best   median / that of the first")
    for n, values in best.items():
        ratio = np.median(values) / np.median(best[first])
        print(f"{n:5} {np.median(values):8.2f} {min(values):8.2f} {ratio:8.2f}")


def run_rank(preset: Preset, batch: int, steps: int) -> None:
    """One rank of print_measured: rank 0 prints the seconds of each step."""
    comm = connect()
    machine.set_up(comm.local_size)
    stepper = Stepper(preset, comm, batch // comm.size)
    seconds = [stepper() for _ in range(steps + 2)][2:]
    if comm.rank == 0:
        print(*seconds)


def numbers(text: str) -> list[int]:
    return [whole_number(word) for word in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="paper", choices=alexnet.PRESETS)
    parser.add_argument("--measure", type=numbers, metavar="RANKS", help="1,2")
    parser.add_argument("--overlap", type=numbers, metavar="GBITS", help="1,5,10,25")
    parser.add_argument("--batch", type=whole_number, default=128, help="the joint batch")
    parser.add_argument("--blocks", type=whole_number, default=4)
    parser.add_argument("--steps", type=whole_number, default=4, help="in a block")
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    preset = alexnet.PRESETS[args.preset]
    if args.rank:
        run_rank(preset, args.batch, args.steps)
        return 0
    print(describe() + "\n")
    if args.measure:
        print_measured(args.measure, args.preset, args.batch, args.blocks, args.steps)
    elif args.overlap:
        machine.set_up()
        print_overlap(preset, args.overlap, args.batch // 2, args.blocks * 2)
    else:
        print_model(preset)
    return 0


if __name__ == "__main__":
    sys.exit(main())
