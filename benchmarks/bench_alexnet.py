"""A training step and inference of AlexNet: minigrad compared with PyTorch (eager, channels_last,
torch.compile) and with the ceiling that the BLAS sets.

    python benchmarks/bench_alexnet.py                          # the paper's network, batch 128
    python benchmarks/bench_alexnet.py --network nolrn --batch 32 --json result.json
    python benchmarks/bench_alexnet.py --device gpu     # PyTorch: float32, TF32, bfloat16
    python benchmarks/bench_alexnet.py --follow 100     # only compare the losses of 100 steps

Each contender has its own process; they run in alternating blocks, one while the others wait.
Before anything is timed, minigrad and PyTorch must agree on the loss of the same weights and
pictures. A step is forward, loss, backward and SGD with momentum and decay. On a GPU the data are
already in its memory, and the clock stops when the device has finished.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from setting import describe, whole_number, writable

from minigrad import backend, kernels, machine
from minigrad.files import replacing
from minigrad.models.records import Dropout
from minigrad.network import ledger

NETWORKS = ("paper", "nolrn", "torchvision")
TOLERANCE = {"tf32": 1e-2, "amp": 1e-2}  # of the loss before timing; otherwise 1e-3
PEERS = {"cpu": ("eager", "channels_last", "compile"), "gpu": ("eager", "tf32", "amp", "compile")}


def preset(network: str):
    """The paper's preset, the same without LRN, or torchvision's; dropout by scaling in training,
    as PyTorch has it."""
    import alexnet

    chosen = alexnet.PRESETS["torchvision" if network == "torchvision" else "paper"]
    if network == "nolrn":
        chosen = chosen.changed(norm1=None, norm2=None)
    return chosen.with_each(Dropout, inverted=True)


def batch(chosen, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with about the values of this preset's pictures, and labels."""
    rng, p = np.random.default_rng(0), chosen.preprocessing
    x = rng.standard_normal((n, p.size, p.size, p.channels), dtype=np.float32)
    return x if p.scaled else 60 * x, rng.integers(0, 1000, n)


class Ours:
    """minigrad."""

    def __init__(self, network: str, n: int, device: str) -> None:
        import alexnet
        from minigrad import Tensor, functions, no_grad

        machine.set_up()
        self.F, self.no_grad, self.device = functions, no_grad, device
        chosen = preset(network)
        self.model = alexnet.AlexNet(chosen)
        self.model.to(device)
        self.optimizer = self.model.make_optimizer()
        x, t = batch(chosen, n)
        self.x, self.t = Tensor(backend.to_device(x, device)), backend.to_device(t, device)

    def step(self):
        loss = self.F.softmax_cross_entropy(self.model(self.x), self.t)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        backend.synchronize(self.device)
        return loss

    def infer(self) -> None:
        self.model.eval()
        with self.no_grad():
            self.model(self.x)
        backend.synchronize(self.device)
        self.model.train()

    def check(self) -> float:
        self.model.eval()
        with self.no_grad():
            loss = self.F.softmax_cross_entropy(self.model(self.x), self.t).item()
        self.model.train()
        return loss

    def set_rate(self, rate: float) -> None:
        self.optimizer.lr = rate

    def memory(self) -> int:
        """The peak memory on a GPU, in bytes."""
        return backend.cupy().get_default_memory_pool().total_bytes()


