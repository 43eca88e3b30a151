"""Every kernel at AlexNet's sizes, checked against its array form and then timed: ms, GB/s and the
share of the copy bandwidth.

    python benchmarks/bench_kernels.py                  # batch 128, alone
    python benchmarks/bench_kernels.py --busy       # the same, while another process runs
    python benchmarks/bench_kernels.py --device gpu

GB/s counts each element that must be read or written once, as the header of each kernel says; the
copy ceiling is `y[...] = x` on 256 MB by a kernel of the same kind. A convolution on a CPU
(conv2d_direct.cpp) is counted in GFLOP/s; its ceiling is a 2048^3 sgemm of the BLAS.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from setting import describe, whole_number, writable

from minigrad import backend, kernels, optim, random
from minigrad.data.preparation import Preparation
from minigrad.functions import conv2d_columns
from minigrad.functions.avg_pool2d import AvgPool2d
from minigrad.functions.bias import add_bias, sum_rows
from minigrad.functions.conv2d import Conv2d
from minigrad.functions.dropout import Dropout
from minigrad.functions.geometry import windows
from minigrad.functions.lrn import LRN
from minigrad.functions.lrn_within_map import LRNWithinMap
from minigrad.functions.max_pool2d import MaxPool2d
from minigrad.functions.relu import ReLU
from minigrad.functions.softmax_cross_entropy import SoftmaxCrossEntropy

CONVOLUTIONS = (  # name, image, filters, size, stride, padding, groups
    ("conv1", (227, 227, 3), 96, 11, 4, 0, 1),
    ("conv2", (27, 27, 96), 256, 5, 1, 2, 2),
    ("conv3", (13, 13, 256), 384, 3, 1, 1, 1),
    ("conv4", (13, 13, 384), 384, 3, 1, 1, 2),
    ("conv5", (13, 13, 384), 256, 3, 1, 1, 2),
)


@dataclass(frozen=True)
class Row:
    """A line of the table. `call` runs the kernel and returns its output; `work` is the number of
    bytes that must be moved, or of operations."""

    name: str
    x: backend.Array
    call: Callable[[], backend.Array]
    work: float
    unit: str = "GB/s"
    changed: tuple[backend.Array, ...] = ()  # arrays that the kernel works on in place

    def output(self) -> np.ndarray:
        """The kernel's output, computed from the same arrays each time."""
        before = [a.copy() for a in self.changed]
        y = backend.to_numpy(self.call()).copy()
        for a, b in zip(self.changed, before):
            a[...] = b
        return y


