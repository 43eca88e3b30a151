"""The checker itself: what it finds, what it refuses, what it prints. That it finds wrong gradients
of each layer is shown in tests/layers, by planted faults."""

import numpy as np
import pytest

from minigrad import functions as F
from minigrad import gradcheck, random
from minigrad.engine import Function, Tensor, as_tensor
from minigrad.functions.tanh import Tanh
from minigrad.gradcheck import GradientMismatch, KinkError, check_grads

CASES = gradcheck.cases()


class Square(Function):
    def forward(self, x):
        self.save(x)
        return x * x

    def backward(self, gy):
        (x,) = self.saved
        g = 2 * x * gy
        g[1, 2] += 0.5
        return g


def test_the_worst_element_is_named():
    with pytest.raises(
        GradientMismatch, match=r"Worst of the 12 elements.*\n  input 0\[1, 2\]: backward"
    ):
        check_grads(lambda x: Square()(x), np.random.default_rng(0).standard_normal((3, 4)))


def test_kink_is_detected_and_named():
    x = np.array([0.7, 0.0, -0.4])
    with pytest.raises(KinkError, match=r"input 0\[1\] = 0"):
        check_grads(F.relu, x)


def test_tie_is_detected():
    x = np.array([1.0, 1.0, 0.2, 0.1]).reshape(1, 2, 2, 1)
    with pytest.raises(KinkError, match=r"input 0\[0, 0, 0, 0\]"):
        check_grads(lambda x: F.max_pool2d(x, 2), x)


def test_a_kink_nearby_is_stepped_inside_of():
    """1e-4 from the kink: the first step crosses it, a smaller one does not."""
    check_grads(F.relu, np.array([1e-4, -1e-4, 0.5]))


def test_writing_into_gy_or_an_input_is_caught():
    class WritesGy(Function):
        def forward(self, x):
            return x * 2

        def backward(self, gy):
            gy *= 2
            return gy

    class WritesInput(Function):
        def forward(self, x):
            x += 1
            return x * 2

        def backward(self, gy):
            return gy * 2

    with pytest.raises(GradientMismatch, match="wrote into gy"):
        check_grads(lambda x: WritesGy()(x), np.ones(3))
    with pytest.raises(GradientMismatch, match="wrote into input 0"):
        check_grads(lambda x: WritesInput()(x), np.ones(3))


def test_randomness_outside_a_stream_is_caught():
    rng = np.random.default_rng(0)
    with pytest.raises(GradientMismatch, match="different results"):
        check_grads(lambda x: x * float(rng.random()), np.ones(3))


def test_default_stream_is_rewound():
    before = random.default_stream().counter
    check_grads(lambda x: F.dropout(x, 0.5), np.random.default_rng(0).standard_normal(20))
    assert random.default_stream().counter == before


@pytest.mark.parametrize(
    "inputs",
    [(np.ones(3, np.float32),), (np.arange(3),), (), (np.ones(3), np.ones(3, np.float32))],
)
def test_float64_is_needed(inputs):
    with pytest.raises(TypeError, match="needs float64"):
        check_grads(lambda *a: as_tensor(a[0] if a else 0.0), *inputs)


class Line(Function):
    """slope * x, whose backward says `claimed` instead."""

    def __init__(self, slope, claimed):
        self.slope, self.claimed = slope, claimed

    def forward(self, x):
        return self.slope * x

    def backward(self, gy):
        return self.claimed * gy


@pytest.mark.parametrize("claimed", [np.nan, np.inf, np.array([1.0, np.nan, 1.0])])
def test_a_gradient_that_is_no_number_is_found(claimed):
    words = "gradient of input 0 holds values that are not finite"
    with pytest.raises(GradientMismatch, match=words):
        check_grads(lambda x: Line(1.0, claimed)(x), np.ones(3))


@pytest.mark.parametrize(
    ("slope", "claimed", "found"),
    [
        (2.0, 2 * (1 + 2e-7), False),  # rtol is 1e-6
        (2.0, 2 * (1 + 2e-5), True),
        (0.0, 1e-9, False),  # atol is 1e-8
        (0.0, 1e-6, True),
    ],
)
def test_small_errors_are_found(slope, claimed, found):
    def check():
        return check_grads(lambda x: Line(slope, claimed)(x), np.linspace(1, 2, 20))

    if found:
        with pytest.raises(GradientMismatch, match="along a random direction"):
            check()
    else:
        check()


