"""examples/relu_vs_tanh.py: what it trains, what it reads off its curves, and that it goes on."""

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from minigrad.models.cifar import CIFAR10_26PCT
from minigrad.models.records import diff
from minigrad.network import Network

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def figure1():
    """examples/relu_vs_tanh.py as a module."""
    sys.path.insert(0, str(ROOT / "examples"))
    yield importlib.import_module("relu_vs_tanh")
    sys.path.remove(str(ROOT / "examples"))


def test_the_arms_differ_in_their_units_alone(figure1):
    plain = {"recipe.lr", "recipe.lr_drops", "recipe.weight_decay", "recipe.decays"}
    relus = {"relu1", "relu2", "relu3", "relu4"}
    for arm, changed in (("relu", set()), ("tanh", relus), ("sigmoid", relus)):
        preset = figure1.network(arm, 0.25)
        assert {what for what, *_ in diff(CIFAR10_26PCT, preset)} == plain | changed
        assert (preset.recipe.lr, preset.recipe.weight_decay, preset.recipe.decays) == (0.25, 0, ())
    assert [type(figure1.network(a, 1).layers["relu1"]).__name__ for a in figure1.ARMS] == [
        "ReLU", "Tanh", "Sigmoid",
    ]  # fmt: skip


def test_where_a_curve_meets_the_goal(figure1):
    assert figure1.crossing([0.5, 0.3, 0.2, 0.1], 0.25) == pytest.approx(2.5)
    assert figure1.crossing([0.4, 0.25], 0.25) == pytest.approx(2.0)
    assert figure1.crossing([0.1], 0.25) == pytest.approx(0.65 / 0.8), "from 0.9, by guessing"
    assert figure1.crossing([0.1], 0.25, guess=0.5) == pytest.approx(0.25 / 0.4)
    assert figure1.crossing([0.5, 0.26], 0.25) is None
    assert figure1.crossing([], 0.25) is None


def test_the_rate_with_the_lowest_loss(figure1, capsys):
    def rows(*losses: float):
        rates = ("0.1", "0.2", "0.3")
        return [{"arm": "tanh", "rate": r, "loss": str(x)} for r, x in zip(rates, losses)]

    assert figure1.best_rate(rows(2.0, 1.0, math.nan)) == 0.2
    assert capsys.readouterr().out == ""
    assert figure1.best_rate(rows(math.nan, math.inf, 3.0)) == 0.3
    assert (
        capsys.readouterr().out == "tanh: the best rate is the first or the last that was tried\n"
    )


def curve(arm: str, seed: int, *errors: float):
    own = {"arm": arm, "seed": str(seed), "rate": "0.01"}
    return [
        own | {"epoch": str(i), "error": str(error), "loss": "1"}
        for i, error in enumerate(errors, 1)
    ]


def test_what_is_said_of_the_curves(figure1):
    curves = [
        *curve("relu", 0, 0.5, 0.25), *curve("tanh", 0, 0.6, 0.5, 0.4, 0.3, 0.25),
        *curve("sigmoid", 0, 0.9, 0.8),
        *curve("relu", 1, 0.5, 0.25), *curve("tanh", 1, 0.6, 0.5, 0.4, 0.3, 0.3, 0.3, 0.25),
        *curve("relu", 2, 0.25), *curve("tanh", 2, 0.6, 0.5, 0.4),
    ]  # fmt: skip
    gradients = [
        {"arm": "tanh", "seed": str(seed), "when": when, "layer": layer, "norm": str(norm)}
        for seed in (0, 1)
        for when, norm in (("before", 1 + seed), ("after", 3 + seed))
        for layer in ("conv1", "fc5")
    ]
    with pytest.raises(ValueError, match="epoch 3 of tanh, seed 0, stands where 2 should: remove"):
        figure1.curves_of([row for row in curves if (row["arm"], row["epoch"]) != ("tanh", "2")])
    said = figure1.lines_of(curves, gradients, 0.25)
    assert said[0] == "relu     seed 0, rate   0.01: 25% training error after 2.00 epochs"
    assert said[2] == "sigmoid  seed 0, rate   0.01: 25% training error not in 2 epochs (80.0%)"
    assert said[7:] == [
        "tanh takes 3.00 times the epochs, from 2.50 to 3.50 (paper: 6)",
        "sigmoid takes more than 1.0 times the epochs",
        "tanh takes more than 3.0 times the epochs (paper: 6)",
        "norms of the gradients, tanh     before training: conv1 1.5, fc5 1.5",
        "norms of the gradients, tanh     after training: conv1 3.5, fc5 3.5",
    ]


