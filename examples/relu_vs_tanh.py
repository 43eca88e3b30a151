"""Figure 1 of the paper, measured again: how much sooner ReLUs reach 25 % training error.

    python examples/relu_vs_tanh.py                        # downloads CIFAR-10 once, 170 MB
    python examples/relu_vs_tanh.py --data cifar-10.zip    # or with train/CLASS/ and test/CLASS/

"A four-layer convolutional neural network with ReLUs (solid line) reaches a 25 % training error
rate on CIFAR-10 six times faster than an equivalent network with tanh neurons (dashed line). The
learning rates for each network were chosen independently to make training as fast as possible. No
regularization of any kind was employed." The paper does not say which network; this is that of
layers-80sec.cfg, three convolutions and two dense layers, with its initial weights and without its
weight decay. There are no crops, no mirrored pictures and no dropout, and the rate stays the same.

The rate of each network is the one of RATES with which its loss is lowest after a few epochs on
10,000 pictures. An arm trains until the goal, or for 8 times the epochs that the ReLUs took. The
training error is that of an epoch's pictures, each as the network met it. The output folder gets
curves.csv and gradients.csv, the norm of the gradient of every layer's weights before and after
training, and both are drawn. Stop it whenever you like: the same command goes on after the last
rate or epoch that was done.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from minigrad import Tensor, commands, data, random
from minigrad import functions as F
from minigrad.look.pictures import new_figure
from minigrad.models.cifar import CIFAR10_26PCT
from minigrad.models.records import Layer, Preset, ReLU, Sigmoid, Tanh
from minigrad.network import Network
from minigrad.optim import SGD
from minigrad.training import checkpoint, runs
from minigrad.training.options import Options
from minigrad.training.run_folder import RunFolder
from minigrad.training.series import remember, rows_in

ARMS: Mapping[str, Layer] = {"relu": ReLU(), "tanh": Tanh(), "sigmoid": Sigmoid()}
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
FEW, FEW_EPOCHS = 10_000, 5  # pictures and epochs to choose a rate by
MOST_OF_RELU, TIMES = 40, 8  # epochs, and how many times as many the others may take
CURVES, GRADIENTS, RATES_TRIED = "curves.csv", "gradients.csv", "rates.csv"
Rows = list[dict[str, str]]


def network(arm: str, rate: float) -> Preset:
    """The 26 % network with these units, and without regularisation."""
    layers = {n: ARMS[arm] if isinstance(x, ReLU) else x for n, x in CIFAR10_26PCT.layers.items()}
    preset = replace(CIFAR10_26PCT, layers=layers)
    return preset.with_recipe(lr=rate, lr_drops=(), weight_decay=0.0, decays=())


class Pictures:
    """All training pictures in memory, as bytes, and how they become input."""

    def __init__(self, train: data.ImageSet, cache: str | None) -> None:
        p = CIFAR10_26PCT.preprocessing
        opened = data.open_pictures(train, runs.cache_folder(cache), shape=p.shape)
        self.preparation = data.Preparation.of(p, data.statistics(opened))
        self.bytes = np.stack([opened.read(i) for i in range(len(opened))])
        self.labels, self.classes = train.labels, len(train.classes)

    def batch(self, chosen: np.ndarray) -> tuple[Tensor, np.ndarray]:
        return Tensor(self.preparation.centre(self.bytes[chosen])), self.labels[chosen]


def gradient_norms(model: Network, pictures: Pictures) -> dict[str, float]:
    """The norm of the gradient of each layer's weights, for the first 1,000 pictures at once."""
    for p in model.parameters():
        p.grad = None  # that of the last step of a training
    x, labels = pictures.batch(np.arange(min(1000, len(pictures.labels))))
    F.softmax_cross_entropy(model(x), labels).backward()
    return {
        name.removesuffix(".w"): float(np.linalg.norm(p.grad))
        for name, p in model.named_parameters()
        if name.endswith(".w") and p.grad is not None
    }


