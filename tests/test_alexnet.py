"""The presets against the paper's figures: sizes, counts, order, initial weights, rates."""

import json
from dataclasses import replace

import numpy as np
import pytest

import alexnet
from alexnet import MODELS, PAPER, PRESETS, AlexNet
from minigrad import nn
from minigrad.models.records import Conv, Dense, Pool, diff, from_json, small_subset, to_json
from minigrad.network import check_network, ledger
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
    for name in PRESETS:
        preset = shrunken(name)
        model, rows = AlexNet(preset, 3), {r.stage: r for r in ledger(preset, 3)}
        x = np.zeros((1, 67, 67, 3), np.float32)
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
        ("pool1: sizes of .* must be at least 1", lambda: ledger(PAPER.changed(pool1=Pool(2, 0)))),
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
        ("mean must be 'pixel' or 'channel'", lambda: PAPER.with_preprocessing(mean="pixels")),
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
    with pytest.raises(ValueError, match="there is no layer 'conv9': choose from conv1, relu1"):
        PAPER.changed(conv9=None)


@pytest.mark.parametrize("preset", MODELS)
def test_presets_through_json(preset):
    written = json.loads(json.dumps(to_json(MODELS[preset])))
    assert from_json(written) == MODELS[preset]
    small = small_subset(MODELS[preset])
    assert from_json(json.loads(json.dumps(to_json(small)))) == small
