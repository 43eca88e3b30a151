"""AlexNet (Krizhevsky, Sutskever, Hinton: "ImageNet classification with deep convolutional neural networks", NIPS 2012),
its relatives, and their training.

The network of the paper, as the preset `paper` builds it (rows x columns x maps; parameters with biases):

    stage    what it does                                                  output          parameters   multiply-adds
    input    227 x 227 x 3 crop, training mean subtracted                  227x227x3
    conv1    96 filters 11x11x3, stride 4                                  55x55x96            34,944       105.42 M
    relu1 norm1 pool1    max(0, x); LRN n=5; max-pool 3x3 stride 2         27x27x96
    conv2    256 filters 5x5x48, padding 2, two groups                     27x27x256          307,456       223.95 M
    relu2 norm2 pool2    as after conv1                                    13x13x256
    conv3    384 filters 3x3x256, padding 1                                13x13x384          885,120       149.52 M
    conv4    384 filters 3x3x192, padding 1, two groups                    13x13x384          663,936       112.14 M
    conv5    256 filters 3x3x192, padding 1, two groups                    13x13x256          442,624        74.76 M
    pool5    max-pool 3x3 stride 2                                         6x6x256
    fc6      dense 9216 -> 4096; relu6; drop6 (p = 0.5)                    4096            37,752,832        37.75 M
    fc7      dense 4096 -> 4096; relu7; drop7 (p = 0.5)                    4096            16,781,312        16.78 M
    fc8      dense 4096 -> 1000                                            1000             4,097,000         4.10 M
                                                                                           60,965,224       724.41 M

    python alexnet.py summary paper
    python alexnet.py train --data imagenet --epochs 90
    python alexnet.py evaluate runs/RUN --data imagenet
    python alexnet.py predict runs/RUN cat.jpg dog.jpg
    python alexnet.py gradcheck paper
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import backend, checkpoint, data, kernels, look, nn, optim, random, runs
from minigrad import functions as F
from minigrad.data.cache import default_cache_folder
from minigrad.engine import Tensor, no_grad
from minigrad.evaluation import Evaluation, ensemble, evaluate, write_by_class, write_predictions
from minigrad.gradcheck import check_grads
from minigrad.health import LossWatch
from minigrad.trainer import Trainer, duration


@dataclass(frozen=True)
class Conv:
    """A convolution and what follows it, in order: words from relu, norm, within, pool."""

    filters: int
    size: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    then: str = "relu"
    std: float | None = 0.01  # of the initial Gaussian weights; None: He's
    bias: float = 0.0  # initial


@dataclass(frozen=True)
class Dense:
    """A hidden dense layer, followed by ReLU and dropout."""

    units: int = 4096
    std: float | None = 0.01
    bias: float = 1.0


@dataclass(frozen=True)
class Preset:
    """One member of the family: sizes, order, initial weights, preparation of pictures, and the optimiser's defaults."""

    source: str
    convs: tuple[Conv, ...]
    dense: tuple[Dense, ...] = (Dense(), Dense())
    input_size: int = 227
    ceil_mode: bool = False  # output sizes of convolutions
    pool_size: int = 3
    pool_stride: int = 2
    pool_ceil: bool = False
    lrn_n: int = 5
    lrn_k: float = 2.0
    lrn_alpha: float = 1e-4
    lrn_beta: float = 0.75
    lrn_divide_by_n: bool = False
    lrn_groups: int = 1  # 2: windows stay inside a column
    within_alpha: float = 1e-3
    last_std: float | None = 0.01
    standardize: bool = (
        False  # fit the initial weights to some training pictures (AlexNet.standardize)
    )
    dropout: float = 0.5
    dropout_inverted: bool = False  # False: the paper's, outputs halved at test time
    dropout_first: bool = False  # True: before fc6 and fc7 instead of after
    # Pictures
    mean: str = "pixel"  # "pixel": the mean image; "channel": one mean for each of R, G, B
    unit_std: bool = False  # divide by the standard deviation of the training pixels
    colour_noise: float = 0.1  # the paper's PCA noise; 0: none
    shrink: float = 1.0  # the 2012 code divides pictures with colour noise by 1.1
    colour_until: float = float("inf")  # epoch from which there is no colour noise
    # Training
    batch_size: int = 128
    epochs: int = 90
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0005
    form: str = "paper"
    lr_drops: tuple[float, ...] | None = (
        None  # epochs at which the rate is divided by 10; None: when validation stops improving
    )
    bias_lr: float | None = None  # absolute rate of the biases, which schedules leave alone
    bias_lr_scale: float = 1.0
    bias_decay: bool = True
    conv1_rates: tuple[
        tuple[float, float], ...
    ] = ()  # (epoch, rate): conv1's weights have this rate from that epoch on
    max_filter_rms: float | None = None


