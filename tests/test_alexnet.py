"""The presets against the paper's figures: sizes, counts, order, initial weights, rates."""

import json
import math
import re
from dataclasses import asdict, replace

import numpy as np
import pytest

import alexnet
from alexnet import MODELS, PAPER, PRESETS, AlexNet
from minigrad import nn, random
from minigrad.models.records import (
    LRN,
    Conv,
    Dense,
    Dropout,
    LRNWithinMap,
    Pool,
    Preprocessing,
    ReLU,
    Sigmoid,
    Tanh,
    diff,
    from_json,
    small_subset,
    to_json,
)
from minigrad.network import Network, check_network, ledger, summary
from minigrad.network import shrunken as shrunken_preset

COUNTS = {
    "paper": (60_965_224, 724.41),
    "textbook": (62_378_344, 1135.26),
    "krizhevsky2012": (60_965_224, 724.41),
    "caffe": (60_965_224, 724.41),
    "caffenet": (60_965_224, 724.41),
    "torchvision": (61_100_840, 714.19),
    "zfnet": (62_357_608, 1168.03),
}


def shrunken(name):
    return shrunken_preset(PRESETS[name])


@pytest.fixture(autouse=True)
def quick_weights(monkeypatch):
    """Sixty million Gaussian numbers take seconds; where only sizes matter, zeros do."""
    monkeypatch.setattr(
        nn, "gaussian", lambda std: lambda rng, shape: np.full(shape, std, np.float32)
    )
    monkeypatch.setattr(nn, "he", lambda rng, shape: np.zeros(shape, np.float32))


@pytest.mark.parametrize("preset", PRESETS)
def test_counts(preset):
    rows = ledger(PRESETS[preset])
    parameters, millions = COUNTS[preset]
    assert sum(r.parameters for r in rows) == parameters
    assert sum(r.multiply_adds for r in rows) / 1e6 == pytest.approx(millions, abs=0.005)


def test_the_papers_table_row_by_row():
    rows = {r.stage: r for r in ledger(PAPER)}
    expected = {
        "conv1": ((55, 55, 96), 34_944, 105.42),
        "pool1": ((27, 27, 96), 0, 0),
        "conv2": ((27, 27, 256), 307_456, 223.95),
        "pool2": ((13, 13, 256), 0, 0),
        "conv3": ((13, 13, 384), 885_120, 149.52),
        "conv4": ((13, 13, 384), 663_936, 112.14),
        "conv5": ((13, 13, 256), 442_624, 74.76),
        "pool5": ((6, 6, 256), 0, 0),
        "fc6": ((4096,), 37_752_832, 37.75),
        "fc7": ((4096,), 16_781_312, 16.78),
        "fc8": ((1000,), 4_097_000, 4.10),
    }
    for stage, (shape, parameters, millions) in expected.items():
        assert rows[stage].shape == shape
        assert rows[stage].parameters == parameters
        assert rows[stage].multiply_adds / 1e6 == pytest.approx(millions, abs=0.005)


def test_module_docstring_says_the_same_counts():
    rows = {r.stage: r for r in ledger(PAPER)}
    for stage in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"):
        line = next(line for line in alexnet.__doc__.splitlines() if line.strip().startswith(stage))
        assert f"{rows[stage].parameters:,}" in line
        assert f"{rows[stage].multiply_adds / 1e6:.2f} M" in line


DENSE = "fc6 relu6 drop6 fc7 relu7 drop7 fc8"
MIDDLE = "conv3 relu3 conv4 relu4 conv5 relu5 pool5"
STAGES = {
    "paper": f"conv1 relu1 norm1 pool1 conv2 relu2 norm2 pool2 {MIDDLE} {DENSE}",
    "krizhevsky2012": (
        "conv1 norm1 pool1 relu1 conv2 relu2 norm2 within2 pool2 conv3 relu3 conv4 relu4 conv5"
        " pool5 relu5 " + DENSE
    ),
    "caffenet": f"conv1 relu1 pool1 norm1 conv2 relu2 pool2 norm2 {MIDDLE} {DENSE}",
    "torchvision": (
        f"conv1 relu1 pool1 conv2 relu2 pool2 {MIDDLE} drop6 fc6 relu6 drop7 fc7 relu7 fc8"
    ),
}
STAGES["textbook"] = STAGES["caffe"] = STAGES["paper"]
STAGES["zfnet"] = STAGES["caffenet"]


