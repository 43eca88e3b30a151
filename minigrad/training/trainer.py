"""The training loop: learn a batch, run an epoch, fit, stop on signals. run_folder.py writes its
files."""

from __future__ import annotations

import math
import os
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from minigrad import backend, columns, machine, nn, optim
from minigrad.data import Loader
from minigrad.distributed import Communicator
from minigrad.training import checkpoint, health
from minigrad.training.evaluation import Evaluation, evaluate
from minigrad.training.gradients import Gradients
from minigrad.training.place import PLACE, place_of
from minigrad.training.run_folder import (
    CHECKPOINT,
    FEATURE_EPOCHS,
    RunError,
    RunFolder,
    tensorboard,
)


class Stopped(Exception):
    """Training was stopped by a signal and has saved; the message says how to resume it."""


@dataclass
class Trainer:
    """Trains a model and writes a run folder.

    Args:
        model, optimizer, schedule: what to train and how; train, val: loaders.
        run: the run folder.
        settings: kept in every checkpoint, so that the run can be rebuilt.
        extra: further arrays for the checkpoint, by name.
        report: prints a line.
        save_every: least number of seconds between checkpoints; the end of a run always saves.
        keep: how many of the last epochs keep a checkpoint, beside the newest and the best.
        health_every: steps between two readings in health.csv; 0 for none.
        comm: the ranks that train this model together. accumulate: the number of parts in which a
            batch (on each rank) goes through the network, if the whole does not fit into memory.
        in_columns: whether each rank holds a column of the model (columns.py) and sees all
            pictures; otherwise each holds the whole model and sees a part of each batch.
    """

    model: nn.Module
    optimizer: optim.SGD
    schedule: optim.StepSchedule | optim.PlateauSchedule
    train: Loader
    val: Loader
    run: RunFolder
    settings: dict[str, Any]
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    device: str = "cpu"
    report: Callable[[str], None] = print
    save_every: float = 120.0
    keep: int = 2
    health_every: int = 200
    watch: health.LossWatch | None = None
    comm: Communicator = field(default_factory=Communicator)
    accumulate: int = 1
    in_columns: bool = False
    # The state of the training, which checkpoints hold.
    epoch: int = 0
    batch: int = 0  # batches done in this epoch
    step: int = 0
    noted: int = 0  # the epoch before which the schedule last got a validation error
    seconds: float = 0.0
    last_error: float | None = None
    best_error: float = math.inf
    epoch_sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # n, loss n, top-1 n
    # The state of this process, which checkpoints do not hold.
    result: Evaluation | None = None  # of the validation pictures, after the last epoch
    board: Any = None  # TensorBoard's writer
    saved: tuple[int, int, int] = (-1, -1, -1)  # epoch, batch and step of the newest checkpoint
    saved_at: float = field(default_factory=time.monotonic)
    stopping: bool = False  # set by a signal: save after the current step, and stop

    def __post_init__(self) -> None:
        # The ranks that share each batch.
        self.sharers = Communicator() if self.in_columns else self.comm
        self.gradients = Gradients(self.model, self.device, self.sharers, self.accumulate)

    def learn(self, x: np.ndarray, t: np.ndarray) -> tuple[float, float]:
        """One step on one batch; x, t is this rank's part. Returns (loss, top-1)."""
        try:
            return self.try_to_learn(x, t)
        except Exception as error:
            if not health.out_of_memory(error):
                raise
            where = " ".join(getattr(error, "__notes__", ["in no layer"])[-1:])
        self.gradients.clear()
        fits = self.what_fits(x, t)
        raise RunError(
            f"out of memory {where}, with a batch of {len(t)}: {fits}. Checkpoints are untouched"
        )

    def what_fits(self, x: np.ndarray, t: np.ndarray) -> str:
        """The largest of a half, a quarter, ... of a batch for which a step has enough memory."""
        n = len(t) // 2
        while n:
            backend.release_memory()
            try:
                self.gradients.alone(x[:n], t[:n])
                return f"{n} fit; try --batch-size {n}"
            except Exception as error:
                if not health.out_of_memory(error):
                    raise
            finally:
                self.gradients.clear()
            n //= 2
        return "not even one picture fits"

    def try_to_learn(self, x: np.ndarray, t: np.ndarray) -> tuple[float, float]:
        value, top1 = self.gradients.of(x, t)
        rate = self.optimizer.lr * self.optimizer.factor
        if not math.isfinite(value):
            where = health.first_not_finite(self.model, backend.to_device(x, self.device))
            causes = self.comm.exchange(where)
            cause = (
                next(filter(None, causes), "")
                or "every layer's output is finite: the loss itself overflowed"
            )
            advice = "" if "pictures" in cause else f"; try a lower rate than {rate:g} (--lr)"
            raise RunError(
                f"the loss became {value} at step {self.step + 1}: {cause}{advice}. Checkpoints are"
                " untouched"
            )
        reading = self.health_every and (self.step + 1) % self.health_every == 0
        before = (
            {name: p.data.copy() for name, p in self.model.named_parameters()} if reading else {}
        )
        self.optimizer.step()
        if reading:
            x_device = backend.to_device(x, self.device)
            self.append("health.csv", health.readings(self.model, before, x_device, self.step + 1))
        if self.watch is not None and (warning := self.watch.note(value, rate, self.step + 1)):
            self.report(warning)
        return value, top1

    def seconds_ahead(self, epochs: int) -> float:
        """How long the rest of a run of `epochs` will take. Two trial steps are made and the second
        is timed; neither changes anything."""
        batches = len(self.train) * epochs - (len(self.train) * self.epoch + self.batch)
        if batches <= 0:
            return 0.0
        rows = -(-self.train.batch_size // self.sharers.size)
        x, t, _ = self.train.prepare(np.arange(min(rows, len(self.train.pictures))))
        if len(t) == 0:
            return math.nan
        elapsed = 0.0
        for _ in range(2):
            began = time.perf_counter()
            try:
                self.gradients.alone(x, t)
            except Exception as error:
                if health.out_of_memory(error):
                    return math.nan  # the first real step will report it, and what fits
                raise
            finally:
                self.gradients.clear()
            elapsed = time.perf_counter() - began
        passes = len(self.val) * self.val.batch_size / self.train.batch_size * (epochs - self.epoch)
        return 1.1 * elapsed * batches + 0.4 * elapsed * passes  # forward alone takes 0.4 of a step

    def fit(self, epochs: int) -> None:
        """Train until `epochs` epochs are done, starting from the current state. Ctrl-C, SIGTERM
        and SIGHUP save and raise Stopped."""
        self.run.claim()
        try:
            with self.stopping_on_signals():
                if self.comm.broadcast(not (self.run.path / CHECKPOINT).exists()):
                    # so that a run that ends early can be resumed, and a full disk is noticed now
                    self.save()
                self.run.start(self.settings, self.step, self.epoch)
                if self.comm.rank == 0:
                    self.board = tensorboard(self.run.path)
                while self.epoch < epochs:
                    self.run_epoch(epochs)
            if self.comm.broadcast(self.saved != (self.epoch, self.batch, self.step)):
                self.save()
        finally:
            self.train.close()
            self.val.close()
            if self.board is not None:
                self.board.close()

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Inside, Ctrl-C, SIGTERM and SIGHUP let the current step finish, so that a checkpoint
        never holds half a step. A second signal ends the process."""

        numbers: list[int] = []

        def stop(number: int, frame: object) -> None:
            self.stopping = True
            for again in numbers:
                signal.signal(again, signal.SIG_DFL)
            line = (
                "stopping after the step in hand; a second signal ends at once, without a"
                " checkpoint"
            )
            with suppress(OSError):  # print is not safe in a signal handler
                os.write(2, f"\n{line}\n".encode())

        with machine.stops_go_to(stop) as handled:
            numbers += handled
            yield

    def run_epoch(self, epochs: int) -> None:
        """Train for an epoch, or the rest of one, evaluate, and write the results."""
        self.agree()
        self.model.train()
        self.schedule.step(self.epoch, self.last_error if self.noted < self.epoch else None)
        self.noted = self.epoch
        loader = self.train
        began = time.perf_counter()
        before = loader.waiting, loader.images, loader.reading
        bar = tqdm(
            loader.batches(self.epoch, self.batch),
            f"epoch {self.epoch + 1}/{epochs}",
            len(loader),
            initial=self.batch,
            leave=False,
            disable=True if self.comm.rank else None,
        )
        for x, t, _ in bar:
            self.agree()
            loss = self.run_step(x, t)
            n, _, top1 = self.epoch_sums
            bar.set_postfix(loss=f"{loss:.3f}", top1=f"{top1 / max(n, 1):.0%}")
        seconds = time.perf_counter() - began
        after = loader.waiting, loader.images, loader.reading
        own = [b - a for a, b in zip(before, after)]  # in this epoch
        waited, images, reading = (float(sum(a)) for a in zip(*self.sharers.exchange(own)))
        waited /= self.sharers.size
        self.result = evaluate(self.model, self.val, self.device, comm=self.sharers)
        self.compare_parameters()
        self.seconds += time.perf_counter() - began
        self.last_error = 1 - self.result.top(1)
        rate = self.optimizer.lr * self.optimizer.factor
        n, *sums = self.epoch_sums
        loss, top1 = (total / n if n else math.nan for total in sums)
        self.epoch, self.batch, self.epoch_sums = self.epoch + 1, 0, [0.0, 0.0, 0.0]
        row = {
            "epoch": self.epoch,
            "step": self.step,
            "lr": f"{rate:g}",
            "train_loss": f"{loss:.6g}",
            "train_top1": f"{top1:.4f}",
            "val_loss": f"{self.result.loss:.6g}",
            "val_top1": f"{self.result.top(1):.4f}",
            "val_top5": f"{self.result.top(5):.4f}",
            "images_per_second": f"{images / seconds:.1f}",
            "seconds": f"{self.seconds:.1f}",
            "reading_images_per_second": (
                f"{images / reading * max(loader.workers, 1) if reading else math.nan:.1f}"
            ),
            "waiting": f"{waited / seconds:.4f}",
        }
        self.append("metrics.csv", [row])
        skipped: dict[str, str] = {}
        for some in self.sharers.exchange(loader.skipped | self.val.skipped):
            skipped |= some
        if skipped:
            self.run.attempt(lambda: self.run.write_skipped(skipped), self.step)
        self.save_epoch()  # before anything is printed: a terminal may hang
        self.report(sentence(row, epochs, self.seconds / self.epoch * (epochs - self.epoch)))

    def run_step(self, x: np.ndarray, t: np.ndarray) -> float:
        """Learn a batch, if it has a readable picture, and write its row. Returns its loss."""
        readable = sum(self.sharers.exchange(len(t)))
        if self.batch and readable:  # also within an epoch: the rate may drop in its middle
            self.schedule.step(self.epoch + self.batch / len(self.train))
        self.batch += 1
        if readable == 0:
            return math.nan
        loss, top1 = self.learn(x, t)
        self.step += 1
        when = self.epoch + self.batch / len(self.train)
        values = {"epoch": f"{when:.5g}", "loss": f"{loss:.6g}", "top1": f"{top1:.4f}"}
        self.append("steps.csv", [{"step": self.step, **values}])
        for k, value in enumerate((1, loss, top1)):
            self.epoch_sums[k] += value * readable
        return loss

    def append(self, file: str, rows: list[dict[str, Any]]) -> None:
        """Append rows to a CSV file of the run, and write their numbers for TensorBoard."""
        self.run.attempt(lambda: self.run.append(file, rows), self.step)
        if self.board is not None:
            for row in rows:
                layer = f"/{row['layer']}" if "layer" in row else ""
                for name, value in row.items():
                    if name not in ("step", "epoch", "layer") and value != "":
                        tag = f"{file.removesuffix('.csv')}/{name}{layer}"
                        self.board.add_scalar(tag, float(value), self.step)

    def save_epoch(self) -> None:
        """Save after an epoch; update the best checkpoint, and keep `keep` of the others."""
        assert self.last_error is not None
        before, self.best_error = self.best_error, min(self.best_error, self.last_error)
        if self.save(essential=False):
            self.link_epoch()
        else:
            self.best_error = before

    def link_epoch(self) -> None:
        """Link the checkpoint of an epoch under its other names, and keep the epoch's features."""
        best = self.last_error == self.best_error
        self.run.attempt(lambda: self.run.link_epoch(self.epoch, best, self.keep), self.step)
        if self.epoch in FEATURE_EPOCHS:
            convs = [name for name, m in self.model.modules() if isinstance(m, nn.Conv2d)]
            features = {
                name: p.numpy()
                for name, p in self.model.named_parameters()
                if name.rpartition(".")[0] in convs
            }
            if self.in_columns:
                features = columns.join(self.comm.exchange(features))
            self.run.attempt(lambda: self.run.save_features(self.epoch, features), self.step)

    def compare_parameters(self) -> None:
        """Raise RunError unless all ranks that share the batches have the same parameters."""
        if self.sharers.size == 1:
            return
        own = {
            name: zlib.crc32(np.ascontiguousarray(p.numpy()).data)
            for name, p in self.model.named_parameters()
        }
        first, *others = self.sharers.exchange(own)
        for rank, other in enumerate(others, 1):
            for name, checksum in other.items():
                if checksum != first[name]:
                    raise RunError(
                        f"after step {self.step} the parameter {name} of rank {rank} is not that of"
                        " rank 0: the ranks have drifted apart. Checkpoints are untouched"
                    )

    def agree(self) -> None:
        """Called by all ranks between two steps, or before the schedule of an epoch is applied. If
        one of them got a signal, save and raise Stopped; otherwise save if it is time."""
        self.comm.beat(step=self.step, run=str(self.run.path))
        due = time.monotonic() - self.saved_at > self.save_every
        wishes = self.comm.exchange((self.stopping, due))
        # A signal that came during the exchange stays noted, for the next time.
        stop = any(stopping for stopping, _ in wishes)
        if wishes[0][1] and not stop and self.batch:
            self.save(essential=False)
        if stop:
            self.save()
            raise Stopped(
                f"stopped in epoch {self.epoch + 1}, step {self.step}; go on with "
                f"--resume {self.run.path}"
            )

    def save(self, essential: bool = True) -> bool:
        """Write the checkpoint, and return whether it was written. If writing fails and is not
        essential, the run continues and tries again later."""
        self.run.claim()
        self.saved_at = time.monotonic()
        parameters = dict(self.model.named_parameters())
        for name, p in parameters.items():
            if not health.finite(p.data):
                rate = self.optimizer.lr * self.optimizer.factor
                raise RunError(
                    f"after step {self.step} the parameter {name} holds values that are not finite:"
                    " nothing is saved, the checkpoint before is untouched; try a lower rate than"
                    f" {rate:g} (--lr)"
                )
        tensors = {f"model.{name}": backend.to_numpy(p.data) for name, p in parameters.items()}
        velocity = self.optimizer.velocity
        for name, p in parameters.items():
            if p in velocity:
                tensors[f"velocity.{name}"] = backend.to_numpy(velocity[p])
        if self.in_columns:
            tensors = columns.join(self.comm.exchange(tensors))
        place: dict[str, Any] = {key: getattr(self, key) for key in PLACE}
        place["streams"] = {name: s.counter for name, s in self.model.streams().items()}
        if isinstance(self.schedule, optim.PlateauSchedule):
            place["plateau"] = self.schedule.state()
        description = {"settings": self.settings, "place": place}

        def write() -> None:
            self.run.save(tensors | self.extra, description)
            self.saved = self.epoch, self.batch, self.step

        if essential:
            write()
            return True
        return self.comm.broadcast(self.run.attempt(write, self.step))

    def fits(self, fact: bool, what: str) -> None:
        """Raise CheckpointError unless `what` in the newest checkpoint fits this training."""
        if not fact:
            raise checkpoint.CheckpointError(
                f"{self.run.path / CHECKPOINT}: its {what} does not fit this training"
            )

    def resume(self) -> None:
        """Load weights, velocity and the state of training from the run's newest checkpoint."""
        tensors, description = self.run.newest()
        self.run.claimed = True
        place = place_of(description, self.run.path / CHECKPOINT)
        if self.in_columns:
            trained = {n: a for n, a in tensors.items() if n.startswith(("model.", "velocity."))}
            tensors = columns.cut(trained, self.comm.size, self.comm.rank)
        self.model.load_state_dict(checkpoint.part(tensors, "model."))
        for name, p in self.model.named_parameters():
            if f"velocity.{name}" in tensors:
                velocity = tensors[f"velocity.{name}"].copy()
                alike = (velocity.shape, velocity.dtype) == (p.shape, p.dtype)
                self.fits(alike, f"velocity of {name}")
                self.optimizer.velocity[p] = backend.to_device(velocity, p.device)
        streams = self.model.streams()
        self.fits(set(place.streams) == set(streams), "place.streams")
        for name, stream in streams.items():
            stream.counter = place.streams[name]
        if isinstance(self.schedule, optim.PlateauSchedule):
            self.fits(place.plateau is not None, "place.plateau")
            assert place.plateau is not None
            self.schedule.load_state(asdict(place.plateau))
        self.fits(place.batch <= len(self.train), "place.batch")
        for key in PLACE:
            setattr(self, key, getattr(place, key))
        if self.epoch and self.batch == 0:
            self.link_epoch()  # the run may have been killed between saving and linking


def sentence(row: Mapping[str, Any], epochs: int, left: float) -> str:
    """The line that a training prints for a row of metrics.csv."""
    train1, val1, val5 = (f"{float(row[k]):6.1%}" for k in ("train_top1", "val_top1", "val_top5"))
    train_loss, val_loss = (f"{float(row[k]):.3f}" for k in ("train_loss", "val_loss"))
    return (
        f"epoch {row['epoch']:3}/{epochs}  lr {float(row['lr']):<8.3g} train loss {train_loss},"
        f" top-1 {train1}   held out: loss {val_loss}, top-1 {val1}, top-5 {val5}  "
        f" {row['images_per_second']} images/s (reading alone"
        f" {float(row['reading_images_per_second']):.0f}; waited for {float(row['waiting']):.1%} of"
        f" the time), {duration(left)} left"
    )


def duration(seconds: float) -> str:
    """Seconds in words: 45 s, 12 min, 3 h 20 min, 5 d 3 h."""
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
