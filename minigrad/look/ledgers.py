"""The ledgers of networks as a picture: which stages take parameters, computation, memory, time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from minigrad import backend
from minigrad.engine import Tensor, no_grad
from minigrad.look.pictures import new_figure
from minigrad.network import Network, Row


def stage_seconds(model: Network, batch: int = 32, repeats: int = 3) -> dict[str, float]:
    """Seconds of the forward pass per picture, by stage, in test mode: the median of several passes
    over a batch of zeros, divided by the batch size."""
    p = model.preset.preprocessing
    zeros = np.zeros((batch, p.size, p.size, p.channels), np.float32)
    x = Tensor(backend.to_device(zeros, model.parameters()[0].device))
    seconds: dict[str, list[float]] = {name: [] for name in model.stages}
    with model.in_test_mode(), no_grad():
        for _ in range(repeats):
            began = time.perf_counter()
            for name, _, _ in model.walk(x):
                backend.synchronize(x.device)
                now = time.perf_counter()
                seconds[name].append(now - began)
                began = now
    return {name: float(np.median(each)) / batch for name, each in seconds.items()}


def draw_ledgers(
    ledgers: Mapping[str, list[Row]],
    path: Path,
    seconds: Mapping[str, Mapping[str, float]] = {},
) -> Path:
    """Draw networks side by side, by name, with bars for each stage: its parameters, its
    multiply-adds, the memory of its output and of what is kept for backward, and its measured
    time, if given."""
    panels = ["parameters", "multiply-adds", "kilobytes a picture"]
    panels += ["milliseconds a picture, forward"] if seconds else []
    figure = new_figure((6.5 * len(ledgers), 2.6 * len(panels)))
    grid = figure.subplots(len(panels), len(ledgers), squeeze=False)
    for column, (name, rows) in zip(grid.T, ledgers.items()):
        where = np.arange(len(rows))
        values: dict[str, list[float]] = {
            "parameters": [row.parameters for row in rows],
            "multiply-adds": [row.multiply_adds for row in rows],
            "kilobytes a picture": [row.bytes_out / 1e3 for row in rows],
        }
        if seconds and name in seconds:
            values["milliseconds a picture, forward"] = [
                1e3 * seconds[name][row.stage] for row in rows
            ]
        for axes, what in zip(column, panels):
            if what not in values:
                axes.axis("off")
                continue
            total = f"{sum(values[what]):,.{'3g' if 'milli' in what else '0f'}}"
            if what == "kilobytes a picture":
                kept = [row.bytes_kept / 1e3 for row in rows]
                axes.bar(where - 0.2, values[what], 0.4, label=f"output, {total}")
                axes.bar(where + 0.2, kept, 0.4, label=f"kept for backward, {sum(kept):,.0f}")
                axes.legend(fontsize=7)
                axes.set_title(f"{name}: {what}", fontsize=9)
            else:
                axes.bar(where, values[what])
                axes.set_title(f"{name}: {total} {what}", fontsize=9)
            axes.set_xticks(where, [row.stage for row in rows], rotation=90, fontsize=7)
            axes.ticklabel_format(axis="y", scilimits=(-3, 6))
            axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=110)
    return path