@pytest.mark.parametrize("preset", PRESETS)
def test_order_of_stages(preset):
    assert " ".join(AlexNet(shrunken(preset), 3).stages) == STAGES[preset]


def test_zfnet_sizes():
    rows = {r.stage: r.shape for r in ledger(PRESETS["zfnet"])}
    sizes = [rows[s][0] for s in ("conv1", "pool1", "conv2", "pool2", "conv3", "pool5")]
    assert sizes == [110, 55, 26, 13, 13, 6]


def test_krizhevsky2012_has_55_from_224():
    rows = {r.stage: r.shape for r in ledger(PRESETS["krizhevsky2012"])}
    assert (PRESETS["krizhevsky2012"].preprocessing.size, rows["conv1"]) == (224, (55, 55, 96))


def test_krizhevsky2012_normalises_within_columns_and_divides_alpha():
    model = AlexNet("krizhevsky2012")
    assert model.layers["norm1"].constants == (5, 2.0, 1e-4, 0.75, True, 2)
    assert AlexNet("paper").layers["norm1"].constants == (5, 2.0, 1e-4, 0.75, False, 1)


def test_initial_weights_and_biases():
    """quick_weights fills Gaussian weights with their standard deviation."""
    paper = AlexNet("paper")
    assert {
        n: float(p.data.reshape(-1)[0]) for n, p in paper.named_parameters() if n.endswith(".b")
    } == {
        "conv1.b": 0,
        "conv2.b": 1,
        "conv3.b": 0,
        "conv4.b": 1,
        "conv5.b": 1,
        "fc6.b": 1,
        "fc7.b": 1,
        "fc8.b": 0,
    }
    stds = [
        round(float(p.data.reshape(-1)[0]), 6)
        for n, p in AlexNet("krizhevsky2012").named_parameters()
        if n.endswith(".w")
    ]
    assert stds == [0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01]
    stds = [
        round(float(p.data.reshape(-1)[0]), 6)
        for n, p in AlexNet("caffe").named_parameters()
        if n.endswith(".w")
    ]
    assert stds == [0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.01]


