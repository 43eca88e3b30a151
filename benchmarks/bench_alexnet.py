"""A training step and inference of AlexNet: minigrad beside PyTorch (eager, channels_last, torch.compile) and the BLAS's ceiling.

    python benchmarks/bench_alexnet.py                          # the paper's network, batch 128
    python benchmarks/bench_alexnet.py --network nolrn --batch 32 --json result.json

Each contender lives in a process of its own and works while the others wait, in alternating blocks. Before anything is timed, minigrad and
PyTorch must agree on the loss of the same weights and pictures. A step is forward, loss, backward and SGD with momentum and decay.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

NETWORKS = ("paper", "nolrn", "torchvision")
PEERS = ("eager", "channels_last", "compile")


def preset(network: str):
    """The paper's preset, the same without LRN, or torchvision's; dropout by scaling in training, as PyTorch has it."""
    import alexnet

    chosen = alexnet.PRESETS["torchvision" if network == "torchvision" else "paper"]
    if network == "nolrn":
        chosen = replace(chosen, convs=tuple(replace(row, then=row.then.replace("norm ", "")) for row in chosen.convs))
    return replace(chosen, dropout_inverted=True)


def batch(size: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return (60 * rng.standard_normal((n, size, size, 3))).astype(np.float32), rng.integers(0, 1000, n)


class Ours:
    """minigrad."""

    def __init__(self, network: str, n: int) -> None:
        import alexnet
        from minigrad import Tensor, backend, functions, kernels, no_grad

        backend.keep_memory()
        kernels.lend_threads_to_blas()
        self.F, self.no_grad = functions, no_grad
        chosen = preset(network)
        self.model = alexnet.AlexNet(chosen)
        self.optimizer = self.model.make_optimizer()
        x, self.t = batch(chosen.input_size, n)
        self.x = Tensor(x)

    def step(self) -> None:
        loss = self.F.softmax_cross_entropy(self.model(self.x), self.t)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def infer(self) -> None:
        self.model.eval()
        with self.no_grad():
            self.model(self.x)
        self.model.train()

    def check(self) -> float:
        self.model.eval()
        with self.no_grad():
            loss = self.F.softmax_cross_entropy(self.model(self.x), self.t).item()
        self.model.train()
        return loss


class Torch:
    """PyTorch: the same network from torch.nn, with minigrad's initial weights."""

    def __init__(self, network: str, n: int, form: str) -> None:
        import torch

        import alexnet
        from minigrad import nn

        torch.manual_seed(0)
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        self.torch = torch
        chosen = preset(network)
        ours = alexnet.AlexNet(chosen)
        layers: list = []
        for name, layer in ours.layers.items():
            if isinstance(layer, nn.Conv2d):
                KH, KW, C, O = layer.w.shape
                twin = torch.nn.Conv2d(C * layer.groups, O, (KH, KW), layer.stride, layer.padding, groups=layer.groups)
                twin.weight.data = torch.from_numpy(layer.w.numpy().transpose(3, 2, 0, 1).copy())
                twin.bias.data = torch.from_numpy(layer.b.numpy().copy())
            elif isinstance(layer, nn.Linear):
                w = layer.w.numpy()
                if not any(isinstance(made, torch.nn.Flatten) for made in layers):  # H, W, C order to C, H, W
                    layers.append(torch.nn.Flatten())
                    w = w.reshape(6, 6, 256, -1).transpose(2, 0, 1, 3).reshape(9216, -1)
                twin = torch.nn.Linear(*w.shape)
                twin.weight.data = torch.from_numpy(w.T.copy())
                twin.bias.data = torch.from_numpy(layer.b.numpy().copy())
            elif isinstance(layer, nn.LRN):
                size, k, alpha, beta = layer.constants[:4]
                twin = torch.nn.LocalResponseNorm(size, alpha * size, beta, k)
            elif isinstance(layer, nn.MaxPool2d):
                twin = torch.nn.MaxPool2d(chosen.pool_size, chosen.pool_stride)
            elif isinstance(layer, nn.Dropout):
                twin = torch.nn.Dropout(layer.p)
            else:
                twin = {"relu": torch.nn.ReLU(inplace=True)}[name.rstrip("0123456789")]
            layers.append(twin)
        self.model = torch.nn.Sequential(*layers)
        del ours
        x, t = batch(chosen.input_size, n)
        self.x, self.t = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(t)
        if form == "channels_last":
            self.model = self.model.to(memory_format=torch.channels_last)
            self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.call = torch.compile(self.model) if form == "compile" else self.model
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, 0.9, weight_decay=0.0005)

    def loss(self):
        return self.torch.nn.functional.cross_entropy(self.call(self.x), self.t)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def infer(self) -> None:
        self.model.eval()
        with self.torch.no_grad():
            self.call(self.x)
        self.model.train()

    def check(self) -> float:
        self.model.eval()
        with self.torch.no_grad():
            loss = float(self.torch.nn.functional.cross_entropy(self.model(self.x), self.t))
        self.model.train()
        return loss


