"""A run folder that the program wrote before settings.json had a version: resumed, evaluated, used.

tests/fixtures/version1/run is such a folder, of a tiny krizhevsky2012 on the pictures that
record.draw makes; expected.json has its program's own figures, and all presets as it wrote them.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import record

import alexnet
from minigrad.training import version1
from minigrad.training.settings import Settings

FOLDER = Path(__file__).parent / "fixtures" / "version1"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("version1")
    record.draw(place)
    shutil.copytree(FOLDER / "run", place / "run")
    return place


@pytest.mark.parametrize("name", EXPECTED["presets"])
def test_presets(name):
    preset, now = version1.preset(EXPECTED["presets"][name]), alexnet.PRESETS[name]
    if name in ("caffe", "caffenet"):  # since then, the rate is inside the momentum
        now = now.with_recipe(form="torch")
    if name == "torchvision":  # and mean and scale are torchvision's constants
        now = now.with_preprocessing(mean="channel", unit_std=True, scale=(1.0,))
    assert preset == replace(now, source=preset.source)
    assert list(preset.layers) == list(now.layers), "== leaves the order out"


def close(figures, expected):
    words = [w for w in figures if isinstance(w, str)]
    assert words == [w for w in expected if isinstance(w, str)]
    numbers = [w for w in figures if not isinstance(w, str)]
    assert numbers == pytest.approx([w for w in expected if not isinstance(w, str)], rel=5e-3)


@pytest.mark.parametrize(
    ("what", "command"),
    [
        ("evaluate", "evaluate run --data val --workers 0"),
        ("ten views", "evaluate run --data val --workers 0 --views ten"),
        ("predict", "predict run val/rings/0.png"),
    ],
)
def test_what_it_has_learnt(place, monkeypatch, what, command):
    monkeypatch.chdir(place)
    code, said = record.command(*command.split())
    assert code == 0, said
    close(record.figures(said), EXPECTED["run"][what])


def test_resumed(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place / "run", "kept")
    code, said = record.command("train", "--resume", "kept", "--epochs", 4, "--data", place)
    assert code == 0, said
    seen = record.seen(Path("kept"))
    expected = EXPECTED["run"]["resumed"]
    assert (seen["steps"], seen["rates"]) == (expected["steps"], expected["rates"])
    assert seen["losses"] == pytest.approx(expected["losses"], rel=5e-3)
    for now, then in zip(seen["held out"], expected["held out"], strict=True):
        assert now == pytest.approx(then, rel=5e-3)
    written = json.loads(Path("kept/settings.json").read_text())
    assert written["version"] == 2
    again = Settings.from_json(written).to_json()
    assert json.loads(json.dumps(again)) == written


def test_repeated(place, tmp_path, monkeypatch):
    """--config takes its options."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(alexnet, "MODELS", alexnet.MODELS | record.tiny_presets())
    options = ["--data", place, "--config", place / "run" / "settings.json", "--output", "again"]
    code, said = record.command("train", *options)
    assert code == 0, said
    seen = record.seen(Path("again"))
    assert seen["steps"] == 8
    assert seen["losses"][:1] == pytest.approx(EXPECTED["run"]["resumed"]["losses"][:1], rel=5e-3)


@pytest.mark.parametrize("damage", [{"arguments": 3}, {"network": {}}, {"version": 2}])
def test_damaged_settings_are_named(place, tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    written = json.loads((place / "run" / "settings.json").read_text()) | damage
    Path("settings.json").write_text(json.dumps(written))
    code, said = record.command("train", "--config", "settings.json", "--data", place)
    assert code == 2
    assert said.startswith("error: --config settings.json: not the settings.json of a run (")
