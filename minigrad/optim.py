"""Stochastic gradient descent with momentum, and the schedules that lower its rate.

The paper's rule (Krizhevsky et al. 2012, section 5), where g is the gradient averaged over the
batch:

    v <- m v - d lr w - lr g          w <- w + v                 form="paper"

PyTorch's rule, which is also Caffe's except for where the rate enters the velocity:

    v <- m v + (g + d w)              w <- w - lr v              form="torch"

At a constant rate both give the same weights. When the rate drops, the paper's velocity still
contains steps of the old size, whereas PyTorch's steps are rescaled at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from minigrad import backend, kernels
from minigrad.backend import Array
from minigrad.engine import Tensor

CHUNK = 1 << 16  # elements updated at a time: temporaries stay in cache


def check_form(caller: str, form: str) -> None:
    """Raise ValueError unless form is the paper's update or PyTorch's."""
    if form not in ("paper", "torch"):
        raise ValueError(f"{caller}: form must be 'paper' or 'torch', not {form!r}")


def sgd_update(
    w: Array, v: Array, g: Array, lr: float, momentum: float, weight_decay: float, form: str
) -> None:
    """One step of SGD on one parameter. Changes w and v in place; these must be contiguous, and all
    arrays must have the same size.

    Raises ValueError if this does not hold, or if `form` is neither "paper" nor "torch".
    """
    check_form("sgd_update", form)
    if not (w.size == v.size == g.size and w.flags.c_contiguous and v.flags.c_contiguous):
        raise ValueError(
            "sgd_update: w, v and g must have one size, and w and v be contiguous; their"
            f" shapes are {w.shape}, {v.shape}, {g.shape}"
        )
    w, v, g = w.reshape(-1), v.reshape(-1), g.reshape(-1)
    if kernels.ready(w):
        constants = lr, momentum, weight_decay, int(form == "paper")
        kernels.launch(
            "sgd_update", -(-w.size // kernels.SPAN), w, v, g, w.size, kernels.SPAN, *constants
        )
        return
    for i in range(0, w.size, CHUNK):
        w_, v_, g_ = w[i : i + CHUNK], v[i : i + CHUNK], g[i : i + CHUNK]
        v_ *= momentum
        if form == "paper":
            v_ -= lr * (g_ + weight_decay * w_)
            w_ += v_
        else:
            v_ += g_ + weight_decay * w_
            w_ -= lr * v_


class SGD:
    """Stochastic gradient descent with momentum and weight decay.

    Args:
        params: Parameters, or groups of them as dicts:
            {"params": [...],       the parameters
             "lr": 0.02,            an absolute rate of their own (instead of lr * lr_scale)
             "lr_scale": 2.0,       a factor on lr
             "weight_decay": 0.0,   instead of the argument weight_decay
             "scheduled": False,    schedules leave this group's rate alone (the 2012 code's biases)
             "rates": ((67, 1e-5),), (epoch, absolute rate): overrides everything above from that
                                     epoch on
             "max_filter_rms": 0.1} after each step, rescale every output filter whose root mean
                                    square is larger than this (ZFNet)
        lr: the learning rate.
        momentum, weight_decay: m and d above.
        form: "paper" or "torch".

    Schedules set `epoch` and `factor`, which multiplies the rate of every scheduled group.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0005,
        form: str = "paper",
    ) -> None:
        check_form("SGD", form)
        if lr < 0 or not 0 <= momentum < 1 or weight_decay < 0:
            raise ValueError(
                f"SGD: lr={lr}, momentum={momentum}, weight_decay={weight_decay}: need lr >= 0, 0"
                " <= momentum < 1, decay >= 0"
            )
        self.lr, self.momentum, self.weight_decay, self.form = lr, momentum, weight_decay, form
        self.epoch, self.factor = 0.0, 1.0
        defaults = {
            "lr": None,
            "lr_scale": 1.0,
            "weight_decay": weight_decay,
            "scheduled": True,
            "rates": (),
            "max_filter_rms": None,
        }
        params = list(params)
        groups = params if params and isinstance(params[0], dict) else [{"params": params}]
        self.groups: list[dict[str, Any]] = []
        for group in groups:
            unknown = set(group) - set(defaults) - {"params"}
            if unknown or "params" not in group:
                raise ValueError(
                    f"SGD: a group has 'params' and {', '.join(map(repr, defaults))}; unknown or"
                    f" missing: {unknown or 'params'}"
                )
            self.groups.append(defaults | group | {"params": list(group["params"])})
        everything = [p for group in self.groups for p in group["params"]]
        if not everything:
            raise ValueError("SGD: there are no parameters to train")
        for p in everything:
            if not isinstance(p, Tensor) or not p.requires_grad:
                raise TypeError(
                    f"SGD: parameters must be Tensors with requires_grad=True, not {p!r}"
                )
        if len({id(p) for p in everything}) < len(everything):
            raise ValueError("SGD: a parameter is given twice")
        self.velocity: dict[Tensor, Array] = {}

    def rate(self, group: dict[str, Any]) -> float:
        """The current rate of a group."""
        reached = [rate for epoch, rate in group["rates"] if self.epoch >= epoch]
        if reached:
            return reached[-1]
        base = group["lr"] if group["lr"] is not None else self.lr * group["lr_scale"]
        return base * (self.factor if group["scheduled"] else 1.0)

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.grad.shape != p.shape or p.grad.dtype != p.dtype:
                    raise ValueError(
                        f"SGD: the gradient of {p.name} is {p.grad.dtype} {p.grad.shape}, the"
                        f" parameter {p.dtype} {p.shape}"
                    )
                p.data = kernels.contiguous(p.data)  # updated in place, through a flat view
                with backend.on_device(p.device):
                    if p not in self.velocity:
                        self.velocity[p] = np.zeros_like(p.data)
                    v, g = self.velocity[p], kernels.contiguous(p.grad)
                    sgd_update(
                        p.data,
                        v,
                        g,
                        self.rate(group),
                        self.momentum,
                        group["weight_decay"],
                        self.form,
                    )
                    if group["max_filter_rms"] is not None and p.ndim == 4:
                        limit_filter_rms(p.data, group["max_filter_rms"])

    def zero_grad(self) -> None:
        """Remove all gradients, so that the next backward starts from none."""
        for group in self.groups:
            for p in group["params"]:
                p.grad = None


