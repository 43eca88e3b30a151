"""The checker is tested against planted wrong gradients, at least one for each layer: every one
must be caught."""

import numpy as np
import pytest

from minigrad import functions as F
from minigrad import gradcheck, random
from minigrad.engine import Function, Tensor, as_tensor
from minigrad.functions.avg_pool2d import AvgPool2d
from minigrad.functions.basic import Add, Div, Exp, Log, MatMul, Mul, Pow, Sub
from minigrad.functions.conv2d import Conv2d
from minigrad.functions.dropout import Dropout, Scale
from minigrad.functions.gather import Gather
from minigrad.functions.linear import Linear
from minigrad.functions.lrn import LRN
from minigrad.functions.lrn_within_map import LRNWithinMap
from minigrad.functions.max_pool2d import MaxPool2d
from minigrad.functions.reduce import Sum
from minigrad.functions.relu import ReLU
from minigrad.functions.shape import Concat, GetItem, Reshape, Transpose
from minigrad.functions.sigmoid import Sigmoid
from minigrad.functions.softmax import LogSoftmax, Softmax
from minigrad.functions.softmax_cross_entropy import SoftmaxCrossEntropy
from minigrad.functions.tanh import Tanh
from minigrad.gradcheck import GradientMismatch, KinkError, check_grads

CASES = {name: (f, inputs) for name, f, inputs in gradcheck.cases()}


def change(position, how):
    """A fault that changes the gradient of one input."""

    def plant(right):
        def backward(self, gy):
            grads = right(self, gy)
            if not isinstance(grads, tuple):
                return how(grads)
            return tuple(
                how(g) if i == position and g is not None else g for i, g in enumerate(grads)
            )

        return backward

    return plant


def ignore_gy(right):
    return lambda self, gy: right(self, np.ones_like(gy))


def with_attribute(name, value):
    """A fault that runs backward with an attribute changed: value(old)."""

    def plant(right):
        def backward(self, gy):
            setattr(self, name, value(getattr(self, name)))
            return right(self, gy)

        return backward

    return plant


def no_cross_term(right):
    def backward(self, gy):
        x, alpha = self.saved[0], self.alpha
        zero_cross = right(self, gy) * 0
        s = self.k + alpha * gradcheck_window(self, x)
        return zero_cross + gy * s**-self.beta

    return backward


def gradcheck_window(self, x):
    from minigrad.functions.lrn import window_sum
    from minigrad.functions.lrn_within_map import box_sum

    if isinstance(self, LRNWithinMap):
        return box_sum(x * x, self.before, self.after)
    C = x.shape[-1] // self.groups
    return window_sum((x * x).reshape(-1, C), self.before, self.after).reshape(x.shape)


def swap_paddings(win):
    from dataclasses import replace

    return replace(win, PH=win.PW, PW=win.PH)


def other_winner(right):
    """Scatter to the next tap instead of the one that won."""

    def backward(self, gy):
        self.saved = (
            ((self.saved[0] + 1) % (self.win.KH * self.win.KW),)
            if self.saved[0].dtype == np.uint8
            else self.saved
        )
        self.saved = (self.saved[0].astype(np.uint8),)
        return right(self, gy)

    return backward


