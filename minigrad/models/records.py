"""The records that describe a model as data: its layers by name, the preprocessing of its pictures,
and its training recipe.

Each model is written out in full in a file beside this one. `network.Network(preset, classes)`
builds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from minigrad.written import read

INFINITY = float("inf")
# Pictures are scaled to this: "a fixed resolution of 256 x 256", section 2.
PHOTOGRAPH = (256, 256, 3)


MOST = 1 << 20  # filters, units, sides, windows: nothing of a network is larger


def check(record: Any, **limits: tuple[float, float]) -> None:
    """Raise ValueError unless these fields of a record, and the elements of those that are tuples,
    are from the first to the second number of their limits. None passes, NaN does not."""
    for name, (low, high) in limits.items():
        value = getattr(record, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not low <= number <= high:
                kind = type(record).__name__
                raise ValueError(f"{kind}: {name} must be from {low:g} to {high:g}, not {number}")


@dataclass(frozen=True)
class Conv:
    """functions.conv2d with its weights and biases. The initial weights are Gaussian with standard
    deviation std; None stands for He's."""

    filters: int
    size: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    ceil: bool = False  # round the output size up
    std: float | None = None
    bias: float = 0.0

    def __post_init__(self) -> None:
        check(
            self, filters=(1, MOST), size=(1, MOST), stride=(1, MOST), padding=(0, MOST),
            groups=(1, MOST), std=(0, 1e6), bias=(-1e6, 1e6),
        )  # fmt: skip


@dataclass(frozen=True)
class Dense:
    """functions.linear with its weights and biases. units=None means one unit per class."""

    units: int | None = None
    std: float | None = None
    bias: float = 0.0

    def __post_init__(self) -> None:
        check(self, units=(1, MOST), std=(0, 1e6), bias=(-1e6, 1e6))


@dataclass(frozen=True)
class ReLU:
    """functions.relu."""


@dataclass(frozen=True)
class Tanh:
    """functions.tanh."""


@dataclass(frozen=True)
class Sigmoid:
    """functions.sigmoid."""


@dataclass(frozen=True)
class LRN:
    """functions.lrn. groups: the number of blocks of channels that windows do not leave."""

    n: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75
    divide_by_n: bool = False
    groups: int = 1

    def __post_init__(self) -> None:
        check(self, n=(1, MOST), k=(1e-12, 1e6), alpha=(0, 1e6), beta=(-100, 100), groups=(1, MOST))


@dataclass(frozen=True)
class LRNWithinMap:
    """functions.lrn_within_map."""

    n: int = 5
    k: float = 1.0
    alpha: float = 1e-3
    beta: float = 0.75

    def __post_init__(self) -> None:
        check(self, n=(1, MOST), k=(1e-12, 1e6), alpha=(0, 1e6), beta=(-100, 100))


@dataclass(frozen=True)
class Pool:
    """functions.max_pool2d, or with mean=True functions.avg_pool2d."""

    size: int
    stride: int
    ceil: bool = False
    mean: bool = False

    def __post_init__(self) -> None:
        check(self, size=(1, MOST), stride=(1, MOST))


@dataclass(frozen=True)
class Dropout:
    """functions.dropout. inverted: scale in training instead of at test time."""

    p: float = 0.5
    inverted: bool = False

    def __post_init__(self) -> None:
        check(self, p=(0, 1 - 1e-9))


@dataclass(frozen=True)
class Gather:
    """functions.gather: joins the maps of all columns. parts: how many each has (columns.py)."""

    parts: tuple[int, ...]

    def __post_init__(self) -> None:
        check(self, parts=(0, MOST))


Layer = Conv | Dense | ReLU | Tanh | Sigmoid | LRN | LRNWithinMap | Pool | Dropout | Gather
KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (Conv, Dense, ReLU, Tanh, Sigmoid, LRN, LRNWithinMap, Pool, Dropout, Gather)
}


