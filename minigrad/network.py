"""Builds a network from a preset: the ledger of its sizes and counts, the layers with their
weights, and operations on the whole network (activations, initial weights fitted to data, an
optimiser, a gradient check)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minigrad import functions as F
from minigrad import nn, optim, random
from minigrad.engine import Tensor, as_tensor, no_grad
from minigrad.functions.geometry import output_size
from minigrad.gradcheck import check_grads
from minigrad.models import records
from minigrad.models.records import LRN, Conv, Dense, Dropout, LRNWithinMap, Pool, Preset


@dataclass(frozen=True)
class Row:
    """One layer of a ledger. Shapes, counts and bytes are for one picture in float32."""

    stage: str
    layer: records.Layer
    inputs: tuple[int, ...]
    shape: tuple[int, ...]  # of the output: (H, W, C), or (units,)
    parameters: int
    multiply_adds: int
    bytes_out: int  # of the output
    bytes_kept: int  # needed by backward and not already kept by an earlier layer
    field: int  # side of the square of input pixels that an output sees (ignoring groups)
    jump: int  # input pixels from one output to the next
    start: int  # the first input pixel that output 0 sees; negative if there is padding
    arithmetic: str  # how the output's side is computed, for layers with windows


def ledger(preset: Preset, classes: int | None = None) -> list[Row]:
    """Sizes, counts and memory of every layer of a preset, computed without making any weights.
    The number of classes is the one that the preset was made for, unless another is given.

    An array that two layers keep, such as a ReLU's output that the next convolution reads, is
    counted once. Raises ValueError if a window does not fit into its input.
    """
    classes = preset.classes if classes is None else classes
    if classes < 1:
        raise ValueError(f"classes must be a whole number >= 1, not {classes!r}")
    p = preset.preprocessing
    shape: tuple[int, ...] = (p.size, p.size, p.channels)
    field, jump, start, held = 1, 1, 0, False  # held: the input of the next layer is kept already
    rows = []
    for stage, layer in preset.layers.items():
        inputs, parameters, adds, own, arithmetic = shape, 0, 0, 0, ""
        keeps_input = isinstance(layer, (Conv, Dense, LRN, LRNWithinMap))
        keeps_output = isinstance(layer, (records.ReLU, records.Tanh, records.Sigmoid))
        if isinstance(layer, (Conv, Pool)):
            if len(inputs) != 3:
                raise ValueError(f"{stage}: a window needs (H, W, C), and what comes is {inputs}")
            padding = layer.padding if isinstance(layer, Conv) else 0
            groups = layer.groups if isinstance(layer, Conv) else 1
            if inputs[2] % groups or (isinstance(layer, Conv) and layer.filters % groups):
                raise ValueError(
                    f"{stage}: groups={groups} must divide its {inputs[2]} input channels and its "
                    "filters"
                )
            window = layer.size, layer.stride, padding, layer.ceil
            H, W = (output_size(side, *window) for side in inputs[:2])
            if min(H, W) < 1:
                raise ValueError(
                    f"{stage}: a window of {layer.size} does not fit into "
                    f"{inputs[0]}x{inputs[1]} padded by {padding}"
                )
            shape = H, W, layer.filters if isinstance(layer, Conv) else inputs[2]
            rounded = "ceil" if layer.ceil else "floor"
            arithmetic = (
                f"1 + {rounded}(({inputs[0]} + 2*{padding} - {layer.size}) / {layer.stride})"
            )
            start -= padding * jump
            field, jump = field + (layer.size - 1) * jump, jump * layer.stride
        if isinstance(layer, Conv):
            weights = layer.size**2 * (inputs[2] // layer.groups)  # of one filter
            parameters, adds = (weights + 1) * layer.filters, math.prod(shape) * weights
        elif isinstance(layer, Pool):
            own = 0 if layer.mean else math.prod(shape)  # a byte: which tap won
        elif isinstance(layer, Dense):
            if len(inputs) == 3:  # every unit sees the whole picture
                field = max(field + (side - 1) * jump for side in inputs[:2])
                jump = 0
            shape = (layer.units or classes,)
            parameters, adds = (math.prod(inputs) + 1) * shape[0], math.prod(inputs) * shape[0]
        elif isinstance(layer, LRNWithinMap):
            field, start = field + (layer.n - 1) * jump, start - layer.n // 2 * jump
        elif isinstance(layer, records.Gather):
            shape = (*inputs[:-1], sum(layer.parts))
        own += 0 if held or not keeps_input else 4 * math.prod(inputs)
        own += 4 * math.prod(shape) if keeps_output else 0
        held = keeps_output
        out = 4 * math.prod(shape)
        counts = parameters, adds, out, own
        rows.append(Row(stage, layer, inputs, shape, *counts, field, jump, start, arithmetic))
    return rows


def shapes(preset: Preset, classes: int | None = None) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter, by name, without making any."""
    found: dict[str, tuple[int, ...]] = {}
    for row in ledger(preset, classes):
        layer, inputs = row.layer, row.inputs
        if isinstance(layer, Conv):
            window = layer.size, layer.size, inputs[-1] // layer.groups
            found |= {f"{row.stage}.w": (*window, layer.filters), f"{row.stage}.b": row.shape[-1:]}
        elif isinstance(layer, Dense):
            found |= {
                f"{row.stage}.w": (math.prod(inputs), *row.shape),
                f"{row.stage}.b": row.shape,
            }
    return found