LENET = MODELS["lenet5"]
# Section 2 and 5 of the paper, as every field has it; then what is different in each preset.
PICTURES = {
    "picture": 256, "channels": 3, "mean": "pixel", "scale": (1.0,), "colour_noise": 0.0,
    "shrink": 1.0, "unit_std": False, "mirror": True, "random_crops": True,
}  # fmt: skip
RECIPE = {
    "batch_size": 128, "epochs": 90, "lr": 0.01, "lr_drops": None, "momentum": 0.9,
    "weight_decay": 0.0005, "form": "paper", "bias_lr": None, "bias_lr_scale": 1.0,
    "bias_decay": True, "decays": (), "rates": (), "max_filter_rms": None,
    "colour_until": math.inf, "standardize": False, "least": 100_000,
}  # fmt: skip
CAFFES = {
    "batch_size": 256, "lr_drops": (20, 40, 60, 80), "bias_lr_scale": 2.0, "bias_decay": False,
}  # fmt: skip
SPECIAL = {
    "paper": ({"size": 227, "colour_noise": 0.1}, {}),
    "textbook": ({"size": 227, "colour_noise": 0.1}, {}),
    "krizhevsky2012": (
        {"size": 224, "colour_noise": 0.1, "shrink": 1.1},
        {
            "epochs": 91, "lr_drops": (25, 51, 79), "colour_until": 67, "bias_lr": 0.02,
            "bias_decay": False, "rates": (("conv1.w", 67, 1e-5), ("conv1.w", 72, 0.0)),
        },
    ),
    "caffe": ({"size": 227}, CAFFES),
    "caffenet": ({"size": 227}, CAFFES),
    "torchvision": (
        {
            "size": 224, "mean": (255 * 0.485, 255 * 0.456, 255 * 0.406),
            "scale": tuple(1 / (255 * s) for s in (0.229, 0.224, 0.225)),
        },
        {"batch_size": 256, "lr_drops": (30, 60), "weight_decay": 1e-4, "form": "torch"},
    ),
    "zfnet": ({"size": 224}, {"epochs": 70, "max_filter_rms": 0.1}),
    "lenet5": (
        {"size": 28, "picture": 28, "channels": 1, "unit_std": True, "mirror": False},
        {"batch_size": 64, "epochs": 12, "lr": 0.02, "lr_drops": (7, 10), "least": 0},
    ),
    "cifar10_26pct": (
        {"size": 32, "picture": 32, "mirror": False},
        {
            "epochs": 10, "lr": 0.001, "lr_drops": (8,), "weight_decay": 0.004,
            "decays": (("fc4.w", 0.03), ("fc5.w", 0.03)), "bias_lr_scale": 2.0,
            "bias_decay": False, "least": 0,
        },
    ),
    "cifar10_18pct": (
        {"size": 32, "picture": 32, "mirror": False},
        {
            "epochs": 140, "lr": 0.001, "lr_drops": (120, 130), "weight_decay": 0.004,
            "decays": (("fc4.w", 1.0),), "bias_lr_scale": 2.0, "bias_decay": False, "least": 0,
        },
    ),
    "caffe_cifar10_quick": (
        {"size": 32, "picture": 32, "mirror": False},
        {
            "batch_size": 100, "epochs": 10, "lr": 0.001, "lr_drops": (8,),
            "weight_decay": 0.004, "bias_lr_scale": 2.0, "least": 0,
        },
    ),
    "caffe_cifar10_full": (
        {"size": 32, "picture": 32, "mirror": False},
        {
            "batch_size": 100, "epochs": 140, "lr": 0.001, "lr_drops": (120, 130),
            "weight_decay": 0.004, "decays": (("fc4.w", 1.0),), "bias_lr_scale": 2.0,
            "bias_decay": False, "least": 0,
        },
    ),
    "caffe_lenet": (
        {
            "size": 28, "picture": 28, "channels": 1, "mean": (0.0,), "scale": (0.00390625,),
            "mirror": False,
        },
        {"batch_size": 64, "epochs": 11, "lr_drops": (), "bias_lr_scale": 2.0, "least": 0},
    ),
    "lenet_32": (
        {
            "size": 32, "picture": 32, "channels": 1, "mean": (255 * 0.1307,),
            "scale": (1 / (255 * 0.3081),), "mirror": False,
        },
        {"batch_size": 64, "epochs": 12, "lr": 0.02, "lr_drops": (7, 10), "least": 0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("preset", MODELS)
def test_recipes_and_preprocessing(preset):
    pictures, recipe = SPECIAL[preset]
    found, expected = asdict(MODELS[preset].preprocessing), PICTURES | pictures
    for field in ("mean", "scale"):  # 123.675 and 255 0.485 differ in the last bit
        if not isinstance(expected[field], str):
            assert found.pop(field) == pytest.approx(expected.pop(field))
    assert found == expected
    assert asdict(MODELS[preset].recipe) == RECIPE | recipe
    assert MODELS[preset].classes == (1000 if preset in PRESETS else 10)


def test_layers_of_the_small_presets():
    assert list(MODELS["lenet5"].layers.items()) == [
        ("conv1", Conv(6, 5, padding=2)),
        ("tanh1", Tanh()),
        ("pool1", Pool(2, 2, mean=True)),
        ("conv2", Conv(16, 5)),
        ("tanh2", Tanh()),
        ("pool2", Pool(2, 2, mean=True)),
        ("fc3", Dense(120)),
        ("tanh3", Tanh()),
        ("fc4", Dense(84)),
        ("tanh4", Tanh()),
        ("fc5", Dense()),
    ]
    assert list(MODELS["cifar10_26pct"].layers.items()) == [
        ("conv1", Conv(32, 5, padding=2, std=0.0001)),
        ("pool1", Pool(3, 2, ceil=True)),
        ("relu1", ReLU()),
        ("conv2", Conv(32, 5, padding=2, std=0.01)),
        ("relu2", ReLU()),
        ("pool2", Pool(3, 2, ceil=True, mean=True)),
        ("conv3", Conv(64, 5, padding=2, std=0.01)),
        ("relu3", ReLU()),
        ("pool3", Pool(3, 2, ceil=True, mean=True)),
        ("fc4", Dense(64, std=0.1)),
        ("relu4", ReLU()),
        ("fc5", Dense(std=0.1)),
    ]
    small = MODELS["cifar10_26pct"].layers
    quick = {name: layer for name, layer in small.items() if name != "relu4"}
    assert list(MODELS["caffe_cifar10_quick"].layers.items()) == list(quick.items())
    norm = LRNWithinMap(3, 1.0, 5e-5, 0.75)
    names = [
        "conv1", "pool1", "relu1", "norm1", "conv2", "relu2", "pool2", "norm2", "conv3", "relu3",
        "pool3", "fc4",
    ]  # fmt: skip
    full = dict(small) | {"norm1": norm, "norm2": norm, "fc4": Dense(std=0.01)}
    for name in ("caffe_cifar10_full", "cifar10_18pct"):
        assert list(MODELS[name].layers.items()) == [(n, full[n]) for n in names]
    assert list(MODELS["caffe_lenet"].layers.items()) == [
        ("conv1", Conv(20, 5, std=0.2)),  # 1 / sqrt(25), 500, 800, 500
        ("pool1", Pool(2, 2, ceil=True)),
        ("conv2", Conv(50, 5, std=0.0447)),
        ("pool2", Pool(2, 2, ceil=True)),
        ("fc3", Dense(500, std=0.0354)),
        ("relu3", ReLU()),
        ("fc4", Dense(std=0.0447)),
    ]
    assert list(MODELS["lenet_32"].layers.items()) == [
        ("conv1", Conv(6, 5)),
        ("relu1", ReLU()),
        ("pool1", Pool(2, 2)),
        ("conv2", Conv(16, 5)),
        ("relu2", ReLU()),
        ("pool2", Pool(2, 2)),
        ("conv3", Conv(120, 5)),
        ("relu3", ReLU()),
        ("fc4", Dense(84)),
        ("relu4", ReLU()),
        ("fc5", Dense()),
    ]


def test_a_recipe_is_stretched():
    """All that happens at an epoch happens at the same part of a longer run."""
    recipe = PRESETS["krizhevsky2012"].recipe
    longer = recipe.stretched(182)
    assert longer == replace(
        recipe,
        epochs=182,
        lr_drops=(50, 102, 158),
        colour_until=134,
        rates=(("conv1.w", 134, 1e-5), ("conv1.w", 144, 0.0)),
    )
    assert PAPER.recipe.stretched(9) == replace(PAPER.recipe, epochs=9)


def rates(preset, factor=1.0, epoch=0.0):
    hidden = {name: Dense(8, std=0.01, bias=1.0) for name in ("fc6", "fc7")}
    model = AlexNet(shrunken(preset).changed(**hidden), 2)
    opt = model.make_optimizer()
    opt.factor, opt.epoch = factor, epoch
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)]: (opt.rate(g), g["weight_decay"]) for g in opt.groups for p in g["params"]}