PAPER_CONVS = (
    Conv(96, 11, stride=4, then="relu norm pool"),
    Conv(256, 5, padding=2, groups=2, then="relu norm pool", bias=1.0),
    Conv(384, 3, padding=1),
    Conv(384, 3, padding=1, groups=2, bias=1.0),
    Conv(256, 3, padding=1, groups=2, then="relu pool", bias=1.0),
)


def _change(convs: tuple[Conv, ...], **columns: tuple) -> tuple[Conv, ...]:
    """The rows with some columns of the table replaced."""
    return tuple(
        replace(row, **{name: values[i] for name, values in columns.items()})
        for i, row in enumerate(convs)
    )


PAPER = Preset("the paper's text; 227 makes its 55 x 55 come out", PAPER_CONVS)

# Caffe's networks differ from each other in the order of norm and pool, and in the biases.
CAFFE = replace(
    PAPER,
    source="BVLC/caffe models/bvlc_alexnet; published 57.1 / 80.2 % accuracy, centre crop",
    convs=_change(PAPER_CONVS, bias=(0.0, 0.1, 0.0, 0.1, 0.1)),
    dense=(Dense(4096, 0.005, 0.1), Dense(4096, 0.005, 0.1)),
    lrn_k=1.0, lrn_divide_by_n=True, dropout_inverted=True, colour_noise=0.0,
    batch_size=256, form="torch", lr_drops=(20, 40, 60, 80), bias_lr_scale=2.0, bias_decay=False,
)  # fmt: skip

PRESETS: dict[str, Preset] = {
    "paper": PAPER,
    "textbook": replace(
        PAPER,
        source="the single-tower network of most lecture notes: the paper's without groups",
        convs=_change(PAPER_CONVS, groups=(1, 1, 1, 1, 1)),
    ),
    # Differences from the text: layers-145.cfg, layer-params-145.cfg, layer.py and convdata.py of the 2012 source, which ends
    # with the paper's 40.7 / 18.2 % error.
    "krizhevsky2012": replace(
        PAPER,
        source="the 2012 source, run 145: 40.664 / 18.210 % error on ILSVRC-2012 validation",
        convs=_change(
            PAPER_CONVS,
            then=("norm pool relu", "relu norm within pool", "relu", "relu", "pool relu"),
            std=(0.01, 0.01, 0.03, 0.03, 0.03),
        ),
        input_size=224, ceil_mode=True, pool_ceil=True, lrn_divide_by_n=True, lrn_groups=2, shrink=1.1, colour_until=67,
        epochs=91, lr_drops=(25, 51, 79), bias_lr=0.02, bias_decay=False, conv1_rates=((67, 1e-5), (72, 0.0)),
    ),
    "caffe": CAFFE,
    "caffenet": replace(
        CAFFE,
        source="BVLC/caffe models/bvlc_reference_caffenet; published 57.4 / 80.4 % accuracy, centre crop",
        convs=_change(
            PAPER_CONVS, then=("relu pool norm", "relu pool norm", "relu", "relu", "relu pool"), bias=(0.0, 1.0, 0.0, 1.0, 1.0)
        ),
        dense=(Dense(4096, 0.005, 1.0), Dense(4096, 0.005, 1.0)),
    ),
    # torchvision draws weights and biases from +-1/sqrt(fan in); He's weights and zero biases stand here.
    "torchvision": Preset(
        "torchvision alexnet, after arXiv 1404.5997; published 56.52 / 79.07 % accuracy, centre crop",
        (
            Conv(64, 11, stride=4, padding=2, then="relu pool", std=None),
            Conv(192, 5, padding=2, then="relu pool", std=None),
            Conv(384, 3, padding=1, std=None),
            Conv(256, 3, padding=1, std=None),
            Conv(256, 3, padding=1, then="relu pool", std=None),
        ),
        dense=(Dense(4096, None, 0.0), Dense(4096, None, 0.0)),
        input_size=224, last_std=None, dropout_inverted=True, dropout_first=True, mean="channel", unit_std=True,
        colour_noise=0.0, batch_size=256, weight_decay=1e-4, form="torch", lr_drops=(30, 60),
    ),
    # The paper prints sizes, not paddings: 1 and 0 follow from them. Its normalisation's constants are not printed either:
    # AlexNet's stand here.
    "zfnet": Preset(
        "Zeiler and Fergus, arXiv 1311.2901; 38.4 / 16.5 % error",
        (
            Conv(96, 7, stride=2, padding=1, then="relu pool norm"),
            Conv(256, 5, stride=2, then="relu pool norm"),
            Conv(384, 3, padding=1),
            Conv(384, 3, padding=1),
            Conv(256, 3, padding=1, then="relu pool"),
        ),
        dense=(Dense(bias=0.0), Dense(bias=0.0)),
        input_size=224, pool_ceil=True, colour_noise=0.0, epochs=70, max_filter_rms=0.1,
    ),
}  # fmt: skip


