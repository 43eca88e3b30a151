"""Layers with weights, and containers of them.

A Module finds its parameters and sub-modules in its own attributes, and inside lists, tuples and
dicts among them; nothing has to be registered. Names are joined with dots: the weight of
`self.conv1` is "conv1.w", that of `self.blocks[0]` is "blocks.0.w", and that of
`self.heads["left"]` is "heads.left.w". A dict called `layers` is left out of the name: the weight
of `self.layers["conv1"]` is "conv1.w" too.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

import numpy as np

from minigrad import backend, kernels, random
from minigrad import functions as F
from minigrad.backend import Array
from minigrad.distributed import Communicator
from minigrad.engine import Tensor, as_tensor
from minigrad.functions.geometry import pair

Init = Callable[[random.Stream, tuple[int, ...]], np.ndarray]


def gaussian(std: float) -> Init:
    """Gaussian of mean 0 and standard deviation `std`; the paper uses 0.01 (section 5)."""
    return lambda rng, shape: std * rng.normal(shape)


def he(rng: random.Stream, shape: tuple[int, ...]) -> np.ndarray:
    """Gaussian of variance 2 / fan_in, which keeps the scale of activations through ReLUs (He et
    al., arXiv 1502.01852)."""
    return np.sqrt(2 / math.prod(shape[:-1])) * rng.normal(shape)


def zeros(rng: random.Stream, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, for weights that will be loaded; draws no random numbers."""
    return np.zeros(shape, np.float32)


class Parameter(Tensor):
    """A Tensor that is trained."""

    __slots__ = ()

    def __init__(self, data: Array, name: str | None = None) -> None:
        super().__init__(
            kernels.contiguous(np.asarray(data, like=data)), requires_grad=True, name=name
        )


class Module:
    """A function with parameters. A subclass makes its parameters and sub-modules in __init__ and
    defines `forward`."""

    training = True

    def forward(self, x: Any) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must write forward(self, x)")

    def __call__(self, x: Any, **options: Any) -> Tensor:
        return self.forward(x, **options)

    def members(self) -> Iterator[tuple[str, Module | Parameter]]:
        """(name, sub-module or parameter) of the attributes, in the order they were made."""
        for name, value in vars(self).items():
            yield from held("" if name == "layers" and isinstance(value, dict) else name, value)

    def children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the direct sub-modules, in the order they were made."""
        return ((name, member) for name, member in self.members() if isinstance(member, Module))

    def walk(self, x: Any, fuse: bool = False) -> Iterator[tuple[str, Module, Tensor]]:
        """Run a forward pass and yield (name, layer, output) of each step. A module that is not a
        Sequential has one step."""
        yield "", self, self(x)

    def modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module and all modules below it, each once. A module that
        several attributes share has the name of the first of them."""
        seen: set[int] = set()

        def walk(prefix: str, module: Module) -> Iterator[tuple[str, Module]]:
            if id(module) not in seen:
                seen.add(id(module))
                yield prefix, module
                for name, child in module.children():
                    yield from walk(joined(prefix, name), child)

        return walk(prefix, self)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter) of all parameters, each once."""
        seen: set[int] = set()
        names: set[str] = set()
        for prefix, module in self.modules():
            for name, member in module.members():
                if isinstance(member, Parameter) and id(member) not in seen:
                    name = joined(prefix, name)
                    if name in names:
                        raise ValueError(
                            f"{type(self).__name__}: two parameters would be called {name!r}:"
                            " rename an attribute or a key"
                        )
                    seen.add(id(member))
                    names.add(name)
                    yield name, member

    def parameters(self) -> list[Parameter]:
        """All parameters."""
        return [p for _, p in self.named_parameters()]

    def streams(self) -> dict[str, random.Stream]:
        """The random streams in use, by dotted name."""
        found: dict[str, random.Stream] = {}
        for name, module in self.modules():
            rng = getattr(module, "rng", None)
            if isinstance(rng, random.Stream):
                if name in found:
                    raise ValueError(
                        f"two layers are called {name!r}: rename an attribute or a key"
                    )
                found[name] = rng
        return found

    def train(self, mode: bool = True) -> Module:
        """Set training mode (dropout is active). Returns self."""
        for _, module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Set test mode (dropout is deterministic). Returns self."""
        return self.train(False)

    @contextmanager
    def in_test_mode(self) -> Iterator[None]:
        """Test mode inside this context; the previous mode is restored at its end."""
        before = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(before)

    def to(self, device: str) -> Module:
        """Move all parameters to a device, in place. Returns self. Make the optimiser only after
        this."""
        for p in self.parameters():
            p.data, p.grad = backend.to_device(p.data, device), None
        return self

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters as NumPy arrays, by name."""
        return {name: np.array(backend.to_numpy(p.data)) for name, p in self.named_parameters()}

    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Copy parameters in. Names, shapes and dtypes must all agree; otherwise nothing changes,
        and the error says what differs."""
        own = dict(self.named_parameters())
        wrong = [f"{name} is missing" for name in own if name not in state]
        wrong += [f"{name} is not in this model" for name in state if name not in own]
        for name, p in own.items():
            if name in state and (state[name].shape, state[name].dtype) != (p.shape, p.dtype):
                wrong.append(
                    f"{name} is {state[name].dtype} {state[name].shape}, here {p.dtype} {p.shape}"
                )
        if wrong:
            raise ValueError("load_state_dict: " + "; ".join(wrong))
        for name, p in own.items():
            p.data = backend.to_device(np.array(backend.to_numpy(state[name]), order="C"), p.device)


