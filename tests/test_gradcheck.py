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


@pytest.mark.parametrize("inputs", [(np.ones(3, np.float32),), (np.arange(3),), ()])
def test_float64_is_needed(inputs):
    with pytest.raises(TypeError, match="needs float64"):
        check_grads(lambda *a: as_tensor(a[0] if a else 0.0), *inputs)


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
