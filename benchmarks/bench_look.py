"""The cost of looking inside a network, compared with a forward pass over the same pictures.

    python benchmarks/bench_look.py --data DIR [--pictures 5000] [--preset paper] [--stage relu5]

The forward passes and the search for the nine strongest activations of every map of a stage
alternate, on pictures that are already decoded. Then one projection by each method and one
occlusion map are timed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from setting import describe, whole_number

import alexnet
from minigrad import data, kernels, look, machine
from minigrad.engine import Tensor, no_grad
from minigrad.models.records import find
from minigrad.network import Network, feature_stage


def seconds(action: Callable[[], object], repeats: int = 1) -> float:
    """The median time of an action."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def forward(model: Network, loader: data.Loader, last: str) -> None:
    """Run every picture through the network, up to the stage `last`."""
    with no_grad():
        for x, _, _ in loader.batches():
            next(y for name, _, y in model.walk(Tensor(x)) if name == last)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="CLASS/PICTURE")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--pictures", type=whole_number, default=5000)
    parser.add_argument("--batch", type=whole_number, default=128)
    parser.add_argument("--stage", help="default: the last maps")
    parser.add_argument("--repeats", type=whole_number, default=3)
    parser.add_argument("--workers", type=whole_number, default=kernels.threads())
    args = parser.parse_args()
    machine.set_up()
    try:
        images = data.open_folder(args.data)
        preset = find(args.preset, alexnet.MODELS)
    except ValueError as error:
        parser.error(str(error))
    stage = args.stage or feature_stage(preset)
    images = images.take(np.arange(args.pictures) % len(images))
    model = Network(preset, 10).eval()
    shape = preset.preprocessing.shape
    mean = np.full((preset.preprocessing.size,) * 2 + shape[2:], 120, np.float32)
    preparation = data.Preparation(preset.preprocessing.size, mean, 1.0)
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        pictures = data.open_pictures(images, Path(folder), args.workers, shape=shape)
        loader = data.Loader(pictures, preparation, args.batch, False, workers=args.workers)
        passes: dict[str, Callable[[], object]] = {
            "forward, all stages": lambda: forward(model, loader, model.stages[-1]),
            f"forward, as far as {stage}": lambda: forward(model, loader, stage),
            f"nine strongest of {stage}": lambda: look.find_strongest(model, loader, [stage]),
        }
        times: dict[str, list[float]] = {name: [] for name in passes}
        for _ in range(args.repeats):
            for name, action in passes.items():
                times[name].append(seconds(action))
        reference = np.median(times["forward, all stages"])
        print(f"{len(images)} pictures, {args.preset}, batch {args.batch}")
        for name, each in times.items():
            share = np.median(each) / reference
            print(
                f"{name:32}{np.median(each):8.2f} s ({min(each):.2f} - {max(each):.2f}){share:6.2f}"
            )
        x = loader.prepare(np.array([0]))[0]
        for name, rules in look.METHODS.items():
            once = seconds(lambda r=rules: look.project(model, x, stage, **r), 9)  # type: ignore[misc]
            print(f"{'one projection, ' + name:32}{once:8.3f} s")
        margin = (shape[0] - preparation.size) // 2
        inner = slice(margin, margin + preparation.size)
        picture = pictures.read(0)[inner, inner]
        found = look.occlude(model, picture, preparation, stage)
        once = seconds(lambda: look.occlude(model, picture, preparation, stage))
        print(f"one occlusion map, {found.probability.size} squares{once:13.2f} s")
        loader.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