def held(
    name: str, value: Any, within: tuple[int, ...] = ()
) -> Iterator[tuple[str, Module | Parameter]]:
    """(dotted name, module or parameter) of everything in an attribute: the value itself, or what
    lists, tuples and dicts hold, at any depth. A container that holds itself is entered once."""
    if isinstance(value, (Module, Parameter)):
        yield name, value
    elif isinstance(value, (list, tuple, dict)) and id(value) not in within:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from held(joined(name, str(key)), item, (*within, id(value)))
    elif isinstance(value, (set, frozenset)) and any(
        isinstance(item, (Module, Parameter)) for item in value
    ):
        raise TypeError(f"{name}: a set has no order to name its layers by; use a list")


def joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name


def initial_weight(
    layer: str, init: Init, rng: random.Stream | None, shape: tuple[int, ...], dtype: Any
) -> Parameter:
    """`w` of a layer, drawn by its initialiser."""
    w = np.asarray(init(random.stream(rng, layer), shape))
    if w.shape != shape:
        raise ValueError(f"{layer}: init returned shape {w.shape} for a weight of shape {shape}")
    return Parameter(w.astype(dtype), "w")


def initial_bias(layer: str, value: float | None, size: int, dtype: Any) -> Parameter | None:
    """`b` of a layer."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (Real, type(None))):
        raise TypeError(
            f"{layer}: bias is the number that b starts from (0.0 is usual), or None for no bias,"
            f" not {value!r}"
        )
    return None if value is None else Parameter(np.full(size, value, dtype), "b")


class Conv2d(Module):
    """functions.conv2d with its weight `w` (KH, KW, C / groups, O) and bias `b` (O,).

    Args: in_channels, out_channels, kernel_size (number or pair), stride, padding, groups,
    ceil_mode: as in functions.conv2d;
        init: initialiser of w; bias: initial value of b, or None for no bias; rng: stream for w;
            dtype.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size,
        stride=1,
        padding=0,
        groups: int = 1,
        ceil_mode: bool = False,
        init: Init = he,
        bias: float | None = 0.0,
        rng: random.Stream | None = None,
        dtype="float32",
    ) -> None:
        KH, KW = pair(kernel_size, "kernel_size", "Conv2d", least=1)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"Conv2d: groups={groups} must divide in_channels={in_channels} and"
                f" out_channels={out_channels}"
            )
        shape = (KH, KW, in_channels // groups, out_channels)
        self.w = initial_weight("Conv2d", init, rng, shape, dtype)
        self.b = initial_bias("Conv2d", bias, out_channels, dtype)
        self.stride, self.padding, self.groups, self.ceil_mode = stride, padding, groups, ceil_mode

    def forward(self, x, relu: bool = False):
        return F.conv2d(
            x, self.w, self.b, self.stride, self.padding, self.groups, self.ceil_mode, relu
        )


class Linear(Module):
    """functions.linear with its weight `w` (in, out) and bias `b` (out,). x is (N, in), or any
    (N, ...), which is flattened first. Arguments as for Conv2d."""

    def __init__(
        self, in_features: int, out_features: int, init: Init = he, bias: float | None = 0.0,
        rng: random.Stream | None = None, dtype="float32",
    ) -> None:  # fmt: skip
        self.w = initial_weight("Linear", init, rng, (in_features, out_features), dtype)
        self.b = initial_bias("Linear", bias, out_features, dtype)

    def forward(self, x, relu: bool = False):
        x = as_tensor(x)
        return F.linear(F.flatten(x) if x.ndim > 2 else x, self.w, self.b, relu)


class ReLU(Module):
    """functions.relu."""

    def forward(self, x):
        return F.relu(x)


class Tanh(Module):
    """functions.tanh."""

    def forward(self, x):
        return F.tanh(x)


class Sigmoid(Module):
    """functions.sigmoid."""

    def forward(self, x):
        return F.sigmoid(x)


class LRN(Module):
    """functions.lrn with its constants."""

    def __init__(
        self,
        n: int = 5,
        k: float = 2.0,
        alpha: float = 1e-4,
        beta: float = 0.75,
        divide_by_n: bool = False,
        groups: int = 1,
    ) -> None:
        self.constants = (n, k, alpha, beta, divide_by_n, groups)

    def forward(self, x):
        return F.lrn(x, *self.constants)


class LRNWithinMap(Module):
    """functions.lrn_within_map with its constants."""

    def __init__(self, n: int = 5, k: float = 1.0, alpha: float = 1e-3, beta: float = 0.75) -> None:
        self.constants = (n, k, alpha, beta)

    def forward(self, x):
        return F.lrn_within_map(x, *self.constants)


class MaxPool2d(Module):
    """functions.max_pool2d with its window."""

    def __init__(self, kernel_size, stride=None, padding=0, ceil_mode: bool = False) -> None:
        self.window = (kernel_size, stride, padding, ceil_mode)

    def forward(self, x):
        return F.max_pool2d(x, *self.window)


class AvgPool2d(MaxPool2d):
    """functions.avg_pool2d with its window."""

    def forward(self, x):
        return F.avg_pool2d(x, *self.window)


_instances = itertools.count()


class Dropout(Module):
    """functions.dropout; each instance draws from its own stream, so that two layers never share a
    mask.

    Args: p, inverted, place: as in functions.dropout; rng: its stream (if None, one of its own with
    the seed of the default stream).
    """

    def __init__(
        self,
        p: float = 0.5,
        inverted: bool = True,
        rng: random.Stream | None = None,
        place: tuple[int, int] | None = None,
    ) -> None:
        self.p, self.inverted, self.place = p, inverted, place
        own = random.Stream(random.default_stream().seed, f"dropout {next(_instances)}")
        self.rng = own if rng is None else random.stream(rng, "Dropout")

    def forward(self, x):
        return F.dropout(x, self.p, self.training, self.inverted, self.rng, self.place)


class Gather(Module):
    """functions.gather over a Communicator."""

    def __init__(self, comm: Communicator, sizes: tuple[int, ...], shared: bool = False) -> None:
        self.comm, self.sizes, self.shared = comm, tuple(sizes), shared

    def forward(self, x):
        return F.gather(x, self.comm, self.sizes, self.shared)


class Flatten(Module):
    """functions.flatten: (N, ...) -> (N, everything else)."""

    def forward(self, x):
        return F.flatten(x)


class Sequential(Module):
    """Layers one after the other: `Sequential(Linear(2, 8), ReLU())`, or with names,
    `Sequential(fc1=Linear(2, 8), relu1=ReLU())`."""

    def __init__(self, /, *layers: Module, **named: Module) -> None:
        self.layers: dict[str, Module] = {str(i): layer for i, layer in enumerate(layers)} | named

    def __getitem__(self, name: str | int) -> Module:
        return self.layers[str(name)]

    def walk(self, x: Any, fuse: bool = False) -> Iterator[tuple[str, Module, Tensor]]:
        """Run the layers in order and yield (name, layer, output) of each; keep no outputs.

        fuse: a Conv2d or Linear applies the ReLU right after it together with its bias, in one
        pass over memory. The two are then one step, with the name of the ReLU. The results are the
        same bit for bit. If a layer raises an error, a note that names the layer is added to it.
        """
        x = as_tensor(x)
        pending = deque(self.layers.items())
        while pending:
            name, layer = pending.popleft()
            try:
                if type(layer).forward is Sequential.forward:  # a subclass may do more
                    y = x
                    for inner, module, y in layer.walk(x, fuse):
                        yield f"{name}.{inner}", module, y
                    x = y
                    continue
                follower = type(pending[0][1]) if pending else None
                if fuse and type(layer) in (Conv2d, Linear) and follower is ReLU:
                    x = layer(x, relu=True)
                    name, layer = pending.popleft()
                else:
                    x = layer(x)
            except Exception as error:
                error.add_note(f"in {name}")
                raise
            yield name, layer, x

    def forward(self, x):
        x = as_tensor(x)
        # Fuse only on GPUs, where it saves a pass over memory; on a CPU that pass is in cache.
        last = deque(self.walk(x, fuse=x.device != "cpu"), maxlen=1)
        return last[0][2] if last else x