def summary(preset: Preset, name: str, classes: int | None = None) -> str:
    """The ledger of a preset as text, followed by the meaning of its columns."""
    rows = ledger(preset, classes)
    heads = f"{'stage':9}{'output':>14}{'parameters':>14}{'multiply-adds':>16}"
    lines = [
        f"{name}: {preset.source}",
        f"{heads}{'out kB':>10}{'kept kB':>10}{'field':>7}{'step':>6}  side",
    ]
    for r in rows:
        shape = "x".join(map(str, r.shape))
        counts = f"{r.parameters:>14,}{r.multiply_adds / 1e6:>14.2f} M" if r.parameters else ""
        memory = f"{r.bytes_out / 1e3:>10,.1f}{r.bytes_kept / 1e3:>10,.1f}"
        side = f"  {r.shape[0]} = {r.arithmetic}" if r.arithmetic else ""
        lines.append(
            f"{r.stage:9}{shape:>14}{counts:30}{memory}{r.field:>7}{r.jump or '':>6}{side}"
        )
    totals = [
        sum(getattr(r, what) for r in rows)
        for what in ("parameters", "multiply_adds", "bytes_out", "bytes_kept")
    ]
    lines.append(
        f"{'total':9}{'':14}{totals[0]:>14,}{totals[1] / 1e6:>14.2f} M{totals[2] / 1e3:>10,.1f}"
        f"{totals[3] / 1e3:>10,.1f}"
    )
    lines.append(
        "for one picture, in float32: out, each layer's output; kept, what backward needs of it (an"
        " array once);\nfield, the side of the square of input pixels that an output sees; step,"
        " the pixels between two outputs"
    )
    return "\n".join(lines)