def small_subset(preset: Preset) -> Preset:
    """The preset's network with a recipe that learns from a few thousand pictures.

    The recipes of 2012 are made for 1.2 million pictures; on a few thousand they can sit at a loss of ln(classes) for longer than
    the whole run. What changes, each found by measuring (docs/small-subsets.md): pictures scaled to unit variance, He's initial
    weights with zero biases, a batch of 32, the rate divided by 10 after two thirds and nine tenths of the run.
    """
    return replace(
        preset,
        convs=tuple(replace(row, std=None, bias=0.0) for row in preset.convs),
        dense=tuple(replace(row, std=None, bias=0.0) for row in preset.dense),
        standardize=True, unit_std=True, shrink=1.0, colour_until=float("inf"), batch_size=32, epochs=30, lr=0.003, lr_drops=(20.0, 27.0),
        bias_lr=None, bias_lr_scale=1.0, conv1_rates=(), max_filter_rms=None,
    )  # fmt: skip


def find_preset(preset: str | Preset) -> Preset:
    """The preset of that name."""
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose from {', '.join(PRESETS)}")
    return PRESETS[preset]


class AlexNet(nn.Module):
    """The network of a preset.

    Args:
        preset: a name from PRESETS, or a Preset.
        classes: outputs of the last layer.
        seed: of the initial weights and of dropout.
        dtype: "float32" or "float64".

    model(x) takes (N, size, size, 3) pictures, prepared as the preset says, and returns logits (N, classes).
    `stages` names its steps in order; run(x, upto="conv5") stops after one.
    """

    def __init__(
        self,
        preset: str | Preset = "paper",
        classes: int = 1000,
        seed: int = 0,
        dtype: str = "float32",
    ) -> None:
        p = self.preset = find_preset(preset)
        if not isinstance(classes, int) or classes < 1:
            raise ValueError(f"AlexNet: classes must be a whole number >= 1, not {classes!r}")
        self.classes, self.seed = classes, seed
        self.layers: dict[str, nn.Module] = {}

        def weights(name: str, std: float | None) -> dict:
            return {
                "init": nn.he if std is None else nn.gaussian(std),
                "rng": random.Stream(seed, f"{name}.w"),
                "dtype": dtype,
            }

        def lrn() -> nn.Module:
            return nn.LRN(
                p.lrn_n, p.lrn_k, p.lrn_alpha, p.lrn_beta, p.lrn_divide_by_n, p.lrn_groups
            )

        after = {
            "relu": nn.ReLU,
            "norm": lrn,
            "within": lambda: nn.LRNWithinMap(alpha=p.within_alpha),
            "pool": lambda: nn.MaxPool2d(p.pool_size, p.pool_stride, ceil_mode=p.pool_ceil),
        }
        channels = 3
        for i, row in enumerate(p.convs, start=1):
            self.layers[f"conv{i}"] = nn.Conv2d(
                channels, row.filters, row.size, row.stride, row.padding, row.groups, p.ceil_mode,
                bias=row.bias, **weights(f"conv{i}", row.std),
            )  # fmt: skip
            for word in row.then.split():
                self.layers[f"{word}{i}"] = after[word]()
            channels = row.filters
        inputs = self.flat_size(dtype)
        first = len(p.convs) + 1
        for i, hidden in enumerate(p.dense, start=first):
            drop = nn.Dropout(p.dropout, p.dropout_inverted, random.Stream(seed, f"drop{i}"))
            if p.dropout_first:
                self.layers[f"drop{i}"] = drop
            self.layers[f"fc{i}"] = nn.Linear(
                inputs, hidden.units, bias=hidden.bias, **weights(f"fc{i}", hidden.std)
            )
            self.layers[f"relu{i}"] = nn.ReLU()
            if not p.dropout_first:
                self.layers[f"drop{i}"] = drop
            inputs = hidden.units
        last = f"fc{first + len(p.dense)}"
        self.layers[last] = nn.Linear(inputs, classes, bias=0.0, **weights(last, p.last_std))

    stages = property(lambda self: list(self.layers), doc="Names of all stages, in order.")

    def flat_size(self, dtype: str) -> int:
        """Numbers that reach the first dense layer: run one black picture through the convolutional stages."""
        size = self.preset.input_size
        with no_grad():
            x: Tensor = Tensor(np.zeros((1, size, size, 3), dtype))
            for layer in self.layers.values():
                x = layer(x)
        return x.size

    def forward(self, x) -> Tensor:
        return self.run(x)

    def run(self, x, upto: str | None = None) -> Tensor:
        """The output of stage `upto` (the last, the logits, if None). x: (N, size, size, 3)."""
        x = self.checked(x)
        if upto is not None and upto not in self.layers:
            raise ValueError(f"unknown stage {upto!r}: choose from {', '.join(self.layers)}")
        wanted = self.stages[: self.stages.index(upto) + 1 if upto else None]
        for layer, options in nn.steps((self.layers[name] for name in wanted), x.device):
            x = self.apply(layer, x, **options)
        return x

    def activations(self, x) -> dict[str, Tensor]:
        """The output of every stage, by name."""
        x = self.checked(x)
        outputs = {}
        for name, layer in self.layers.items():
            x = outputs[name] = self.apply(layer, x)
        return outputs

    def standardize(self, x) -> None:
        """Data-dependent initial weights: scale every weight layer, one after the other, so that each of its outputs has mean 0 and
        standard deviation 1 over the pictures x (0.3 for the last layer, whose softmax should start undecided).

        Random ReLU layers send all pictures in nearly the same direction, more so with each layer; this spreads them out again, once,
        before training. Kraehenbuehl et al. (arXiv 1511.06856), section 3; Salimans and Kingma (arXiv 1602.07868), section 3.
        """
        x = self.checked(x)
        last = self.layers[self.stages[-1]]
        with no_grad(), random.rewound():
            for layer in self.layers.values():
                y = self.apply(layer, x)
                if isinstance(layer, (nn.Conv2d, nn.Linear)):
                    over = tuple(range(y.ndim - 1))
                    mean, std = y.data.mean(axis=over), y.data.std(axis=over)
                    factor = (0.3 if layer is last else 1.0) / np.maximum(
                        std, 1e-6 * std.max() + 1e-30
                    )
                    layer.w.data *= factor
                    layer.b.data[...] = (layer.b.data - mean) * factor  # type: ignore[union-attr]
                    y = self.apply(layer, x)
                x = y

    @staticmethod
    def apply(layer: nn.Module, x: Tensor, **options: bool) -> Tensor:
        return layer(
            nn.Flatten()(x) if isinstance(layer, nn.Linear) and x.ndim == 4 else x, **options
        )

    def checked(self, x) -> Tensor:
        x = x if isinstance(x, Tensor) else Tensor(x)
        size = self.preset.input_size
        if x.ndim != 4 or x.shape[1:] != (size, size, 3):
            hint = (
                "; it looks channels first, use x.transpose(0, 2, 3, 1)"
                if x.ndim == 4 and x.shape[1] == 3
                else ""
            )
            raise ValueError(
                f"AlexNet: x must be (N, {size}, {size}, 3), channels last, but has shape {x.shape}{hint}"
            )
        return x

    def groups(self) -> list[dict]:
        """Parameter groups for optim.SGD, with the preset's special rates."""
        p = self.preset
        decay = {} if p.bias_decay else {"weight_decay": 0.0}
        rate = (
            {"lr": p.bias_lr, "scheduled": False}
            if p.bias_lr is not None
            else {"lr_scale": p.bias_lr_scale}
        )
        groups: list[dict] = [
            {"params": [q for n, q in self.named_parameters() if n.endswith(".b")], **rate, **decay}
        ]
        for name, q in self.named_parameters():
            if name.endswith(".w"):
                rates = p.conv1_rates if name == "conv1.w" else ()
                groups.append({"params": [q], "rates": rates, "max_filter_rms": p.max_filter_rms})
        return groups

    def make_optimizer(self) -> optim.SGD:
        """SGD with the preset's defaults."""
        p = self.preset
        return optim.SGD(self.groups(), p.lr, p.momentum, p.weight_decay, p.form)