def test_the_norms_are_those_of_one_backward_pass(figure1, two_shades):
    train, _ = figure1.runs.open_sets(figure1.Options(data=str(two_shades)))
    some = figure1.Pictures(train, "off")
    model = Network(figure1.network("relu", 0.1), some.classes, 0)
    before = {name: p.data.copy() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = np.ones_like(p.data)  # of a step of training
    norms = figure1.gradient_norms(model, some)
    assert list(norms) == ["conv1", "conv2", "conv3", "fc4", "fc5"]
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(p.data, before[name])
    x, labels = some.batch(np.arange(len(some.labels)))
    logits = model(x).numpy().astype(np.float64)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    hidden = x
    for name, _, y in model.walk(x):
        if name == "fc5":
            break
        hidden = y
    expected = np.linalg.norm(hidden.numpy().T.astype(np.float64) @ p / len(labels))
    assert norms["fc5"] == pytest.approx(expected, rel=1e-4)


def test_a_figure(figure1, two_shades, tmp_path, monkeypatch, capsys):
    """Interrupted among the rates, in an arm and at its end, it goes on, and the files are the
    same."""
    monkeypatch.setattr(figure1, "RATES", (0.001, 0.01, 0.1))
    monkeypatch.setattr(figure1, "FEW_EPOCHS", 1)
    monkeypatch.setattr(figure1, "MOST_OF_RELU", 2)
    monkeypatch.setattr(figure1, "TIMES", 1)

    def go(folder: Path, goal: str = "0.001") -> int:
        words = f"--data {two_shades} --cache off --goal {goal} --output {folder}"
        monkeypatch.setattr(sys, "argv", ["relu_vs_tanh.py", *words.split()])
        return figure1.main()

    assert go(tmp_path / "whole") == 0
    out = capsys.readouterr().out
    said = out.splitlines()
    assert "tanh, rate 0.1: loss " in out
    assert "sigmoid, seed 0, epoch 2: " in out
    assert "epoch 3" not in out
    cuts = (
        (figure1, "tried", 4),  # the second rate of tanh
        (figure1.checkpoint, "save", 2),  # the first epoch of tanh, after two of the ReLUs
        (figure1, "gradient_norms", 0),  # the norms of tanh, after its last epoch
    )
    for where, name, count in cuts:
        real, left = getattr(where, name), iter(range(count))

        def stopped(*given, real=real, left=left):
            result = real(*given)
            if next(left, None) is None:
                raise KeyboardInterrupt
            return result

        monkeypatch.setattr(where, name, stopped)
        assert go(tmp_path / "cut") == 130
        monkeypatch.setattr(where, name, real)
    assert go(tmp_path / "cut") == 0
    lines = capsys.readouterr().out.splitlines()
    begun = [line.split(": ")[0] for line in lines if ": loss " in line or ", epoch " in line]
    lost = ["tanh, rate 0.01"]  # stopped before its row was written
    unsaid = ["tanh, seed 0, epoch 1"]  # stopped after its checkpoint was written
    before = [line.split(": ")[0] for line in said if ": loss " in line or ", epoch " in line]
    assert sorted(begun + unsaid) == sorted(before + lost)
    assert not list((tmp_path / "cut").glob("*.safetensors"))
    for name in (figure1.CURVES, figure1.GRADIENTS, figure1.RATES_TRIED):
        whole, cut = ((tmp_path / folder / name).read_bytes() for folder in ("whole", "cut"))
        assert whole == cut
    assert go(tmp_path / "cut", goal="0.4") == 2
    said = "holds results with goal 0.001, not 0.4; choose another folder"
    assert said in capsys.readouterr().err
    monkeypatch.setattr(figure1, "RATES", (0.001, 0.01))
    assert go(tmp_path / "cut") == 2
    said = "holds results with rates [0.001, 0.01, 0.1], not [0.001, 0.01]"
    assert said in capsys.readouterr().err
    assert go(tmp_path / "new", goal="25") == 2
    assert "--goal 25 is no training error to reach: it must be above 0 and below 0.5" in (
        capsys.readouterr().err
    )
    monkeypatch.setattr(figure1, "MOST_OF_RELU", 40)
    monkeypatch.setattr(figure1, "ARMS", {"relu": figure1.ARMS["relu"]})
    assert go(tmp_path / "easy", goal="0.45") == 0
    words = capsys.readouterr().out.split("relu     seed 0, rate")[1].split()
    errors = figure1.curves_of(figure1.rows_in(tmp_path / "easy" / figure1.CURVES, ()))
    *before, last = errors["relu", "0"]
    assert last <= 0.45 < min([1, *before]), "the goal ends the arm"
    at = figure1.crossing(errors["relu", "0"], 0.45, guess=0.5)
    assert words[1:7] == ["45%", "training", "error", "after", f"{at:.2f}", "epochs"]