class Network(nn.Sequential):
    """The layers of a preset, by name.

    Args:
        preset: a Preset. classes: outputs of the last layer (those of the preset if None).
        seed: seed of the initial weights and of dropout; each layer draws from a stream with its
            name. None sets the weights to zero, if they are to be loaded.
        dtype: "float32" or "float64".

    model(x) takes pictures (N, size, size, channels), prepared as the preset says, and returns
    logits (N, classes). `stages` lists the layers' names in order; `walk(x)` runs them in turn.
    """

    def __init__(
        self,
        preset: Preset,
        classes: int | None = None,
        seed: int | None = 0,
        dtype: str = "float32",
    ) -> None:
        classes = preset.classes if classes is None else classes
        if not isinstance(classes, int) or classes < 1:
            raise ValueError(
                f"{type(self).__name__}: classes must be a whole number >= 1, not {classes!r}"
            )
        self.preset, self.classes, self.seed = preset, classes, seed
        rows = ledger(preset, classes)
        super().__init__(**{row.stage: self.build(row, dtype) for row in rows})

    def build(self, row: Row, dtype: str) -> nn.Module:
        """The layer that a row of the ledger describes."""
        return build(row, self.seed, dtype)

    stages = property(lambda self: list(self.layers), doc="Names of all stages, in order.")

    def forward(self, x):
        return super().forward(self.checked(x))

    def run(self, x: Any, upto: str | None = None) -> Tensor:
        """The output of stage `upto` (the last, the logits, if None)."""
        if upto is not None and upto not in self.layers:
            raise ValueError(f"unknown stage {upto!r}: choose from {', '.join(self.layers)}")
        if upto is None:
            return self(x)
        return next(y for name, _, y in self.walk(self.checked(x)) if name == upto)

    def activations(self, x: Any) -> dict[str, Tensor]:
        """The output of every stage, by name."""
        return {name: y for name, _, y in self.walk(self.checked(x))}

    def checked(self, x: Any) -> Tensor:
        """x as a Tensor; ValueError unless it has the shape of this network's pictures."""
        x, p = as_tensor(x), self.preset.preprocessing
        if x.ndim != 4 or x.shape[1:] != (p.size, p.size, p.channels):
            first = x.ndim == 4 and x.shape[1] == p.channels
            hint = "; it looks channels first, use x.transpose(0, 2, 3, 1)" if first else ""
            raise ValueError(
                f"{type(self).__name__}: x must be (N, {p.size}, {p.size}, {p.channels}), channels "
                f"last, but has shape {x.shape}{hint}"
            )
        return x

    def standardize(self, x: Any) -> None:
        """Data-dependent initial weights: rescale every layer with weights, one after the other, so
        that each of its outputs has mean 0 and standard deviation 1 over the pictures x (0.3 for
        the last layer, whose softmax should start undecided).

        Random layers with ReLU map all pictures to nearly the same direction, more so with each
        layer. This method separates them again, once, before training. Kraehenbuehl et al. (arXiv
        1511.06856), section 3; Salimans and Kingma (arXiv 1602.07868), section 3.
        """
        before = self.checked(x)
        last = [x for x in self.layers.values() if isinstance(x, (nn.Conv2d, nn.Linear))][-1]
        with no_grad(), random.rewound():
            for _, layer, y in self.walk(before):
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    over = tuple(range(y.ndim - 1))
                    mean, std = y.data.mean(axis=over), y.data.std(axis=over)
                    target = 0.3 if layer is last else 1.0
                    factor = target / np.maximum(std, 1e-6 * std.max() + 1e-30)
                    layer.w.data *= factor
                    layer.b.data[...] = (layer.b.data - mean) * factor  # type: ignore[union-attr]
                    y.data = layer(before).data  # the next layer reads this output
                before = y

    def parameter_groups(self) -> list[dict]:
        """Parameter groups for optim.SGD, with the recipe's special rates."""
        recipe = self.preset.recipe
        decay = {} if recipe.bias_decay else {"weight_decay": 0.0}
        biases: dict[str, Any] = {"lr_scale": recipe.bias_lr_scale}
        if recipe.bias_lr is not None:
            biases = {"lr": recipe.bias_lr, "scheduled": False}
        parameters = dict(self.named_parameters())
        every = [p for name, p in parameters.items() if name.endswith(".b")]
        groups: list[dict] = [{"params": every, **biases, **decay}]
        for name, p in parameters.items():
            if name.endswith(".w"):
                rates = tuple((epoch, rate) for q, epoch, rate in recipe.rates if q == name)
                limit = recipe.max_filter_rms
                group = {"params": [p], "rates": rates, "max_filter_rms": limit}
                if name in (decays := dict(recipe.decays)):
                    group["weight_decay"] = decays[name]
                groups.append(group)
        return groups

    def make_optimizer(self) -> optim.SGD:
        """SGD by the preset's recipe."""
        r = self.preset.recipe
        return optim.SGD(self.parameter_groups(), r.lr, r.momentum, r.weight_decay, r.form)


def feature_stage(preset: Preset) -> str:
    """The last stage that outputs feature maps after a nonlinearity, such as relu5: the highest
    features that still have a position in the picture. If there is none, the last stage."""
    kinds = records.ReLU, records.Tanh, records.Sigmoid
    rows = ledger(preset)
    places = [r.stage for r in rows if len(r.shape) == 3 and isinstance(r.layer, kinds)]
    return places[-1] if places else rows[-1].stage


def last_hidden_stage(preset: Preset) -> str:
    """The stage whose output the last layer with weights reads, ignoring dropout, such as relu7."""
    rows = ledger(preset)
    last = max(i for i, r in enumerate(rows) if r.parameters)
    hidden = [r.stage for r in rows[:last] if not isinstance(r.layer, Dropout)]
    return hidden[-1] if hidden else rows[last].stage


