"""The engine: each Tensor remembers the Function that made it, and backward() follows this history
in reverse.

A forward pass builds a graph as it runs. With `y = f(x)`:

    y.creator is the call of f;   f.parents are the nodes that x came from;
    f.saved is what its backward needs.

A node is a Function call, or a leaf Tensor (one made by the user, with requires_grad=True).
Functions hold nodes, not the arrays between them, so an activation that no backward needs is freed
as soon as the forward pass is past it. Nothing points from a parent to its children, so there are
no reference cycles and memory is freed by reference counting.

backward() visits each node after all nodes that used its output, passes it the gradient of its
output, and adds up the gradients that arrive at each input. Gradients are plain arrays, so only
first derivatives can be computed.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minigrad import backend, checks
from minigrad.backend import Array

_mode = threading.local()


@contextmanager
def no_grad() -> Iterator[None]:
    """Inside this context no graph is built: nothing is saved for a backward pass."""
    before, _mode.grad_enabled = getattr(_mode, "grad_enabled", True), False
    try:
        yield
    finally:
        _mode.grad_enabled = before


class Tensor:
    """An array that remembers how it was made.

    Args:
        data: a NumPy or CuPy array (not copied), a number or a nested list of numbers.
        requires_grad: whether backward() leaves dL/dself in `.grad`. Floating-point data only.
        name: shown by repr and in error messages.

    Attributes: data and grad are plain arrays; grad is None until a backward pass reaches it.
    """

    __slots__ = ("__weakref__", "creator", "data", "grad", "name", "requires_grad")
    __array_ufunc__ = None  # makes NumPy leave array + tensor to Tensor.__radd__

    # The operators are Functions, of the layer above: basic.py, reduce.py, shape.py add them here.
    operators: dict[str, Callable[..., Tensor]] = {}  # noqa: RUF012

    def __init__(self, data: Any, requires_grad: bool = False, name: str | None = None) -> None:
        if isinstance(data, Tensor):
            raise TypeError(
                "Tensor(tensor) would hide its history: use tensor.detach(), or tensor itself"
            )
        self.data: Array = data if backend.is_array(data) else np.asarray(data)
        checks.data(self.data, requires_grad)
        self.creator: Function | None = None
        self.grad: Array | None = None
        self.name = name
        self.requires_grad = requires_grad

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)
    device = property(lambda self: backend.device_of(self.data))

    def __repr__(self) -> str:
        values = np.array2string(
            backend.to_numpy(self.data), precision=4, threshold=20, edgeitems=2, prefix="Tensor("
        )
        name = f", name={self.name!r}" if self.name else ""
        made = f", creator={type(self.creator).__name__}" if self.creator else ""
        leaf = ", requires_grad=True" if self.requires_grad and not self.creator else ""
        return (
            f"Tensor({values}, shape={self.shape}, {self.dtype}, {self.device}{name}{leaf}{made})"
        )

    def item(self) -> float:
        """The only element as a Python number."""
        if self.size != 1:
            raise ValueError(
                f"item() needs exactly one element; this tensor has shape {self.shape}"
            )
        return self.data.item()

    def numpy(self) -> np.ndarray:
        """The data as a NumPy array: shared if it is on the CPU, copied from a GPU."""
        return backend.to_numpy(self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """np.asarray(tensor): the data. Refused if it would lose a gradient or copy from a GPU."""
        if self.requires_grad:
            raise RuntimeError(
                "NumPy would take this tensor's numbers and lose its gradient: use tensor.numpy()"
                " if that is what you want"
            )
        if self.device != "cpu":
            raise TypeError(
                f"NumPy cannot take a tensor that is on {self.device}: use tensor.numpy(), which"
                " copies it to the CPU"
            )
        return np.array(self.data, dtype, copy=copy)

    def detach(self) -> Tensor:
        """The same data without its history."""
        return Tensor(self.data, name=self.name)

    def backward(
        self, gy: Array | None = None, ready: Callable[[Tensor], object] | None = None
    ) -> None:
        """Compute the gradient of sum(gy * self) for every leaf that requires one, and add it to
        that leaf's .grad.

        gy is the gradient of the loss with respect to this tensor, with the same shape, dtype and
        device. For a tensor of one element it may be left out, and is then 1. ready(leaf) is called
        as soon as a leaf's .grad is complete, before the pass continues with earlier layers.
        """
        checks.start(self, gy)
        with backend.on_device(self.device):
            gy = np.ones_like(self.data) if gy is None else gy
        if self.creator is None:
            with backend.on_device(self.device):
                self.accumulate(gy, fresh=False)
            if ready is not None:
                ready(self)
            return
        grads: dict[Function, Array] = {self.creator: gy}
        order = topological_order(self.creator)
        uses = Counter(p for node in order for p in node.parents if isinstance(p, Tensor))
        for node in order:
            gy = grads.pop(node)
            held = Counter(map(id, (gy, *(node.saved or ()))))
            held.update(map(id, returned := node.gradients(gy)))
            for parent, gx in zip(node.parents, returned):
                with backend.on_device(backend.device_of(gx) if parent is not None else "cpu"):
                    if isinstance(parent, Tensor):
                        fresh = held[id(gx)] == 1 and gx.base is None  # type: ignore[union-attr]
                        parent.accumulate(gx, fresh)
                        uses[parent] -= 1
                        if ready is not None and uses[parent] == 0:
                            ready(parent)
                    elif parent is not None:
                        grads[parent] = grads[parent] + gx if parent in grads else gx

    def accumulate(self, gradient: Array, fresh: bool) -> None:
        """Add to .grad. An array that other code may also hold (not fresh) is copied first."""
        if gradient.shape != self.shape:
            raise RuntimeError(
                f"a backward returned a gradient of shape {gradient.shape} for a leaf of shape"
                f" {self.shape}"
            )
        if self.grad is not None:
            gradient, fresh = self.grad + gradient, True
        self.grad = np.asarray(gradient, like=self.data) if fresh else gradient.copy()

    # fmt: off
    def __add__(self, other): return Tensor.operators["add"](self, other)
    def __sub__(self, other): return Tensor.operators["sub"](self, other)
    def __mul__(self, other): return Tensor.operators["mul"](self, other)
    def __truediv__(self, other): return Tensor.operators["div"](self, other)
    def __matmul__(self, other): return Tensor.operators["matmul"](self, other)
    def __pow__(self, exponent): return Tensor.operators["pow"](self, exponent)
    def __neg__(self): return Tensor.operators["neg"](self)
    def __radd__(self, other): return Tensor.operators["add"](other, self)
    def __rsub__(self, other): return Tensor.operators["sub"](other, self)
    def __rmul__(self, other): return Tensor.operators["mul"](other, self)
    def __rtruediv__(self, other): return Tensor.operators["div"](other, self)
    def __rmatmul__(self, other): return Tensor.operators["matmul"](other, self)
    def __getitem__(self, index): return Tensor.operators["getitem"](self, index)
    def sum(self, axis=None, keepdims=False): return Tensor.operators["sum"](self, axis, keepdims)
    def mean(self, axis=None, keepdims=False): return Tensor.operators["mean"](self, axis, keepdims)
    def reshape(self, *shape): return Tensor.operators["reshape"](self, *shape)
    def transpose(self, *axes): return Tensor.operators["transpose"](self, *axes)
    def to(self, device): return Tensor.operators["to"](self, device)
    # fmt: on


class Function:
    """One differentiable operation, instantiated once per call: `y = Relu()(x)`. Calling the same
    object a second time is an error.

    A subclass defines `forward(*arrays) -> array` and `backward(gy) -> gradient, or a tuple of
    them, one per input` (None where an input has none). In forward, `self.save(...)` keeps arrays
    for backward in `self.saved`; `self.needs[i]` tells whether the gradient of input i is needed.
    Neither method may write into an input or into gy.
    """

    saved: Any = ()
    marks: Any = None  # of what was saved, under MINIGRAD_DEBUG
    needs: tuple[bool, ...] = ()
    parents: tuple[Function | Tensor | None, ...] = ()
    device: str = "cpu"
    called = False

    def forward(self, *arrays: Array) -> Array:
        raise NotImplementedError

    def backward(self, gy: Array) -> Array | tuple[Array | None, ...]:
        raise NotImplementedError

    def save(self, *arrays: Array) -> None:
        """Keep arrays for backward; they are freed as soon as it has run."""
        self.saved = arrays
        self.marks = checks.marks(arrays)

    def __call__(self, *inputs: Any) -> Tensor:
        tensors = [as_tensor(i) for i in inputs if i is not None]
        checks.inputs(type(self).__name__, tensors)
        if self.called:
            name = type(self).__name__
            raise RuntimeError(
                f"this {name} was called before: a Function stands for one call and remembers its"
                f" arrays. Make a new one each time, {name}(...)(x), also in a Module: keep the"
                " settings in the Module, and make the Function in its forward"
            )
        self.called = True
        slots = iter(tensors)
        slotted = [None if i is None else next(slots) for i in inputs]
        self.device = tensors[0].device
        recording = getattr(_mode, "grad_enabled", True)
        self.needs = tuple(recording and t is not None and t.requires_grad for t in slotted)
        with backend.on_device(self.device):
            y = Tensor(self.forward(*[t.data if t is not None else None for t in slotted]))
        if any(self.needs):
            self.parents = tuple(
                (t.creator or t) if n and t is not None else None
                for t, n in zip(slotted, self.needs)
            )
            y.creator, y.requires_grad = self, True
        return y

    def gradients(self, gy: Array) -> tuple[Array | None, ...]:
        """Run backward once, check what it returns, and free what was saved."""
        if self.saved is None:
            name = type(self).__name__
            raise RuntimeError(
                f"backward ran through this {name} before and freed what it had saved: run the"
                " forward pass again"
            )
        checks.unchanged(self)
        try:
            with backend.on_device(self.device):
                grads = self.backward(gy)
        except Exception as error:
            error.add_note(f"in the backward pass of a {type(self).__name__}")
            raise
        self.saved = None
        grads = grads if isinstance(grads, tuple) else (grads,)
        checks.returned(type(self).__name__, self.parents, grads)
        return grads


def as_tensor(value: Any, like: Tensor | None = None) -> Tensor:
    """The value as a Tensor. A plain number takes the dtype and device of `like`, so it never
    promotes an array."""
    if like is not None and isinstance(value, (int, float)):
        with backend.on_device(like.device):
            return Tensor(np.asarray(value, like.dtype, like=like.data))
    return value if isinstance(value, Tensor) else Tensor(value)


def topological_order(root: Function) -> list[Function]:
    """Every Function reachable from root, each before the Functions that made its inputs.
    Iterative, so that the depth is unlimited."""
    seen, order = {root}, []  # type: set, list[Function]
    stack: list[tuple[Function, Iterator]] = [(root, iter(root.parents))]
    while stack:
        node, parents = stack[-1]
        for parent in parents:
            if isinstance(parent, Function) and parent not in seen:
                seen.add(parent)
                stack.append((parent, iter(parent.parents)))
                break
        else:
            order.append(node)
            stack.pop()
    return order[::-1]
