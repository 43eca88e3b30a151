"""What the presets, the preparation of pictures, the optimiser and the command lines do, as
numbers.

    python tests/record.py     writes tests/record.json anew: a change of what users get

tests/test_record.py computes the same and compares. Floating-point numbers are compared with a
tolerance: BLAS libraries differ.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import alexnet
from minigrad import data, optim, random
from minigrad.data.preparation import Statistics
from minigrad.engine import no_grad
from minigrad.models.records import LRN, Preset, small_subset
from minigrad.network import Network, shrunken

FILE = Path(__file__).with_suffix(".json")
# numbers of each initial weight that are drawn; the rest repeats them, for 60 million take their
# time
DRAWN = 4096


@contextlib.contextmanager
def few_draws():
    """Inside, Stream.normal repeats its first DRAWN numbers."""
    whole = random.Stream.normal

    def normal(self, shape=()):
        size = int(np.prod(shape))
        return (
            whole(self, shape)
            if size <= DRAWN
            else np.resize(whole(self, DRAWN), size).reshape(shape)
        )

    random.Stream.normal = normal
    try:
        yield
    finally:
        random.Stream.normal = whole


def numbers(values) -> list[float]:
    """A few numbers that stand for an array: mean, standard deviation, and five elements spread
    over it."""
    a = np.asarray(values, np.float64)
    few = a.reshape(-1)[np.linspace(0, a.size - 1, min(5, a.size)).astype(int)]
    return [float(f"{v:.7g}") for v in (a.mean(), a.std(), *few)]


def statistics() -> Statistics:
    """Of no pictures: a mean image and colours made up, the same everywhere."""
    side = np.arange(256.0)
    mean = 120 + 40 * np.sin(side[:, None, None] / 50 + np.arange(3)) * np.cos(
        side[None, :, None] / 70
    )
    vectors = np.linalg.qr(np.array([[1.0, 1, 0], [1, 0, 1], [1, -1, -1]]))[0]
    vectors *= np.where(vectors.sum(axis=0) < 0, -1, 1)
    return Statistics(
        mean.astype(np.float32),
        np.array([9000.0, 400, 60], np.float32),
        vectors.astype(np.float32),
        61.5,
    )


def two_pictures() -> data.Pictures:
    """Two pictures in memory."""
    pixels = (
        np.indices((256, 256, 3)).sum(axis=0) * np.array([3, 7])[:, None, None, None] % 256
    ).astype(np.uint8)

    class Two(data.Pictures):
        def read(self, i):
            return pixels[i]

    class Images:
        labels = np.array([0, 1])

        def __len__(self):
            return 2

        def where(self, i):
            return f"picture {i}"

    return Two(Images())


def preset_rows(name: str, recipe: str) -> dict[str, Any]:
    """Everything that follows from a preset's numbers."""
    preset = alexnet.PRESETS[name]
    if recipe == "small":
        preset = small_subset(preset)
    rows: dict[str, Any] = {}
    with few_draws():
        model = alexnet.AlexNet(preset, 1000, seed=1)
    for parameter, p in model.named_parameters():
        rows[f"weights {parameter}"] = [*p.shape, *numbers(p.data)]
    size = preset.preprocessing.size
    p = preset.preprocessing
    x = np.float32(1 if p.scaled else 60) * np.sin(np.arange(2.0 * size * size * 3) / 3).reshape(
        2, size, size, 3
    )
    with no_grad():
        rows["logits in training"] = numbers(model(x.astype(np.float32)).numpy())
        model.eval()
        rows["logits"] = numbers(model(x.astype(np.float32)).numpy())
    rows |= optimizer_rows(model, preset)
    prep = data.Preparation.of(preset.preprocessing, statistics())
    pictures = two_pictures()
    for epoch in (0, 1):
        loader = data.Loader(pictures, prep, 2, True, seed=3, workers=0)
        rows[f"training pictures, epoch {epoch}"] = [
            numbers(x) for batch, _, _ in loader.batches(epoch) for x in batch
        ]
    for views in (False, True):
        ((batch, _, _),) = data.Loader(
            pictures, prep, 2, False, workers=0, ten_views=views
        ).batches()
        batch = batch.reshape(-1, 2, *batch.shape[1:]) if views else batch
        rows["ten views" if views else "centre"] = [numbers(x) for x in batch]
    rows["batch, epochs"] = [preset.recipe.batch_size, preset.recipe.epochs]
    return rows


