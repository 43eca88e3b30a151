"""The training loop, and the run folder that it leaves behind.

A run folder holds settings.json (what was run), metrics.csv (a line an epoch), steps.csv (a line a step), health.csv, skipped.csv
(pictures that could not be read), checkpoint.safetensors (weights, velocity, preparation, and where the run stood), the checkpoints
of the last epochs and of the best one, and pictures.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minigrad import backend, checkpoint, health, kernels, nn, optim, random, runlog
from minigrad import functions as F
from minigrad.data import Loader
from minigrad.evaluation import Evaluation, evaluate, top_k
from minigrad.files import replacing, sweep

CHECKPOINT, BEST, SETTINGS = "checkpoint.safetensors", "best.safetensors", "settings.json"


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to change."""


class Stopped(Exception):
    """Training was asked to stop, and has saved; the message says how to go on."""


@dataclass
class Trainer:
    """Trains a model and writes a run folder.

    Args:
        model, optimizer, schedule: what to train and how; train, val: loaders.
        folder: the run folder, which exists.
        settings: kept in every checkpoint, to rebuild the run from.
        extra: further arrays for the checkpoint, by name.
        say: prints a line.
        keep: checkpoints of so many last epochs stay beside the newest and the best.
        health_every: steps between two readings in health.csv; 0 for none.
    """

    model: nn.Module
    optimizer: optim.SGD
    schedule: optim.StepSchedule | optim.PlateauSchedule
    train: Loader
    val: Loader
    folder: Path
    settings: dict[str, Any]
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    device: str = "cpu"
    say: Callable[[str], None] = print
    save_every: float = (
        120.0  # seconds between checkpoints, at the least; the end of a run always saves
    )
    keep: int = 2
    health_every: int = 200
    before_epoch: Callable[[int], None] = lambda epoch: None
    epoch: int = 0
    batch: int = 0  # batches done in this epoch
    step: int = 0
    noted: int = 0  # the epoch before which the schedule last heard a validation error
    seconds: float = 0.0
    last_error: float | None = None
    result: Evaluation | None = (
        None  # of the validation pictures, after the last epoch trained here
    )
    best_error: float = math.inf
    watch: health.LossWatch | None = None
    board: Any = None  # TensorBoard's writer
    epoch_sums: list[float] = field(
        default_factory=lambda: [0.0, 0.0, 0.0]
    )  # of this epoch: pictures, loss, top-1 (times pictures)
    unwritable: set[str] = field(default_factory=set)  # failures to write, each said once
    saved: tuple[int, int, int] = (
        -1,
        -1,
        -1,
    )  # epoch, batch and step of the checkpoint last written here
    saved_at: float = field(default_factory=time.monotonic)
    claimed: bool = False  # the folder is this run's
    stopping: bool = False  # set by a signal: save after the step in hand, and stop

    def learn(self, x: np.ndarray, t: np.ndarray) -> tuple[float, float]:
        """One step on one batch: (loss, top-1)."""
        try:
            return self.try_to_learn(x, t)
        except Exception as error:
            if not health.out_of_memory(error):
                raise
            layer = health.culprit(self.model, error.__traceback__)
        self.optimizer.zero_grad()
        raise TrainingError(
            f"out of memory in {layer}, with a batch of {len(t)}: {self.what_fits(x, t)}. Checkpoints are untouched"
        )

    def what_fits(self, x: np.ndarray, t: np.ndarray) -> str:
        """The largest half, quarter, ... of a batch that a step has room for."""
        n = len(t) // 2
        while n:
            backend.release_memory()
            try:
                self.gradients(x[:n], t[:n])
                return f"{n} fit; try --batch-size {n}"
            except Exception as error:
                if not health.out_of_memory(error):
                    raise
            finally:
                self.optimizer.zero_grad()
            n //= 2
        return "not even one picture fits"

    def gradients(self, x: np.ndarray, t: np.ndarray) -> None:
        """Forward and backward, as in a step, with no effect on the random streams."""
        with random.rewound():
            F.softmax_cross_entropy(
                self.model(backend.to_device(x, self.device)), backend.to_device(t, self.device)
            ).backward()
        backend.synchronize(self.device)

    def try_to_learn(self, x: np.ndarray, t: np.ndarray) -> tuple[float, float]:
        x_device = backend.to_device(x, self.device)
        logits = self.model(x_device)
        loss = F.softmax_cross_entropy(logits, backend.to_device(t, self.device))
        self.optimizer.zero_grad()
        loss.backward()
        value = loss.item()
        rate = self.optimizer.lr * self.optimizer.factor
        if not math.isfinite(value):
            cause = (
                health.first_not_finite(self.model, x_device)
                or "every layer's output is finite: the loss itself overflowed"
            )
            advice = "" if "pictures" in cause else f"; try a lower rate than {rate:g} (--lr)"
            raise TrainingError(
                f"the loss became {value} at step {self.step + 1}: {cause}{advice}. Checkpoints are untouched"
            )
        reading = self.health_every and (self.step + 1) % self.health_every == 0
        before = (
            {name: p.data.copy() for name, p in self.model.named_parameters()} if reading else {}
        )
        self.optimizer.step()
        if reading:
            self.write("health.csv", health.readings(self.model, before, x_device, self.step + 1))
        if self.watch is not None and (sentence := self.watch.note(value, rate, self.step + 1)):
            self.say(sentence)
        return value, top_k(logits.numpy(), t, 1)

    def seconds_ahead(self, epochs: int) -> float:
        """How long the rest of a run of `epochs` will take: two steps are tried, the second timed, and nothing is changed by it."""
        batches = len(self.train) * epochs - (len(self.train) * self.epoch + self.batch)
        if batches <= 0:
            return 0.0
        x, t, _ = self.train.prepare(
            np.arange(min(self.train.batch_size, len(self.train.pictures)))
        )
        if len(t) == 0:
            return math.nan
        elapsed = 0.0
        for _ in range(2):
            began = time.perf_counter()
            try:
                self.gradients(x, t)
            except Exception as error:
                if health.out_of_memory(error):
                    return math.nan  # the first step will say so, and what fits
                raise
            finally:
                self.optimizer.zero_grad()
            elapsed = time.perf_counter() - began
        forward_only = (
            0.4
            * elapsed
            * len(self.val)
            * self.val.batch_size
            / self.train.batch_size
            * (epochs - self.epoch)
        )
        return 1.1 * elapsed * batches + forward_only

    def fit(self, epochs: int) -> None:
        """Train until `epochs` epochs are done, from wherever this trainer stands. Ctrl-C and SIGTERM save and raise Stopped."""
        self.claim()
        sweep(self.folder)  # what a run that was killed left half-written
        kernels.lend_threads_to_blas()
        try:
            with self.stopping_on_signals():
                if not (self.folder / CHECKPOINT).exists():
                    self.save()  # so that there is one to go on from, whenever the run ends; and a disk that takes none is known now
                with replacing(self.folder / SETTINGS) as unfinished:
                    unfinished.write_text(json.dumps(self.settings, indent=1))
                runlog.start(self.folder, self.step)
                self.board = runlog.tensorboard(self.folder)
                while self.epoch < epochs:
                    self.run_epoch(epochs)
            if self.saved != (self.epoch, self.batch, self.step):
                self.save()
        finally:
            self.train.close()
            self.val.close()
            if self.board is not None:
                self.board.close()

    def claim(self) -> None:
        """Refuse to write over another run: a run folder is one that `resume` took up, or that held nothing of a run."""
        if not self.claimed and (held := files_of_a_run(self.folder)):
            raise TrainingError(
                f"{self.folder} holds {listed(held)} of another run: resume() goes on with it, or choose another folder"
            )
        self.claimed = True

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM let the step in hand be finished: a checkpoint never holds half of one. A second one ends the process."""

        def stop(number: int, frame: object) -> None:
            self.stopping = True
            for again in before:
                signal.signal(again, signal.SIG_DFL)
            with suppress(OSError):  # print is not for signal handlers
                os.write(
                    2,
                    b"\nstopping after the step in hand; a second signal ends at once, without a checkpoint\n",
                )

        here = threading.current_thread() is threading.main_thread()
        before = (
            {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)} if here else {}
        )
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run_epoch(self, epochs: int) -> None:
        self.stop_if_asked()
        self.model.train()
        self.schedule.step(self.epoch, self.last_error if self.noted < self.epoch else None)
        self.noted = self.epoch
        self.before_epoch(self.epoch)
        began, waited, images, read = (
            time.perf_counter(),
            self.train.waiting,
            self.train.images,
            self.train.reading,
        )
        batches = self.train.batches(self.epoch, self.batch)
        bar = tqdm(
            batches,
            f"epoch {self.epoch + 1}/{epochs}",
            len(self.train),
            initial=self.batch,
            leave=False,
            disable=None,
        )
        sums = self.epoch_sums
        for x, t, _ in bar:
            self.stop_if_asked()
            if time.monotonic() - self.saved_at > self.save_every:
                self.save(essential=False)
            if len(t) == 0:
                self.batch += 1
                continue
            if self.batch:  # within an epoch only time moves on: a rate may drop in its middle
                self.schedule.step(self.epoch + self.batch / len(self.train))
            loss, top1 = self.learn(x, t)
            self.batch += 1
            self.step += 1
            when = self.epoch + self.batch / len(self.train)
            self.write("steps.csv", [[self.step, f"{when:.5g}", f"{loss:.6g}", f"{top1:.4f}"]])
            for k, value in enumerate((1, loss, top1)):
                sums[k] += value * len(t)
            bar.set_postfix(loss=f"{loss:.3f}", top1=f"{100 * sums[2] / sums[0]:.0f}%")
        seconds = time.perf_counter() - began
        waited = (self.train.waiting - waited) / seconds
        here, read = (
            self.train.images - images,
            self.train.reading - read,
        )  # pictures of this epoch, read in this process's life
        reading = here / read * max(self.train.workers, 1) if read else math.nan
        result = self.result = evaluate(self.model, self.val, self.device)
        self.seconds += time.perf_counter() - began
        self.last_error = 1 - result.top(1)
        rate = self.optimizer.lr * self.optimizer.factor
        self.epoch, self.batch, self.epoch_sums = self.epoch + 1, 0, [0.0, 0.0, 0.0]
        train_loss, train_top1 = (v / sums[0] if sums[0] else math.nan for v in sums[1:])
        speed = here / seconds
        left = self.seconds / self.epoch * (epochs - self.epoch)
        self.say(
            f"epoch {self.epoch:3}/{epochs}  lr {rate:<8.3g} train loss {train_loss:.3f}, top-1 {train_top1:6.1%}   held out: loss "
            f"{result.loss:.3f}, top-1 {result.top(1):6.1%}, top-5 {result.top(5):6.1%}   {speed:.1f} images/s (reading alone "
            f"{reading:.0f}; waited for {waited:.1%} of the time), {duration(left)} left"
        )
        row = [
            self.epoch,
            self.step,
            f"{rate:g}",
            f"{train_loss:.6g}",
            f"{train_top1:.4f}",
            f"{result.loss:.6g}",
        ]
        row += [
            f"{result.top(1):.4f}",
            f"{result.top(5):.4f}",
            f"{speed:.1f}",
            f"{self.seconds:.1f}",
            f"{reading:.1f}",
            f"{waited:.4f}",
        ]
        self.write("metrics.csv", [row])
        skipped = self.train.skipped | self.val.skipped
        if skipped:
            self.careful(lambda: runlog.write_skipped(self.folder, skipped))
        self.keep_epoch()

    def write(self, file: str, rows: list[list]) -> None:
        """Add rows to a CSV file, and their numbers to TensorBoard's."""
        self.careful(lambda: runlog.append(self.folder, file, rows))
        if self.board is not None:
            for row in rows:
                named = dict(zip(runlog.FILES[file], row))
                layer = f"/{named.pop('layer')}" if "layer" in named else ""
                for name, value in named.items():
                    if name not in ("step", "epoch") and value != "":
                        self.board.add_scalar(
                            f"{file.removesuffix('.csv')}/{name}{layer}", float(value), self.step
                        )

    def careful(self, action: Callable[[], None]) -> bool:
        """Do something that writes; a full disk is said once, and the run goes on. Returns whether it was written."""
        try:
            action()
        except (OSError, checkpoint.CheckpointError) as error:
            if str(error) not in self.unwritable:
                self.unwritable.add(str(error))
                self.say(f"at step {self.step}: {error}. The run goes on, and tries again")
            return False
        return True

    def keep_epoch(self) -> None:
        """After an epoch: its checkpoint, the best one's, and no more than `keep` of the others."""
        assert self.last_error is not None
        before, self.best_error = self.best_error, min(self.best_error, self.last_error)
        if self.save(essential=False):
            self.link_epoch()
        else:
            self.best_error = before

    def link_epoch(self) -> None:
        """Give the checkpoint at the end of an epoch its other names."""
        names = [f"epoch-{self.epoch:04}.safetensors"] if self.keep else []
        if self.last_error == self.best_error:
            names.append(BEST)

        def link() -> None:
            for name in names:
                checkpoint.link(self.folder / CHECKPOINT, self.folder / name)
            for old in sorted(self.folder.glob("epoch-*.safetensors"))[: -self.keep or None]:
                old.unlink()

        self.careful(link)

    def stop_if_asked(self) -> None:
        """Save and raise Stopped, if a signal came. Before an epoch's schedule has moved, or between two of its steps."""
        if self.stopping:
            self.save()
            raise Stopped(
                f"stopped in epoch {self.epoch + 1}, step {self.step}; go on with --resume {self.folder}"
            )

    def save(self, essential: bool = True) -> bool:
        """Write the checkpoint. Where that fails and is not essential, the run goes on and tries again later. Returns whether it did."""
        self.claim()
        self.saved_at = time.monotonic()
        names = {p: name for name, p in self.model.named_parameters()}
        for p, name in names.items():
            if not health.finite(p.data):
                raise TrainingError(
                    f"after step {self.step} the parameter {name} holds values that are not finite: nothing is saved, the checkpoint "
                    f"before is untouched; try a lower rate than {self.optimizer.lr * self.optimizer.factor:g} (--lr)"
                )
        tensors = {f"model.{name}": backend.to_numpy(p.data) for p, name in names.items()}
        tensors |= {
            f"velocity.{names[p]}": backend.to_numpy(v) for p, v in self.optimizer.velocity.items()
        }  # type: ignore[index]
        place: dict[str, Any] = {
            "epoch": self.epoch, "batch": self.batch, "step": self.step, "seconds": self.seconds, "last_error": self.last_error,
            "best_error": self.best_error, "noted": self.noted, "epoch_sums": self.epoch_sums,
            "streams": {name: stream.counter for name, stream in self.model.streams().items()},
        }  # fmt: skip
        if isinstance(self.schedule, optim.PlateauSchedule):
            place["plateau"] = self.schedule.state()
        path, description = self.folder / CHECKPOINT, {"settings": self.settings, "place": place}

        def write() -> None:
            checkpoint.save(path, tensors | self.extra, description)
            self.saved = self.epoch, self.batch, self.step

        if essential:
            write()
            return True
        return self.careful(write)

    def resume(self) -> None:
        """Take weights, velocity and place from the run folder's checkpoint."""
        tensors, description = newest(self.folder)
        self.claimed = True
        place = description["place"]
        self.model.load_state_dict(
            {n.removeprefix("model."): a for n, a in tensors.items() if n.startswith("model.")}
        )
        for name, p in self.model.named_parameters():
            if f"velocity.{name}" in tensors:
                self.optimizer.velocity[p] = backend.to_device(
                    tensors[f"velocity.{name}"].copy(), p.device
                )
        for name, stream in self.model.streams().items():
            stream.counter = place["streams"][name]
        if isinstance(self.schedule, optim.PlateauSchedule):
            self.schedule.load_state(place["plateau"])
        for key in (
            "epoch",
            "batch",
            "step",
            "seconds",
            "last_error",
            "best_error",
            "noted",
            "epoch_sums",
        ):
            setattr(self, key, place[key])
        if self.epoch and self.batch == 0:
            self.link_epoch()  # a kill may have come between the checkpoint and its other names


def files_of_a_run(folder: Path) -> list[str]:
    """The names, in a folder, of files that a run writes."""
    patterns = (CHECKPOINT, BEST, "epoch-*.safetensors", SETTINGS, *runlog.FILES)
    return sorted(p.name for pattern in patterns for p in folder.glob(pattern))


def listed(names: list[str]) -> str:
    """The first of many names, in a sentence."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def newest(folder: Path, prefix: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """checkpoint.load of a run's newest checkpoint; where that is damaged, the message names the others."""
    try:
        return checkpoint.load(folder / CHECKPOINT, prefix)
    except checkpoint.CheckpointError as error:
        others = ", ".join(
            p.name for p in sorted(folder.glob("*.safetensors")) if p.name != CHECKPOINT
        )
        hint = f". Beside it are {others}: copy one over it to go on from there" if others else ""
        raise checkpoint.CheckpointError(f"{error}{hint}") from error


def duration(seconds: float) -> str:
    """Seconds as 45 s, 12 min, 3 h 20 min, 5 d 3 h."""
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
