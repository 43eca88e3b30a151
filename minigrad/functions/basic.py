"""Arithmetic: + - * / ** exp log matmul, with broadcasting.

Broadcasting repeats a value along new or size-1 axes; its gradient is therefore the sum over those
axes (`unbroadcast`).
"""

from __future__ import annotations

import numpy as np

from minigrad.backend import Array
from minigrad.engine import Function, Tensor, as_tensor
from minigrad.functions.cases import Case, nonzero, positive


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """Sum g back to `shape`, the shape its operand had before broadcasting."""
    if g.shape == shape:
        return g
    g = g.sum(axis=tuple(range(g.ndim - len(shape))))
    return (
        g.sum(axis=tuple(i for i, n in enumerate(shape) if n == 1), keepdims=True)
        if 1 in shape
        else g
    )


def _pair(a, b) -> tuple[Tensor, Tensor]:
    """Both operands as Tensors; a plain number takes the other's dtype and device."""
    a, b = (v if isinstance(v, (int, float)) else as_tensor(v) for v in (a, b))
    a, b = (
        as_tensor(a, b if isinstance(b, Tensor) else None),
        as_tensor(b, a if isinstance(a, Tensor) else None),
    )
    try:
        np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise ValueError(
            f"shapes {a.shape} and {b.shape} do not broadcast: compared from the right, sizes must"
            " be equal, or one of them 1"
        ) from None
    return a, b


class Add(Function):
    def forward(self, a, b):
        self.shapes = a.shape, b.shape
        return a + b

    def backward(self, gy):
        return unbroadcast(gy, self.shapes[0]), unbroadcast(gy, self.shapes[1])


class Sub(Function):
    def forward(self, a, b):
        self.shapes = a.shape, b.shape
        return a - b

    def backward(self, gy):
        return unbroadcast(gy, self.shapes[0]), unbroadcast(-gy, self.shapes[1])


class Mul(Function):
    def forward(self, a, b):
        self.save(a, b)
        return a * b

    def backward(self, gy):
        a, b = self.saved
        return unbroadcast(gy * b, a.shape), unbroadcast(gy * a, b.shape)


class Div(Function):
    def forward(self, a, b):
        self.save(a, b)
        return a / b

    def backward(self, gy):
        a, b = self.saved
        return unbroadcast(gy / b, a.shape), unbroadcast(-gy * a / (b * b), b.shape)


class Pow(Function):
    """x**p for a constant p: gx = gy p x**(p-1)."""

    def __init__(self, p: float) -> None:
        self.p = p

    def forward(self, x):
        self.save(x)
        return x**self.p

    def backward(self, gy):
        (x,) = self.saved
        return gy * (self.p * x ** (self.p - 1) if self.p else np.zeros_like(x))


class Exp(Function):
    def forward(self, x):
        y = np.exp(x)
        self.save(y)
        return y

    def backward(self, gy):
        (y,) = self.saved
        return gy * y


class Log(Function):
    def forward(self, x):
        self.save(x)
        return np.log(x)

    def backward(self, gy):
        (x,) = self.saved
        return gy / x


class MatMul(Function):
    """y = a @ b: ga = gy b^T, gb = a^T gy."""

    def forward(self, a, b):
        self.save(a, b)
        return a @ b

    def backward(self, gy):
        a, b = self.saved
        return gy @ b.T, a.T @ gy


def add(a, b) -> Tensor:
    """a + b, with broadcasting."""
    return Add()(*_pair(a, b))


def sub(a, b) -> Tensor:
    """a - b, with broadcasting."""
    return Sub()(*_pair(a, b))


def mul(a, b) -> Tensor:
    """a * b element by element, with broadcasting."""
    return Mul()(*_pair(a, b))


def div(a, b) -> Tensor:
    """a / b element by element, with broadcasting."""
    return Div()(*_pair(a, b))


def neg(x) -> Tensor:
    """-x."""
    return mul(x, -1.0) if isinstance(x, Tensor) else mul(Tensor(x), -1.0)


def pow(x, p: float) -> Tensor:
    """x**p for a number p, which must be a whole number where x is negative."""
    if not isinstance(p, (int, float, np.number)):
        raise TypeError(f"pow: the exponent must be a number, not {type(p).__name__}")
    return Pow(float(p))(x)


def exp(x) -> Tensor:
    """e**x."""
    return Exp()(x)


def log(x) -> Tensor:
    """Natural logarithm of x > 0."""
    return Log()(x)


def matmul(a, b) -> Tensor:
    """Matrix product of a (M, K) and b (K, N)."""
    a, b = as_tensor(a), as_tensor(b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(
            f"matmul: a is {a.shape} and b is {b.shape}; they must be (M, K) and (K, N)"
        )
    return MatMul()(a, b)


Tensor.operators |= {
    "add": add,
    "sub": sub,
    "mul": mul,
    "div": div,
    "neg": neg,
    "pow": pow,
    "matmul": matmul,
}


CASES = [
    Case("add", add, (3, 1, 4), (2, 4)),
    Case("add: a number on either side", lambda a, b: add(add(a, 0.1), add(0.1, b)), (3, 4), (4,)),
    Case("sub", sub, (3, 4), (4,)),
    Case("sub: a number", lambda a, b: sub(sub(a, 0.1), sub(0.1, b)), (3, 4), (3, 1)),
    Case("mul", mul, (3, 1, 4), (2, 4)),
    Case("mul: a number", lambda a, b: mul(mul(a, 0.1), mul(0.1, b)), (3, 4), (2, 1, 4)),
    Case("mul: x * x", lambda x: mul(x, x), (3, 4)),
    Case("div", div, (3, 4), positive(3, 1, least=1.5)),
    Case("div: a number", lambda a, b: div(div(a, 0.1), div(0.1, b)), (3, 4), positive(4)),
    Case("neg", neg, (3, 4)),
    Case("pow", lambda x: pow(x, 2.5), positive(3, 4)),
    Case("pow: twice", lambda x: pow(pow(x, 2), 0.5), nonzero(3, 4, margin=0.5)),
    Case("exp", exp, (3, 4)),
    Case("log", log, positive(3, 4)),
    Case("log: of a square", lambda x: log(mul(x, x)), nonzero(3, 4, margin=0.5)),
    Case("matmul", matmul, (3, 4), (4, 5)),
]