def limit_filter_rms(w: Array, limit: float) -> None:
    """Rescale, in place, each output filter of w (KH, KW, C, O) whose root mean square exceeds
    `limit` to that limit.

    Zeiler and Fergus (arXiv 1311.2901), section 3: "renormalize each filter in the convolutional
    layers whose RMS value exceeds a fixed radius of 1e-1 to this fixed radius".
    """
    rms = np.sqrt((w * w).mean(axis=(0, 1, 2)))
    w *= np.minimum(1, limit / np.maximum(rms, limit))


class StepSchedule:
    """Multiply the rate by `factor` at each of the given epochs (whole or not).

    Args: optimizer; epochs: ascending, e.g. (25, 51, 79) for the 2012 run; factor: 0.1 in the
    paper.
    """

    def __init__(self, optimizer: SGD, epochs: Sequence[float], factor: float = 0.1) -> None:
        self.optimizer, self.epochs, self.factor = optimizer, sorted(epochs), factor

    def step(self, epoch: float, error: float | None = None) -> None:
        """Set the rate for the given point in training. The validation error is not used."""
        self.optimizer.epoch = epoch
        self.optimizer.factor = self.factor ** int(
            np.searchsorted(self.epochs, epoch + 1e-9, side="right")
        )


class PlateauSchedule:
    """Multiply the rate by `factor` when the validation error has stopped improving: the paper's
    rule, made precise.

    "Divide the learning rate by 10 when the validation error rate stopped improving with the
    current learning rate" (section 5), three times in the paper's run.

    Args: optimizer; patience: epochs without a new best before the rate drops; factor; drops: the
    largest number of drops.
    """

    def __init__(
        self, optimizer: SGD, patience: int = 3, factor: float = 0.1, drops: int = 3
    ) -> None:
        self.optimizer, self.patience, self.factor, self.drops = optimizer, patience, factor, drops
        self.best, self.waited, self.dropped = np.inf, 0, 0

    def step(self, epoch: float, error: float | None = None) -> None:
        """Record the validation error after an epoch. None (before the first epoch) does not change
        the rate."""
        self.optimizer.epoch = epoch
        if error is None:
            return
        self.waited = 0 if error < self.best else self.waited + 1
        self.best = min(self.best, error)
        if self.waited >= self.patience and self.dropped < self.drops:
            self.dropped, self.waited = self.dropped + 1, 0
            self.optimizer.factor *= self.factor

    def state(self) -> dict[str, Any]:
        """The state that a checkpoint stores."""
        return {
            "best": self.best,
            "waited": self.waited,
            "dropped": self.dropped,
            "factor": self.optimizer.factor,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.best, self.optimizer.factor = state["best"], state["factor"]
        self.waited, self.dropped = int(state["waited"]), int(state["dropped"])
