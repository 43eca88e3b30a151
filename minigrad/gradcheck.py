"""Checks whether a backward pass is right, by comparing it with differences of the forward pass, in
float64.

    from minigrad.gradcheck import check_grads
    check_grads(my_function, x, w)     # silent, or raises GradientMismatch with the worst element

With a random gy, phi(x) = sum(gy * f(x)) is a single number, and backward returns g as its
gradient. Along a random direction d the slope of phi must be g . d. A central difference with five
points measures this slope,

    D(h) = [8 (phi(h) - phi(-h)) - (phi(2h) - phi(-2h))] / 12h        error: O(h^4) + rounding / h

with steps h and h/2. If the two results agree, the slope is known and is compared with g . d. If
they do not, or if the slopes left and right of x differ, a kink (of a ReLU, or of a max-pool whose
winner changes) lies within the step, and a smaller h is tried. If the kink is exactly at x, such as
an input of 0 to a ReLU or a tie in a window, the slopes left and right differ however small h is.
There is then no gradient to compare with; this is reported as a KinkError, not retried with other
numbers. All streams of random numbers are rewound between evaluations, so dropout keeps its mask.

`python -m minigrad.gradcheck` checks every function of minigrad and prints a table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minigrad import backend, random, terminal
from minigrad.engine import Tensor, as_tensor
from minigrad.functions.cases import all_distinct as all_distinct
from minigrad.functions.cases import away_from_zero as away_from_zero

STEPS = [1e-3, 1e-4, 1e-5, 1e-6]
ELEMENTS_NAMED = 400  # at most this many elements are measured one by one to name the worst


class GradientMismatch(AssertionError):
    """backward and the differences of forward disagree."""


class KinkError(ValueError):
    """The function is not differentiable at the point where it was to be checked."""


@dataclass
class Probe:
    """The line x + t d through the inputs, and phi along it."""

    phi: Callable[[list[np.ndarray]], float]
    point: list[np.ndarray]
    direction: list[np.ndarray]

    def __call__(self, t: float) -> float:
        return self.phi([x + t * d for x, d in zip(self.point, self.direction)])

    def slope(self, rtol: float, atol: float, size: float) -> tuple[float, float]:
        """(slope, its uncertainty). Raises KinkError if the point itself is on a kink, so that even
        the smallest step does not help."""
        best = (np.nan, np.inf)
        middle = self(0.0)
        for h in STEPS:
            f = {m: self(m * h) for m in (-2, -1, -0.5, 0.5, 1, 2)}
            wide = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h)
            narrow = (8 * (f[0.5] - f[-0.5]) - (f[1] - f[-1])) / (6 * h)
            # Slope right of the point minus slope left of it. It shrinks with the step, unless a
            # kink lies within the step.
            jumps = [(f[m] - 2 * middle + f[-m]) / (m * h) for m in (2, 1, 0.5)]
            limit = atol + rtol * max(abs(narrow), size)
            noise = 1e-14 * (abs(middle) + size) / h
            kinked = min(map(abs, jumps)) > max(10 * limit, noise) and np.ptp(jumps) < 0.1 * abs(
                jumps[0]
            )
            if not kinked and abs(wide - narrow) < best[1]:
                best = narrow, abs(wide - narrow)
            if best[1] <= 0.1 * limit:
                return best
        if kinked:
            raise KinkError(
                f"slope {narrow - jumps[2] / 2:.6g} from the left, {narrow + jumps[2] / 2:.6g} from"
                " the right"
            )
        return best


def check_grads(
    f: Callable[..., Tensor],
    *inputs,
    rtol: float = 1e-6,
    atol: float = 1e-8,
    seed: int = 0,
    probes: int = 2,
) -> float:
    """Check the gradients of f at the given inputs. Returns the largest relative error seen.

    Args:
        f: takes Tensors, returns a Tensor of any shape. Called some 50 times for each input.
        inputs: float64 arrays (or Tensors, whose data is used) at which f is differentiable; arrays
            of other types, such as labels, are passed to f as they are. Keep clear of kinks: no
            zeros into a ReLU, no ties into a max-pool.
        rtol, atol: a slope may differ by atol + rtol * |gradient|, where |.| is the Euclidean norm.
        seed: seed of gy and of the directions.
        probes: random directions for each input.
    Raises:
        GradientMismatch: naming the input, the slopes, and the worst elements.
        KinkError: the point is on a kink.
        TypeError: an input is float32 (differences need float64), or none is float64.
    """
    arrays = [
        i.data if isinstance(i, Tensor) else i if backend.is_array(i) else np.asarray(i)
        for i in inputs
    ]
    checked = [i for i, a in enumerate(arrays) if a.dtype == np.float64]
    if any(a.dtype.kind == "f" and a.dtype != np.float64 for a in arrays) or not checked:
        raise TypeError(
            "check_grads needs float64 inputs; got"
            f" {', '.join(str(a.dtype) for a in arrays) or 'none'}"
        )
    rng = random.Stream(seed, "gradcheck")
    before = [backend.to_numpy(a).copy() for a in arrays]

    def call(values: list[np.ndarray], requires_grad: bool = False) -> tuple[Tensor, list]:
        args: list = list(arrays)
        for i, value in zip(checked, values):
            args[i] = Tensor(
                backend.to_device(value, backend.device_of(arrays[i])), requires_grad=requires_grad
            )
        with random.rewound():
            return as_tensor(f(*args)), args

    point = [before[i] for i in checked]
    # Use the caller's own arrays, so that unusual layouts (transposed, sliced) go through forward
    # and backward too.
    y, args = call([arrays[i] for i in checked], requires_grad=True)
    if y.dtype != np.float64:
        raise GradientMismatch(f"f turned float64 inputs into {y.dtype}")
    gy = rng.normal(y.shape)
    if not np.isfinite(y.numpy()).all():
        raise ValueError("check_grads: f is not finite at this point; choose other inputs")
    gy_given = backend.to_device(gy.copy(), y.device)
    try:
        with random.rewound():
            y.backward(gy_given)
    except RuntimeError as wrong:  # a gradient that is missing, or of the wrong shape
        raise GradientMismatch(str(wrong)) from wrong
    if not np.array_equal(backend.to_numpy(gy_given), gy):
        raise GradientMismatch("backward wrote into gy")
    for i, (array, copy) in enumerate(zip(arrays, before)):
        if not np.array_equal(backend.to_numpy(array), copy):
            raise GradientMismatch(f"f or its backward wrote into input {i}")

    def phi(values: list[np.ndarray]) -> float:
        return float(np.vdot(gy, call(values)[0].numpy()))

    grads = []
    for i in checked:
        grad = args[i].grad
        grads.append(np.zeros(arrays[i].shape) if grad is None else backend.to_numpy(grad))
        if not np.isfinite(grads[-1]).all():
            raise GradientMismatch(f"gradient of input {i} holds values that are not finite")
        if grads[-1].shape != arrays[i].shape:
            raise GradientMismatch(
                f"gradient of input {i} has shape {grads[-1].shape}, the input {arrays[i].shape}"
            )
    if phi(point) != phi(point):
        raise GradientMismatch(
            "f gives different results for the same input: draw its randomness from a"
            " minigrad.random.Stream"
        )

    worst = 0.0
    for j, i in enumerate(checked):
        size = float(np.sqrt((grads[j] ** 2).sum()))
        for _ in range(probes):
            direction = [
                rng.normal(x.shape) if k == j else np.zeros_like(x) for k, x in enumerate(point)
            ]
            claimed = float(np.vdot(grads[j], direction[j]))
            try:
                slope, spread = Probe(phi, point, direction).slope(rtol, atol, size)
            except KinkError as kink:
                where = (
                    ", ".join(name_kinks(phi, point, j, i, rtol, atol, size))
                    or "no single element; several together"
                )
                raise KinkError(
                    f"input {i} lies on a kink ({kink}), where no gradient exists to compare with:"
                    f" {where}. Move such elements away (a ReLU's input from 0, a max-pool's values"
                    " apart from each other)"
                ) from None
            error = abs(slope - claimed)
            if not error <= atol + rtol * max(abs(slope), size) + spread:
                raise GradientMismatch(
                    f"input {i}, shape {arrays[i].shape}: along a random direction backward says"
                    f" {claimed:.10g}, differences say {slope:.10g} (uncertain by {spread:.1g}).\n"
                    + name_worst(phi, point, grads[j], j, i, rtol, atol, size)
                )
            if spread > 1e3 * (atol + rtol * max(abs(slope), size)):
                raise KinkError(
                    f"input {i}: differences do not converge (slope {slope:.6g}, uncertain by"
                    f" {spread:.1g}): a kink or a jump lies too close to this point; choose inputs"
                    " further from it"
                )
            worst = max(worst, error / (max(abs(slope), size) or 1.0))
    return worst


def one_hot(shape: tuple[int, ...], index: tuple[int, ...]) -> np.ndarray:
    e = np.zeros(shape)
    e[index] = 1
    return e


def elements(gradient: np.ndarray) -> list[tuple[int, ...]]:
    """Indices of the elements to measure one by one: all of a small array; in a large one those
    with the largest gradients, and others at even distances."""
    flat = np.arange(gradient.size)
    if gradient.size > ELEMENTS_NAMED:
        largest = np.argsort(-abs(gradient), axis=None, kind="stable")[: ELEMENTS_NAMED // 2]
        flat = np.unique(
            np.concatenate(
                [largest, np.linspace(0, gradient.size - 1, ELEMENTS_NAMED // 2).astype(int)]
            )
        )
    return [tuple(int(v) for v in np.unravel_index(k, gradient.shape)) for k in flat]


def element_probe(phi, point: list[np.ndarray], j: int, index: tuple[int, ...]) -> Probe:
    return Probe(
        phi,
        point,
        [one_hot(x.shape, index) if k == j else np.zeros_like(x) for k, x in enumerate(point)],
    )


def label(i: int, index: tuple[int, ...]) -> str:
    return f"input {i}[{', '.join(map(str, index))}]"


def name_worst(
    phi, point, gradient: np.ndarray, j: int, i: int, rtol: float, atol: float, size: float
) -> str:
    """The worst elements of one input, by name."""
    rows = []
    for index in elements(gradient):
        try:
            slope = element_probe(phi, point, j, index).slope(rtol, atol, size)[0]
        except KinkError:
            continue
        rows.append((abs(slope - gradient[index]), index, slope))
    rows.sort(key=lambda row: -row[0])
    lines = [
        f"  {label(i, index)}: backward {gradient[index]:.10g}, differences {slope:.10g}"
        for _, index, slope in rows[:5]
    ]
    return (
        f"Worst of the {len(rows)} elements measured one by one, of {gradient.size}:\n"
        + "\n".join(lines)
    )


def name_kinks(phi, point, j: int, i: int, rtol: float, atol: float, size: float) -> list[str]:
    """Elements of one input that sit on a kink."""
    found = []
    for index in elements(point[j]):
        try:
            element_probe(phi, point, j, index).slope(rtol, atol, size)
        except KinkError:
            found.append(f"{label(i, index)} = {point[j][index]:.6g}")
            if len(found) == 5:
                break
    return found


def cases() -> list[tuple[str, Callable[..., Tensor], list[np.ndarray]]]:
    """(name, function, inputs) of every function's cases that have a gradient everywhere nearby."""
    from minigrad import functions as F

    return [(case.name, case, case.draw()) for case in F.cases() if case.smooth]


def main() -> int:
    """Check every case and print a line for each. The exit code is 1 if any case failed, else
    0."""
    if sys.argv[1:] in (["--help"], ["-h"]):
        print(__doc__)
        return 0
    failures = 0
    all_cases = cases()
    print(f"{'function':48} {'relative error':>14}")
    for name, f, inputs in all_cases:
        try:
            print(f"{name:48} {check_grads(f, *inputs):14.1e}")
        except (GradientMismatch, KinkError) as error:
            failures += 1
            print(f"{name:48} FAILED: {error}")
    print(
        f"{len(all_cases) - failures} of {len(all_cases)} right (float64, random gy, five-point"
        " differences)"
    )
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(terminal.run(main))
