"""What every layer is checked for. A file test_X.py gives the cases of functions/X.py to `cases`
and `kernel`, and adds what only that layer has: an oracle, wrong calls, planted faults.

    test_cases = checks.cases(CASES, pytorch=lambda x: torch.relu(x))
    test_kernel = checks.kernel(CASES)
    test_wrong_calls = checks.wrong_calls((lambda: relu("x"), "a Tensor is made of numbers"))
    test_planted_faults = checks.planted_faults(CASES, ("relu", ReLU, leak, "leak"))
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import strategies as st

from minigrad import functions as F
from minigrad import kernels, random
from minigrad.engine import Tensor
from minigrad.functions import conv2d_direct
from minigrad.functions.cases import Case
from minigrad.gradcheck import GradientMismatch, check_grads


class Late:
    """A module that is imported when first used: PyTorch takes a second, and not every test or
    every machine needs it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.found = importlib.util.find_spec(name) is not None

    def __getattr__(self, attribute: str):
        return getattr(importlib.import_module(self.name), attribute)


torch = Late("torch")
both_forms = pytest.mark.usefixtures("forms")
DTYPES = ["float32", "float64"]
FLOAT64 = {"rtol": 1e-12, "atol": 1e-13}
KERNEL = {"float32": 2e-5, "float64": 1e-12}  # kernel against array form, of the largest number
PYTORCH = 1e-13  # float64, of the largest number in PyTorch's answer


def built(test: Callable) -> Callable:
    """A test that needs the compiled kernels; test_kernel_builds.py runs it on other builds too."""
    there = kernels.host_library("float") and kernels.host_library("double")
    skip = pytest.mark.skipif(
        kernels.mode() == "none" or not there,
        reason="the CPU kernels are not built, or switched off",
    )
    return pytest.mark.kernels(skip(test))


def same(actual, expected, **tolerance) -> None:
    """Equal shapes, and values within float64's tolerance unless told."""
    actual = actual.data if isinstance(actual, Tensor) else actual
    assert actual.shape == np.shape(expected)
    np.testing.assert_allclose(actual, expected, **(tolerance or FLOAT64))