def optimizer_rows(model: Network, preset: Preset) -> dict[str, Any]:
    optimizer = model.make_optimizer()
    names = {id(p): name for name, p in model.named_parameters()}
    rows: dict[str, Any] = {
        "optimiser": [optimizer.lr, optimizer.momentum, optimizer.weight_decay, optimizer.form]
    }
    for group in optimizer.groups:
        own = " ".join(names[id(p)] for p in group["params"])
        rows[f"group {own}"] = [json.dumps(v) for k, v in sorted(group.items()) if k != "params"]
    plateau = preset.recipe.lr_drops is None
    schedule = (
        optim.PlateauSchedule(optimizer)
        if plateau
        else optim.StepSchedule(optimizer, preset.recipe.lr_drops)
    )
    rates: list = []
    for epoch in range(preset.recipe.epochs):
        schedule.step(epoch, max(0.4, 0.9 - 0.05 * epoch) if epoch else None)
        now = [optimizer.rate(group) for group in optimizer.groups]
        if not rates or rates[-1][1:] != now:
            rates.append([epoch, *now])
    rows["rates"] = rates
    return rows


def draw(place: Path) -> None:
    """A set of three classes, train/ and val/, as PNG files: the same bytes everywhere, once
    decoded."""
    for part, count in (("train", 5), ("val", 2)):
        for c, kind in enumerate(("bars", "rings", "waves")):
            folder = place / part / kind
            folder.mkdir(parents=True)
            for i in range(count):
                v, u = np.mgrid[:256, :256] / 256.0 + 0.01 * i
                wave = (
                    np.sin(60 * u),
                    np.sin(60 * np.hypot(u - 0.5, v - 0.5)),
                    np.sin(30 * (u + v * v)),
                )[c]
                shade = 128 + 100 * wave[..., None] * np.array([1.0, 0.6 + 0.05 * i, 0.3])
                Image.fromarray(shade.astype(np.uint8)).save(folder / f"{i}.png")
    (place / "words.txt").write_text("bars\tvertical bars\n")
    (place / "broken" / "train").mkdir(parents=True)
    for kind in ("bars", "rings", "waves"):
        (place / "broken" / "train" / kind).symlink_to(place / "train" / kind)
    (place / "broken" / "train" / "torn").mkdir()
    for i in range(4):
        whole = (place / "train" / "bars" / f"{i}.png").read_bytes()
        (place / "broken" / "train" / "torn" / f"{i}.png").write_bytes(whole if i < 2 else b"")


def tiny_presets() -> dict[str, Any]:
    """Three members of the family in small, whose recipes have what the others lack."""
    names = ("paper", "krizhevsky2012", "zfnet")
    return {f"tiny-{name}": tiny(alexnet.PRESETS[name]) for name in names}


def tiny(preset: Preset) -> Preset:
    """The preset's layers in small, with the paper's constant in its LRN."""
    return shrunken(preset).with_each(LRN, alpha=1e-4)