def build(
    row: Row, seed: int | None, dtype: str, place: tuple[int, int] | None = None
) -> nn.Module:
    """The layer that a row of the ledger describes, with its weights (zero without a seed). If its
    outputs are those from `first` on of a larger layer with `total` outputs, place is (first,
    total), and the layer takes its part of the larger layer's random numbers."""
    layer, name = row.layer, row.stage
    if isinstance(layer, (Conv, Dense)):
        init = nn.he if layer.std is None else nn.gaussian(layer.std)
        init = nn.zeros if seed is None else init
        if place is not None:
            init = part_of(init, *place)
        stream = random.Stream(seed or 0, f"{name}.w")
        weights: dict[str, Any] = {"init": init, "bias": layer.bias, "rng": stream, "dtype": dtype}
    match layer:
        case Conv():
            return nn.Conv2d(
                row.inputs[-1],
                layer.filters,
                layer.size,
                layer.stride,
                layer.padding,
                layer.groups,
                layer.ceil,
                **weights,
            )
        case Dense():
            return nn.Linear(math.prod(row.inputs), row.shape[0], **weights)
        case LRN():
            constants = layer.n, layer.k, layer.alpha, layer.beta
            return nn.LRN(*constants, layer.divide_by_n, layer.groups)
        case LRNWithinMap():
            return nn.LRNWithinMap(layer.n, layer.k, layer.alpha, layer.beta)
        case Pool():
            pool = nn.AvgPool2d if layer.mean else nn.MaxPool2d
            return pool(layer.size, layer.stride, ceil_mode=layer.ceil)
        case Dropout():
            return nn.Dropout(layer.p, layer.inverted, random.Stream(seed or 0, name), place)
        case records.ReLU():
            return nn.ReLU()
        case records.Tanh():
            return nn.Tanh()
        case records.Sigmoid():
            return nn.Sigmoid()
    raise TypeError(f"{name}: {layer!r} is not a record of a layer (models/records.py)")


def part_of(init: nn.Init, first: int, whole: int) -> nn.Init:
    """An initialiser that draws a weight with `whole` outputs and keeps those from `first` on."""

    def part(rng: random.Stream, shape: tuple[int, ...]) -> np.ndarray:
        return init(rng, (*shape[:-1], whole))[..., first : first + shape[-1]]

    return part


def shrunken(preset: Preset, width: int = 16) -> Preset:
    """A smaller version of the preset: pictures of at most 67 x 67, `width` times fewer maps and 64
    hidden units. He weights and alpha = 1 make every term of every gradient large enough to
    check."""
    layers: dict[str, records.Layer] = {}
    for name, layer in preset.layers.items():
        if isinstance(layer, Conv):
            layer = replace(layer, filters=max(layer.filters // width, 2), std=None, bias=0.1)
        elif isinstance(layer, Dense):
            hidden = layer.units is not None
            layer = replace(layer, units=64, bias=0.1) if hidden else layer
            layer = replace(layer, std=None)
        elif isinstance(layer, (LRN, LRNWithinMap)):
            layer = replace(layer, alpha=1.0)
        layers[name] = layer
    return preset.changed(**layers).with_preprocessing(size=min(67, preset.preprocessing.size))


def check_network(preset: Preset, classes: int = 3, seed: int = 0) -> float:
    """Check the gradient of the loss of a shrunken network with respect to its input and every
    parameter; returns the largest relative error, or raises GradientMismatch."""
    model = Network(shrunken(preset), classes, seed, "float64")
    places = [
        (layer, key) for layer in model.layers.values() for key, _ in layer.named_parameters()
    ]

    def loss(x, labels, *parameters):
        for (layer, key), p in zip(places, parameters):
            setattr(layer, key, p)
        return F.softmax_cross_entropy(model(x), labels)

    p = model.preset.preprocessing
    x = random.Stream(seed, "check_network").normal((2, p.size, p.size, p.channels))
    own = [getattr(layer, key) for layer, key in places]
    values = [p.data for p in own]
    try:
        return check_grads(loss, x, np.arange(2) % classes, *values, rtol=1e-5, seed=seed)
    finally:
        for (layer, key), p in zip(places, own):
            setattr(layer, key, p)
