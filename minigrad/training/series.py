"""Train a series of networks, several at a time, and write a table with the results of each.

The folder of a series holds results.csv, series.json with what is trained, and a run folder for
each training. A training that was stopped or killed goes on from its checkpoint when the series is
started again, and those that are in the table are not repeated: the table holds the same bytes as
after a series that was never interrupted.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
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
from minigrad.files import load_record, save_record
from minigrad.kernels import KernelError
from minigrad.models.records import Preset, to_json
from minigrad.training import session
from minigrad.training.evaluation import Evaluation
from minigrad.training.run_folder import CHECKPOINT, RunError, RunFolder
from minigrad.training.trainer import Stopped, Trainer

TABLE, WHAT, RESULT = "results.csv", "series.json", "result.json"
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
) -> list[Row]:
    """Train every cell, with these options of a training, and return the rows of the table.

    Args:
        folder: of the series, a new one or that of the same series.
        columns: of the table. The first two, "name" and "seed", are those of the cell.
        measure: the rows of a cell, as the other columns, from its trainer after its last epoch and
            the evaluation of its held-out pictures. It runs in the process that trained, so it must
            be a function of a module.
        jobs: trainings at a time, each in a process of its own, with its share of the processors.

    Raises RunError if a training fails or another series is in the folder, and ValueError or
    OSError for options that are not usable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    home = RunFolder.resume(folder, report)
    running: dict[SpawnProcess, Cell] = {}
    try:
        compare(cells, options, folder)
        done = home.rows(TABLE)
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
                    raise RunError(
                        f"the training {cell.name} with seed {cell.seed} ended with code"
                        f" {process.exitcode}; start the series again to go on"
                    )
    finally:
        for process in running:
            process.terminate()  # it saves a checkpoint
        for process in running:
            process.join()
        home.close()
    return done


def compare(cells: Sequence[Cell], options: Mapping[str, Any], folder: Path) -> None:
    """Raise RunError if the folder holds a series that trains other networks by these names, or
    with other options; otherwise write down what this one trains."""
    path = folder / WHAT
    what = {"options": dict(options), **{cell.name: to_json(cell.preset) for cell in cells}}
    what = json.loads(json.dumps(what))  # as it comes back
    try:
        before = load_record(path) if path.exists() else {}
    except ValueError as error:
        raise RunError(f"{path}: {error}; choose another folder") from error
    for name, value in what.items():
        if name in before and before[name] != value:
            raise RunError(
                f"{folder} holds a series with other {name}: {before[name]}, not {value}; choose"
                " another folder"
                if name == "options"
                else f"{folder} holds a series in which {name} is another network; choose another"
                " folder"
            )
    save_record(path, before | what)


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
    into its run folder. A mistake in the input is printed in a sentence, with exit code 2."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends it
    machine.set_up(jobs)
    path = cell.run(folder)
    if (path / CHECKPOINT).exists():
        given: dict[str, Any] = {"resume": str(path)}
    else:
        if path.exists():
            shutil.rmtree(path)  # it was killed before its first checkpoint
        given = {**options, "preset": cell.name, "seed": cell.seed, "output": str(path)}
    try:
        trainer, result = session.train(given, {cell.name: cell.preset}, session.silent)
        rows = measure(cell, trainer, result)
    except (ValueError, RunError, KernelError, OSError) as error:
        sys.exit(f"error: {cell.name}, seed {cell.seed}: {error}")
    except Stopped:
        sys.exit(130)
    own = {"name": cell.name, "seed": cell.seed}
    save_record(path / RESULT, [{k: str(v) for k, v in (own | dict(row)).items()} for row in rows])


def end_with_parent() -> None:
    """End this process when the one that started it ends, however that happens."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

    threading.Thread(target=watch, daemon=True).start()