def convolutions(n: int) -> list[Row]:
    """Each of AlexNet's convolutions and its gradients."""
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for name, image, O, size, stride, padding, groups in CONVOLUTIONS:
        x = rng.standard_normal((n, *image), dtype=np.float32)
        w = rng.standard_normal((size, size, image[2] // groups, O), dtype=np.float32)
        conv = Conv2d(windows("conv2d", x, size, stride, padding, False), groups)
        gy = rng.standard_normal(conv.forward(x, w, None).shape, dtype=np.float32)
        operations = 2 * gy.size * w.size // O

        def gradient(*needs: bool, conv=conv, saved=(x, w, None), gy=gy) -> backend.Array:
            conv.needs = needs
            return np.concatenate(
                [g.ravel() for g in with_saved(conv, saved).backward(gy) if g is not None]
            )

        rows.append(
            Row(
                f"y of {name}",
                x,
                lambda conv=conv, x=x, w=w: conv.forward(x, w, None),
                operations,
                "GFLOP/s",
            )
        )
        rows.append(
            Row(
                f"gw, gb of {name}",
                x,
                lambda call=gradient: call(False, True, True),
                operations,
                "GFLOP/s",
            )
        )
        if name != "conv1":
            rows.append(
                Row(
                    f"gx of {name}",
                    x,
                    lambda call=gradient: call(True, False, False),
                    operations,
                    "GFLOP/s",
                )
            )
    return rows


def cases(n: int, device: str) -> list[Row]:
    """The other kernels."""
    rng = np.random.default_rng(0)

    def numbers(*shape: int) -> backend.Array:
        return backend.to_device(rng.standard_normal(shape, dtype=np.float32), device)

    rows: list[Row] = []

    def add(
        name: str,
        x: backend.Array,
        call: Callable,
        per_element: float,
        elements: int | None = None,
        changed: tuple = (),
    ) -> None:
        rows.append(
            Row(
                name,
                x,
                call,
                per_element * (x.size if elements is None else elements),
                changed=changed,
            )
        )

    x = numbers(n, 55, 55, 96)
    gy = numbers(n, 55, 55, 96)
    relu = ReLU()
    relu.forward(x)
    saved = relu.saved
    add("relu_forward", x, lambda: ReLU().forward(x), 8)
    add("relu_backward", x, lambda: with_saved(relu, saved).backward(gy), 12)
    lrn = LRN(5, 2.0, 1e-4, 0.75, 1)
    add("lrn_forward", x, lambda: lrn.forward(x), 8)
    add("lrn_backward", x, lambda: with_saved(lrn, (x,)).backward(gy), 12)
    within = LRNWithinMap(5, 1.0, 1e-3, 0.75)
    add("lrn_within_map_forward", x, lambda: within.forward(x), 8)
    add("lrn_within_map_terms, _backward", x, lambda: with_saved(within, (x,)).backward(gy), 32)
    for kind, name in ((MaxPool2d, "max"), (AvgPool2d, "avg")):
        pool = kind(windows("pool", x, 3, 2, 0, False))
        y = pool.forward(x)
        kept, gp = pool.saved, numbers(*y.shape)
        extra = y.size * (5 if name == "max" else 4)
        add(f"{name}_pool_forward", x, lambda pool=pool: pool.forward(x), 1, 4 * x.size + extra)
        add(
            f"{name}_pool_backward",
            x,
            lambda pool=pool, kept=kept, gp=gp: with_saved(pool, kept).backward(gp),
            1,
            4 * x.size + extra,
        )
    for name, shape, _, size, stride, padding, groups in CONVOLUTIONS[:3]:
        a = numbers(4, *shape)
        win, room = windows("conv2d", a, size, stride, padding, False), conv2d_columns.Room(a)
        cs = slice(0, shape[2] // groups)
        cols = conv2d_columns.columns(a, cs, win, room).copy()
        ga = numbers(*a.shape)
        made = partial(conv2d_columns.columns, a, cs, win, room)
        add(f"im2col {name}", a, made, 8, cols.size)
        add(
            f"col2im {name}",
            a,
            partial(scatter, cols, ga, cs, win),
            4,
            cols.size + ga.size // groups,
        )
    flat = x.reshape(-1, 96)
    b, target = numbers(96), flat.copy()
    add("add_bias", flat, lambda: biased(target, b), 8, changed=(target,))
    add("sum_rows", flat, lambda: sum_rows(flat), 4)
    h = numbers(n, 4096)
    drop = Dropout(0.5, 1.0, random.Stream(0, "bench"))
    add("dropout", h, lambda: drop.apply(h), 8)
    logits = numbers(n, 1000)
    labels = backend.to_device(rng.integers(0, 1000, n), device)
    loss = SoftmaxCrossEntropy(labels, "none")
    loss.forward(logits)
    p, each = loss.saved, numbers(n)
    add(
        "softmax_cross_entropy_forward",
        logits,
        lambda: SoftmaxCrossEntropy(labels, "none").forward(logits),
        8,
    )
    add("softmax_cross_entropy_backward", logits, lambda: with_saved(loss, p).backward(each), 8)
    if device == "cpu":  # pictures are prepared on the CPU for any device
        pictures = rng.integers(0, 256, (n, 256, 256, 3), dtype=np.uint8)
        preparation = Preparation(227, pictures.mean(axis=0)[14:241, 14:241], 1.0, np.eye(3))
        crops = np.stack(
            [rng.integers(0, 30, n), rng.integers(0, 30, n), np.arange(n) % 2], axis=1
        ).astype(np.int32)
        ready, noise = (
            np.empty((n, 227, 227, 3), np.float32),
            rng.standard_normal((n, 3), dtype=np.float32),
        )
        add(
            "prepare_images", ready, lambda: prepared(preparation, ready, pictures, crops, noise), 5
        )
    w, v, g = numbers(9216, 4096), numbers(9216, 4096), numbers(9216, 4096)
    add("sgd_update", w, lambda: step(w, v, g), 20, changed=(w, v))
    return rows


def with_saved(function, saved):
    function.saved = saved
    return function


def scatter(cols, out, cs, win):
    conv2d_columns.scatter(cols, out, cs, win)
    return out


def prepared(preparation, out, *given):
    preparation.prepare_into(out, *given)
    return out


def biased(y, b):
    add_bias(y, b)
    return y


def step(w, v, g):
    optim.sgd_update(w, v, g, 1e-9, 0.9, 0.0005, "paper")
    return w


def timed(call: Callable, device: str, seconds: float) -> list[float]:
    call()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        call()
        backend.synchronize(device)
        times.append(time.perf_counter() - start)
    return times


def spin() -> None:
    """Keep a core busy."""
    while True:
        sum(range(10_000))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=whole_number, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each kernel")
    parser.add_argument("--busy", action="store_true", help="with another process on one core")
    parser.add_argument("--json", type=writable, metavar="FILE")
    args = parser.parse_args()
    if args.device != "cpu" and backend.gpu_count() == 0:
        parser.error(
            f"--device {args.device}: there is no GPU that CuPy can use (python -m minigrad says"
            " more)"
        )
    if not kernels.ready(backend.to_device(np.zeros(1, np.float32), args.device)):
        parser.error(f"there are no kernels to time on {args.device}: {kernels.state()}")
    if args.busy:
        multiprocessing.get_context("spawn").Process(target=spin, daemon=True).start()
        time.sleep(1)
    x = backend.to_device(np.ones(1 << 26, np.float32), args.device)
    y = np.zeros_like(x)
    blocks = x.size // kernels.SPAN

    def copy() -> (
        None
    ):  # ReLU of positive numbers into memory that is allocated already is a copy by a kernel
        kernels.launch("relu_forward", blocks, x, y, x.size, kernels.SPAN)

    ceiling = 8 * x.size / np.median(timed(copy, args.device, args.seconds)) / 1e9
    setting = describe()
    print(setting)
    print(f"batch {args.batch}, {args.device}, {kernels.threads()} CPU threads, busy: {args.busy}")
    print(f"copy ceiling {ceiling:.1f} GB/s (read and write)")
    ceilings = {"GB/s": ceiling}
    table = cases(args.batch, args.device)
    if args.device == "cpu":
        a = np.ones((2048, 2048), np.float32)
        ceilings["GFLOP/s"] = (
            2 * 2048**3 / np.median(timed(lambda: np.matmul(a, a), args.device, args.seconds)) / 1e9
        )
        print(f"sgemm ceiling {ceilings['GFLOP/s']:.0f} GFLOP/s")
        table = convolutions(args.batch) + table
    print(
        f"{'kernel':32}{'x':>18}{'ms':>9}{'min - max':>18}{'rate':>15}{'of ceiling':>12}  largest"
        " difference from the array form"
    )
    result = {"machine": setting.split("\n"), "ceilings": ceilings, "rows": []}
    chosen = os.environ.pop("MINIGRAD_KERNELS", "auto")
    for row in table:
        os.environ["MINIGRAD_KERNELS"] = "none"
        expected = row.output()
        os.environ["MINIGRAD_KERNELS"] = chosen
        error = float(np.abs(row.output() - expected).max() / max(1.0, np.abs(expected).max()))
        if not error < 1e-4:
            raise SystemExit(
                f"{row.name}: differs from its array form by {error}; nothing is timed"
            )
        times = timed(row.call, args.device, args.seconds)
        median = float(np.median(times))
        rate = row.work / median / 1e9
        share = rate / ceilings[row.unit]
        spread = f"{min(times) * 1e3:.2f} - {max(times) * 1e3:.2f}"
        shape = "x".join(map(str, row.x.shape))
        print(
            f"{row.name:32}{shape:>18}{median * 1e3:9.2f}{spread:>18}{rate:7.1f}"
            f" {row.unit:7}{share:12.0%}  {error:.1e}",
            flush=True,
        )
        result["rows"].append(
            {"kernel": row.name, "ms": median * 1e3, "rate": rate, "unit": row.unit, "share": share}
        )
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