def test_the_optimiser_follows_the_recipe():
    recipe = shrunken("paper").with_recipe(lr=0.3, momentum=0.7, weight_decay=0.2, form="torch")
    opt = AlexNet(recipe, 2).make_optimizer()
    assert (opt.lr, opt.momentum, opt.weight_decay, opt.form) == (0.3, 0.7, 0.2, "torch")


def test_rates():
    assert rates("paper", 0.1)["conv1.w"] == pytest.approx((0.001, 0.0005))
    assert rates("paper", 0.1)["conv1.b"] == pytest.approx((0.001, 0.0005))
    assert rates("krizhevsky2012", 0.001)["fc6.b"] == (
        0.02,
        0.0,
    ), "the 2012 biases keep 0.02 and do not decay"
    assert rates("krizhevsky2012", 0.01, 67)["conv1.w"][0] == 1e-5
    assert rates("krizhevsky2012", 0.01, 72)["conv1.w"][0] == 0.0
    assert rates("caffe")["fc6.b"] == (0.02, 0.0)


def test_special_rates_reach_the_optimiser():
    def groups(name, **recipe):
        model = Network(shrunken_preset(MODELS[name], 64).with_recipe(**recipe), 2, seed=None)
        opt = model.make_optimizer()
        names = {id(p): n for n, p in model.named_parameters()}
        return opt, {names[id(p)]: g for g in opt.groups for p in g["params"]}

    for name, limit in (("zfnet", 0.1), ("paper", None)):
        _, by_name = groups(name)
        assert {g["max_filter_rms"] for n, g in by_name.items() if n.endswith(".w")} == {limit}
    _, by_name = groups("krizhevsky2012")
    assert {n: g["rates"] for n, g in by_name.items() if g["rates"]} == {
        "conv1.w": ((67, 1e-5), (72, 0.0))
    }
    _, by_name = groups("cifar10_26pct")
    decays = {n: g["weight_decay"] for n, g in by_name.items()}
    assert decays == {
        **dict.fromkeys(("conv1.w", "conv2.w", "conv3.w"), 0.004),
        **dict.fromkeys(("fc4.w", "fc5.w"), 0.03),
        **dict.fromkeys(("conv1.b", "conv2.b", "conv3.b", "fc4.b", "fc5.b"), 0.0),
    }
    opt, _ = groups("torchvision", lr=0.25, momentum=0.5, weight_decay=0.125)
    assert (opt.lr, opt.momentum, opt.weight_decay, opt.form) == (0.25, 0.5, 0.125, "torch")
    assert groups("paper")[0].form == "paper"


