"""Train AlexNet on pictures, and watch it learn.

    python examples/train_imagenet_subset.py
        draws a labelled synthetic set (ten classes of shapes and textures), trains the paper's
        network at its full 227 x 227 on it, and writes a run folder: settings, metrics, checkpoint,
        learning curves, the first layer's filters, and pictures with predictions.

    python examples/train_imagenet_subset.py --data imagenet --classes 10 --images-per-class 500
        trains on your own pictures in ImageNet's layout: imagenet/train/CLASS/*.JPEG and
        imagenet/val/CLASS/*.JPEG. With only imagenet/CLASS/*.JPEG, a tenth of each class is held
        out for validation.

Every run says how long it will take before it starts. Stop it with Ctrl-C and go on with --resume
RUN.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import alexnet
from minigrad import commands, data, nn, optim, random
from minigrad import functions as F
from minigrad.data.synthetic import draw_set
from minigrad.distributed import Communicator
from minigrad.training import runs, session
from minigrad.training.settings import Settings

SYNTHETIC_EPOCHS = 6


def small_pictures(images: data.ImageSet) -> np.ndarray:
    """Every picture at 32 x 32: (N, 32, 32, 3), 0 .. 1."""
    return (
        np.stack(
            [data.read_image(images.source.read(item), (32, 32, 3)) for item in images.items]
        ).astype(np.float32)
        / 255
    )


def baselines(train: data.ImageSet, val: data.ImageSet, seed: int) -> dict[str, float]:
    """Accuracies of two classifiers that cannot see shapes. A network that has learnt anything must
    beat them by far.

    One takes the class with the nearest mean colour; the other is a linear softmax classifier on
    32 x 32 pixels.
    """
    x, x_val = small_pictures(train), small_pictures(val)
    colour, colour_val = x.mean(axis=(1, 2)), x_val.mean(axis=(1, 2))
    centres = np.stack([colour[train.labels == c].mean(axis=0) for c in range(len(train.classes))])
    nearest = np.linalg.norm(colour_val[:, None] - centres, axis=2).argmin(axis=1)

    flat, flat_val = ((a - x.mean(axis=0)).reshape(len(a), -1) for a in (x, x_val))
    layer = nn.Linear(
        flat.shape[1],
        len(train.classes),
        init=nn.gaussian(0.01),
        rng=random.Stream(seed, "linear baseline"),
    )
    optimizer = optim.SGD(layer.parameters(), lr=0.01, weight_decay=0.001)
    order = random.Stream(seed, "linear baseline order")
    for _ in range(40):
        for batch in np.array_split(order.permutation(len(flat)), -(-len(flat) // 64)):
            loss = F.softmax_cross_entropy(layer(flat[batch]), train.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    guess = layer(flat_val).numpy().argmax(axis=1)
    return {
        "nearest class mean colour": float((nearest == val.labels).mean()),
        "linear classifier on 32x32 pixels": float((guess == val.labels).mean()),
    }


def run(given: dict[str, Any], comm: Communicator) -> None:
    """Train with the given options; if they name no pictures, on the synthetic set."""
    if not {"data", "resume", "config"} & set(given):
        root = Path("data/synthetic")
        print(f"no --data given: drawing ten classes of shapes and textures into {root}")
        seed, workers = given.get("seed", 0), given.get("workers") or 2
        comm.in_turn(lambda: draw_set(root, seed=seed, workers=workers))
        given = {"epochs": SYNTHETIC_EPOCHS, **given, "data": str(root)}
    trainer, result = session.train(given, alexnet.MODELS, comm=comm)
    options = Settings.from_json(trainer.settings).options
    if comm.rank == 0 and (Path(options.data or "") / "synthetic.json").is_file():
        print("baselines on the same split of the synthetic set:")
        sets = runs.open_sets(options)
        for name, accuracy in baselines(*sets, options.seed).items():
            print(f"  {name:36} {accuracy:6.1%}")
        name = "this network, trained from scratch"
        print(f"  {name:36} {result.top(1):6.1%}   (synthetic pictures, not photographs)")


def main() -> int:
    given = commands.training_options(__doc__, alexnet.MODELS)
    return commands.run_command(lambda comm: run(given, comm), given)


if __name__ == "__main__":
    sys.exit(main())