def epochs_of(
    model: Network, optimizer: SGD, pictures: Pictures, count: int, seed: int, done: int = 0
) -> Iterator[tuple[float, float]]:
    """Train, and yield (training error, loss) of each epoch after the first `done`, on the first
    `count` pictures of a shuffled set."""
    order, size = random.Stream(seed, "order"), model.preset.recipe.batch_size
    own = order.permutation(len(pictures.labels))[:count]
    for epoch in itertools.count(1):
        own = own[order.permutation(len(own))]
        if epoch <= done:
            continue
        wrong = loss_sum = 0.0
        for i in range(0, len(own), size):
            x, labels = pictures.batch(own[i : i + size])
            logits = model(x)
            loss = F.softmax_cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            wrong += (logits.numpy().argmax(axis=1) != labels).sum()
            loss_sum += loss.item() * len(labels)
        yield float(wrong / len(own)), loss_sum / len(own)


def tried(arm: str, rate: float, pictures: Pictures) -> dict[str, str]:
    """The row of a rate, with its loss after a few epochs on a few pictures."""
    model = Network(network(arm, rate), pictures.classes, seed=0)
    with np.errstate(all="ignore"):  # a rate may be too high: its loss is then not finite
        epochs = epochs_of(model, model.make_optimizer(), pictures, FEW, seed=0)
        *_, (_, loss) = itertools.islice(epochs, FEW_EPOCHS)
    print(f"{arm}, rate {rate:g}: loss {loss:.4f} after {FEW_EPOCHS} epochs", flush=True)
    return {"arm": arm, "rate": f"{rate:g}", "loss": f"{loss:.5g}"}


def best_rate(rows: Rows) -> float:
    """The rate with the lowest loss."""
    losses = np.array([float(row["loss"]) for row in rows])
    best = int(np.argmin(np.where(np.isfinite(losses), losses, np.inf)))
    if best in (0, len(rows) - 1):
        print(f"{rows[0]['arm']}: the best rate is the first or the last that was tried")
    return float(rows[best]["rate"])


def trained(
    arm: str, rate: float, pictures: Pictures, seed: int, goal: float, most: int, path: Path
) -> tuple[Rows, Rows]:
    """The rows of an arm, for curves.csv and gradients.csv. Each epoch leaves a checkpoint at
    `path`, from which an arm that was stopped goes on."""
    model = Network(network(arm, rate), pictures.classes, seed)
    optimizer, parameters = model.make_optimizer(), dict(model.named_parameters())
    own = {"arm": arm, "seed": str(seed), "rate": f"{rate:g}"}
    curve: Rows = []
    if path.exists():
        tensors, description = checkpoint.load(path)
        if description.get("arm") != own:
            raise checkpoint.CheckpointError(f"{path} is not of {own}: remove it to begin again")
        curve, norms = description["curve"], description["norms"]
        model.load_state_dict(checkpoint.part(tensors, "model."))
        velocity = checkpoint.part(tensors, "velocity.")
        optimizer.velocity.update({p: velocity[name].copy() for name, p in parameters.items()})
    else:
        norms = {"before": gradient_norms(model, pictures)}
    began = time.perf_counter()
    epochs = epochs_of(model, optimizer, pictures, len(pictures.labels), seed, len(curve))
    while not curve or not ended(curve, goal, most):
        error, loss = next(epochs)
        numbers = {"epoch": str(len(curve) + 1), "error": f"{error:.5f}", "loss": f"{loss:.5g}"}
        curve.append(own | numbers)
        tensors = {f"model.{name}": p.data for name, p in parameters.items()}
        tensors |= {f"velocity.{name}": optimizer.velocity[p] for name, p in parameters.items()}
        checkpoint.save(path, tensors, {"arm": own, "curve": curve, "norms": norms})
        seconds = time.perf_counter() - began
        print(f"{arm}, seed {seed}, epoch {len(curve)}: {error:.2%}, {seconds:.0f} s", flush=True)
    norms["after"] = gradient_norms(model, pictures)
    return curve, [
        {"arm": arm, "seed": str(seed), "when": when, "layer": layer, "norm": f"{norm:.5g}"}
        for when, layers in norms.items()
        for layer, norm in layers.items()
    ]


