"""Feeds damaged and absurd input to the commands, in this process, and reports what is not answered
by a sentence.

    python tests/fuzz.py 1              # minutes
    python tests/fuzz.py 10 --seed 7    # other inputs

What is tried: files of a run folder, edited, cut off, or with right checksums and wrong contents;
values on the command line; archives; pictures; files of weights. Each input must end with exit code
0, 2 or 130, within ten seconds, with no traceback, no process started and no file outside its
folder touched.
The exit code is 1 if one did not; the input is then named by its number, and `--only NUMBER`
repeats it alone and shows the traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import safetensors.numpy
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import weight_files  # noqa: E402

import alexnet  # noqa: E402
from minigrad import weights  # noqa: E402
from minigrad.data import synthetic  # noqa: E402
from minigrad.models.records import LRN  # noqa: E402
from minigrad.network import Network, shrunken  # noqa: E402
from minigrad.training import checkpoint, session  # noqa: E402
from minigrad.training.options import Options, flag_of  # noqa: E402
from minigrad.training.trainer import Trainer  # noqa: E402

LIMIT = 10  # seconds for one input
TINY = shrunken(alexnet.PAPER).with_each(LRN, alpha=1e-4)
UP = "../.."  # as a folder of pictures: whatever lies there, which may take its time
ABSURD = [
    "", "0", "-1", "1", "2", "1e300", "-1e300", "nan", "inf", "-inf", "1e-320", "true", "None",
    "9" * 30, "9" * 5000, str(2**31), str(2**63), "0x10", "1_000", "\ufeff1", "$\\foo$", "\x1b[31m",
    "a" * 5000, UP, "/dev/null", "/proc/self/mem", ".", "\udcff", "set", "run", "é",
]  # fmt: skip
FIELDS = ["conv1.filters", "norm1.k", "pool1.size", "fc8.units", "preprocessing.size",
          "preprocessing.mean", "recipe.lr_drops", "recipe", "conv9.size", "norm1"]  # fmt: skip
JUNK = [
    None, True, -1, 0, 1, 2**40, 10**400, 1.5, float("nan"), float("inf"), "", "x", "$\\foo$", [],
    [[]], {}, {"a": 1}, ["a", "a"], "9" * 5000,
]  # fmt: skip


class Hang(BaseException):
    """An input took longer than LIMIT."""


def alarm(*_: object) -> None:
    raise Hang


def finite_fit(fit: Callable) -> Callable:
    """Trainer.fit for one epoch at most: a run that was asked to be long is not a hang."""
    return lambda self, epochs: fit(self, min(epochs, self.epoch + 1))


def command(line: list[str]) -> int:
    try:
        return alexnet.main(line)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def bytes_changed(rng: random.Random, content: bytes) -> bytes:
    """Some bytes replaced, left out, repeated or cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, how = rng.randrange(len(data) + 1), rng.randrange(5)
        some = rng.randbytes(rng.choice((1, 2, 4, 64)))
        if how == 0:
            data[at : at + len(some)] = some
        elif how == 1:
            del data[at : at + rng.choice((1, 16, 1000))]
        elif how == 2:
            data[at:at] = some
        elif how == 3:
            del data[at:]
        else:
            data[at : at + 4] = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"NaN,", b'"}]\n'))
    return bytes(data)