def command(*args: Any) -> tuple[int, str]:
    """(exit code, what was printed) of alexnet.py with these arguments."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = alexnet.main([str(a) for a in args])
        except SystemExit as stop:
            code = stop.code
    return code, said.getvalue()


WORD = re.compile(r"[A-Za-z_]+|-?\d+(?:\.\d+)?(?:e-?\d+)?")


def figures(text: str) -> list[Any]:
    """Words and numbers of what a command printed: the first as they are, the second as floats."""
    return [
        w if w[0].isalpha() or w[0] == "_" else float(w)
        for w in WORD.findall(text.replace(os.getcwd(), "HERE"))
    ]


def seen(run: Path) -> dict[str, Any]:
    """What a training has left."""
    rows = {
        name: list(csv.DictReader((run / f"{name}.csv").read_text().splitlines()))
        for name in ("steps", "metrics")
    }
    skipped = run / "skipped.csv"
    return {
        "files": " ".join(sorted(p.name for p in run.iterdir())),
        "steps": len(rows["steps"]),
        "losses": [float(r["loss"]) for r in rows["steps"][:: max(1, len(rows["steps"]) // 4)]],
        "rates": [float(r["lr"]) for r in rows["metrics"]],
        "held out": [
            [float(r[k]) for k in ("val_loss", "val_top1", "val_top5")] for r in rows["metrics"]
        ],
        "skipped": len(skipped.read_text().splitlines()) - 1 if skipped.is_file() else 0,
    }


# For each option of each command: arguments that show what it does, or why it has no row of its
# own.
BASE = [
    "--data",
    ".",
    "--preset",
    "tiny-paper",
    "--epochs",
    "2",
    "--batch-size",
    "4",
    "--lr",
    "0.0005",
    "--workers",
    "0",
    "--cache",
    "here",
    "--report",
    "off",
]
TRAIN: dict[str, list[str] | str] = {
    "--help": "prints this list",
    "--data": ["--data", "train"],
    "--classes": ["--classes", "rings,bars"],
    "--images-per-class": ["--images-per-class", "3"],
    "--holdout": ["--holdout", "0.4"],
    "--preset": ["--preset", "tiny-krizhevsky2012"],
    "--schedule": ["--schedule", "plateau"],
    "--recipe": ["--recipe", "preset"],
    "--epochs": ["--epochs", "3"],
    "--batch-size": ["--batch-size", "7"],
    "--lr": ["--lr", "0.0001"],
    "--device": ["--device", "cpu"],
    "--ranks": "the same run: tests/test_distributed.py",
    "--rank-timeout": "tests/test_distributed.py",
    "--columns": "needs ranks: tests/test_distributed.py",
    "--accumulate": "the same run up to rounding: tests/test_distributed.py",
    "--workers": ["--workers", "1"],
    "--worker-timeout": ["--workers", "1", "--worker-timeout", "45"],
    "--most-skipped": ["--data", "broken", "--most-skipped", "0.3"],
    "--keep": ["--keep", "0"],
    "--seed": ["--seed", "5"],
    "--cache": ["--cache", "off"],
    "--report": "a page at the end, and nothing else: tests/test_page.py",
    "--output": "the folder that every row here looks into",
    "--save-every": ["--save-every", "0"],
    "--resume": ["--resume", "resume", "--epochs", "3"],
    "--config": ["--config", "base", "--seed", "0"],
    "--finetune": ["--finetune", "base", "--classes", "rings,bars"],
}
EVALUATE: dict[str, list[str] | str] = {
    "--help": "prints this list",
    "--data": ["--data", "train"],
    "--views": ["--views", "ten"],
    "--by-class": ["--by-class", "by-class.csv"],
    "--predictions": ["--predictions", "predictions.csv"],
    "--confusion": ["--confusion", "confusion.png"],
    "--batch-size": ["--batch-size", "5"],
    "--workers": ["--workers", "1"],
    "--worker-timeout": ["--worker-timeout", "45"],
    "--device": ["--device", "cpu"],
}
OTHERS: dict[tuple[str, str], list[str] | str] = {
    ("predict", "--help"): "prints this list",
    ("predict", "--device"): ["val/rings/0.png", "val/bars/1.png", "--device", "cpu"],
    ("summary", "--help"): "prints this list",
    ("summary", "--classes"): ["tiny-paper", "--classes", "7"],
    ("summary", "--compare"): ["tiny-paper", "--compare", "lenet5"],
    ("predict", "--plot"): "tests/test_predict.py",
    ("predict", "--json"): "tests/test_predict.py",
    ("predict", "--csv"): "tests/test_predict.py",
    ("summary", "--set"): "tests/test_about_presets.py",
    ("summary", "--csv"): "tests/test_about_presets.py",
    ("summary", "--columns"): "tests/test_columns.py",
    ("summary", "--plot"): "measures time; drawn in tests/test_command_line.py",
    ("gradcheck", "--help"): "prints this list",
}


def train_rows() -> dict[str, Any]:
    """Trainings of tiny networks in the working folder, a row an option."""
    rows: dict[str, Any] = {}

    def train(name: str, *args: str) -> None:
        name = name.removeprefix("--")
        to = [] if "--resume" in args else ["--output", name]
        code, said = command("train", *args, *to)
        rows[f"train {name}"] = (
            seen(Path(name)) if code == 0 else [code, figures(said.splitlines()[-1])]
        )

    train("base", *BASE)
    shutil.copytree("base", "resume")
    for option, arguments in TRAIN.items():
        if isinstance(arguments, str) or option == "--resume":
            continue
        given = [a for pair in zip(BASE[::2], BASE[1::2]) if pair[0] not in arguments for a in pair]
        if option == "--config":
            given = []
        train(option, *given, *arguments)
    train(
        "zfnet",
        *BASE,
        "--preset",
        "tiny-zfnet",
        "--recipe",
        "preset",
        "--epochs",
        "4",
        "--lr",
        "1e-5",
    )
    train(
        "the 2012 code",
        *BASE,
        "--preset",
        "tiny-krizhevsky2012",
        "--recipe",
        "preset",
        "--epochs",
        "4",
    )
    train("--most-skipped is too little", *BASE, "--data", "broken", "--most-skipped", "0.01")
    train("--resume", *TRAIN["--resume"])
    return rows


def evaluate_rows() -> dict[str, Any]:
    """Evaluations and predictions of the runs that train_rows has left."""
    rows = {
        "evaluate three runs": figures(
            command("evaluate", "base", "seed", "lr", "--workers", "0")[1]
        )
    }
    rows["evaluate"] = figures(command("evaluate", "base", "--workers", "0")[1])
    for option, arguments in EVALUATE.items():
        if isinstance(arguments, list):
            quiet = [] if option == "--workers" else ["--workers", "0"]
            rows[f"evaluate {option}"] = figures(command("evaluate", "base", *quiet, *arguments)[1])
    for file in ("by-class.csv", "predictions.csv"):
        rows[file] = figures(Path(file).read_text())
    for (name, option), arguments in OTHERS.items():
        if isinstance(arguments, list):
            rows[f"{name} {option}"] = figures(
                command(name, *(["base"] if name == "predict" else []), *arguments)[1]
            )
    rows["gradcheck"] = figures(command("gradcheck", "caffe")[1].split(" error")[0])
    rows["summary"] = figures(command("summary", "tiny-krizhevsky2012")[1])
    return rows


def listed(name: str) -> set[str]:
    """The options that a command's --help lists."""
    return set(
        re.findall(r"(?<![\w-])--[a-z][a-z-]+", command(name, "--help")[1].split("options:")[1])
    )


def record() -> dict[str, Any]:
    rows = {
        f"{name} {recipe}": preset_rows(name, recipe)
        for name in alexnet.PRESETS
        for recipe in ("preset", "small")
    }
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        alexnet.MODELS |= tiny_presets()
        try:
            draw(Path(place))
            rows |= train_rows()
            rows |= evaluate_rows()
        finally:
            os.chdir(before)
            for name in tiny_presets():
                del alexnet.MODELS[name]
    return rows


if __name__ == "__main__":
    FILE.write_text(json.dumps(record(), separators=(",", ":")).replace('},"', '},\n"') + "\n")