def one_group_only(right):
    def backward(self, gy):
        gx, gw, gb = right(self, gy)
        gw = gw.copy()
        gw[..., gw.shape[3] // self.groups :] = 0
        return gx, gw, gb

    return backward


def fresh_mask(right):
    def backward(self, gy):
        self.draw += 1
        return right(self, gy)

    return backward


def at_one_element(g):
    g = g.copy()
    g.reshape(-1)[g.size // 2] += 0.01 * np.abs(g).max() + 1e-3
    return g


PAD = "conv2d: other strides along the axes"
CONV2 = "conv2d: as conv2"
FAULTS = [
    ("add", Add, change(1, lambda g: -g), "sign of b"),
    ("sub", Sub, change(1, lambda g: -g), "sign of b"),
    ("mul: x * x", Mul, change(1, lambda g: 0 * g), "one path of a fan-out lost"),
    ("mul", Mul, change(0, lambda g: 2 * g), "factor two"),
    ("div", Div, change(1, lambda g: -g), "sign of b"),
    ("pow", Pow, with_attribute("p", lambda p: p + 1), "power off by one"),
    ("exp", Exp, ignore_gy, "gy ignored"),
    ("log", Log, ignore_gy, "gy ignored"),
    ("matmul", MatMul, change(0, at_one_element), "one element wrong"),
    ("sum", Sum, change(0, lambda g: g / g.size), "mean instead of sum"),
    ("reshape", Reshape, change(0, lambda g: g[::-1]), "order reversed"),
    (
        "transpose",
        Transpose,
        with_attribute("axes", lambda a: tuple(np.argsort(a))),
        "permutation not inverted",
    ),
    ("concat", Concat, change(1, lambda g: 0 * g), "second part lost"),
    ("channels", GetItem, change(0, lambda g: np.roll(g, 1, axis=-1)), "slice off by one"),
    ("relu", ReLU, change(0, lambda g: g + 0.01), "leak"),
    ("relu", ReLU, ignore_gy, "gy ignored"),
    ("tanh", Tanh, ignore_gy, "gy ignored"),
    ("sigmoid", Sigmoid, change(0, lambda g: 1.001 * g), "off by a thousandth"),
    ("linear", Linear, change(2, lambda g: 0 * g), "bias forgotten"),
    ("linear", Linear, change(1, at_one_element), "one weight wrong"),
    ("conv2d: 3x3", Conv2d, change(2, lambda g: 0 * g), "bias forgotten"),
    ("conv2d: 3x3", Conv2d, change(1, lambda g: g[::-1, ::-1].copy()), "filter flipped"),
    (
        "conv2d: 3x3",
        Conv2d,
        change(0, lambda g: np.roll(g, 1, axis=2)),
        "columns scattered one pixel off",
    ),
    (CONV2, Conv2d, one_group_only, "a group forgotten"),
    (PAD, Conv2d, with_attribute("win", swap_paddings), "paddings swapped"),
    ("lrn: alpha=1", LRN, no_cross_term, "cross-channel term dropped"),
    (
        "lrn: even n, per column, divided",
        LRN,
        with_attribute("before", lambda b: b - 1),
        "window not mirrored",
    ),
    ("lrn: alpha=1", LRN, change(0, at_one_element), "one element wrong"),
    ("lrn_within_map: alpha=10", LRNWithinMap, no_cross_term, "neighbours' term dropped"),
    ("max_pool2d: 3x3 stride 2", MaxPool2d, other_winner, "scattered to the wrong tap"),
    ("max_pool2d: padding, ceil", MaxPool2d, ignore_gy, "gy ignored"),
    ("avg_pool2d: padding, ceil", AvgPool2d, change(0, lambda g: g * 0.5), "divided by all taps"),
    (
        "avg_pool2d: 3x3 stride 2",
        AvgPool2d,
        change(0, lambda g: np.roll(g, 1, axis=1)),
        "one row off",
    ),
    ("dropout", Dropout, fresh_mask, "another mask in backward"),
    ("dropout", Dropout, with_attribute("scale", lambda s: 1.0), "scale forgotten"),
    (
        "dropout: the paper's, test",
        Scale,
        with_attribute("factor", lambda s: 1.0),
        "scale forgotten",
    ),
    ("gather", Gather, change(0, lambda g: 2 * g), "added up where it is whole"),
    ("softmax", Softmax, change(0, lambda g: g + 0.01), "mean not subtracted"),
    ("log_softmax", LogSoftmax, ignore_gy, "gy ignored"),
    ("softmax_cross_entropy", SoftmaxCrossEntropy, change(0, lambda g: 7 * g), "not divided by N"),
    ("softmax_cross_entropy: none", SoftmaxCrossEntropy, ignore_gy, "gy ignored"),
]


@pytest.mark.parametrize(
    ("name", "function", "plant", "fault"), FAULTS, ids=[f"{f[0]} - {f[3]}" for f in FAULTS]
)
def test_planted_fault_is_caught(name, function, plant, fault, monkeypatch):
    monkeypatch.setattr(function, "backward", plant(function.backward))
    f, inputs = CASES[name]
    with pytest.raises(GradientMismatch, match="input \\d|of shape"):
        check_grads(f, *inputs)


def test_every_layer_has_a_planted_fault():
    names = {name.split(":")[0] for name in CASES}
    assert names - {f[0].split(":")[0] for f in FAULTS} == {
        "neg",
        "mean",
        "flatten",
        "getitem",
        "to",
    }  # made of the others


def test_every_right_gradient_passes():
    for name, (f, inputs) in CASES.items():
        assert check_grads(f, *inputs) < 1e-7, name


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
    monkeypatch.setattr(Tanh, "backward", ignore_gy(Tanh.backward))
    assert gradcheck.main() == 1
    assert "tanh" in [
        line.split()[0] for line in capsys.readouterr().out.splitlines() if "FAILED" in line
    ]