@dataclass(frozen=True)
class Row:
    """One line of a summary."""

    stage: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


def table(model: AlexNet) -> list[Row]:
    """Output shape (for one picture), parameters and multiply-adds of every stage, computed from a forward pass."""
    size = model.preset.input_size
    dtype = model.layers["conv1"].w.dtype  # type: ignore[attr-defined]
    device = model.layers["conv1"].w.device  # type: ignore[attr-defined]
    with no_grad():
        outputs = model.activations(Tensor(np.zeros((1, size, size, 3), dtype)).to(device))
    rows = []
    for name, y in outputs.items():
        layer = model.layers[name]
        parameters = layer.parameters()
        multiply_adds = 0
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            multiply_adds = y.size * (
                layer.w.size // layer.w.shape[-1]
            )  # for each output, one for each weight of its filter
        rows.append(Row(name, y.shape[1:], sum(q.size for q in parameters), multiply_adds))
    return rows


def summary(preset: str = "paper", classes: int = 1000) -> str:
    """The table of a preset as text."""
    model = AlexNet(preset, classes)
    rows = table(model)
    lines = [
        f"{preset}: {model.preset.source}",
        f"{'stage':9}{'output':>14}{'parameters':>14}{'multiply-adds':>16}",
    ]
    for r in rows:
        shape = "x".join(map(str, r.shape))
        counts = f"{r.parameters:>14,}{r.multiply_adds / 1e6:>14.2f} M" if r.parameters else ""
        lines.append(f"{r.stage:9}{shape:>14}{counts}")
    lines.append(
        f"{'total':9}{'':14}{sum(r.parameters for r in rows):>14,}{sum(r.multiply_adds for r in rows) / 1e6:>14.2f} M"
    )
    return "\n".join(lines)


