"""Test cases of the layers. Each layer's file ends with its CASES, and every check runs over them:
the gradient checker (`python -m minigrad.gradcheck`), and the comparisons of kernels with array
forms, with PyTorch, between dtypes, and between memory layouts.

    CASES = [
        Case("lrn: alpha=1", lrn, (2, 3, 2, 7), alpha=1.0),
        Case("lrn: n above C", lrn, (4, 3), n=9, alpha=1.0),
    ]

The name of a case begins with the name of its function. An input is a shape, which is filled with
normally distributed numbers, or one of the makers below. Most of these avoid kinks by construction:
at a kink the function has no gradient that could be compared with differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad import random
from minigrad.engine import Tensor

Draw = Callable[[random.Stream], np.ndarray]


class Case:
    """One call of a function.

    Args:
        name: the name of the function, and after a colon what is special about the case.
        call: takes the inputs and the options, returns a Tensor.
        inputs: shapes, makers, or arrays that are passed as they are.
        smooth: False if the inputs lie on a kink; there is then no check by differences.
        options: keyword arguments of the call. With `rng=fresh` each call gets a new stream, which
            yields the same numbers each time.
    """

    def __init__(
        self,
        name: str,
        call: Callable[..., Tensor],
        *inputs: tuple[int, ...] | Draw | np.ndarray,
        smooth: bool = True,
        **options: Any,
    ) -> None:
        self.name, self.call, self.inputs = name, call, inputs
        self.smooth, self.options = smooth, options

    function = property(lambda self: self.name.partition(":")[0])

    def __repr__(self) -> str:
        return self.name

    def __call__(self, *inputs: Any) -> Tensor:
        options = {name: v() if v is fresh else v for name, v in self.options.items()}
        return self.call(*inputs, **options)

    def draw(self, dtype: str = "float64") -> list[np.ndarray]:
        """The inputs as arrays, with the same numbers each time."""
        stream = random.Stream(0, self.name)
        drawn = [
            stream.normal(i) if isinstance(i, tuple) else i.copy() if isinstance(i, np.ndarray)
            else i(stream) for i in self.inputs
        ]  # fmt: skip
        return [a.astype(dtype) if a.dtype.kind == "f" else a for a in drawn]


def fresh() -> random.Stream:
    """A new stream for each call of a case, always with the same numbers."""
    return random.Stream(0, "cases")


def away_from_zero(rng: random.Stream, shape: Sequence[int], margin: float = 0.05) -> np.ndarray:
    """Random numbers of both signs, none closer to 0 than margin: inputs for a ReLU."""
    x = rng.normal(tuple(shape))
    return x + np.copysign(margin, x)


def all_distinct(rng: random.Stream, shape: Sequence[int], gap: float = 0.05) -> np.ndarray:
    """Random numbers, any two of them at least `gap` apart: inputs for a max-pool."""
    n = int(np.prod(shape))
    return gap * (rng.permutation(n) - n / 2 + 0.3).reshape(tuple(shape))


def nonzero(*shape: int, margin: float = 0.05) -> Draw:
    return lambda stream: away_from_zero(stream, shape, margin)


def apart(*shape: int) -> Draw:
    return lambda stream: all_distinct(stream, shape)


def ties(*shape: int) -> Draw:
    """Small whole numbers, so that many windows of a max-pool have a tie for the largest value."""
    return lambda stream: np.round(stream.normal(shape))


def positive(*shape: int, least: float = 0.5) -> Draw:
    return lambda stream: least + abs(stream.normal(shape))


def scaled(factor: float, *shape: int) -> Draw:
    return lambda stream: factor * stream.normal(shape)


def one_sign(*shape: int) -> Draw:
    """Weights that are all positive or all negative for one output, alternating over the outputs.
    With positive inputs, no value that enters a ReLU is then near 0."""
    return lambda stream: (0.1 + abs(stream.normal(shape))) * alternating(1.0, shape[-1])


def alternating(size: float, count: int) -> np.ndarray:
    """size, -size, size, ...: a bias that keeps all inputs of a ReLU well above or below 0."""
    return size * (1.0 - 2 * (np.arange(count) % 2))


def labels(classes: int, count: int) -> np.ndarray:
    """Class labels: whole numbers below `classes`; all of them occur if `count` is large enough."""
    return -np.arange(1, count + 1) % classes
