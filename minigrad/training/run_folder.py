"""A run folder: the files that a training writes, and from which it can be resumed.

settings.json          what was run: options, preset, classes, versions
metrics.csv            a row per epoch; steps.csv: a row per step
health.csv             every few hundred steps, a row for each parameter and each ReLU
skipped.csv            pictures that could not be read, and why
checkpoint.safetensors weights, velocity, preparation, and the run's place; epoch-*.safetensors
                       and best.safetensors are checkpoints under other names
features/              the convolutions' parameters alone, after the epochs of FEATURE_EPOCHS

Every file is written whole or not at all, except for rows that are appended. A run writes only to
a folder that was new or empty, or whose run it resumes.
"""

from __future__ import annotations

import csv
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from minigrad.files import PREFIX, replacing, sweep
from minigrad.text import shown
from minigrad.training import checkpoint
from minigrad.training.place import place_of

FEATURES = "features"
FEATURE_EPOCHS = (1, 2, 5, 10, 20, 30, 40, 64)  # Zeiler and Fergus, figure 4
CHECKPOINT, BEST, SETTINGS = "checkpoint.safetensors", "best.safetensors", "settings.json"
FILES = {
    "metrics.csv": (
        "epoch",
        "step",
        "lr",
        "train_loss",
        "train_top1",
        "val_loss",
        "val_top1",
        "val_top5",
        "images_per_second",
        "seconds",
        "reading_images_per_second",
        "waiting",
    ),
    "steps.csv": ("step", "epoch", "loss", "top1"),
    "health.csv": ("step", "layer", "mean_w", "mean_dw", "ratio", "dead"),
}


class RunError(RuntimeError):
    """A run folder cannot be used, or training cannot continue; the message gives the reason and
    says what to do."""


