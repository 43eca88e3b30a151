"""How a layer is tried. Each file of a layer ends with its CASES, and every check runs over them:
the gradient checker (`python -m minigrad.gradcheck`), kernels against array forms, PyTorch, dtypes,
layouts in memory.

    CASES = [
        Case("lrn: alpha=1", lrn, (2, 3, 2, 7), alpha=1.0),
        Case("lrn: n above C", lrn, (4, 3), n=9, alpha=1.0),
    ]

A name begins with the function's. An input is a shape, of which normal numbers are drawn, or one of
the makers below, which keep away from kinks by construction: a gradient cannot be compared with
differences where the function has none.
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
        name: the function's, and after a colon what is special.
        call: takes the inputs and the options, returns a Tensor.
        inputs: shapes, makers, or arrays that are given as they are.
        smooth: False where the inputs lie on a kink: no check by differences.
        options: of the call. `rng=fresh` gives each call a stream of its own with the same numbers.
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
        """The inputs: the same numbers each time."""
        stream = random.Stream(0, self.name)
        drawn = [
            stream.normal(i) if isinstance(i, tuple) else i.copy() if isinstance(i, np.ndarray)
            else i(stream) for i in self.inputs
        ]  # fmt: skip
        return [a.astype(dtype) if a.dtype.kind == "f" else a for a in drawn]


def fresh() -> random.Stream:
    """A stream that begins anew with each call of a case."""
    return random.Stream(0, "cases")


def away_from_zero(rng: random.Stream, shape: Sequence[int], margin: float = 0.05) -> np.ndarray:
    """Random numbers of both signs, none closer to 0 than margin: inputs for a ReLU."""
    x = rng.normal(tuple(shape))
    return x + np.copysign(margin, x)


def all_distinct(rng: random.Stream, shape: Sequence[int], gap: float = 0.05) -> np.ndarray:
    """Random numbers no two of which are closer than gap: inputs for a max-pool."""
    n = int(np.prod(shape))
    return gap * (rng.permutation(n) - n / 2 + 0.3).reshape(tuple(shape))


def nonzero(*shape: int, margin: float = 0.05) -> Draw:
    return lambda stream: away_from_zero(stream, shape, margin)


def apart(*shape: int) -> Draw:
    return lambda stream: all_distinct(stream, shape)


def ties(*shape: int) -> Draw:
    """Small whole numbers: many windows of a max-pool have several largest."""
    return lambda stream: np.round(stream.normal(shape))


def positive(*shape: int, least: float = 0.5) -> Draw:
    return lambda stream: least + abs(stream.normal(shape))


def scaled(factor: float, *shape: int) -> Draw:
    return lambda stream: factor * stream.normal(shape)


def one_sign(*shape: int) -> Draw:
    """Weights whose outputs see only positive or only negative ones, in turn: beside positive
    inputs no output of a ReLU is near 0."""
    return lambda stream: (0.1 + abs(stream.normal(shape))) * alternating(1.0, shape[-1])


def alternating(size: float, count: int) -> np.ndarray:
    """size, -size, size, ...: a bias that keeps every output of a ReLU well above 0, or below."""
    return size * (1.0 - 2 * (np.arange(count) % 2))


def labels(classes: int, count: int) -> np.ndarray:
    """Right classes: whole numbers below `classes`, all of them where there are as many."""
    return np.arange(count) * 3 % classes
