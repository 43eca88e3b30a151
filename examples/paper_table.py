"""The paper's features, taken away one by one: what each is worth on small pictures.

    python examples/paper_table.py                       # downloads CIFAR-10 once, 170 MB
    python examples/paper_table.py --data cifar-10.zip   # or with train/CLASS/ and test/CLASS/
    python examples/paper_table.py --epochs 10 --seeds 3 # a shorter table, with wider intervals
    python examples/paper_table.py --show docs/results/paper_table.csv     # trains nothing

A small AlexNet for crops of 24 x 24 pixels has every feature of the paper: five convolutions, three
of them in two columns, ReLUs, normalisation after two, overlapping pools, dropout in two dense
layers, crops, mirrored pictures and colour noise. Each row of the table takes one away or exchanges
it, keeps everything else, and trains with the same seeds. The table says how many points of test
error the feature saves, with a 95 % interval of the paired difference, beside the paper's gain.

Stop it whenever you like: the rows that are done are in the folder's results.csv, and the same
command goes on.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ensembles
import numpy as np

from minigrad import commands, data
from minigrad.data.loader import Loader
from minigrad.kernels import threads
from minigrad.look.pictures import new_figure
from minigrad.models.records import (
    LRN,
    Conv,
    Dense,
    Dropout,
    Layer,
    Pool,
    Preprocessing,
    Preset,
    Recipe,
    ReLU,
    Sigmoid,
    Tanh,
)
from minigrad.training import runs
from minigrad.training.evaluation import Evaluation, evaluate
from minigrad.training.options import Options
from minigrad.training.series import Cell, rows_in, train_series
from minigrad.training.trainer import Trainer

COLUMNS = ("name", "seed", "views", "epochs", "parameters", "train_error", "test_error")
NUMBERS = ("seed", "epochs", "test_error")
# The paper's alpha is for pixels of 0 .. 255. Here they have a standard deviation of 1, not 64.
ALPHA = 1e-4 * 64**2

FULL = Preset(
    source="the paper's network, made small for CIFAR-10",
    layers={
        "conv1": Conv(32, 5, padding=2),
        "relu1": ReLU(),
        "norm1": LRN(alpha=ALPHA),
        "pool1": Pool(3, stride=2, ceil=True),  # 24 -> 12, as a pool of 2 would give
        "conv2": Conv(32, 5, padding=2, groups=2),
        "relu2": ReLU(),
        "norm2": LRN(alpha=ALPHA),
        "pool2": Pool(3, stride=2, ceil=True),
        "conv3": Conv(64, 3, padding=1),
        "relu3": ReLU(),
        "conv4": Conv(64, 3, padding=1, groups=2),
        "relu4": ReLU(),
        "conv5": Conv(32, 3, padding=1, groups=2),
        "relu5": ReLU(),
        "pool5": Pool(3, stride=2, ceil=True),
        "fc6": Dense(256),
        "relu6": ReLU(),
        "drop6": Dropout(),
        "fc7": Dense(256),
        "relu7": ReLU(),
        "drop7": Dropout(),
        "fc8": Dense(std=0.01),
    },
    preprocessing=Preprocessing(size=24, picture=32, unit_std=True, colour_noise=0.1),
    # He's initial weights, fitted to the pictures: the paper's would need more epochs to move.
    recipe=Recipe(
        batch_size=128,
        epochs=20,
        lr=0.02,
        lr_drops=(15, 18),
        momentum=0.9,
        weight_decay=0.0005,
        standardize=True,
        least=0,
    ),
    classes=10,
)


def exchanged(kind: type, new: Layer | None) -> Preset:
    """The full network with another layer, or none, in the place of each layer of a kind."""
    return FULL.changed(**{n: new for n, layer in FULL.layers.items() if isinstance(layer, kind)})


def one_column() -> Preset:
    """Without groups, and with fewer maps, so that the convolutions have 61,128 weights, where the
    two columns have 61,280. conv5 keeps its maps, and so do the dense layers their weights."""
    maps = {"conv1": 24, "conv2": 24, "conv3": 48, "conv4": 48, "conv5": 32}
    convs = {n: FULL.layers[n] for n in maps}
    return FULL.changed(
        **{
            n: replace(c, filters=maps[n], groups=1)
            for n, c in convs.items()
            if isinstance(c, Conv)
        }
    )


@dataclass(frozen=True)
class Claim:
    """A row of the table: the network without a feature, what was done to it, what the paper says,
    what else differs, "" if nothing does, and the paper's gain in points on ImageNet, if it gives
    one, which stands in its words as {:g}."""

    what: str
    paper: str
    preset: Preset | None = None  # None: the full network, evaluated in another way
    confounded: str = ""
    points: float = math.nan


CLAIMS = {
    "tanh": Claim(
        "ReLU -> tanh", "25 % training error 6 times sooner (3.1)", exchanged(ReLU, Tanh()),
        "the rate is the ReLU's",
    ),
    "sigmoid": Claim(
        "ReLU -> sigmoid", "-", exchanged(ReLU, Sigmoid()), "the rate is the ReLU's"
    ),
    "no-normalisation": Claim(
        "normalisation -> none", "{:g}; 2 on CIFAR-10 (3.3)", exchanged(LRN, None), points=1.4
    ),
    "pools-of-2": Claim("pools 3/2 -> 2/2", "{:g} (3.4)", FULL.with_each(Pool, size=2), points=0.4),
    "average-pools": Claim("max pools -> average", "-", FULL.with_each(Pool, mean=True)),
    "no-dropout": Claim(
        "dropout -> none", "substantial overfitting without (4.2)", exchanged(Dropout, None),
        "dropout needs about twice the epochs (4.2)",
    ),
    "no-crops": Claim(
        "crops, mirror -> centre", "substantial overfitting without (4.1)",
        FULL.with_preprocessing(random_crops=False, mirror=False),
    ),
    "no-colour-noise": Claim(
        "colour noise -> none", "over {:g} (4.1)", FULL.with_preprocessing(colour_noise=0.0),
        points=1.0,
    ),
    "one-column": Claim(
        "two columns -> one", "{:g} (3.2)", one_column(),
        "as many weights here; the paper halved the maps of conv1 to conv4", points=1.7,
    ),
    "ten-views": Claim("ten views -> the centre", "{:g} on ILSVRC-2010 (6)", points=1.5),
    "ensemble": Claim(
        "an ensemble -> one network", "{:g} for five (6)", None,
        "the interval is over test pictures", points=2.6,
    ),
}  # fmt: skip
FULL_ROW = ("full", "centre")
PICTURES = FULL.preprocessing.shape
T975 = (  # Student's t for 1, 2, ... 30 degrees of freedom
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def measure(cell: Cell, trainer: Trainer, result: Evaluation) -> list[dict[str, object]]:
    """The row of a training, and of the full network a second one, with ten views."""
    last = trainer.run.rows("metrics.csv")[-1]
    row = {
        "views": "centre",
        "epochs": trainer.epoch,
        "parameters": sum(p.data.size for p in trainer.model.parameters()),
        "train_error": f"{1 - float(last['train_top1']):.4f}",
        "test_error": f"{1 - result.top(1):.4f}",
    }
    if cell.name != "full":
        return [row]
    loader = trainer.val
    own = loader.pictures, loader.preparation, loader.batch_size
    ten = evaluate(trainer.model, Loader(*own, False, workers=loader.workers, ten_views=True))
    return [row, row | {"views": "ten", "test_error": f"{1 - ten.top(1):.4f}"}]


@dataclass(frozen=True)
class Gain:
    """How many points of test error a feature saves; half the width of the 95 % interval; and over
    what that is: "5 seeds", or "pictures"."""

    mean: float
    half: float
    over: str

    @property
    def verdict(self) -> str:
        if np.isinf(self.half):
            return "one seed, no interval"
        if not self.half < abs(self.mean):
            return "covered by the spread"
        return "it helps" if self.mean > 0 else "it harms"


def paired(gains: Sequence[float]) -> Gain:
    """The gain over seeds, with Student's interval: t s / sqrt(n)."""
    n = len(gains)
    if n == 1:
        return Gain(float(gains[0]), np.inf, "1 seed")
    t = T975[min(n - 1, len(T975)) - 1]
    return Gain(float(np.mean(gains)), t * float(np.std(gains, ddof=1)) / np.sqrt(n), f"{n} seeds")