class RunFolder:
    """A run's folder.

    Args: path: an existing folder. `create` and `resume` return one that no other process uses.

    A failure to write something that is not essential (`attempt`) is reported once, and the run
    continues, so a full disk does not end it.
    """

    def __init__(self, path: str | Path, report: Callable[[str], None] = print) -> None:
        self.path, self.report = Path(path), report
        self.claimed = False  # this run may write here
        self.made = False  # this run made the folder
        self.reported: set[str] = set()
        self.lock: int | None = None

    @classmethod
    def create(
        cls, output: str | None, name: str, report: Callable[[str], None] = print
    ) -> RunFolder:
        """A new or empty folder `output`, or if None runs/TIME-NAME. Raises RunError."""
        path = Path(output or f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{name}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stem, number = path.name, 1
            while not output and path.exists():  # another run was started in the same second
                number += 1
                path = path.with_name(f"{stem}+{number}")
            made = not path.exists()
            path.mkdir(exist_ok=bool(output))
        except OSError as error:
            raise RunError(
                f"cannot write into the run folder {path} ({error}); choose another with --output"
            ) from error
        run = cls(path, report).taken()
        run.made = made
        held = sorted(p.name for p in path.iterdir() if not p.name.startswith(PREFIX))
        if held:
            run.close()
            raise RunError(
                f"{path} is not empty, and nothing in it is written over: {run.advice(held)}"
            )
        run.claimed = True
        return run

    @classmethod
    def resume(cls, path: str | Path, report: Callable[[str], None] = print) -> RunFolder:
        """The folder of a run to go on with. Raises RunError."""
        run = cls(path, report).taken()
        run.claimed = True
        return run

    def taken(self) -> RunFolder:
        """This folder, checked to be writable and locked until `close` or the process ends."""
        try:
            import fcntl
        except ImportError:  # Windows: nothing to lock it with
            fcntl = None  # type: ignore[assignment]
        try:
            if fcntl is not None:
                self.lock = os.open(self.path, os.O_RDONLY)
                try:
                    fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise
                except OSError as error:  # some network file systems have no locks
                    self.report(
                        f"{self.path} cannot be locked ({error}): start no second run in it"
                    )
            with tempfile.TemporaryFile(prefix=PREFIX, dir=self.path):
                pass
        except BlockingIOError as error:
            self.close()
            raise RunError(
                f"another process is at work on the run {self.path}: wait for it, or choose another"
                " --output"
            ) from error
        except OSError as error:
            self.close()
            raise RunError(
                f"cannot write into the run folder {self.path} ({error}); choose another with"
                " --output"
            ) from error
        return self

    def close(self) -> None:
        """Let other processes use the folder; remove it if this run made it and wrote nothing."""
        if self.made:
            with suppress(OSError):  # it is not empty
                self.path.rmdir()
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def advice(self, held: list[str]) -> str:
        """What to do with a folder that is not empty."""
        if CHECKPOINT in held:
            return (
                f"it holds a run; go on with it by --resume {self.path}, or choose another --output"
            )
        if weights := [name for name in self.files_of_a_run() if name.endswith(".safetensors")]:
            return (
                f"it holds {listed(weights)} of a run; copy one to {self.path / CHECKPOINT} and "
                f"--resume {self.path}, or choose another --output"
            )
        return f"it holds {listed(held)}; choose another --output, a new folder or an empty one"

    def files_of_a_run(self) -> list[str]:
        """Names of files here that a run writes."""
        patterns = (CHECKPOINT, BEST, "epoch-*.safetensors", SETTINGS, *FILES, FEATURES)
        return sorted(p.name for pattern in patterns for p in self.path.glob(pattern))

    def claim(self) -> None:
        """Raise RunError unless this run may write here: it was resumed, or no run is here yet."""
        if not self.claimed and (held := self.files_of_a_run()):
            raise RunError(
                f"{self.path} holds {listed(held)} of another run: resume() goes on with it, or "
                "choose another folder"
            )
        self.claimed = True

    def start(self, settings: Mapping[str, Any], step: int, epoch: int) -> None:
        """Write settings.json and the headers of the CSV files. Remove rows after `step` and
        features kept after `epoch`."""
        self.claim()
        for folder in (self.path, self.path / FEATURES):
            sweep(folder)  # unfinished files of a run that was killed
        for path in (self.path / FEATURES).glob("epoch-*.safetensors"):
            if path.stem > f"epoch-{epoch:04}":
                path.unlink()
        with replacing(self.path / SETTINGS) as unfinished:
            unfinished.write_text(json.dumps(settings, indent=1))
        for name, header in FILES.items():
            rows = [row for row in self.rows(name) if float(row["step"]) <= step]
            self.write(name, header, ([row[key] for key in header] for row in rows))

    def rows(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file; none without a file. Lines that a crash cut short are left out.
        So are those of FILES in which something else stands for a number, which is reported."""
        if not (self.path / name).is_file():
            return []
        with open(
            self.path / name, newline="", encoding="utf-8", errors="backslashreplace"
        ) as file:
            lines = [row for row in csv.reader(file) if row]
        if not lines or (name in FILES and tuple(lines[0]) != FILES[name]):
            return []
        rows = [dict(zip(lines[0], row)) for row in lines[1:] if len(row) == len(lines[0])]
        good = [row for row in rows if name not in FILES or is_numeric(row)]
        if len(good) < len(rows):
            left_out = f"{self.path / name}: {len(rows) - len(good)} rows hold no numbers"
            if left_out not in self.reported:
                self.reported.add(left_out)
                self.report(f"{left_out}, and are left out")
        return good

    def write(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write a CSV file anew, whole or not at all."""
        with (
            replacing(self.path / name) as unfinished,
            open(unfinished, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            csv.writer(file).writerows([header, *rows])

    def append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows to a CSV file: all of them, or none if the disk is full."""
        path = self.path / name
        size = path.stat().st_size if path.is_file() else 0
        try:
            with open(path, "a", newline="") as file:
                csv.DictWriter(file, FILES[name]).writerows(rows)
        except OSError:
            os.truncate(path, size)
            raise

    def write_skipped(self, skipped: Mapping[str, str]) -> None:
        """Write skipped.csv. It keeps the pictures listed before the run was resumed."""
        known = {row["picture"]: row["reason"] for row in self.rows("skipped.csv")}
        new = {shown(picture): shown(reason) for picture, reason in skipped.items()}
        self.write("skipped.csv", ("picture", "reason"), sorted((known | new).items()))

    def attempt(self, action: Callable[[], None], step: int) -> bool:
        """Call an action that writes; a failure is reported once, and the run continues. Returns
        whether the action succeeded."""
        try:
            action()
        except (OSError, checkpoint.CheckpointError) as error:
            if str(error) not in self.reported:
                self.reported.add(str(error))
                self.report(f"at step {step}: {error}. The run goes on, and tries again")
            return False
        return True

    def save(self, tensors: dict[str, np.ndarray], description: dict[str, Any]) -> None:
        """Write the newest checkpoint. Raises CheckpointError."""
        self.claim()
        checkpoint.save(self.path / CHECKPOINT, tensors, description)

    def link_epoch(self, epoch: int, best: bool, keep: int) -> None:
        """Link the newest checkpoint as that of its epoch and, if it is the best, as the best one.
        Only the last `keep` epochs' checkpoints are kept."""
        names = [f"epoch-{epoch:04}.safetensors"] if keep else []
        for name in names + [BEST] * best:
            checkpoint.link(self.path / CHECKPOINT, self.path / name)
        for old in sorted(self.path.glob("epoch-*.safetensors"))[: -keep or None]:
            old.unlink()

    def save_features(self, epoch: int, parameters: dict[str, np.ndarray]) -> None:
        """Keep these parameters as those of an epoch. Raises CheckpointError, OSError."""
        self.claim()
        (self.path / FEATURES).mkdir(exist_ok=True)
        path = self.path / FEATURES / f"epoch-{epoch:04}.safetensors"
        checkpoint.save(path, parameters, {"epoch": epoch})

    def features(self) -> Iterator[tuple[float, dict[str, np.ndarray]]]:
        """(epoch, parameters) for each epoch that was kept, in order, then for the newest
        checkpoint. Raises CheckpointError."""
        tensors, description = self.newest("model.")
        place = place_of(description, self.path / CHECKPOINT)
        kept = 0
        for path in sorted((self.path / FEATURES).glob("epoch-*.safetensors")):
            parameters, about = checkpoint.load(path)
            if not isinstance(about.get("epoch"), int):
                raise checkpoint.CheckpointError(f"{path} holds no features that a run kept")
            if about["epoch"] <= place.epoch:  # not later than the newest checkpoint
                kept = about["epoch"]
                yield kept, parameters
        if place.batch or place.epoch != kept:
            rows = [row for row in self.rows("steps.csv") if row["step"] == str(place.step)]
            now = float(rows[-1]["epoch"]) if rows else place.epoch
            yield now, checkpoint.part(tensors, "model.")

    def newest(
        self, prefix: str | tuple[str, ...] = ""
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """checkpoint.load of the newest checkpoint; if it is damaged, the error message names the
        others."""
        try:
            return checkpoint.load(self.path / CHECKPOINT, prefix)
        except checkpoint.CheckpointError as error:
            found = sorted(self.path.glob("*.safetensors"))
            others = ", ".join(p.name for p in found if p.name != CHECKPOINT)
            hint = f". Beside it are {others}: copy one over it to go on from there"
            raise checkpoint.CheckpointError(f"{error}{hint if others else ''}") from error


class Guest(RunFolder):
    """The run's folder for a rank that writes nothing there, because rank 0 does."""

    def nothing(self, *arguments: Any) -> None:
        """Do nothing, in place of writing."""

    claim = start = write = append = save = nothing  # type: ignore[assignment]
    write_skipped = link_epoch = save_features = nothing  # type: ignore[assignment]


def is_numeric(row: Mapping[str, str]) -> bool:
    """Whether a row has a step, and numbers or nothing in the other columns but `layer`."""
    try:
        numbers = [float(text) for key, text in row.items() if key != "layer" and text]
    except ValueError:
        return False
    return bool(numbers) and row["step"] != "" and math.isfinite(float(row["step"]))


def checkpoint_of(run: str | Path) -> Path:
    """The newest checkpoint of a run folder, or the file itself."""
    path = Path(run)
    return path / CHECKPOINT if path.is_dir() else path


def check_outputs(outputs: Sequence[str | None], inputs: Sequence[str]) -> None:
    """Raise ValueError if a file that a command is to write is one that it reads, a file of the run
    that it reads, or named twice. None and "-" stand for no file."""
    files = [Path(name).resolve() for name in outputs if name not in (None, "-")]
    read = {Path(name).resolve() for name in inputs}
    for path in files:
        of_a_run = path.parent in read and path.name in RunFolder(path.parent).files_of_a_run()
        if path in read or of_a_run or files.count(path) > 1:
            raise ValueError(f"{path} would be written over: choose another name for the output")


def listed(names: list[str]) -> str:
    """The first five of several names, as part of a sentence."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def tensorboard(folder: Path) -> Any:
    """A writer of TensorBoard event files in the folder, or None without tensorboardX."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