def test_run_upto_and_activations():
    model = AlexNet(shrunken("paper"), 3).eval()
    x = np.random.default_rng(0).standard_normal((2, 67, 67, 3)).astype(np.float32)
    acts = model.activations(x)
    assert list(acts) == model.stages
    np.testing.assert_array_equal(model.run(x, upto="conv5").data, acts["conv5"].data)
    np.testing.assert_array_equal(model(x).data, acts["fc8"].data)


@pytest.mark.parametrize("classes", [1, 2, 5, 1000])
def test_any_number_of_classes(classes):
    assert AlexNet(shrunken("paper"), classes)(np.zeros((1, 67, 67, 3), np.float32)).shape == (
        1,
        classes,
    )


def test_small_subset_recipe_keeps_the_network():
    small = small_subset(PRESETS["krizhevsky2012"])
    model = AlexNet(small, 1000)
    assert " ".join(model.stages) == STAGES["krizhevsky2012"]
    assert sum(p.size for p in model.parameters()) == 60_965_224


def test_small_subset_changes_what_its_page_says():
    """docs/small-subsets.md; what it does not name stays."""
    preset = PRESETS["krizhevsky2012"].with_recipe(decays=(("fc6.w", 0.1),), max_filter_rms=0.1)
    small = small_subset(preset)
    assert small.recipe == replace(
        preset.recipe, batch_size=32, epochs=30, lr=0.003, lr_drops=(20.0, 27.0), bias_lr=None,
        bias_lr_scale=1.0, rates=(), decays=(), max_filter_rms=None, colour_until=math.inf,
        standardize=True,
    )  # fmt: skip
    assert small.recipe.bias_decay is False
    assert small.preprocessing == replace(preset.preprocessing, unit_std=True, shrink=1.0)
    for name, layer in preset.layers.items():
        if isinstance(layer, (Conv, Dense)) and name != "fc8":
            layer = replace(layer, std=None, bias=0.0)
        assert small.layers[name] == layer, name
    assert small_subset(PRESETS["caffe"]).recipe.bias_lr_scale == 1.0


def test_arguments_reach_the_network():
    for model in (
        AlexNet(shrunken("paper"), 3, seed=4, dtype="float64"),
        Network(shrunken("paper"), 3, 4, "float64"),
    ):
        assert {p.dtype.name for p in model.parameters()} == {"float64"}
        assert (model.classes, model.seed, model.streams()["drop6"].seed) == (3, 4, 4)
        assert model["fc8"].w.shape == (64, 3)


