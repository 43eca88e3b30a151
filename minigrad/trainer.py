"""The training loop, evaluation, and the run folder that they leave behind.

A run folder holds settings.json (what was run), metrics.csv (a line an epoch), steps.csv (a line a step), checkpoint.safetensors
(weights, velocity, preparation, and where the run stood) and pictures.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minigrad import backend, checkpoint, nn, optim, random, runlog
from minigrad import functions as F
from minigrad.data import Loader
from minigrad.engine import no_grad

CHECKPOINT = "checkpoint.safetensors"


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to change."""


class Stopped(Exception):
    """Training was asked to stop, and has saved; the message says how to go on."""


@dataclass
class Evaluation:
    """What a model makes of a set of pictures."""

    probabilities: np.ndarray  # (N, classes)
    labels: np.ndarray  # (N,)
    indices: np.ndarray  # (N,), of the pictures
    loss: float

    def top(self, k: int) -> float:
        """Share of pictures whose class is among the k most probable (all classes, if there are fewer)."""
        return top_k(self.probabilities, self.labels, k)


def top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of rows whose label is among the k highest scores; ties and NaN count against the label."""
    own = scores[np.arange(len(labels)), labels][:, None]
    higher = (~(scores < own)).sum(axis=1) - 1  # itself is not lower than itself
    return float((higher < k).mean()) if len(labels) else math.nan


def evaluate(model: nn.Module, loader: Loader, device: str = "cpu", what: str = "evaluating") -> Evaluation:
    """Run a model, in test mode, over every picture of a loader."""
    training = model.training
    model.eval()
    rows, labels, indices, total = [], [], [], 0.0
    try:
        with no_grad():
            for x, t, i in tqdm(loader.batches(), what, len(loader), leave=False, disable=None):
                if len(t) == 0:
                    continue
                logits = model(backend.to_device(x, device))
                total += F.softmax_cross_entropy(logits, backend.to_device(t, device), "sum").item()
                rows.append(F.softmax(logits).numpy())
                labels.append(t)
                indices.append(i)
    finally:
        model.train(training)
    if not rows:
        raise TrainingError("there is not one readable picture to evaluate")
    count = sum(map(len, labels))
    return Evaluation(np.concatenate(rows), np.concatenate(labels), np.concatenate(indices), total / count)


@dataclass
class Trainer:
    """Trains a model and writes a run folder.

    Args:
        model, optimizer, schedule: what to train and how; train, val: loaders.
        folder: the run folder, which exists.
        settings: kept in every checkpoint, to rebuild the run from.
        extra: further arrays for the checkpoint, by name.
        say: prints a line.
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
    save_every: float = 120.0  # seconds between checkpoints, at the least; the end of a run always saves
    before_epoch: Callable[[int], None] = lambda epoch: None
    epoch: int = 0
    batch: int = 0  # batches done in this epoch
    step: int = 0
    seconds: float = 0.0
    last_error: float | None = None
    result: Evaluation | None = None  # of the validation pictures, after the last epoch trained here
    saved_at: float = field(default_factory=time.monotonic)
    stopping: bool = False  # set by a signal: save after the step in hand, and stop

    def learn(self, x: np.ndarray, t: np.ndarray) -> tuple[float, float]:
        """One step on one batch: (loss, top-1)."""
        logits = self.model(backend.to_device(x, self.device))
        loss = F.softmax_cross_entropy(logits, backend.to_device(t, self.device))
        self.optimizer.zero_grad()
        loss.backward()
        value = loss.item()
        if not math.isfinite(value):
            rate = self.optimizer.lr * self.optimizer.factor
            cause = "try a lower --lr" if np.isfinite(x).all() else "the pictures of this batch hold values that are not finite"
            raise TrainingError(
                f"the loss became {value} at step {self.step + 1}, rate {rate:g}: {cause}. A checkpoint written before is untouched"
            )
        self.optimizer.step()
        return value, top_k(logits.numpy(), t, 1)

    def seconds_ahead(self, epochs: int) -> float:
        """How long the rest of a run of `epochs` will take: two steps are tried, the second timed, and nothing is changed by it."""
        batches = len(self.train) * epochs - (len(self.train) * self.epoch + self.batch)
        if batches <= 0:
            return 0.0
        x, t, _ = self.train.prepare(np.arange(min(self.train.batch_size, len(self.train.pictures))), None)
        if len(t) == 0:
            return math.nan
        elapsed = 0.0
        for _ in range(2):
            with random.rewound():
                began = time.perf_counter()
                F.softmax_cross_entropy(self.model(backend.to_device(x, self.device)), backend.to_device(t, self.device)).backward()
                backend.synchronize(self.device)
                elapsed = time.perf_counter() - began
            self.optimizer.zero_grad()
        forward_only = 0.4 * elapsed * len(self.val) * self.val.batch_size / self.train.batch_size * (epochs - self.epoch)
        return 1.1 * elapsed * batches + forward_only

    def fit(self, epochs: int) -> None:
        """Train until `epochs` epochs are done, from wherever this trainer stands. Ctrl-C and SIGTERM save and raise Stopped."""
        runlog.start(self.folder, self.step)
        with self.stopping_on_signals():
            while self.epoch < epochs:
                self.run_epoch(epochs)
        self.save()

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM let the step in hand be finished: a checkpoint never holds half of one."""

        def stop(number: int, frame: object) -> None:
            self.stopping = True

        here = threading.current_thread() is threading.main_thread()
        before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)} if here else {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run_epoch(self, epochs: int) -> None:
        self.stop_if_asked()
        self.model.train()
        self.schedule.step(self.epoch, self.last_error if self.batch == 0 else None)
        self.before_epoch(self.epoch)
        losses, tops, counts = [], [], []
        began = time.perf_counter()
        batches = self.train.batches(self.epoch, self.batch)
        bar = tqdm(batches, f"epoch {self.epoch + 1}/{epochs}", len(self.train), initial=self.batch, leave=False, disable=None)
        for x, t, _ in bar:
            self.stop_if_asked()
            if time.monotonic() - self.saved_at > self.save_every:
                self.save()
            if len(t) == 0:
                self.batch += 1
                continue
            if self.batch:  # within an epoch only time moves on: a rate may drop in its middle
                self.schedule.step(self.epoch + self.batch / len(self.train))
            loss, top1 = self.learn(x, t)
            self.batch += 1
            self.step += 1
            when = self.epoch + self.batch / len(self.train)
            runlog.append(self.folder, "steps.csv", [[self.step, f"{when:.5g}", f"{loss:.6g}", f"{top1:.4f}"]])
            losses.append(loss)
            tops.append(top1)
            counts.append(len(t))
            bar.set_postfix(loss=f"{loss:.3f}", top1=f"{100 * np.average(tops, weights=counts):.0f}%")
        seconds = time.perf_counter() - began
        result = self.result = evaluate(self.model, self.val, self.device)
        self.seconds += time.perf_counter() - began
        self.last_error = 1 - result.top(1)
        rate = self.optimizer.lr * self.optimizer.factor
        self.epoch, self.batch = self.epoch + 1, 0
        train_loss, train_top1 = (np.average(v, weights=counts) if counts else math.nan for v in (losses, tops))
        speed = sum(counts) / seconds
        left = self.seconds / self.epoch * (epochs - self.epoch)
        self.say(
            f"epoch {self.epoch:3}/{epochs}  lr {rate:<8.3g} train loss {train_loss:.3f}, top-1 {train_top1:6.1%}   held out: loss "
            f"{result.loss:.3f}, top-1 {result.top(1):6.1%}, top-5 {result.top(5):6.1%}   {speed:.1f} images/s, {duration(left)} left"
        )
        row = [self.epoch, self.step, f"{rate:g}", f"{train_loss:.6g}", f"{train_top1:.4f}", f"{result.loss:.6g}"]
        row += [f"{result.top(1):.4f}", f"{result.top(5):.4f}", f"{speed:.1f}", f"{self.seconds:.1f}"]
        runlog.append(self.folder, "metrics.csv", [row])

    def stop_if_asked(self) -> None:
        """Save and raise Stopped, if a signal came. Before an epoch's schedule has moved, or between two of its steps."""
        if self.stopping:
            self.save()
            raise Stopped(f"stopped in epoch {self.epoch + 1}, step {self.step}; go on with --resume {self.folder}")

    def save(self) -> None:
        """Write the checkpoint."""
        self.saved_at = time.monotonic()
        names = {p: name for name, p in self.model.named_parameters()}
        tensors = {f"model.{name}": backend.to_numpy(p.data) for p, name in names.items()}
        tensors |= {f"velocity.{names[p]}": backend.to_numpy(v) for p, v in self.optimizer.velocity.items()}  # type: ignore[index]
        place: dict[str, Any] = {
            "epoch": self.epoch, "batch": self.batch, "step": self.step, "seconds": self.seconds, "last_error": self.last_error,
            "streams": {name: stream.counter for name, stream in self.model.streams().items()},
        }  # fmt: skip
        if isinstance(self.schedule, optim.PlateauSchedule):
            place["plateau"] = self.schedule.state()
        checkpoint.save(self.folder / CHECKPOINT, tensors | self.extra, {"settings": self.settings, "place": place})

    def resume(self) -> None:
        """Take weights, velocity and place from the run folder's checkpoint."""
        tensors, description = checkpoint.load(self.folder / CHECKPOINT)
        place = description["place"]
        self.model.load_state_dict({n.removeprefix("model."): a for n, a in tensors.items() if n.startswith("model.")})
        for name, p in self.model.named_parameters():
            if f"velocity.{name}" in tensors:
                self.optimizer.velocity[p] = backend.to_device(tensors[f"velocity.{name}"].copy(), p.device)
        for name, stream in self.model.streams().items():
            stream.counter = place["streams"][name]
        if isinstance(self.schedule, optim.PlateauSchedule):
            self.schedule.load_state(place["plateau"])
        for key in ("epoch", "batch", "step", "seconds", "last_error"):
            setattr(self, key, place[key])


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
