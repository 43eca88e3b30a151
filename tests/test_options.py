"""Options of a training: limits, types, what a resumed run may change."""

import json

import numpy as np
import pytest
import record

from minigrad.training import checkpoint
from minigrad.training.options import Options


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("--workers must be at least 0, not -1", {"workers": -1}),
        ("--keep must be at least 0, not -1", {"keep": -1}),
        ("--save-every must be a number, not nan", {"save_every": float("nan")}),
        ("--most-skipped must be a number, not nan", {"most_skipped": float("nan")}),
        ("--lr must be a number, not inf", {"lr": float("inf")}),
        ("--worker-timeout must be above 0, not 0.0", {"worker_timeout": 0.0}),
        ("--epochs must be of type int, not '3'", {"epochs": "3"}),
        ("--workers must be of type int, not None", {"workers": None}),
        ("--keep must be of type int, not True", {"keep": True}),
        ("--recipe must be one of auto, preset, small: 'foo'", {"recipe": "foo"}),
    ],
)
def test_limits_and_types(words, given):
    with pytest.raises(ValueError, match=words):
        Options(**given)
    with pytest.raises(ValueError, match=words):
        Options.from_json(given)


def test_resumed():
    before, said = Options(data="set", epochs=3, cache="off"), []
    after = before.resumed({"resume": "run", "epochs": 5, "workers": 0}, said.append)
    assert (after.epochs, after.workers, after.output) == (5, 0, "run")
    assert said == ["--epochs 5, in place of 3 so far", "--workers 0, in place of 2 so far"]
    said.clear()
    with pytest.raises(ValueError, match="--batch-size 8: .* with its recipe's own, which cannot"):
        before.resumed({"resume": "run", "epochs": 5, "batch_size": 8}, said.append)
    assert said == []
    with pytest.raises(ValueError, match="give one of them"):
        before.resumed({"resume": "run", "config": "x"})


def test_words_are_no_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("off", "3", "set"):
        (tmp_path / name).mkdir()
    written = Options(cache="off", classes="3", data="set").to_json()
    assert (written["cache"], written["classes"]) == ("off", "3")
    assert written["data"] == str(tmp_path / "set")


@pytest.mark.parametrize("description", [{}, {"settings": {}}, {"settings": {"version": 2}}])
@pytest.mark.parametrize("command", ["evaluate a", "predict a b.png", "train --resume run"])
def test_a_checkpoint_without_settings(tmp_path, monkeypatch, description, command):
    """As a Trainer with other settings writes it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for path in ("a", "run/checkpoint.safetensors"):
        checkpoint.save(tmp_path / path, {"model.w": np.zeros(1, np.float32)}, description)
    code, said = record.command(*command.split())
    assert code == 2
    assert "its checkpoint holds no settings of a run" in said


def test_a_network_without_convolutions(tmp_path, monkeypatch):
    import alexnet
    from minigrad.models.lenet import LENET5
    from tests.test_data import mnist_like

    monkeypatch.chdir(tmp_path)
    mnist_like(tmp_path / "set")
    names = ("conv1", "tanh1", "pool1", "conv2", "tanh2", "pool2")
    monkeypatch.setitem(alexnet.MODELS, "dense", LENET5.changed(**dict.fromkeys(names)))
    options = "--data set --preset dense --epochs 1 --workers 0 --cache off --output run"
    code, said = record.command("train", *options.split())
    assert code == 0, said
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["version"] == 2