def ended(curve: Rows, goal: float, most: int) -> bool:
    """Whether an arm has met the goal, or all its epochs, or a loss that is not finite."""
    last = curve[-1]
    return (
        float(last["error"]) <= goal or len(curve) >= most or not np.isfinite(float(last["loss"]))
    )


def crossing(errors: Sequence[float], goal: float, guess: float = 0.9) -> float | None:
    """The epoch at which a curve meets the goal, between two epochs on a straight line; None if it
    does not. It begins with the error of guessing, 1 - 1/10 for ten classes."""
    for epoch, (before, error) in enumerate(zip([guess, *errors], errors)):
        if error <= goal:
            return epoch + (before - goal) / (before - error)
    return None


def curves_of(rows: Rows) -> dict[tuple[str, str], list[float]]:
    """{(arm, seed): errors by epoch}. Raises ValueError if an epoch is missing."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        errors = found.setdefault((row["arm"], row["seed"]), [])
        errors.append(float(row["error"]))
        if row["epoch"] != str(len(errors)):
            raise ValueError(
                f"{CURVES}: epoch {row['epoch']} of {row['arm']}, seed {row['seed']}, stands where"
                f" {len(errors)} should: remove the rows of this arm to train it again"
            )
    return found


def lines_of(curves: Rows, gradients: Rows, goal: float, guess: float = 0.9) -> list[str]:
    """What was measured, in words."""
    lines: list[str] = []
    factors: dict[str, list[float]] = {}
    least: dict[str, list[float]] = {}
    found = curves_of(curves)
    for (arm, seed), errors in found.items():
        rate = next(r["rate"] for r in curves if (r["arm"], r["seed"]) == (arm, seed))
        at = crossing(errors, goal, guess)
        said = f"after {at:.2f} epochs" if at else f"not in {len(errors)} epochs ({errors[-1]:.1%})"
        lines.append(f"{arm:8} seed {seed}, rate {rate:>6}: {goal:.0%} training error {said}")
        first = crossing(found.get(("relu", seed), []), goal, guess)
        if arm != "relu" and first:
            times = (at or len(errors)) / first
            (factors if at else least).setdefault(arm, []).append(times)
    paper = {"tanh": " (paper: 6)"}
    for arm, own in factors.items():
        spread = f", from {min(own):.2f} to {max(own):.2f}" * (len(own) > 1)
        lines.append(f"{arm} takes {np.mean(own):.2f} times the epochs{spread}{paper.get(arm, '')}")
    for arm, own in least.items():
        lines.append(f"{arm} takes more than {min(own):.1f} times the epochs{paper.get(arm, '')}")
    layers = list(dict.fromkeys(row["layer"] for row in gradients))
    for arm in dict.fromkeys(row["arm"] for row in gradients):
        for when in ("before", "after"):
            norms = [
                np.mean([float(r["norm"]) for r in gradients
                         if (r["arm"], r["when"], r["layer"]) == (arm, when, layer)])
                for layer in layers
            ]  # fmt: skip
            listed = ", ".join(f"{layer} {norm:.2g}" for layer, norm in zip(layers, norms))
            lines.append(f"norms of the gradients, {arm:8} {when} training: {listed}")
    return lines


def draw(curves: Rows, gradients: Rows, goal: float, path: Path) -> Path:
    """Draw the curves, in the paper's lines, and the norms of the gradients by layer."""
    figure = new_figure((11, 4.5))
    left, right = figure.subplots(1, 2)
    kinds = {"relu": "-", "tanh": "--", "sigmoid": ":"}
    for (arm, seed), errors in curves_of(curves).items():
        label = arm if seed == curves[0]["seed"] else None
        epochs = np.arange(1, len(errors) + 1)
        left.plot(epochs, 100 * np.array(errors), kinds[arm], color="C0", label=label)
    left.axhline(100 * goal, color="0.6", linewidth=0.8)
    left.set(xlabel="epochs", ylabel="training error (%)", ylim=(0, None), xlim=(0, None))
    left.grid(alpha=0.3)
    left.legend()
    layers = list(dict.fromkeys(row["layer"] for row in gradients))
    for k, arm in enumerate(dict.fromkeys(row["arm"] for row in gradients)):
        for when, marker in (("before", "o--"), ("after", "s-")):
            own = [r for r in gradients if (r["arm"], r["when"]) == (arm, when)]
            norms = [np.mean([float(r["norm"]) for r in own if r["layer"] == y]) for y in layers]
            right.semilogy(layers, norms, marker, color=f"C{k}", label=f"{arm}, {when}")
    right.set(ylabel="norm of the gradient of the weights")
    right.yaxis.set_major_formatter("{x:g}")
    right.grid(alpha=0.3)
    right.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    return path