class Torch:
    """PyTorch: the same network from torch.nn, with minigrad's initial weights."""

    def __init__(self, network: str, n: int, form: str, device: str) -> None:
        import torch

        import alexnet
        from minigrad import nn

        torch.manual_seed(0)
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = form in (
            "tf32",
            "amp",
        )
        torch.backends.cudnn.benchmark = True
        self.torch, self.device = torch, {"cpu": "cpu", "gpu": "cuda"}[device]
        self.autocast = lambda: torch.autocast(self.device, torch.bfloat16, enabled=form == "amp")
        chosen = preset(network)
        ours = alexnet.AlexNet(chosen)
        layers: list = []
        for name, layer in ours.layers.items():
            if isinstance(layer, nn.Conv2d):
                KH, KW, C, O = layer.w.shape
                twin = torch.nn.Conv2d(
                    C * layer.groups, O, (KH, KW), layer.stride, layer.padding, groups=layer.groups
                )
                twin.weight.data = torch.from_numpy(layer.w.numpy().transpose(3, 2, 0, 1).copy())
                twin.bias.data = torch.from_numpy(layer.b.numpy().copy())
            elif isinstance(layer, nn.Linear):
                w = layer.w.numpy()
                if not any(
                    isinstance(made, torch.nn.Flatten) for made in layers
                ):  # H, W, C order to C, H, W
                    layers.append(torch.nn.Flatten())
                    w = w.reshape(6, 6, 256, -1).transpose(2, 0, 1, 3).reshape(9216, -1)
                twin = torch.nn.Linear(*w.shape)
                twin.weight.data = torch.from_numpy(w.T.copy())
                twin.bias.data = torch.from_numpy(layer.b.numpy().copy())
            elif isinstance(layer, nn.LRN):
                size, k, alpha, beta = layer.constants[:4]
                twin = torch.nn.LocalResponseNorm(size, alpha * size, beta, k)
            elif isinstance(layer, nn.MaxPool2d):
                twin = torch.nn.MaxPool2d(*layer.window[:2])
            elif isinstance(layer, nn.Dropout):
                twin = torch.nn.Dropout(layer.p)
            else:
                twin = {"relu": torch.nn.ReLU(inplace=True)}[name.rstrip("0123456789")]
            layers.append(twin)
        self.model = torch.nn.Sequential(*layers).to(self.device)
        del ours
        x, t = batch(chosen, n)
        self.x, self.t = (
            torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).to(self.device),
            torch.from_numpy(t).to(self.device),
        )
        if form in ("channels_last", "tf32", "amp"):
            self.model = self.model.to(memory_format=torch.channels_last)
            self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.call = torch.compile(self.model) if form == "compile" else self.model
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, 0.9, weight_decay=0.0005)

    def synchronize(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def step(self):
        self.optimizer.zero_grad()
        with self.autocast():
            loss = self.torch.nn.functional.cross_entropy(self.call(self.x), self.t)
        loss.backward()
        self.optimizer.step()
        self.synchronize()
        return loss

    def infer(self) -> None:
        self.model.eval()
        with self.torch.no_grad(), self.autocast():
            self.call(self.x)
        self.synchronize()
        self.model.train()

    def check(self) -> float:
        self.model.eval()
        with self.torch.no_grad(), self.autocast():
            loss = float(self.torch.nn.functional.cross_entropy(self.call(self.x), self.t))
        self.model.train()
        return loss

    def set_rate(self, rate: float) -> None:
        self.optimizer.param_groups[0]["lr"] = rate

    def memory(self) -> int:
        """The peak memory on a GPU, in bytes."""
        return self.torch.cuda.max_memory_reserved()


class Sgemm:
    """The ceiling: float32 products of two 2048 x 2048 matrices by the BLAS of NumPy, or of two
    8192 x 8192 matrices by that of CuPy."""

    def __init__(self, device: str) -> None:
        self.size, self.products = (2048, 8) if device == "cpu" else (8192, 1)
        a = np.random.default_rng(0).standard_normal((self.size, self.size)).astype(np.float32)
        self.a, self.synchronize = backend.to_device(a, device), lambda: backend.synchronize(device)
        self.out = np.empty_like(self.a)

    def step(self) -> None:
        for _ in range(self.products):
            np.matmul(self.a, self.a, out=self.out)
        self.synchronize()

    infer = step

    def check(self) -> float:
        """The number of operations in a step."""
        return self.products * 2 * self.size**3

    def memory(self) -> int:
        return 0


def work(name: str, network: str, n: int, device: str) -> None:
    """The process of a contender: reads "check", "step K", "infer K", "follow K" or "quit", and
    answers with a line of JSON."""
    contender: Any
    if name == "sgemm":
        contender = Sgemm(device)
    else:
        contender = (
            Ours(network, n, device) if name == "minigrad" else Torch(network, n, name, device)
        )
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        command, *count = line.split()
        if command == "quit":
            break
        if command == "check":
            print(json.dumps(contender.check()), flush=True)
            continue
        if (
            command == "follow"
            # without dropout, whose random numbers differ, and at a low rate: a high one would
            # amplify rounding errors
        ):
            contender.model.eval()
            contender.set_rate(0.001)
            print(json.dumps([contender.step().item() for _ in range(int(count[0]))]), flush=True)
            continue
        times = []
        for _ in range(int(count[0])):
            began = time.perf_counter()
            getattr(contender, command)()
            times.append(time.perf_counter() - began)
        peak = (
            1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if device == "cpu"
            else contender.memory()
        )
        print(json.dumps([times, peak / 1e9]), flush=True)


class ProcessEnded(RuntimeError):
    """A contender could not start or work, or did not answer in time; its output is above."""


class Process:
    """A contender in a process of its own."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        command = [
            sys.executable,
            __file__,
            "--worker",
            name,
            "--network",
            args.network,
            "--batch",
            str(args.batch),
        ]
        command += ["--device", args.device]
        environment = os.environ | dict.fromkeys(
            ("MINIGRAD_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(args.threads)
        )
        self.name, self.times, self.limit = (
            name,
            {"step": [], "infer": [], "busy": []},
            args.answer_within,
        )
        self.peak = 0.0
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.answer()

    def answer(self):
        if not select.select([self.process.stdout], [], [], self.limit)[0]:
            self.process.kill()
            raise ProcessEnded(
                f"{self.name} did not answer within {self.limit} s (--answer-within)"
            )
        line = self.process.stdout.readline()
        if not line:
            raise ProcessEnded(f"the process of {self.name} ended without an answer")
        return json.loads(line)

    def ask(self, what: str):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self.answer()

    def block(self, kind: str, count: int, warm: bool) -> None:
        with one_core_busy() if kind == "busy" else contextlib.nullcontext():
            times, self.peak = self.ask(f"{'step' if kind == 'busy' else kind} {count}")
        if not warm:
            self.times[kind] += times


@contextlib.contextmanager
def one_core_busy() -> Iterator[None]:
    """Inside, another process keeps one core busy."""
    other = subprocess.Popen([sys.executable, "-c", "while True: sum(range(10_000))"])
    try:
        time.sleep(0.5)
        yield
    finally:
        other.kill()
        other.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=NETWORKS, default="paper")
    parser.add_argument("--batch", type=whole_number, default=128)
    parser.add_argument("--device", choices=PEERS, default="cpu")
    parser.add_argument(
        "--peers",
        help="comma-separated, or none; default: all, "
        + "; ".join(f"{d}: {', '.join(p)}" for d, p in PEERS.items()),
    )
    parser.add_argument("--blocks", type=whole_number, default=4)
    parser.add_argument("--steps", type=whole_number, help="in a block; default 3, on a GPU 25")
    parser.add_argument(
        "--warm", type=whole_number, help="steps before the first block; default 2, on a GPU 20"
    )
    parser.add_argument("--threads", type=whole_number, default=kernels.threads())
    parser.add_argument(
        "--follow",
        type=whole_number,
        metavar="STEPS",
        help="only compare the losses of this many steps with PyTorch's",
    )
    parser.add_argument(
        "--answer-within",
        type=whole_number,
        default=1200,
        metavar="SECONDS",
        help="time limit of a block or a start; a peer that exceeds it is left out",
    )
    parser.add_argument(
        "--busy", action="store_true", help="also: steps while another process keeps one core busy"
    )
    parser.add_argument("--json", type=writable, metavar="FILE")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.network, args.batch, args.device)
        return 0
    if args.device == "gpu" and backend.gpu_count() == 0:
        parser.error(
            "--device gpu: there is no GPU that CuPy can use (python -m minigrad says more)"
        )
    if args.follow:
        try:
            return follow(args)
        except ProcessEnded as error:
            raise SystemExit(str(error)) from None
    args.steps = args.steps or (3 if args.device == "cpu" else 25)
    args.warm = args.warm or (2 if args.device == "cpu" else 20)

    peers = (
        PEERS[args.device]
        if args.peers is None
        else [p for p in args.peers.split(",") if p != "none"]
    )
    unknown = [p for p in peers if p not in PEERS[args.device]]
    if unknown:
        parser.error(
            f"--peers {','.join(unknown)}: on this device there are {', '.join(PEERS[args.device])}"
        )
    names = ["minigrad", *peers, "sgemm"]
    contenders, losses = {}, {}
    for name in names:
        try:
            contender = Process(name, args)
            answer = contender.ask("check")
        except ProcessEnded as error:
            leave_out(name, error, peers)
            continue
        contenders[name] = contender
        if name != "sgemm":
            losses[name] = answer
    for name, loss in losses.items():
        if not abs(loss - losses["minigrad"]) <= TOLERANCE.get(name, 1e-3) * abs(loss):
            raise SystemExit(
                f"{name} computes a loss of {loss}, minigrad {losses['minigrad']}: not the same"
                " network, nothing is timed"
            )
    for block in range(args.blocks + 1):
        for name, c in list(contenders.items()):
            try:
                c.block("step", args.warm if block == 0 else args.steps, warm=block == 0)
                c.block("infer", args.warm if block == 0 else args.steps, warm=block == 0)
                if args.busy:
                    c.block("busy", args.steps, warm=block == 0)
            except ProcessEnded as error:
                leave_out(name, error, peers)
                del contenders[name], losses[name]
        if args.json and block:
            with replacing(
                args.json
            ) as unfinished:  # keep what has been measured so far, whatever happens next
                unfinished.write_text(json.dumps(measured(args, contenders), indent=1))
    report(args, measured(args, contenders), losses)
    for c in contenders.values():
        c.process.kill()
    return 0


def leave_out(name: str, error: ProcessEnded, peers: Sequence[str]) -> None:
    """Leave a peer that cannot run out of the table. Without minigrad or the ceiling there is no
    table, so the benchmark ends."""
    if name not in peers:
        raise SystemExit(str(error)) from None
    print(f"{error}: left out", flush=True)


def follow(args: argparse.Namespace) -> int:
    """Compare steps of minigrad and PyTorch from the same weights on one batch, without dropout."""
    paths = []
    for name in ("minigrad", "eager"):
        contender = Process(name, args)
        paths.append(np.array(contender.ask(f"follow {args.follow}")))
        contender.process.kill()
    difference = np.abs(paths[0] - paths[1]) / np.abs(paths[1])
    print(
        f"{args.network}, batch {args.batch}, {args.device}: {args.follow} steps, loss"
        f" {paths[0][0]:.5f} to {paths[0][-1]:.5f}"
    )
    print(
        f"largest relative difference from PyTorch's losses {difference.max():.1e}, after"
        f" {difference.argmax()} steps"
    )
    return 0 if difference.max() < 1e-2 else 1  # also for NaN


@functools.cache
def operations(network: str) -> tuple[int, int]:
    """Operations of a forward pass per picture, in all layers and in the first."""
    counts = [2 * row.multiply_adds for row in ledger(preset(network))]
    return sum(counts), counts[0]


def measured(args: argparse.Namespace, contenders: dict[str, Process]) -> dict[str, Any]:
    """All results of the blocks so far."""
    sgemm = contenders["sgemm"]
    rate = sgemm.ask("check") / float(np.median(sgemm.times["step"]))
    forward, first = (args.batch * count for count in operations(args.network))
    return {
        "settings": {k: str(v) for k, v in vars(args).items()},
        "machine": describe().split("\n"),
        "gflops": rate / 1e9,
        "floor": (3 * forward - first) / rate,  # no input gradient for conv1
        "floor of inference": forward / rate,
        "rows": {
            name: c.times | {"peak": c.peak} for name, c in contenders.items() if name != "sgemm"
        },
    }


def report(args: argparse.Namespace, result: dict[str, Any], losses: dict[str, float]) -> None:
    floor = result["floor"]
    print("\n".join(result["machine"]))
    print(
        f"{args.network}, batch {args.batch}, {args.device}, {args.threads} CPU threads, minigrad"
        " in float32"
    )
    print(
        f"sgemm ceiling {result['gflops']:.0f} GFLOP/s; floor of a step {floor:.4f} s, of inference"
        f" {result['floor of inference']:.4f} s; losses {losses}"
    )
    ours = {kind: float(np.median(result["rows"]["minigrad"][kind])) for kind in ("step", "infer")}
    print(
        f"{'':14}{'step s':>8}{'spread':>17}{'images/s':>10}{'ours/it':>9}{'/floor':>8}"
        f"{'infer s':>9}{'ours/it':>9}{'peak GB':>9}"
    )
    for name, row in result["rows"].items():
        step, infer = (float(np.median(row[kind])) for kind in ("step", "infer"))
        spread = f"{min(row['step']):.3f} - {max(row['step']):.3f}"
        print(
            f"{name:14}{step:8.4f}{spread:>17}{args.batch / step:10.1f}{ours['step'] / step:9.2f}"
            f"{step / floor:8.2f}{infer:9.4f}{ours['infer'] / infer:9.2f}{row['peak']:9.2f}"
        )
        if row["busy"]:
            print(
                f"{'':14}{np.median(row['busy']):8.3f} s with one core busy:"
                f" {np.median(row['busy']) / step:.2f} times as long"
            )


if __name__ == "__main__":
    sys.exit(main())
