"""Nearly three quarters of CIFAR-10 right in minutes: the small network of cuda-convnet.

    python examples/cifar10_26pct.py                      # downloads CIFAR-10 once, 170 MB
    python examples/cifar10_26pct.py --data cifar-10.zip  # or with train/CLASS/ and test/CLASS/
    python examples/cifar10_26pct.py --preset cifar10_18pct     # with normalisation, 140 epochs

Three convolutions and two dense layers, with the recipe of layers-80sec.cfg and
layer-params-80sec.cfg: no crops, no mirrored pictures, no dropout. The rate is divided by 10 after
8 of 10 epochs. The run folder gets curve.png: the accuracy on the test pictures after each epoch,
beside the log of Caffe's cifar10_quick, which differs in four things: it has no ReLU between its
dense layers, their weights decay by 0.004, not 0.03, its biases decay too, and its batch is 100
pictures, not 128.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import alexnet
from minigrad import commands
from minigrad.distributed import Communicator
from minigrad.look.pictures import new_figure
from minigrad.training import session

# Caffe's log of cifar10_quick: test accuracy after 0, 1, ... 10 epochs of 500 steps. Source:
# github.com/everpeace/caffe, commit 91cb3b5e, the log of examples/cifar10/train_quick.sh.
CAFFE = (
    0.0926, 0.5551, 0.6221, 0.6574, 0.6807, 0.6980, 0.6983, 0.6934, 0.6854, 0.7492, 0.7491,
)  # fmt: skip


def draw_curve(epochs: Sequence[Mapping[str, str]], path: Path) -> Path:
    """Draw the test accuracy of a run, from the rows of its metrics.csv, beside Caffe's."""
    figure = new_figure((7, 4.5))
    axes = figure.subplots()
    numbers = [float(row["epoch"]) for row in epochs]
    for name, label in (("train_top1", "training pictures"), ("val_top1", "test pictures")):
        axes.plot(numbers, [100 * float(row[name]) for row in epochs], label=label)
    caffe = [100 * accuracy for accuracy in CAFFE]
    axes.plot(range(len(CAFFE)), caffe, ":", label="Caffe's cifar10_quick, test pictures")
    axes.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)
    return path


def run(given: dict[str, Any], comm: Communicator) -> None:
    """Train with the given options, on CIFAR-10 if they name no pictures, and draw the curve."""
    if not {"data", "resume", "config"} & set(given):
        given = {**given, "data": "cifar10"}
    if not {"preset", "resume", "config"} & set(given):
        given = {**given, "preset": "cifar10_26pct"}
    trainer, result = session.train(given, alexnet.MODELS, comm=comm)
    if comm.rank == 0:
        curve = draw_curve(trainer.run.rows("metrics.csv"), trainer.run.path / "curve.png")
        print(f"test error {1 - result.top(1):.2%}; the curve, beside Caffe's: {curve}")


def main() -> int:
    given = commands.training_options(__doc__, alexnet.MODELS)
    return commands.run_command(lambda comm: run(given, comm), given)


if __name__ == "__main__":
    sys.exit(main())