def test_streams_are_named_after_their_layers(monkeypatch):
    """Each layer's weights are those of its own stream, and so are each dropout's masks."""
    monkeypatch.undo()
    model = Network(LENET.changed(tanh3=Dropout(0.5), tanh4=Dropout(0.5)), 7, seed=3)
    for name, std in (("conv1", math.sqrt(2 / 25)), ("conv2", math.sqrt(2 / 150))):
        w = model[name].w.data
        drawn = std * random.Stream(3, f"{name}.w").normal(w.shape)
        np.testing.assert_allclose(w, drawn, rtol=1e-6)
    streams = {name: (s.seed, s.name) for name, s in model.streams().items()}
    assert streams == {"tanh3": (3, "tanh3"), "tanh4": (3, "tanh4")}


UNUSUAL = {
    "conv": Conv(6, 3, stride=2, padding=1, groups=3, ceil=True, std=0.5, bias=0.25),
    "norm": LRN(3, k=1.5, alpha=0.1, beta=0.6, divide_by_n=True, groups=2),
    "relu": ReLU(),
    "within": LRNWithinMap(3, k=1.25, alpha=0.2, beta=0.7),
    "pool": Pool(3, 2, ceil=True),
    "tanh": Tanh(),
    "mean": Pool(2, 1, mean=True),
    "sigmoid": Sigmoid(),
    "drop": Dropout(0.3, inverted=True),
    "fc": Dense(5, std=0.125, bias=-1.0),
    "half": Dropout(0.4),
}


def test_a_layer_is_built_with_every_value_of_its_record():
    """None has the value that it has by default. (quick_weights: weights are their deviation.)"""
    preset = replace(PAPER, layers=UNUSUAL, preprocessing=Preprocessing(20))
    model = Network(preset, 4)
    expected = {
        "conv": nn.Conv2d, "norm": nn.LRN, "relu": nn.ReLU, "within": nn.LRNWithinMap,
        "pool": nn.MaxPool2d, "tanh": nn.Tanh, "mean": nn.AvgPool2d, "sigmoid": nn.Sigmoid,
        "drop": nn.Dropout, "fc": nn.Linear, "half": nn.Dropout,
    }  # fmt: skip
    assert {name: type(layer) for name, layer in model.layers.items()} == expected
    conv, fc = model["conv"], model["fc"]
    assert conv.w.shape == (3, 3, 1, 6)
    assert (conv.stride, conv.padding, conv.groups, conv.ceil_mode) == (2, 1, 3, True)
    assert (set(conv.w.data.flat), set(conv.b.data.flat)) == ({0.5}, {0.25})
    assert (set(fc.w.data.flat), set(fc.b.data.flat)) == ({0.125}, {-1.0})
    assert model["norm"].constants == (3, 1.5, 0.1, 0.6, True, 2)
    assert model["within"].constants == (3, 1.25, 0.2, 0.7)
    assert model["pool"].window == (3, 2, 0, True)
    assert model["mean"].window == (2, 1, 0, False)
    assert [(model[n].p, model[n].inverted) for n in ("drop", "half")] == [
        (0.3, True),
        (0.4, False),
    ]
    rows = {row.stage: row.shape for row in ledger(preset, 4)}
    assert rows["conv"] == (11, 11, 6), "rounded up"
    assert rows["pool"] == (5, 5, 6)
    empty = Network(preset, 4, seed=None)
    assert not empty["conv"].w.data.any()
    assert not empty["fc"].w.data.any()
    assert (empty["conv"].b.data == 0.25).all()


def test_fitting_the_weights_moves_no_stream(monkeypatch):
    monkeypatch.undo()
    model = Network(LENET.changed(tanh3=Dropout(0.5)), 7)
    x = np.random.default_rng(0).standard_normal((8, 28, 28, 1)).astype(np.float32)
    model.standardize(x)
    assert model.streams()["tanh3"].counter == 0
    model(x)
    assert model.streams()["tanh3"].counter == 1