def value_changed(rng: random.Random, value: object) -> object:
    """One value somewhere in a JSON value replaced, left out or repeated."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if rng.random() < 0.1:
            return value | {"extra": rng.choice(JUNK)}
        return value | {key: value_changed(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:at] + value[at + 1 :]
        return [*value[:at], value_changed(rng, value[at]), *value[at + 1 :]]
    return rng.choice(JUNK)


def array_changed(rng: random.Random, array: np.ndarray) -> np.ndarray:
    how = rng.randrange(6)
    if how == 0:
        return array.astype(rng.choice(("float64", "int32", "float16", "uint8")))
    if how == 1:
        return array.reshape(-1)[:0]
    if how == 2:
        return array.reshape(-1)
    if how == 3:
        return np.full_like(array, rng.choice((np.nan, np.inf, 3e38)))
    if how == 4:
        return np.zeros((*array.shape, 1), array.dtype)
    return array.T.copy()


class Ground:
    """A small set, a run that was trained on it, and what is damaged of them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        synthetic.draw_set(place / "set", train=3, val=1)
        for folder in [f for part in (place / "set").iterdir() if part.is_dir()
                       for f in sorted(part.iterdir())[3:]]:  # fmt: skip
            shutil.rmtree(folder)
        self.clean = place / "clean"
        given = {"data": str(place / "set"), "preset": "tiny", "workers": 0, "cache": "off"}
        options = {"epochs": 2, "batch_size": 4, "output": str(self.clean), "report": "off"}
        session.train(given | options, alexnet.MODELS)
        self.tensors, self.description = checkpoint.load(self.clean / "checkpoint.safetensors")
        self.picture = next((place / "set" / "val").rglob("*.*"))
        with zipfile.ZipFile(place / "set.zip", "w") as archive:
            for path in sorted((place / "set").rglob("*.*")):
                archive.write(path, path.relative_to(place))
        shutil.make_archive(str(place / "set"), "tar", place, "set")
        self.archives = [(place / f"set.{kind}").read_bytes() for kind in ("zip", "tar")]
        self.pictures = []
        for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"):
            drawn = io.BytesIO()
            Image.open(self.picture).convert("RGB").save(drawn, kind)
            self.pictures.append(drawn.getvalue())

        small = shrunken(alexnet.MODELS["caffe_lenet"], 10)
        alexnet.MODELS["small"] = small
        drawn = {name: p.data for name, p in Network(small, 10).named_parameters()}
        tensors = weights.unfit(drawn, small, 10)
        layers: dict[str, list[np.ndarray]] = {}
        for name, array in tensors.items():
            layers.setdefault(name.rpartition(".")[0], []).append(array)
        self.weights = [
            weight_files.caffemodel(layers, old=True),
            weight_files.caffemodel(layers),
            weight_files.pt(tensors),
            safetensors.numpy.save(tensors),
        ]

    def damaged_run(self, rng: random.Random) -> Path:
        """A copy of the run with one file changed."""
        run = self.place / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(self.clean, run)
        newest = run / "checkpoint.safetensors"
        how = rng.randrange(5)
        if how == 0:
            path = rng.choice(sorted(p for p in run.rglob("*") if p.is_file()))
            path.write_bytes(bytes_changed(rng, path.read_bytes()))
        elif how == 1:
            settings = json.loads((run / "settings.json").read_text())
            (run / "settings.json").write_text(json.dumps(value_changed(rng, settings)))
        elif how == 2:
            changed = value_changed(rng, self.description)
            checkpoint.save(newest, self.tensors, changed if isinstance(changed, dict) else {})
        elif how == 3:
            name = rng.choice(sorted(self.tensors))
            changed = array_changed(rng, self.tensors[name])
            checkpoint.save(newest, self.tensors | {name: changed}, self.description)
        else:
            name = rng.choice(sorted(self.tensors))
            left = {n: a for n, a in self.tensors.items() if n != name}
            extra = {rng.choice(("model.x", "velocity.x", "x")): np.zeros(3, np.float32)}
            checkpoint.save(newest, rng.choice((left, self.tensors | extra)), self.description)
        return run

    def run_folder(self, rng: random.Random) -> list[str]:
        run = str(self.damaged_run(rng))
        new = [
            "--epochs",
            "1",
            "--data",
            "set",
            "--workers",
            "0",
            "--cache",
            "off",
            "--report",
            "off",
        ]
        return rng.choice(
            [
                ["evaluate", run, "--workers", "0"],
                ["predict", run, str(self.picture)],
                ["look", run, "--what", "filters", "evolution", "-o", "drawn", "--workers", "0"],
                ["train", "--resume", run, "--epochs", "3", "--workers", "0", "--report", "off"],
                ["train", "--config", run, "--output", "new", *new[4:]],
                ["train", "--finetune", run, "--preset", "tiny", "--output", "new", *new],
            ]
        )

    def command_line(self, rng: random.Random) -> list[str]:
        new = ["train", "--preset", "tiny", "--epochs", "1", "--output", "new", "--report", "off"]
        plain = {"--data": "set", "--workers": "0", "--cache": "off"}
        names = sorted(
            set(Options.__dataclass_fields__) - {"ranks", "columns", "rank_timeout", "workers"}
        )
        for name in rng.sample(names, rng.choice((1, 1, 2))):
            plain[flag_of(name)] = rng.choice(ABSURD)
        line = new + [word for pair in plain.items() for word in pair]
        clean = str(self.clean)
        other = [
            ["evaluate", clean, "--batch-size", rng.choice(ABSURD), "--workers", "0"],
            ["evaluate", rng.choice(ABSURD), "--data", rng.choice(ABSURD), "--workers", "0"],
            ["predict", clean, rng.choice([word for word in ABSURD if word != UP])],
            ["predict", rng.choice(ABSURD), str(self.picture)],
            ["summary", rng.choice(ABSURD), "--classes", rng.choice(ABSURD)],
            ["summary", "paper", "--set", f"{rng.choice(FIELDS)}={rng.choice(ABSURD)}"],
            ["diff", "paper", rng.choice(ABSURD)],
            ["import", rng.choice(ABSURD), "--preset", "small", "-o", "new"],
            ["export", clean, "-o", rng.choice(ABSURD)],
            ["look", clean, "--what", "filters", "--stage", rng.choice(ABSURD), "-o", "drawn"],
            ["look", clean, "--what", "maps", "--picture", rng.choice(ABSURD), "-o", "drawn"],
        ]
        return line if rng.random() < 0.6 else rng.choice(other)

    def archive(self, rng: random.Random) -> list[str]:
        path = self.place / "broken"
        path.write_bytes(bytes_changed(rng, rng.choice(self.archives)))
        return ["evaluate", str(self.clean), "--data", str(path), "--workers", "0"]

    def one_picture(self, rng: random.Random) -> list[str]:
        path = self.place / "broken"
        path.write_bytes(bytes_changed(rng, rng.choice(self.pictures)))
        return ["predict", str(self.clean), str(path)]

    def file_of_weights(self, rng: random.Random) -> list[str]:
        path = self.place / "broken"
        path.write_bytes(bytes_changed(rng, rng.choice(self.weights)))
        mean = rng.choice(([], [], ["--mean", str(path)], ["--classes", str(path)]))
        return ["import", str(path), "--preset", "small", *mean, "-o", "new"]