def run(given: argparse.Namespace, files: RunFolder) -> None:
    """Choose the rates, train the arms that are not in the files, and say and draw what it
    gave."""
    folder = files.path
    train, _ = runs.open_sets(Options(data=given.data, cache=given.cache))
    guess = 1 - 1 / len(train.classes)
    if not 0 < given.goal < guess:
        raise ValueError(
            f"--goal {given.goal:g} is no training error to reach: it must be above 0 and below"
            f" {guess:g}, the error of guessing"
        )
    where = Options(data=given.data).to_json()["data"]
    remember(folder, {"data": where, "goal": given.goal, "rates": RATES})
    rates = rows_in(folder / RATES_TRIED, ("arm", "rate", "loss"), ("rate", "loss"))
    curves = rows_in(folder / CURVES, ("arm", "seed", "rate", "epoch", "error"), ("error",))
    gradients = rows_in(folder / GRADIENTS, ("arm", "seed", "when", "layer", "norm"), ("norm",))
    curves_of(curves)
    pictures = Pictures(train, given.cache)

    def write(name: str, rows: Rows) -> None:
        files.write(name, list(rows[0]), (list(row.values()) for row in rows))

    best = {}
    for arm in ARMS:
        for rate in RATES:
            if (arm, f"{rate:g}") not in {(row["arm"], row["rate"]) for row in rates}:
                rates.append(tried(arm, rate, pictures))
                write(RATES_TRIED, rates)
        best[arm] = best_rate([row for row in rates if row["arm"] == arm])
    for seed in range(given.seeds):
        for arm in ARMS:
            done, path = curves_of(curves), folder / f"{arm}-{seed}.safetensors"
            if (arm, str(seed)) in done:
                path.unlink(missing_ok=True)
                continue
            relu = done.get(("relu", str(seed)), [])
            most = TIMES * len(relu) if relu else MOST_OF_RELU
            new = trained(arm, best[arm], pictures, seed, given.goal, most, path)
            others = [row for row in gradients if (row["arm"], row["seed"]) != (arm, str(seed))]
            gradients = others + new[1]
            write(GRADIENTS, gradients)
            curves += new[0]
            write(CURVES, curves)  # last: an arm counts as done by its curve
            path.unlink()
    print("\n".join(lines_of(curves, gradients, given.goal, guess)))
    print(f"drawn: {draw(curves, gradients, given.goal, folder / 'relu_vs_tanh.png')}")


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--data", default="cifar10", help="pictures, as `train` takes them")
    parser.add_argument("--goal", type=float, default=0.25, help="training error (default 0.25)")
    parser.add_argument("--seeds", type=commands.at_least_one, default=1)
    parser.add_argument("--cache", help="where decoded pictures are kept, or off")
    parser.add_argument("--output", default="runs/relu_vs_tanh", help="folder of the results")
    given = parser.parse_args()

    def locked(comm: object) -> None:
        Path(given.output).mkdir(parents=True, exist_ok=True)
        with closing(RunFolder.resume(given.output)) as files:
            run(given, files)

    return commands.run_command(locked, vars(given))


if __name__ == "__main__":
    sys.exit(main())