def test_a_summary_in_text():
    """Each number of the table is the ledger's, for the given number of classes."""
    preset = shrunken("paper").changed(relu2=Tanh())
    rows = ledger(preset, 7)
    title, heads, *lines = summary(preset, "small", 7).splitlines()
    assert title == f"small: {preset.source}"
    assert re.split(r" {2,}| (?=multiply)", heads) == [
        "stage", "output", "parameters", "multiply-adds", "out kB", "kept kB", "field", "step",
        "side",
    ]  # fmt: skip

    def numbers(stage, *counts):
        """Parameters and multiply-adds, if there are any, then kilobytes."""
        some = [f"{counts[0]:,}", f"{counts[1] / 1e6:.2f}", "M"] if counts[0] else []
        return [stage, *some, *(f"{count / 1e3:,.1f}" for count in counts[2:])]

    totals = np.zeros(4, int)
    for line, r in zip(lines, rows):
        counts = r.parameters, r.multiply_adds, r.bytes_out, r.bytes_kept
        totals += counts
        start, _, arithmetic = line.partition(" = ")
        found = start.split()
        expected = numbers(r.stage, *counts)
        expected.insert(1, "x".join(map(str, r.shape)))
        expected += [str(r.field), *([str(r.jump)] if r.jump else [])]
        if r.arithmetic:
            expected.append(str(r.shape[0]))
        assert found == expected
        assert arithmetic == r.arithmetic
    assert rows[-1].shape == (7,)
    assert lines[len(rows)].split() == numbers("total", *totals.tolist())


@pytest.mark.parametrize(
    ("words", "action"),
    [
        ("unknown preset 'alex'", lambda m: AlexNet("alex")),
        ("classes must be", lambda m: AlexNet("paper", 0)),
        (
            (
                r"must be \(N, 67, 67, 3\), channels last, but has shape \(1, 3, 67, 67\); it looks"
                r" channels first"
            ),
            lambda m: m(np.zeros((1, 3, 67, 67), "f")),
        ),
        (
            r"must be \(N, 67, 67, 3\), channels last, but has shape \(1, 67, 67, 1\)$",
            lambda m: m(np.zeros((1, 67, 67, 1), "f")),
        ),
        ("unknown stage 'conv9'", lambda m: m.run(np.zeros((1, 67, 67, 3), "f"), upto="conv9")),
    ],
)
def test_errors(words, action):
    with pytest.raises(ValueError, match=words):
        action(AlexNet(shrunken("paper"), 3))


def test_seed_decides_the_weights(monkeypatch):
    monkeypatch.undo()
    a, b, c = (AlexNet(shrunken("paper"), 3, seed=s).state_dict() for s in (0, 0, 1))
    assert all(np.array_equal(a[n], b[n]) for n in a)
    assert not np.array_equal(a["fc6.w"], c["fc6.w"])


@pytest.mark.parametrize("preset", MODELS)
def test_gradient_of_the_whole_network(preset, monkeypatch):
    monkeypatch.undo()
    assert check_network(MODELS[preset]) < 1e-5


def test_standardized_initial_weights(monkeypatch):
    monkeypatch.undo()
    model = AlexNet(shrunken("paper").changed(drop6=None, drop7=None), 7)
    x = 50 + 60 * np.random.default_rng(0).standard_normal((16, 67, 67, 3)).astype(np.float32)
    model.standardize(x)
    acts = model.activations(x)
    for name in ("conv1", "conv3", "conv5", "fc6", "fc8"):
        y = acts[name].numpy().reshape(-1, acts[name].shape[-1])
        np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-3)
        np.testing.assert_allclose(y.std(axis=0), 0.3 if name == "fc8" else 1.0, rtol=1e-2)
    counters = {name: s.counter for name, s in model.streams().items()}
    model.standardize(x)
    assert counters == {name: s.counter for name, s in model.streams().items()}


def test_the_ledger_against_the_network_itself():
    """Shapes, parameters, and the bytes that a graph keeps for backward, array by array."""
    presets = {name: shrunken_preset(preset) for name, preset in MODELS.items()}
    presets["sigmoid"] = presets["cifar10_26pct"].changed(relu1=Sigmoid(), relu2=Sigmoid())
    for name, preset in presets.items():
        model, rows = Network(preset, 3), {r.stage: r for r in ledger(preset, 3)}
        p = preset.preprocessing
        x = np.zeros((1, p.size, p.size, p.channels), np.float32)
        held: dict[int, int] = {}
        for stage, layer, y in model.walk(x):
            assert rows[stage].shape == y.shape[1:], (name, stage)
            assert rows[stage].parameters == sum(p.size for p in layer.parameters())
            weights = {id(p.data) for p in layer.parameters()}
            saved = y.creator.saved if y.creator else ()
            kept = [a for a in saved if a is not None and id(a) not in weights]
            held |= {a.ctypes.data: a.nbytes for a in kept}
        assert sum(held.values()) == sum(r.bytes_kept for r in rows.values()), name


