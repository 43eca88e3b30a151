"""Train a series of networks, several at a time, and write a table with the results of each.

The folder of a series holds results.csv, series.json with what is trained, and a run folder for
each training. A training that was stopped or killed goes on from its checkpoint when the series is
started again, and those that are in the table are not repeated: with the same number of jobs, the
table holds the same bytes as after a series that was never interrupted.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from minigrad import machine
from minigrad.files import load_record, write_record
from minigrad.kernels import KernelError
from minigrad.models.records import Preset, to_json
from minigrad.training import session
from minigrad.training.evaluation import Evaluation
from minigrad.training.options import Options
from minigrad.training.run_folder import CHECKPOINT, RunError, RunFolder
from minigrad.training.trainer import Stopped, Trainer

TABLE, WHAT, RESULT = "results.csv", "series.json", "result.json"
# Options that change no result.
UNFELT = ("cache", "workers", "worker_timeout", "keep", "report", "save_every", "output")
Row = dict[str, str]


@dataclass(frozen=True)
class Cell:
    """One training of a series. Trainings with the same seed are paired: the same random numbers
    draw their weights, shuffle, crop and mirror."""

    name: str
    preset: Preset
    seed: int

    def run(self, folder: Path) -> Path:
        """Its run folder."""
        return folder / f"{self.name}-{self.seed}"


Measure = Callable[[Cell, Trainer, Evaluation], Sequence[Mapping[str, object]]]


def train_series(
    cells: Sequence[Cell],
    options: Mapping[str, Any],
    folder: Path,
    columns: Sequence[str],
    measure: Measure,
    jobs: int = 1,
    report: Callable[[str], None] = print,
    numbers: Sequence[str] = (),
) -> list[Row]:
    """Train every cell, with these options of a training, and return the rows of the table.

    Args:
        folder: of the series, a new one or that of the same series.
        columns: of the table. The first two, "name" and "seed", are those of the cell.
        measure: the rows of a cell, as the other columns, from its trainer after its last epoch and
            the evaluation of its held-out pictures. It runs in the process that trained, so it must
            be a function of a module.
        jobs: trainings at a time, each in a process of its own, with its share of the processors.
        numbers: the columns in which a table that goes on must hold numbers.

    Raises RunError if a training fails or another series is in the folder, and ValueError or
    OSError for options that are not usable.
    """
    if jobs < 1:
        raise ValueError(f"a series needs at least 1 job at a time, not {jobs}")
    given = {k: v for k, v in Options(**options).to_json().items() if k not in UNFELT}
    folder.mkdir(parents=True, exist_ok=True)
    home = RunFolder.resume(folder, report)
    running: dict[SpawnProcess, Cell] = {}
    try:
        remember(folder, {"options": given, **{cell.name: to_json(cell.preset) for cell in cells}})
        done = rows_in(folder / TABLE, columns, numbers)
        finished = {(row["name"], row["seed"]) for row in done}
        left = [cell for cell in cells if (cell.name, str(cell.seed)) not in finished]
        waiting = [cell for cell in left if not (cell.run(folder) / RESULT).is_file()]
        home.write(TABLE, columns, ([row[c] for c in columns] for row in done))
        while left:
            while left and not (left[0] in waiting or left[0] in running.values()):
                cell = left.pop(0)
                done += rows_of(cell, folder)
                home.write(TABLE, columns, ([row[c] for c in columns] for row in done))
                report(f"{cell.name}, seed {cell.seed}: done, {len(left)} to go")
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                process = multiprocessing.get_context("spawn").Process(
                    target=train_cell, args=(cell, dict(options), folder, measure, jobs)
                )
                process.start()
                running[process] = cell
            if running:
                wait([process.sentinel for process in running])
            for process in [p for p in running if p.exitcode is not None]:
                cell = running.pop(process)
                if process.exitcode:
                    again = "mend what is said above, or leave it out, and start again"
                    if process.exitcode in (130, -signal.SIGTERM, -signal.SIGKILL):
                        again = "start the series again to go on"
                    raise RunError(
                        f"the training {cell.name} with seed {cell.seed} ended with code"
                        f" {process.exitcode}; {again}"
                    )
    finally:
        for process in running:
            process.terminate()  # it saves a checkpoint
        for process in running:
            process.join()
        home.close()
    return done


def remember(folder: Path, what: Mapping[str, Any]) -> None:
    """Write down what a folder's results belong to. Raises RunError if something else is there by
    one of these names."""
    path = folder / WHAT
    new = json.loads(json.dumps(what))  # as it comes back
    try:
        before = load_record(path) if path.exists() else {}
    except ValueError as error:
        raise RunError(f"{path}: {error}; choose another folder") from error
    for name, value in new.items():
        old = before.get(name, value)
        if old == value:
            continue
        if isinstance(value, dict):
            old, value = (
                {k: d.get(k) for k in d if old.get(k) != value.get(k)} for d in (old, value)
            )
        raise RunError(
            f"{folder} holds results with {name} {old}, not {value}; choose another folder"
        )
    write_record(path, before | new)


def rows_in(path: Path, columns: Sequence[str], numbers: Sequence[str] = ()) -> list[Row]:
    """The rows of a table; none without a file. Raises ValueError if it has not these columns, or
    something else than a number in one of `numbers`."""
    rows = RunFolder(path.parent).rows(path.name)
    for row in rows:
        if missing := [column for column in columns if column not in row]:
            raise ValueError(f"{path} is another table: it has no column {missing[0]!r}")
        for column in numbers:
            try:
                float(row[column])
            except ValueError as error:
                raise ValueError(
                    f"{path}: {column} must be a number, not {row[column]!r}: correct that row, or"
                    " remove it"
                ) from error
    return rows


def rows_of(cell: Cell, folder: Path) -> list[Row]:
    """The rows of a cell that was trained."""
    path = cell.run(folder) / RESULT
    try:
        return load_record(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: {error}; remove it, and start the series again") from error


def train_cell(
    cell: Cell, options: dict[str, Any], folder: Path, measure: Measure, jobs: int
) -> None:
    """What the process of a training does: train the cell, or go on with it, and write its rows
    into its run folder. A mistake in the input is printed in a sentence, with exit code 1."""
    end_with_parent()
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C and a closing terminal are for the parent, which then ends it
    machine.set_up(jobs)
    path = cell.run(folder)
    given = {**options, "preset": cell.name, "seed": cell.seed, "output": str(path)}
    if (path / CHECKPOINT).exists():
        given = {"resume": str(path)}
    try:
        trainer, result = session.train(given, {cell.name: cell.preset}, session.silent)
        own = {"name": cell.name, "seed": cell.seed}
        rows = [own | dict(row) for row in measure(cell, trainer, result)]
        write_record(path / RESULT, [{k: str(v) for k, v in row.items()} for row in rows])
    except (ValueError, RunError, KernelError, OSError) as error:
        sys.exit(f"error: {cell.name}, seed {cell.seed}: {error}")
    except Stopped:
        sys.exit(130)


def end_with_parent() -> None:
    """End this process when the one that started it ends, however that happens."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

    threading.Thread(target=watch, daemon=True).start()