def shrunken(preset: str | Preset, width: int = 16) -> Preset:
    """The preset's layers in small: 67 x 67 pictures, `width` times fewer maps and 64 hidden units; He weights and alpha = 1, so
    that every term of every gradient is large enough to see."""
    p = find_preset(preset)
    return replace(
        p,
        convs=tuple(replace(row, filters=row.filters // width, std=None, bias=0.1) for row in p.convs),
        dense=tuple(Dense(64, None, 0.1) for _ in p.dense),
        input_size=67, last_std=None, lrn_alpha=1.0, within_alpha=1.0,
    )  # fmt: skip


def check_network(preset: str, classes: int = 3, seed: int = 0) -> float:
    """Check the gradient of the loss of a shrunken network with respect to its input and every parameter; the largest error."""
    model = AlexNet(shrunken(preset), classes, seed, "float64")
    rng = random.Stream(seed, "check_network")
    layers = [
        (layer, key) for layer in model.layers.values() for key, _ in layer.named_parameters()
    ]

    def loss(x, labels, *parameters):
        for (layer, key), q in zip(layers, parameters):
            setattr(layer, key, q)
        return F.softmax_cross_entropy(model(x), labels)

    size = model.preset.input_size
    values = [getattr(layer, key).data for layer, key in layers]
    return check_grads(
        loss, rng.normal((2, size, size, 3)), np.arange(2) % classes, *values, rtol=1e-5, seed=seed
    )


# Training: from a folder of pictures to a run folder.


def preparation(preset: Preset, stats: data.Statistics) -> data.Preparation:
    """How the preset prepares pictures, with the statistics of the training set."""
    size = preset.input_size
    margin = (stats.mean.shape[0] - size) // 2
    mean = stats.mean[
        margin : margin + size, margin : margin + size
    ]  # every crop loses the centre crop of the mean image, as in 2012
    if preset.mean == "channel":
        mean = stats.mean.mean(axis=(0, 1))
    colour = None
    if preset.colour_noise:
        colour = preset.colour_noise * stats.eigenvectors * np.sqrt(stats.eigenvalues)
    scale = 1 / stats.std if preset.unit_std else 1.0
    return data.Preparation(size, mean, scale, colour, preset.shrink)


DEFAULTS = {
    "preset": "paper", "recipe": "auto", "schedule": "auto", "device": "cpu", "workers": 2, "seed": 0, "keep": 2, "most_skipped": 0.1,
    "save_every": 120.0, "worker_timeout": 30.0,
}  # fmt: skip


def recipe(args: argparse.Namespace, pictures: int) -> tuple[str, Preset]:
    """(name of the recipe, the preset with it): the preset's own for large sets, the one for small subsets below 100,000 pictures."""
    preset = find_preset(args.preset)
    name = args.recipe
    if name == "auto":
        name = "preset" if pictures >= 100_000 else "small"
    return name, with_choices(small_subset(preset) if name == "small" else preset, args)


def with_choices(preset: Preset, args: argparse.Namespace) -> Preset:
    """The preset with the command line's epochs, batch size and rate; whatever has its epoch keeps its place in a longer or shorter run."""
    chosen: dict[str, Any] = {
        key: getattr(args, key) for key in ("batch_size", "lr") if getattr(args, key) is not None
    }
    if args.epochs is not None:
        if args.epochs < 1:
            raise ValueError(f"--epochs must be at least 1, not {args.epochs}")
        times = args.epochs / preset.epochs
        chosen |= {"epochs": args.epochs, "colour_until": preset.colour_until * times}
        chosen["conv1_rates"] = tuple((epoch * times, rate) for epoch, rate in preset.conv1_rates)
        if preset.lr_drops is not None:
            chosen["lr_drops"] = tuple(epoch * times for epoch in preset.lr_drops)
    if args.schedule == "plateau":
        chosen["lr_drops"] = None
    return replace(preset, **chosen)


def preset_from_json(record: dict[str, Any]) -> Preset:
    """The Preset that asdict turned into `record`, back from a checkpoint's JSON."""
    record = record | {
        "convs": tuple(Conv(**row) for row in record["convs"]),
        "dense": tuple(Dense(**row) for row in record["dense"]),
        "lr_drops": None if record["lr_drops"] is None else tuple(record["lr_drops"]),
        "conv1_rates": tuple(map(tuple, record["conv1_rates"])),
    }
    return Preset(**record)


def train(args: argparse.Namespace) -> tuple[Trainer, Evaluation]:
    """Train as the command line says and leave a run folder. Returns the trainer and the last evaluation."""
    began = time.perf_counter()
    backend.keep_memory()
    kept: dict[str, np.ndarray] = {}
    if args.resume:
        settings, kept = runs.take_up(args)
    elif args.config:
        runs.read_config(args)
    if not args.data:
        raise ValueError(
            "training needs --data, a folder, an archive or a name (or --resume RUN, or --config RUN/settings.json)"
        )
    for key, value in DEFAULTS.items():
        setattr(args, key, value if getattr(args, key) is None else getattr(args, key))
    backend.use(args.device)  # one that is not there is better told now than later
    cache = runs.cache_folder(args.cache)
    sets = data.open_sets(
        args.data, args.classes, args.images_per_class, args.holdout, args.seed, cache
    )
    if args.resume:
        name, preset = settings["recipe"], with_choices(preset_from_json(settings["network"]), args)
        if (sets[0].classes, len(sets[0])) != (settings["classes"], settings["pictures"]):
            raise data.DataError(
                f"{sets[0].root} has {len(sets[0])} pictures in {len(sets[0].classes)} classes, but the run {args.resume} was started on "
                f"{settings['pictures']} in {len(settings['classes'])}, or the classes have other names: it can only go on with the same"
            )
    else:
        name, preset = recipe(args, len(sets[0]))
    folder = runs.make_folder(args)
    announce(sets, name, preset)

    pictures = [
        data.open_pictures(s, cache, args.workers, what=what, worker_timeout=args.worker_timeout)
        for s, what in zip(sets, ("training pictures", "validation pictures"))
    ]
    if args.resume:
        prep = data.Preparation.from_arrays(kept, preset.input_size)
    else:
        prep = preparation(preset, data.statistics(pictures[0], seed=args.seed))
    training, validation = (
        data.Loader(
            p,
            prep,
            preset.batch_size,
            shuffled,
            args.seed,
            args.workers,
            args.most_skipped,
            worker_timeout=args.worker_timeout,
        )
        for p, shuffled in zip(pictures, (True, False))
    )
    model = AlexNet(preset, len(sets[0].classes), args.seed)
    model.to(args.device)
    if args.finetune and not args.resume:
        runs.take_over(model, args.finetune)
    elif preset.standardize and not args.resume:
        some = random.Stream(args.seed, "standardize").permutation(len(sets[0]))[:128]
        model.standardize(Tensor(training.prepare(some)[0]).to(args.device))
    optimizer = model.make_optimizer()
    schedule: Any = (
        optim.PlateauSchedule(optimizer)
        if preset.lr_drops is None
        else optim.StepSchedule(optimizer, preset.lr_drops)
    )
    settings = runs.arguments(args) | {
        "preset": args.preset, "recipe": name, "network": asdict(preset), "classes": sets[0].classes, "names": sets[0].names,
        "pictures": len(sets[0]),
    }  # fmt: skip

    def colour_off(epoch: int) -> None:
        if epoch >= preset.colour_until:
            training.preparation = replace(prep, colour=None)

    trainer = Trainer(
        model, optimizer, schedule, training, validation, folder, settings, prep.arrays(), args.device, keep=args.keep,
        save_every=args.save_every, before_epoch=colour_off, watch=LossWatch(len(sets[0].classes)),
    )  # fmt: skip
    if args.resume:
        trainer.resume()
        print(
            f"going on with {folder} from epoch {trainer.epoch}, step {trainer.step}, lr {optimizer.lr:g}"
        )
    print(
        f"run folder {folder}; the training will take about {duration(trainer.seconds_ahead(preset.epochs))}",
        flush=True,
    )
    trainer.fit(preset.epochs)

    result = trainer.result or evaluate(
        model, validation, args.device
    )  # none, if a finished run was taken up
    runs.say_skipped(training.skipped | validation.skipped, folder)
    print(
        f"held-out pictures, last epoch: loss {result.loss:.3f}, top-1 {result.top(1):.1%}, top-5 {result.top(5):.1%}"
    )
    try:
        files = draw_run(folder, model, pictures[1], result, sets[0].names, args.seed)
        print(f"pictures: {', '.join(map(str, files))}")
    except OSError as error:
        print(f"the pictures could not be written into {folder} ({error})")
    print(f"all of it took {duration(time.perf_counter() - began)}")
    return trainer, result


def announce(sets: tuple[data.ImageSet, data.ImageSet], name: str, preset: Preset) -> None:
    """Say what is going to be trained, on what, and how."""
    train_set, val_set = sets
    names = [n.split(",")[0] for n in train_set.names]
    more = ", ..." if len(names) > 10 else ""
    drops = (
        "when validation stops improving"
        if preset.lr_drops is None
        else "at epoch " + ", ".join(f"{d:g}" for d in preset.lr_drops)
    )
    print(
        f"{preset.source}\n{len(train_set):,} pictures for training, {len(val_set):,} for validation (from {val_set.root}), "
        f"{len(names)} classes: {', '.join(names[:10])}{more}\nrecipe '{name}': {preset.epochs} epochs, batch {preset.batch_size}, "
        f"lr {preset.lr:g} divided by 10 {drops}, momentum {preset.momentum:g}, decay {preset.weight_decay:g}, "
        f"{'He' if preset.convs[0].std is None else 'Gaussian'} initial weights{' fitted to the data' * preset.standardize}, "
        f"pictures {'scaled to unit variance' if preset.unit_std else 'on the 0..255 scale'}"
    )
    if name == "small":
        print(
            "(for small subsets: the preset's own recipe, --recipe preset, can sit at ln(classes) for longer than such a run)"
        )


def draw_run(
    folder: Path,
    model: AlexNet,
    pictures: data.Pictures,
    result: Evaluation,
    names: Sequence[str],
    seed: int,
) -> list[Path]:
    """Learning curves, filters and a grid of predictions for a run folder."""
    chosen = random.Stream(seed, "grid").permutation(len(result.labels))[:24]
    return [
        look.draw_curves(folder),
        look.draw_filters(model.layers["conv1"].w.numpy(), folder / "filters.png"),  # type: ignore[attr-defined]
        look.draw_predictions(
            [pictures.read(int(result.indices[i])) for i in chosen],
            [int(result.labels[i]) for i in chosen],
            result.probabilities[chosen],
            names,
            folder / "predictions.png",
        ),
    ]


def load_run(run: str, device: str = "cpu") -> tuple[AlexNet, data.Preparation, dict[str, Any]]:
    """(model in test mode, preparation, settings) from a run folder or a checkpoint file."""
    tensors, description = checkpoint.load(
        runs.checkpoint_of(run), prefix=("model.", "preparation.")
    )
    settings = description["settings"]
    preset = preset_from_json(settings["network"])
    backend.use(device)
    model = AlexNet(preset, len(settings["classes"]))
    model.load_state_dict(
        {n.removeprefix("model."): a for n, a in tensors.items() if n.startswith("model.")}
    )
    model.to(device).eval()
    return model, data.Preparation.from_arrays(tensors, preset.input_size), settings


def evaluate_run(args: argparse.Namespace) -> None:
    """Accuracy of a run, or of several averaged, on the validation pictures of a folder."""
    kernels.lend_threads_to_blas()
    results: list[Evaluation] = []
    classes: list[str] = []
    images: data.ImageSet | None = None
    cache = default_cache_folder()
    for run in args.runs:
        model, prep, settings = load_run(run, args.device)
        if results and settings["classes"] != classes:
            raise ValueError(
                f"{run} tells other classes apart than {args.runs[0]}: they cannot be averaged"
            )
        classes, names = settings["classes"], settings["names"]
        if not args.data:
            held_out = runs.held_out_by(run, settings)
            if images is not None and held_out.items != images.items:
                raise ValueError(
                    f"{run} held out other pictures than {args.runs[0]}: name what to evaluate on with --data"
                )
            images = held_out
        elif images is None:
            images = data.open_validation(args.data, classes, cache)
        loader = data.Loader(
            data.Pictures(images),
            prep,
            args.batch_size,
            False,
            workers=args.workers,
            ten_views=args.views == "ten",
            worker_timeout=args.worker_timeout,
        )
        results.append(evaluate(model, loader, args.device, f"evaluating {run}"))
        loader.close()
        if len(args.runs) > 1:
            print(sentence(run, results[-1]))
    assert images is not None
    result = ensemble(results)
    averaged = f", {len(results)} runs averaged" if len(results) > 1 else ""
    views = "ten views" if args.views == "ten" else "centre view"
    print(sentence(f"{len(result.labels):,} pictures of {images.root}, {views}{averaged}", result))
    runs.say_skipped(loader.skipped)
    if args.by_class:
        write_by_class(Path(args.by_class), result, classes, names)
    if args.predictions:
        write_predictions(
            Path(args.predictions), result, [images.where(int(i)) for i in result.indices], classes
        )
    if args.confusion:
        look.draw_confusion(result.confusion(), names, Path(args.confusion))
    for path in filter(None, (args.by_class, args.predictions, args.confusion)):
        print(f"written: {path}")


def sentence(what: str, result: Evaluation) -> str:
    return f"{what}: loss {result.loss:.4f}, top-1 {result.top(1):.2%}, top-5 {result.top(5):.2%}"


def predict(args: argparse.Namespace) -> None:
    """The most probable classes of single pictures."""
    model, prep, settings = load_run(args.run, args.device)
    for file in args.pictures:
        x = prep.centre(data.read_image(file)[None])
        with no_grad():
            p = F.softmax(model(Tensor(x).to(args.device))).numpy()[0]
        best = np.argsort(-p, kind="stable")[: min(5, len(p))]
        print(
            f"{file}: "
            + ", ".join(f"{settings['names'][k].split(',')[0]} {p[k]:.1%}" for k in best)
        )


DATA_HELP = (
    "a folder, .zip or .tar with train/CLASS/PICTURE and val/CLASS/PICTURE, or CLASS/PICTURE (a tenth is then held out); a folder with "
    "ImageNet's own tars, or with MNIST's or CIFAR-10's files; or a name to download once: "
    + ", ".join(data.DOWNLOADS)
)


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of training, shared with examples/train_imagenet_subset.py."""
    add = parser.add_argument
    add(
        "--classes",
        metavar="N|LIST|FILE",
        help="train on the first N classes, on a comma-separated list of folder names, or on those in a file",
    )
    add(
        "--images-per-class",
        type=int,
        metavar="N",
        help="use at most N training pictures of each class",
    )
    add(
        "--holdout",
        type=float,
        metavar="SHARE",
        help="validate on this share of train/ instead of val/ (for tuning)",
    )
    add("--preset", help=f"the network: {', '.join(PRESETS)} (default paper)")
    how = "how it is trained: the preset's own way, one for small subsets, or by the number of pictures: small below 100,000 (default)"
    add(
        "--schedule",
        choices=("auto", "plateau"),
        help="plateau: divide the rate by 10 when validation stops improving, three times",
    )
    add("--recipe", choices=("auto", "preset", "small"), help=how)
    add("--epochs", type=int, metavar="N", help="default: the recipe's")
    add("--batch-size", type=int, metavar="N", help="default: the recipe's")
    add("--lr", type=float, metavar="RATE", help="initial learning rate; default: the recipe's")
    add("--device", help="cpu, gpu or gpu:N (default cpu)")
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes that read pictures; changes no result (default 2)",
    )
    waits = "after which a reading process that stands still is replaced (default 30)"
    add("--worker-timeout", type=float, metavar="SECONDS", help=waits)
    add(
        "--most-skipped",
        type=float,
        metavar="SHARE",
        help="of unreadable pictures that a run bears (default 0.1)",
    )
    add(
        "--keep",
        type=int,
        metavar="K",
        help="checkpoints of the last K epochs stay, beside the newest and the best (default 2)",
    )
    add("--seed", type=int, help="of everything random (default 0)")
    add(
        "--cache",
        metavar="DIR|off",
        help=f"where decoded pictures are kept, or off (default {default_cache_folder()})",
    )
    add("--output", metavar="DIR", help="run folder (default runs/TIME-PRESET)")
    add(
        "--save-every",
        type=float,
        metavar="SECONDS",
        help="between checkpoints within an epoch (default 120)",
    )
    add("--resume", metavar="RUN", help="go on with the run in this folder")
    add(
        "--config",
        metavar="FILE",
        help="repeat a run: take what is not given here from its settings.json",
    )
    add(
        "--finetune",
        metavar="RUN",
        help="begin with the weights of a run or checkpoint, as far as they fit",
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="alexnet.py",
        description="AlexNet and its relatives: count, train, evaluate, predict, check.",
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="summary|train|evaluate|predict|gradcheck"
    )
    sub = commands.add_parser("summary", help="sizes, parameters and multiply-adds of a preset")
    sub.add_argument(
        "preset", nargs="?", default="paper", help=f"one of {', '.join(PRESETS)}, or all"
    )
    sub.add_argument("--classes", type=int, default=1000)
    sub = commands.add_parser("train", help="train on a folder of pictures")
    sub.add_argument("--data", metavar="WHERE", help=DATA_HELP)
    add_training_arguments(sub)
    for name, text in (
        ("evaluate", "accuracy of a run on validation pictures"),
        ("predict", "classes of single pictures"),
    ):
        sub = commands.add_parser(name, help=text)
        if name == "predict":
            sub.add_argument("run", help="run folder, or a checkpoint file")
            sub.add_argument("pictures", nargs="+", help="picture files")
        else:
            sub.add_argument(
                "runs",
                nargs="+",
                metavar="run",
                help="run folder, or a checkpoint file; several are averaged",
            )
            sub.add_argument("--data", metavar="WHERE", help="default: what the run held out")
            sub.add_argument(
                "--views",
                choices=("centre", "ten"),
                default="centre",
                help="ten: the paper's corners, centre and mirrors",
            )
            sub.add_argument("--by-class", metavar="FILE.csv", help="write a line a class")
            sub.add_argument("--predictions", metavar="FILE.csv", help="write a line a picture")
            sub.add_argument(
                "--confusion", metavar="FILE.png", help="draw which class is taken for which"
            )
            sub.add_argument("--batch-size", type=int, default=64)
            sub.add_argument("--workers", type=int, default=2)
            sub.add_argument("--worker-timeout", type=float, default=30.0, metavar="SECONDS")
        sub.add_argument("--device", default="cpu")
    sub = commands.add_parser("gradcheck", help="check the gradients of a whole network, in small")
    sub.add_argument("preset", nargs="?", default="paper")
    args = parser.parse_args(argv)
    return runs.run_command(lambda: dispatch(args, parser))


def dispatch(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if args.command == "summary":
        for preset in PRESETS if args.preset == "all" else [args.preset]:
            print(summary(preset, args.classes))
    elif args.command == "train":
        if not args.data and not args.resume and not args.config:
            parser.error("train needs --data WHERE (or --resume RUN, or --config FILE)")
        train(args)
    elif args.command == "evaluate":
        evaluate_run(args)
    elif args.command == "predict":
        predict(args)
    else:
        error = check_network(args.preset)
        print(
            f"{args.preset}: loss of the shrunken network against its input and every parameter: largest relative error {error:.1e}"
        )


if __name__ == "__main__":
    sys.exit(main())
