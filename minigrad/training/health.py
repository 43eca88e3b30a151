"""The health of a training run: sizes of weights and their updates, dead units, a loss that does
not fall, and values that are not finite."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minigrad import nn, random
from minigrad.backend import Array
from minigrad.engine import Tensor, no_grad


def first_not_finite(model: nn.Module, x: Array) -> str:
    """The source of numbers that are not finite: the batch, a parameter, or the first layer whose
    output has some; "" if there are none."""
    if not finite(x):
        return "the pictures of this batch hold values that are not finite"
    for name, p in model.named_parameters():
        if not finite(p.data):
            return f"the parameter {name} holds values that are not finite"
    with no_grad(), random.rewound(), np.errstate(all="ignore"):
        for name, _, y in model.walk(Tensor(x)):
            if not finite(y.data):
                return f"they appear first in the output of {name}"
    return ""


def finite(array: Array) -> bool:
    """Whether all numbers are finite. If the sum is finite, they are; it can also overflow, so
    otherwise they are checked one by one."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())


def readings(
    model: nn.Module, before: dict[str, Array], x: Array, step: int
) -> list[dict[str, Any]]:
    """Rows of health.csv.

    For each parameter: mean |w|, mean |dw| of the last step, and their ratio, which Krizhevsky kept
    near 1/1000 to 1/500. For each ReLU: the share of its maps (or units) that are 0 everywhere in
    every picture of the batch.
    """
    rows = []
    for name, p in model.named_parameters():
        w, dw = float(abs(p.data).mean()), float(abs(p.data - before[name]).mean())
        values = {"mean_w": f"{w:.6g}", "mean_dw": f"{dw:.6g}"}
        rows.append(
            {"step": step, "layer": name, **values, "ratio": f"{dw / w if w else math.nan:.4g}"}
        )
    with no_grad(), random.rewound(), np.errstate(all="ignore"):
        for name, layer, y in model.walk(Tensor(x)):
            if isinstance(layer, nn.ReLU):
                alive = (y.data > 0).reshape(-1, y.shape[-1]).any(axis=0)
                dead = f"{1 - float(alive.mean()):.4f}"
                rows.append({"step": step, "layer": name, "dead": dead})
    return rows


@dataclass
class LossWatch:
    """Warns, once each, if the loss stays at the level of guessing, or if it diverges.

    classes: C; a network that has learnt nothing has the loss ln C. window: steps in the average.
    """

    classes: int
    window: int = 300
    recent: deque = field(default_factory=deque)
    said: set = field(default_factory=set)

    def note(self, loss: float, rate: float, step: int) -> str:
        """Record the loss of a step; return a warning, or ""."""
        self.recent.append(loss)
        if len(self.recent) > self.window:
            self.recent.popleft()
        guess = math.log(self.classes)
        late = float(np.mean(list(self.recent)[-max(1, self.window // 6) :]))
        if (
            len(self.recent) >= self.window // 6
            and late > 1.5 * guess + 1
            and late > 1.2 * self.recent[0]
            and "away" not in self.said
        ):
            self.said.add("away")
            return (
                f"step {step}: the loss runs away; it averages {late:.2f} now, where guessing gives"
                f" {guess:.2f} (ln {self.classes}). The learning rate {rate:g} is the likely cause:"
                f" go back to a checkpoint and try --lr {rate / 10:g}"
            )
        if (
            len(self.recent) == self.window
            and abs(np.mean(self.recent) - guess) < 0.02 * guess
            and "stuck" not in self.said
        ):
            self.said.add("stuck")
            return (
                f"step {step}: the loss has stayed at {np.mean(self.recent):.3f} for {self.window}"
                f" steps; guessing gives {guess:.3f} (ln {self.classes}): the network does not"
                " learn yet. Likely causes: initial weights so small that nothing reaches the last"
                " layer (on small sets use --recipe small, docs/small-subsets.md), a rate that is"
                f" too low or too high (it is {rate:g}), or labels that do not belong to the"
                " pictures"
            )
        return ""


def out_of_memory(error: BaseException) -> bool:
    """Whether this is the error that NumPy or CuPy raises when there is too little memory."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