def numbers(*shape, dtype="float64", seed=0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def gradient(f, x, gy=None) -> np.ndarray:
    """The gradient of x for this gy, ones if None."""
    x = Tensor(x, requires_grad=True)
    y = f(x)
    y.backward(np.ones_like(y.data) if gy is None else gy)
    return x.grad


def leaves_of(arrays) -> list:
    """A Tensor for each array of real numbers; labels stay arrays."""
    return [Tensor(a, requires_grad=True) if a.dtype.kind == "f" else a for a in arrays]


def run(f, arrays, gy_layout=np.ascontiguousarray) -> list[np.ndarray]:
    """The output and the gradients of one call."""
    leaves = leaves_of(arrays)
    with random.rewound():
        y = f(*leaves)
        gy = np.cos(np.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        y.backward(gy_layout(gy).reshape(y.shape))
    return [y.data, *[x.grad for x in leaves if isinstance(x, Tensor)]]


# Layouts in memory.


def reversed_view(a: np.ndarray) -> np.ndarray:
    return a[..., ::-1].copy()[..., ::-1]


def sliced_view(a: np.ndarray) -> np.ndarray:
    return np.repeat(a, 2, axis=-1)[..., ::2]


LAYOUTS = [np.ascontiguousarray, np.asfortranarray, sliced_view, reversed_view]

# For layers that are also tried with shapes and layouts drawn by hypothesis.
small = st.integers(1, 4)
flags = st.booleans()
layouts = st.sampled_from(LAYOUTS)
shapes = st.lists(small, min_size=1, max_size=4).map(tuple)
streams = st.integers(0, 1000).map(lambda seed: random.Stream(seed, "layers"))


@st.composite
def geometries(draw, padding: int | None = None):
    """(N, H, W), kernel, stride, padding (below the kernel if None) and ceil_mode, such that a
    window fits."""
    kernel, stride = draw(st.tuples(small, small)), draw(st.tuples(small, small))
    pads = tuple(draw(st.integers(0, k - 1 if padding is None else padding)) for k in kernel)
    H, W = (max(1, k - 2 * p) + draw(st.integers(0, 6)) for k, p in zip(kernel, pads))
    return (draw(st.integers(1, 3)), H, W), kernel, stride, pads, draw(flags)


def check(f, *inputs, turn: bool = False) -> None:
    """The gradients of f against differences; with `turn`, f's axes are reversed afterwards, so
    that its backward gets a gy that is not contiguous."""
    check_grads((lambda *a: F.transpose(f(*a))) if turn else f, *inputs)


# The checks that run over every case, in both forms: kernels and plain NumPy.


def right_gradients(case: Case) -> None:
    """Against differences, in float64."""
    if case.smooth:
        check_grads(case, *case.draw())


def right_dtypes(case: Case) -> None:
    """float32 stays float32, and is close to float64."""
    singles = case.draw("float32")
    doubles = [a.astype("float64") if a.dtype.kind == "f" else a for a in singles]
    for single, double in zip(run(case, singles), run(case, doubles)):
        assert (single.dtype, double.dtype) == ("float32", "float64")
        size = max(1.0, float(np.abs(double).max()))  # sums of many terms cancel
        same(single / size, double / size, rtol=1e-5, atol=1e-5)


def any_layout(case: Case) -> None:
    """The same numbers give the same result, however they lie in memory."""
    expected = run(case, case.draw())
    for layout in LAYOUTS[1:]:
        given = [layout(a) if a.dtype.kind == "f" else a for a in case.draw()]
        gy_layout = layout if expected[0].ndim else np.ascontiguousarray
        for actual, wanted in zip(run(case, given, gy_layout), expected):
            same(actual, wanted)


CHECKS = [right_gradients, right_dtypes, any_layout]


def as_pytorch(twin: Callable) -> Callable[[Case], None]:
    """A check against PyTorch's form of the function: twin(*tensors, **options of the case)."""

    def as_pytorch(case: Case) -> None:
        if not torch.found:
            pytest.skip("PyTorch, the oracle of this check, is not installed")
        for ours, theirs in zip(*with_pytorch(case, twin), strict=True):
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() < PYTORCH * (np.abs(theirs).max() or 1.0)

    return as_pytorch


def with_pytorch(case: Case, twin: Callable) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(output, gradients) of a case in float64, and those of PyTorch."""
    torch.set_num_threads(1)
    arrays = case.draw()
    ours = leaves_of(arrays)
    theirs = [
        torch.from_numpy(a.copy()).requires_grad_() if a.dtype.kind == "f" else a for a in arrays
    ]
    y, t = case(*ours), twin(*theirs, **case.options)
    gy = numbers(*y.shape, seed=1)
    y.backward(gy)
    t.backward(torch.from_numpy(gy))
    return (
        [y.data, *[x.grad for x in ours if isinstance(x, Tensor)]],
        [t.detach().numpy(), *[x.grad.numpy() for x in theirs if isinstance(x, torch.Tensor)]],
    )


def cases(cases: Sequence[Case], pytorch: Callable | dict[str, Callable] | None = None) -> Callable:
    """A test of every case, in both forms. `pytorch`: the same function in PyTorch, on tensors with
    channels last and with minigrad's options; a dict where a file has several functions."""
    twins = pytorch if isinstance(pytorch, dict) else {c.function: pytorch for c in cases}
    pairs = [(check, case) for check in CHECKS for case in cases]
    pairs += [(as_pytorch(twins[c.function]), c) for c in cases if twins.get(c.function)]

    @both_forms
    @pytest.mark.parametrize(
        ("check", "case"), pairs, ids=[f"{check.__name__}-{case}" for check, case in pairs]
    )
    def test_cases(check, case):
        check(case)

    test_cases.cases, test_cases.pytorch = cases, twins
    return test_cases


# Kernels against array forms.

_empty_like = np.empty_like


def poisoned(like, *args, **kwargs) -> np.ndarray:
    out = _empty_like(like, *args, **kwargs)
    out.fill(np.nan if out.dtype.kind == "f" else 77)
    return out


def both_ways(f, *arrays) -> list[list[np.ndarray]]:
    """(output, gradients) of f by the kernels, and by the array forms. For the kernels, fresh
    memory is poisoned: a kernel must write all it returns."""
    results = []
    for mode in ("cpu", "none"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MINIGRAD_KERNELS", mode)
            if mode == "cpu":
                patch.setattr(np, "empty_like", poisoned)
            results.append(run(f, [a.copy() for a in arrays]))
    return results


def kernel_like_array_form(case: Case, dtype: str) -> None:
    for ours, reference in zip(*both_ways(case, *case.draw(dtype)), strict=True):
        assert ours.dtype == dtype
        size = max(1.0, float(np.abs(reference).max()))
        tolerance = KERNEL[dtype]
        same(ours / size, reference / size, rtol=tolerance, atol=tolerance)


def kernel(cases: Sequence[Case]) -> Callable:
    """A test of every case: the kernels against the array forms, in float32 and float64."""

    @built
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("case", cases, ids=str)
    def test_kernel(case, dtype):
        kernel_like_array_form(case, dtype)

    test_kernel.cases = cases
    return test_kernel


def not_finite(case: Case, *where: int) -> None:
    """NaN and infinity in the first input: kernel and array form agree on what becomes of them."""
    arrays = case.draw()
    arrays[0].reshape(-1)[list(where or (3, 10, 17))] = np.nan, np.inf, -np.inf
    with np.errstate(all="ignore"):
        ours, reference = both_ways(case, *arrays)
    assert np.isnan(ours[0]).any()
    for a, b in zip(ours, reference):
        same(a, b, rtol=1e-12, atol=1e-12)


# Empty arrays, wrong calls, planted faults.


def empty(**calls: tuple) -> Callable:
    """A test of calls without elements, each (function, shape of each input): the results have the
    right shape, forward and backward, in every form. The first axis of y is that of x."""

    @pytest.mark.parametrize("mode", ["auto", "none", "columns"])
    @pytest.mark.parametrize("name", calls)
    def test_empty_arrays(name, mode, monkeypatch):
        if mode == "none":
            monkeypatch.setenv("MINIGRAD_KERNELS", "none")
        if mode == "columns":
            monkeypatch.setattr(conv2d_direct, "ready", lambda x: False)
        f, *given = calls[name]
        arrays = [numbers(*shape, seed=i) for i, shape in enumerate(given)]
        y, *gradients = run(f, arrays)
        assert y.shape[0] == given[0][0]
        assert [g.shape for g in gradients] == given
        assert all(np.isfinite(g).all() for g in gradients)

    return test_empty_arrays


def wrong_calls(*rows: tuple[Callable, str]) -> Callable:
    """A test of wrong calls, each (what is called, sentence): it is refused in that sentence, with
    the name, the wrong value and what would be right."""

    @pytest.mark.parametrize(("call", "sentence"), rows, ids=[sentence for _, sentence in rows])
    def test_wrong_calls(call, sentence):
        with pytest.raises(ValueError, match=re.escape(sentence)):
            call()

    return test_wrong_calls


def planted_faults(cases: Sequence[Case], *rows: tuple[str, type, Callable, str]) -> Callable:
    """A test of wrong gradients, each (name of a case, Function class, fault, what is wrong): the
    gradient checker finds it with that case. `fault` makes a wrong backward of the right one."""
    by_name = {case.name: case for case in cases}

    @pytest.mark.parametrize(("name", "function", "fault", "what"), rows, ids=[r[3] for r in rows])
    def test_planted_faults(name, function, fault, what, monkeypatch):
        monkeypatch.setattr(function, "backward", fault(function.backward))
        with pytest.raises(GradientMismatch, match="input \\d|of shape"):
            check_grads(by_name[name], *by_name[name].draw())

    test_planted_faults.functions = {by_name[row[0]].function for row in rows}
    return test_planted_faults


def change(position: int, how: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """A fault: how(g) in place of the gradient g of one input."""

    def fault(right):
        def backward(self, gy):
            grads = right(self, gy)
            if not isinstance(grads, tuple):
                return how(grads)
            return tuple(
                how(g) if i == position and g is not None else g for i, g in enumerate(grads)
            )

        return backward

    return fault


def ignore_gy(right):
    """A fault: ones in place of gy."""
    return lambda self, gy: right(self, np.ones_like(gy))


def with_attribute(name: str, value: Callable) -> Callable:
    """A fault: backward runs with an attribute changed to value(old)."""

    def fault(right):
        def backward(self, gy):
            setattr(self, name, value(getattr(self, name)))
            return right(self, gy)

        return backward

    return fault


def nothing(g: np.ndarray) -> np.ndarray:
    return 0 * g


def at_one_element(g: np.ndarray) -> np.ndarray:
    """One element wrong, by a hundredth of the largest."""
    g = g.copy()
    g.reshape(-1)[g.size // 2] += 0.01 * np.abs(g).max() + 1e-3
    return g