def gains(rows: Sequence[Mapping[str, str]], averaged: Sequence[Mapping[str, str]]) -> dict:
    """{claim: its Gain}, for the claims of which there are rows."""
    errors = {(r["name"], r["views"], r["seed"]): 100 * float(r["test_error"]) for r in rows}
    found = {}
    for name in CLAIMS:
        feature, without = FULL_ROW, (name, "centre")
        if name == "ten-views":
            feature, without = ("full", "ten"), FULL_ROW
        seeds = [seed for *row, seed in errors if tuple(row) == without]
        both = [seed for seed in seeds if (*feature, seed) in errors]
        if both:
            found[name] = paired([errors[*without, s] - errors[*feature, s] for s in both])
    most = [row for row in averaged if row["views"] == "centre" and int(row["networks"]) > 1]
    if most:
        last = max(most, key=lambda row: int(row["networks"]))
        gain, half = 100 * float(last["gain"]), 100 * float(last["half_width"])
        found["ensemble"] = Gain(gain, half, "pictures")
    return found


def lines_of(rows: Sequence[Mapping[str, str]], found: Mapping[str, Gain]) -> list[str]:
    """The table, as text."""
    full = [100 * float(r["test_error"]) for r in rows if (r["name"], r["views"]) == FULL_ROW]
    lines = [
        f"the full network: {np.mean(full):.2f} % test error, from {min(full):.2f} to"
        f" {max(full):.2f} %, {len(full)} seeds, {rows[0]['epochs']} epochs",
        "",
        f"{'feature -> without':31} {'points saved':>12} {'95 % interval':>17}  over     "
        "  paper's gain",
    ]
    notes: list[str] = []
    for name, gain in found.items():
        claim = CLAIMS[name]
        mark = ""
        if claim.confounded:
            notes += [claim.confounded] * (claim.confounded not in notes)
            mark = "*" * (1 + notes.index(claim.confounded))
        low, high = gain.mean - gain.half, gain.mean + gain.half
        interval = f"{low:+.2f} .. {high:+.2f}" if np.isfinite(gain.half) else "-"
        lines.append(
            f"{claim.what + ' ' + mark:31} {gain.mean:+12.2f} {interval:>17}  {gain.over:8}"
            f"  {claim.paper.format(claim.points)}; here: {gain.verdict}"
        )
    return [*lines, *(f"{'*' * i} {note}" for i, note in enumerate(notes, 1))]