def test_the_ledgers_windows():
    rows = {r.stage: r for r in ledger(PAPER)}
    assert rows["conv1"].arithmetic == "1 + floor((227 + 2*0 - 11) / 4)"
    assert [
        (rows[s].field, rows[s].jump) for s in ("conv1", "pool1", "conv2", "conv5", "pool5")
    ] == [
        (11, 4),
        (19, 8),
        (51, 8),
        (163, 16),
        (195, 32),
    ]
    assert rows["fc6"].field == 195 + 5 * 32
    assert [rows[s].jump for s in ("fc6", "fc7", "fc8")] == [0, 0, 0]
    rows = {r.stage: r for r in ledger(PRESETS["krizhevsky2012"])}
    assert [(rows[s].field, rows[s].start) for s in ("norm2", "within2", "pool2")] == [
        (51, -16),
        (83, -32),
        (99, -32),
    ]
    rows = {r.stage: r for r in ledger(PAPER)}
    assert rows["conv1"].bytes_out == 4 * 55 * 55 * 96


def test_a_window_that_does_not_fit_is_named():
    with pytest.raises(
        ValueError, match="pool1: a window of 30 does not fit into 15x15 padded by 0"
    ):
        ledger(shrunken("paper").changed(pool1=Pool(30, 2)))
    with pytest.raises(ValueError, match=r"conv9: a window needs \(H, W, C\), and what comes is"):
        ledger(replace(PAPER, layers={**PAPER.layers, "conv9": Conv(3, 1)}))


@pytest.mark.parametrize(
    ("words", "action"),
    [
        ("Pool: stride must be from 1", lambda: ledger(PAPER.changed(pool1=Pool(2, 0)))),
        (
            "conv2: groups=5 must divide its 96 input channels",
            lambda: ledger(PAPER.changed(conv2=Conv(256, 5, padding=2, groups=5))),
        ),
        ("classes must be a whole number >= 1, not 0", lambda: ledger(PAPER, 0)),
        (
            "a crop of 300 does not fit into pictures of 256",
            lambda: PAPER.with_preprocessing(size=300),
        ),
        ("3 channels, or 1 in grey, not 2", lambda: PAPER.with_preprocessing(channels=2)),
        (
            "mean must be 'pixel', 'channel' or numbers, not 'pixels'",
            lambda: PAPER.with_preprocessing(mean="pixels"),
        ),
    ],
)
def test_presets_that_cannot_be_built_are_named(words, action):
    with pytest.raises(ValueError, match=words):
        action()


def test_presets_change_by_name():
    changed = PAPER.changed(norm1=None, pool1=Pool(2, stride=2))
    assert diff(PAPER, changed) == [
        ("layers", " ".join(PAPER.layers), " ".join(changed.layers)),
        ("norm1", PAPER.layers["norm1"], None),
        ("pool1.size", 3, 2),
    ]
    assert diff(PAPER, PAPER) == []
    other = PAPER.with_recipe(lr=0.02).with_preprocessing(mirror=False)
    assert diff(PAPER, other) == [
        ("preprocessing.mirror", True, False),
        ("recipe.lr", 0.01, 0.02),
    ]
    with pytest.raises(ValueError, match="there is no layer 'conv9': choose from conv1, relu1"):
        PAPER.changed(conv9=None)


@pytest.mark.parametrize("preset", MODELS)
def test_presets_through_json(preset):
    written = json.loads(json.dumps(to_json(MODELS[preset])))
    assert from_json(written) == MODELS[preset]
    small = small_subset(MODELS[preset])
    assert from_json(json.loads(json.dumps(to_json(small)))) == small