class Sgemm:
    """The ceiling: a product of two 2048 x 2048 matrices by the BLAS that NumPy carries."""

    def __init__(self) -> None:
        self.a = np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)
        self.out = np.empty_like(self.a)

    def step(self) -> None:
        for _ in range(8):
            np.matmul(self.a, self.a, out=self.out)

    infer = step

    def check(self) -> float:
        return float("nan")


def work(name: str, network: str, n: int) -> None:
    """A contender's process: reads "check", "step K", "infer K" or "quit"; answers a line of JSON."""
    contender = Sgemm() if name == "sgemm" else Ours(network, n) if name == "minigrad" else Torch(network, n, name)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        command, *count = line.split()
        if command == "quit":
            break
        if command == "check":
            print(json.dumps(contender.check()), flush=True)
            continue
        times = []
        for _ in range(int(count[0])):
            began = time.perf_counter()
            getattr(contender, command)()
            times.append(time.perf_counter() - began)
        print(json.dumps([times, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6]), flush=True)


class Process:
    """A contender in a process of its own."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--worker", name, "--network", args.network, "--batch", str(args.batch)]
        environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "OPENBLAS_NUM_THREADS": str(args.threads)}
        self.name, self.times = name, {"step": [], "infer": [], "busy": []}
        self.peak = 0.0
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.name} ended without an answer")
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
    """Another process computes all the while."""
    other = subprocess.Popen([sys.executable, "-c", "while True: sum(range(10_000))"])
    try:
        time.sleep(0.5)
        yield
    finally:
        other.kill()
        other.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="paper")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--peers", default="eager,channels_last,compile", help="comma-separated, or none")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3, help="in a block")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--busy", action="store_true", help="also: steps while another process keeps one core busy")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.network, args.batch)
        return 0

    names = ["minigrad", *[p for p in args.peers.split(",") if p in PEERS], "sgemm"]
    contenders = {name: Process(name, args) for name in names}
    losses = {name: c.ask("check") for name, c in contenders.items() if name != "sgemm"}
    for name, loss in losses.items():
        if abs(loss - losses["minigrad"]) > 1e-3 * abs(loss):
            raise SystemExit(f"{name} computes a loss of {loss}, minigrad {losses['minigrad']}: not the same network, nothing is timed")
    for block in range(args.blocks + 1):
        for c in contenders.values():
            c.block("step", 2 if block == 0 else args.steps, warm=block == 0)
            c.block("infer", 1 if block == 0 else args.steps, warm=block == 0)
            if args.busy:
                c.block("busy", args.steps, warm=block == 0)
    report(args, contenders, losses)
    for c in contenders.values():
        c.process.kill()
    return 0


def report(args: argparse.Namespace, contenders: dict[str, Process], losses: dict[str, float]) -> None:
    import alexnet

    rate = 8 * 2 * 2048**3 / np.median(contenders["sgemm"].times["step"])
    rows = alexnet.table(alexnet.AlexNet(preset(args.network)))
    forward = 2 * args.batch * sum(r.multiply_adds for r in rows)
    floor = (3 * forward - 2 * args.batch * rows[0].multiply_adds) / rate  # no input gradient for conv1
    print(
        f"{args.network}, batch {args.batch}, {args.threads} threads, {platform.processor() or platform.machine()}, NumPy {np.__version__}"
    )
    print(f"sgemm ceiling {rate / 1e9:.0f} GFLOP/s; floor of a step {floor:.3f} s, of inference {forward / rate:.3f} s; losses {losses}")
    ours = {kind: float(np.median(contenders["minigrad"].times[kind])) for kind in ("step", "infer")}
    print(f"{'':14}{'step s':>8}{'spread':>15}{'images/s':>10}{'ours/it':>9}{'/floor':>8}{'infer s':>9}{'ours/it':>9}{'peak GB':>9}")
    result = {"settings": vars(args), "gflops": rate / 1e9, "floor": floor, "rows": {}}
    for name, c in contenders.items():
        if name == "sgemm":
            continue
        step, infer = (float(np.median(c.times[kind])) for kind in ("step", "infer"))
        spread = f"{min(c.times['step']):.2f} - {max(c.times['step']):.2f}"
        print(
            f"{name:14}{step:8.3f}{spread:>15}{args.batch / step:10.1f}{ours['step'] / step:9.2f}{step / floor:8.2f}{infer:9.3f}"
            f"{ours['infer'] / infer:9.2f}{c.peak:9.2f}"
        )
        if c.times["busy"]:
            print(f"{'':14}{np.median(c.times['busy']):8.3f} s with one core busy: {np.median(c.times['busy']) / step:.2f} times as long")
        result["rows"][name] = c.times | {"peak": c.peak}
    if args.json:
        with open(args.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    sys.exit(main())