def draw(found: Mapping[str, Gain], path: Path) -> Path:
    """Draw the gains, with their intervals, beside the paper's."""
    figure = new_figure((7, 0.45 * len(found) + 1.2))
    axes = figure.subplots()
    places = range(len(found))
    paper = [CLAIMS[name].points for name in found]
    axes.plot(paper, places, "D", color="C1", fillstyle="none", label="the paper's, on ImageNet")
    means = [gain.mean for gain in found.values()]
    halves = [gain.half if np.isfinite(gain.half) else 0 for gain in found.values()]
    axes.errorbar(means, places, xerr=halves, fmt="C0o", capsize=3, label="ours, 95 % interval")
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.set(xlabel="points of test error that the feature saves")
    axes.legend()
    axes.set_yticks(places, [CLAIMS[n].what + " *" * bool(CLAIMS[n].confounded) for n in found])
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    figure.savefig(path, dpi=110)
    return path


def show(rows: Sequence[Mapping[str, str]], averaged: Sequence[Mapping[str, str]]) -> dict:
    """Print the table. Returns the gains."""
    found = gains(rows, averaged)
    print("\n".join(lines_of(rows, found)))
    return found


def chosen(names: str | None) -> dict[str, Preset]:
    """The networks of these rows, or of all, without the full one."""
    trained = {name: c.preset for name, c in CLAIMS.items() if c.preset is not None}
    wanted = trained if names is None else names.split(",")
    if unknown := [name for name in wanted if name not in trained]:
        raise ValueError(f"--rows: there is no {unknown[0]!r}: choose from {', '.join(trained)}")
    return {name: trained[name] for name in trained if name in wanted}


def run(given: argparse.Namespace) -> None:
    """Train what is missing from the table, and print and draw it."""
    if given.show:
        path = Path(given.show)
        rows = rows_in(path, COLUMNS, NUMBERS)
        if not any((row["name"], row["views"]) == FULL_ROW for row in rows):
            what = "has no row of the full network" if path.is_file() else "does not exist"
            raise ValueError(f"{path} {what}: --show needs the results.csv of a table")
        beside = path.with_name(ensembles.TABLE)
        show(rows, rows_in(beside, ensembles.COLUMNS, ensembles.NUMBERS))
        return
    presets = {"full": FULL} | chosen(given.rows)
    folder = Path(given.output)
    options = {"data": given.data, "epochs": given.epochs, "workers": 0, "report": "off", "keep": 0}
    options["cache"] = given.cache
    sets = runs.open_sets(Options(**options))
    other = runs.open_sets(Options(**options, seed=1))[1]
    if [sets[1].where(i) for i in range(len(sets[1]))] != [
        other.where(i) for i in range(len(other))
    ]:
        raise ValueError(
            f"{given.data} has no test pictures of its own, and every seed would hold out others:"
            " give pictures in train/CLASS/ and test/CLASS/"
        )
    for some, what in zip(sets, ("training pictures", "test pictures")):
        data.open_pictures(some, runs.cache_folder(given.cache), what=what, shape=PICTURES)
    cells = [Cell(n, preset, s) for s in range(given.seeds) for n, preset in presets.items()]
    rows = train_series(cells, options, folder, COLUMNS, measure, given.jobs, numbers=NUMBERS)
    seeds = sorted({int(row["seed"]) for row in rows if row["name"] == "full"})
    of_the_full = [str(Cell("full", FULL, seed).run(folder)) for seed in seeds]
    averaged = ensembles.compare(of_the_full, folder / ensembles.TABLE)
    print(f"drawn: {draw(show(rows, averaged), folder / 'paper_table.png')}")


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--data", default="cifar10", help="pictures, as `train` takes them")
    parser.add_argument("--epochs", type=commands.at_least_one, default=FULL.recipe.epochs)
    parser.add_argument("--seeds", type=commands.at_least_one, default=5)
    parser.add_argument("--rows", metavar="NAME,NAME", help="rows to train (default all)")
    parser.add_argument(
        "--jobs", type=commands.at_least_one, default=threads(), help="trainings at a time"
    )
    parser.add_argument("--cache", help="where decoded pictures are kept, or off")
    parser.add_argument("--output", default="runs/paper_table", help="folder of the series")
    parser.add_argument("--show", metavar="CSV", help="print this table, and train nothing")
    given = parser.parse_args()
    return commands.run_command(lambda comm: run(given), vars(given))


if __name__ == "__main__":
    sys.exit(main())