def state(folder: Path) -> str:
    """A digest of the names and contents of all files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def attempt(line: list[str], show: bool) -> tuple[str, str]:
    """(what is wrong, "" if nothing; what it printed)."""
    said, started, popen = io.StringIO(), [], subprocess.Popen

    def recorded(args: list[str], *rest: object, **options: object) -> subprocess.Popen:
        if args[0] != "fc-list":  # matplotlib asks it for fonts, once
            started.append(args)
        return popen(args, *rest, **options)

    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        with (
            mock.patch.object(subprocess, "Popen", recorded),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            code = command(line)
    except Hang:
        return f"took more than {LIMIT} s", said.getvalue()
    except BaseException as error:
        text = traceback.format_exc()
        if show:
            print(text)
        return f"{type(error).__name__}: {str(error)[:200]}", text
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    text = said.getvalue()
    if "Traceback" in text or code not in (0, 2, 130):
        return f"exit code {code}, {'' if 'Traceback' in text else 'no '}traceback", text
    if started:
        return f"started a process: {started[0]}", text
    if code == 2 and not any(word in text for word in ("error:", "usage:")):
        return "exit code 2 without a sentence", text
    return "", text


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("minutes", type=float, nargs="?", default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this input alone")
    given = parser.parse_args()
    signal.signal(signal.SIGALRM, alarm)
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    findings: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as outer:
        place, outside = Path(outer, "place"), Path(outer, "outside")
        place.mkdir()
        outside.mkdir()
        (outside / "file").write_text("untouched")
        os.chdir(place)
        own = {"XDG_CACHE_HOME": str(place / "cache"), "MPLCONFIGDIR": str(place / "mpl")}
        with (
            mock.patch.dict(os.environ, own),
            mock.patch.dict(alexnet.MODELS, tiny=TINY),
            mock.patch.multiple(session, draw_run=lambda *_: []),
            mock.patch.object(Trainer, "fit", finite_fit(Trainer.fit)),
        ):
            with contextlib.redirect_stdout(io.StringIO()):
                ground = Ground(place)
            before, clean = state(outside), state(ground.clean)
            kinds = [
                ground.run_folder, ground.command_line, ground.archive, ground.one_picture,
                ground.file_of_weights,
            ]  # fmt: skip
            end, number = time.monotonic() + 60 * given.minutes, 0
            while time.monotonic() < end if given.only is None else number <= given.only:
                kind = kinds[number % len(kinds)]
                rng = random.Random(f"{given.seed} {number}")
                if given.only in (None, number):
                    shutil.rmtree(place / "new", ignore_errors=True)
                    line = kind(rng)
                    wrong, text = attempt(line, given.only is not None)
                    counts[kind.__name__] += 1
                    if not wrong and (state(outside), state(ground.clean)) != (before, clean):
                        wrong = "a file outside was touched"
                    if given.only is not None:
                        print(line, text, sep="\n")
                    if wrong and wrong not in findings:
                        findings[wrong] = f"{number}: {' '.join(line)[:200]}: {wrong}"
                        print(ascii(findings[wrong]), flush=True)
                number += 1
        os.chdir(ROOT)
    tried = ", ".join(f"{count} of {name}" for name, count in counts.items())
    print(f"{counts.total()} inputs ({tried}): {len(findings)} findings")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