def test_the_largest_relative_error_is_returned():
    """Of all inputs, relative to the gradient's size."""

    def f(a, b):
        return Line(3.0, 3 * (1 + 5e-7))(a) + b

    assert check_grads(lambda a: f(a, a), np.ones(5)) > 1e-8
    assert check_grads(f, np.ones(5), np.ones(5)) > 1e-8
    assert check_grads(lambda a, b: f(b, a), np.ones(5), np.ones(5)) > 1e-8
    assert 1e-8 < check_grads(lambda x: Line(1e6, 1e6 * (1 + 5e-7))(x), np.ones(5)) < 1e-6


def test_every_input_is_checked():
    with pytest.raises(GradientMismatch, match="^input 1, shape"):
        check_grads(lambda a, b: a + Line(1.0, 2.0)(b), np.ones(3), np.ones(3))


def test_what_f_must_not_do():
    class Single(Function):
        def forward(self, x):
            return x.astype(np.float32)

    with pytest.raises(GradientMismatch, match="turned float64 inputs into float32"):
        check_grads(lambda x: Single()(x), np.ones(3))
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="not finite at this point"):
            check_grads(lambda x, v=value: x * np.array([1.0, v, 1.0]), np.ones(3))


def test_directions():
    """The seed draws gy and the directions; each probe is one more direction."""

    def run(**options):
        points, gys = [], []

        class Watched(Line):
            def forward(self, x):
                points.append(x.copy())
                return super().forward(x)

            def backward(self, gy):
                gys.append(gy.copy())
                return super().backward(gy)

        check_grads(lambda x: Watched(2.0, 2.0)(x), np.ones(4), **options)
        return points, gys

    assert np.array_equal(run()[1], run(seed=0)[1])
    assert not np.array_equal(run()[1], run(seed=1)[1])
    distinct = [len(np.unique(np.round(run(probes=n)[0], 12), axis=0)) for n in (1, 2, 3)]
    assert distinct[2] - distinct[1] == distinct[1] - distinct[0] > 0
    assert len(run()[0]) == len(run(probes=2)[0])


def test_inputs_keep_their_layout():
    """So that a layer's copies of transposed or sliced arrays are checked, too."""
    seen = []

    class Watched(Line):
        def forward(self, x):
            seen.append(x.strides)
            return super().forward(x)

    x = np.ones((4, 6))[::2].T
    check_grads(lambda x: Watched(2.0, 2.0)(x), x)
    assert seen[0] == x.strides


def test_differences_that_do_not_converge():
    class Rough(Function):
        def forward(self, x):
            return x + 1e-5 * np.sin(7e11 * x)

        def backward(self, gy):
            return gy

    with pytest.raises(KinkError, match="input 0: differences do not converge"):
        check_grads(lambda x: Rough()(x), np.ones(3))


def test_the_worst_of_a_large_array():
    """Of an array that is too large to be measured as a whole, those with the largest gradients."""
    slope = np.ones(1000)
    slope[777] = 500
    claimed = slope.copy()
    claimed[777] = 550
    with pytest.raises(GradientMismatch, match=r"of 1000:\n  input 0\[777\]: backward"):
        check_grads(lambda x: Line(slope, claimed)(x), np.ones(1000))


def test_unused_input_has_gradient_zero():
    assert check_grads(lambda a, b: Tensor.operators["mul"](a, 2.0), np.ones(3), np.ones(2)) < 1e-8


def test_command_line_prints_a_table(capsys):
    assert gradcheck.main() == 0
    out = capsys.readouterr().out
    assert f"{len(CASES)} of {len(CASES)} right" in out


def test_command_line_fails_on_a_wrong_gradient(capsys, monkeypatch):
    monkeypatch.setattr(Tanh, "backward", lambda self, gy: np.ones_like(gy))
    assert gradcheck.main() == 1
    assert "tanh" in [
        line.split()[0] for line in capsys.readouterr().out.splitlines() if "FAILED" in line
    ]