@dataclass(frozen=True)
class Preprocessing:
    """How pictures become input (data/preparation.py)."""

    size: int  # side of the crop that the network sees
    picture: int = PHOTOGRAPH[0]  # side to which pictures are scaled before they are cropped
    channels: int = PHOTOGRAPH[2]  # 3: red, green, blue; 1: grey
    # "pixel": subtract the mean image; "channel": the mean of each channel; or these numbers
    mean: Literal["pixel", "channel"] | tuple[float, ...] = "pixel"
    scale: tuple[float, ...] = (1.0,)  # then multiply by this, or by one number for each channel
    colour_noise: float = 0.0  # the paper's PCA noise, 0.1 there; 0: none
    shrink: float = 1.0  # the 2012 code divides pictures with colour noise by 1.1
    unit_std: bool = False  # divide by the standard deviation of the training pixels
    mirror: bool = True  # mirror every second training picture
    random_crops: bool = True  # crop training pictures anywhere; False: at their centre

    def __post_init__(self) -> None:
        check(
            self, picture=(1, 1 << 14), colour_noise=(0, 100), shrink=(1e-3, 1e3),
            scale=(1e-9, 1e9),
        )  # fmt: skip
        if not 1 <= self.size <= self.picture:
            raise ValueError(
                f"a crop of {self.size} does not fit into pictures of {self.picture}: size must be "
                "from 1 to picture"
            )
        if self.channels not in (1, PHOTOGRAPH[2]):
            raise ValueError(f"pictures have 3 channels, or 1 in grey, not {self.channels}")
        if isinstance(self.mean, str) and self.mean not in ("pixel", "channel"):
            raise ValueError(f"mean must be 'pixel', 'channel' or numbers, not {self.mean!r}")
        if not isinstance(self.mean, str):
            check(self, mean=(-1e9, 1e9))
        for name, numbers in (("mean", self.mean), ("scale", self.scale)):
            if not isinstance(numbers, str) and len(numbers) not in (1, self.channels):
                raise ValueError(f"{name} must be one number, or one for each channel")

    @property
    def scaled(self) -> bool:
        """Whether pixels are multiplied, and so leave the scale 0 .. 255."""
        return self.unit_std or self.scale != (1.0,)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a picture before it is cropped: (side, side, channels)."""
        return self.picture, self.picture, self.channels


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Epochs may be fractions."""

    batch_size: int
    epochs: int
    lr: float
    lr_drops: tuple[float, ...] | None  # epochs at which the rate is divided by 10; None: plateau
    momentum: float
    weight_decay: float
    form: str = "paper"  # optim.SGD's update
    bias_lr: float | None = None  # absolute rate of all biases, which schedules leave alone
    bias_lr_scale: float = 1.0
    bias_decay: bool = True
    decays: tuple[tuple[str, float], ...] = ()  # (parameter, a weight decay of its own)
    rates: tuple[tuple[str, float, float], ...] = ()  # (parameter, epoch, its rate from then on)
    max_filter_rms: float | None = None  # largest root mean square of a convolution's filter
    colour_until: float = INFINITY  # epoch from which there is no colour noise
    standardize: bool = False  # fit the initial weights to training pictures (Network.standardize)
    least: int = 100_000  # with fewer training pictures small_subset's recipe works better

    def __post_init__(self) -> None:
        check(
            self, batch_size=(1, MOST), epochs=(1, 1e9), lr=(0, 1e9), lr_drops=(0, INFINITY),
            momentum=(0, 1), weight_decay=(0, 1e9), bias_lr=(0, 1e9), bias_lr_scale=(0, 1e9),
            max_filter_rms=(0, 1e9), colour_until=(0, INFINITY), least=(0, INFINITY),
        )  # fmt: skip
        numbers = [*(x for _, *both in self.rates for x in both), *(x for _, x in self.decays)]
        if not all(0 <= float(x) < INFINITY for x in numbers):
            raise ValueError(f"Recipe: rates and decays must be 0 or above: {numbers}")
        if self.form not in ("paper", "torch"):
            raise ValueError(f"Recipe: form must be 'paper' or 'torch', not {self.form!r}")

    def stretched(self, epochs: int) -> Recipe:
        """The recipe for a run of `epochs` epochs; whatever happens at a certain epoch happens at
        the same fraction of the run."""
        times = epochs / self.epochs
        return replace(
            self,
            epochs=epochs,
            lr_drops=None if self.lr_drops is None else tuple(e * times for e in self.lr_drops),
            rates=tuple((name, epoch * times, rate) for name, epoch, rate in self.rates),
            colour_until=self.colour_until * times,
        )


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights that others trained: its address, the checksum of its content ("sha256:" or
    "sha1:", then the first or all digits), and what the network must score with it."""

    where: str
    checksum: str
    scores: str


@dataclass(frozen=True)
class Pretrained:
    """How the weights that others trained for a model are read (weights/fitting.py)."""

    names: Mapping[str, str] = field(default_factory=dict)  # of the file's layers; else those here
    blue_first: bool = False  # the file's first layer and mean take blue, green, red
    files: tuple[WeightsFile, ...] = ()


@dataclass(frozen=True)
class Preset:
    """A model: its layers by name and in order, its preprocessing, its recipe, and its source.

    What a run does not need is not written into its settings: accuracy, as published; sources, by
    field, such as "conv1.std", where * stands for any part of a name; names of the classes, in
    order; and how weights of others are read.
    """

    source: str
    layers: Mapping[str, Layer]
    preprocessing: Preprocessing
    recipe: Recipe
    classes: int = 1000  # the number of classes that it was made for
    accuracy: str = field(default="", compare=False)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
    names: tuple[str, ...] = field(default=(), compare=False)
    pretrained: Pretrained = field(default_factory=Pretrained, compare=False)

    def source_of(self, what: str) -> str:
        """The source of a field, such as "conv1.std"."""
        found = (text for pattern, text in self.sources.items() if fnmatchcase(what, pattern))
        return next(found, self.source)

    def changed(self, **layers: Layer | None) -> Preset:
        """The preset with the named layers replaced, or left out where the value is None."""
        unknown = sorted(set(layers) - set(self.layers))
        if unknown:
            raise ValueError(
                f"there is no layer {unknown[0]!r}: choose from {', '.join(self.layers)}"
            )
        merged = {name: layers.get(name, layer) for name, layer in self.layers.items()}
        return replace(self, layers={name: new for name, new in merged.items() if new is not None})

    def with_each(self, kind: type, **values: Any) -> Preset:
        """The preset with these fields of all layers of a kind replaced."""
        chosen = {n: replace(x, **values) for n, x in self.layers.items() if isinstance(x, kind)}
        return self.changed(**chosen)

    def with_recipe(self, **values: Any) -> Preset:
        """The preset with these fields of its recipe replaced."""
        return replace(self, recipe=replace(self.recipe, **values))

    def with_preprocessing(self, **values: Any) -> Preset:
        """The preset with these fields of its preprocessing replaced."""
        return replace(self, preprocessing=replace(self.preprocessing, **values))


def find(name: str, presets: Mapping[str, Preset]) -> Preset:
    """The preset of that name, or ValueError."""
    if name not in presets:
        raise ValueError(f"unknown preset {name!r}: choose from {', '.join(presets)}")
    return presets[name]


def to_json(preset: Preset) -> dict[str, Any]:
    """The preset in a form that JSON can hold; from_json is the inverse."""
    layers = [{"name": n, "kind": type(x).__name__} | asdict(x) for n, x in preset.layers.items()]
    return {
        "source": preset.source,
        "classes": preset.classes,
        "layers": layers,
        "preprocessing": asdict(preset.preprocessing),
        "recipe": asdict(preset.recipe),
    }


def from_json(written: Any) -> Preset:
    """The preset that to_json turned into `written`. Raises ValueError for anything else."""
    parts = read(dict[str, Any], written, "network")
    layers = {}
    for row in read(list[dict[str, Any]], parts.get("layers"), "network.layers"):
        kind, name = row.pop("kind", None), row.pop("name", None)
        if not isinstance(kind, str) or kind not in KINDS or not isinstance(name, str):
            raise ValueError(f"network: {name!r} of the kind {kind!r} is no layer")
        if name in layers:
            raise ValueError(f"network: there are two layers {name!r}")
        layers[name] = read(KINDS[kind], row, f"network: {name}")
    return Preset(
        read(str, parts.get("source"), "network.source"),
        layers,
        read(Preprocessing, parts.get("preprocessing"), "network.preprocessing"),
        read(Recipe, parts.get("recipe"), "network.recipe"),
        read(int, parts.get("classes"), "network.classes"),
    )


def diff(a: Preset, b: Preset) -> list[tuple[str, Any, Any]]:
    """(what, its value in a, its value in b) for everything in which two presets differ.

    `what` is "layers" for the names and order of the layers, otherwise a field such as
    "conv1.padding" or "recipe.lr". A layer that only one preset has is None in the other.
    """
    found: list[tuple[str, Any, Any]] = []
    if list(a.layers) != list(b.layers):
        found.append(("layers", " ".join(a.layers), " ".join(b.layers)))
    parts: dict[str, tuple[Any, Any]] = {
        name: (a.layers.get(name), b.layers.get(name)) for name in {**a.layers, **b.layers}
    }
    parts["preprocessing"] = a.preprocessing, b.preprocessing
    parts["recipe"] = a.recipe, b.recipe
    for name, (one, other) in parts.items():
        if type(one) is not type(other):
            found.append((name, one, other))
            continue
        for f in fields(one):
            values = getattr(one, f.name), getattr(other, f.name)
            if values[0] != values[1]:
                found.append((f"{name}.{f.name}", *values))
    return found


def small_subset(preset: Preset) -> Preset:
    """The preset's layers with a recipe that learns from a few thousand pictures.

    The recipes of 2012 are made for 1.2 million pictures. On a few thousand, the loss can stay at
    ln(classes) for longer than the whole run. The following changes were found by measuring
    (docs/small-subsets.md): pictures scaled to unit variance, He's initial weights with zero
    biases, a batch of 32, the rate divided by 10 after two thirds and nine tenths of the run.
    """
    recipe = replace(
        preset.recipe,
        batch_size=32,
        epochs=30,
        lr=0.003,
        lr_drops=(20.0, 27.0),
        bias_lr=None,
        bias_lr_scale=1.0,
        rates=(),
        decays=(),
        max_filter_rms=None,
        colour_until=INFINITY,
        standardize=True,
    )
    hidden = {
        name: replace(layer, std=None, bias=0.0)
        for name, layer in preset.layers.items()
        if isinstance(layer, Conv) or (isinstance(layer, Dense) and layer.units is not None)
    }
    small = preset.changed(**hidden)
    return replace(small.with_preprocessing(unit_std=True, scale=(1.0,), shrink=1.0), recipe=recipe)
