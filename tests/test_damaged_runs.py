"""Files of a run that were edited: each is refused in a sentence that names the file and what does
not fit, before anything is computed from it. tests/fuzz.py tries many more."""

import errno
import fcntl
import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

import alexnet
from minigrad import data
from minigrad.data.preparation import Preparation
from minigrad.files import replacing
from minigrad.network import Network
from minigrad.training import checkpoint
from minigrad.training.checkpoint import CheckpointError
from minigrad.training.options import Options
from minigrad.training.run_folder import CHECKPOINT, RunFolder
from minigrad.training.runs import read_run
from minigrad.training.session import train
from minigrad.training.settings import Settings
from tests.test_command_line import ONE_EPOCH, TINY, run

CLASSES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def written():
    """(arrays, settings) of a run that never ran."""
    settings = Settings(Options(preset="tiny"), "preset", TINY, CLASSES, CLASSES, 9)
    p = TINY.preprocessing
    mean = np.zeros((p.size, p.size, p.channels), np.float32)
    model = Network(TINY, len(CLASSES))
    arrays = {f"model.{name}": array for name, array in model.state_dict().items()}
    return arrays | Preparation(p.size, mean, 1.0, None, 1.0).arrays(), settings.to_json()


def change(value, path, new):
    """A copy of nested dicts and lists with the value at a dotted path replaced, or left out."""
    if not path:
        return new
    key, _, rest = path.partition(".")
    if isinstance(value, list):
        return [change(v, rest, new) if i == int(key) else v for i, v in enumerate(value)]
    left = {k: v for k, v in value.items() if k != key}
    return left if new is KeyError and not rest else left | {key: change(value.get(key), rest, new)}


SETTINGS = [
    ("version", 3, "the version is 3, not 2"),
    ("version", KeyError, "'arguments' is missing"),
    ("options", KeyError, "settings.options: Expected `object`, got `null`"),
    ("options.workers", "2", "--workers must be of type int, not '2'"),
    ("options.workers", 10**6, "--workers must be at most 256"),
    ("recipe", "own", "settings.recipe"),
    ("classes", ["a", "b"], "2 classes, 3 names and 9 pictures do not go together"),
    ("classes", ["a", "b", 3], r"settings.classes: Expected `str`, got `int` - at `\$\[2\]`"),
    ("pictures", "9", "settings.pictures: Expected `int`, got `str`"),
    ("network", None, "network: Expected `object`, got `null`"),
    ("network.layers", {}, "network.layers"),
    ("network.layers.0.kind", "Konv", "'conv1' of the kind 'Konv' is no layer"),
    ("network.layers.0.filters", KeyError, "network: conv1: .*missing required field `filters`"),
    ("network.layers.0.filters", 10**12, "filters must be from 1 to 1.04858e\\+06"),
    ("network.layers.0.stride", 0, "Conv: stride must be from 1"),
    ("network.layers.0.bias", float("nan"), "Conv: bias must be from -1e\\+06 to 1e\\+06, not nan"),
    ("network.layers.0.size", 100, "a window of 100 does not fit"),
    ("network.layers.0.wide", 1, "there is no 'wide' in a Conv"),
    ("network.preprocessing.picture", 10**9, "picture must be from 1 to 16384"),
    ("network.recipe.batch_size", 1.5, "network.recipe: Expected `int`, got `float`"),
    ("network.recipe.form", "mine", "form must be 'paper' or 'torch', not 'mine'"),
]


@pytest.mark.parametrize(("path", "new", "words"), SETTINGS)
def test_settings(written, tmp_path, path, new, words):
    arrays, settings = written
    file = tmp_path / "c.safetensors"
    checkpoint.save(file, arrays, {"settings": change(settings, path, new)})
    with pytest.raises(CheckpointError, match=f"c.safetensors: .*{words}"):
        read_run(file)
    (tmp_path / "settings.json").write_text(json.dumps(change(settings, path, new)))
    with pytest.raises(ValueError, match=f"--config {tmp_path}: not the settings.json .*{words}"):
        train({"config": str(tmp_path)}, alexnet.MODELS)


def test_settings_that_are_no_json(tmp_path):
    for text in (b"", b"[" * 100_000, b"\xef\xbb\xbf{}", b'{"version": ' + b"9" * 5000, b"\x80"):
        (tmp_path / "settings.json").write_bytes(text)
        with pytest.raises(ValueError, match="not the settings.json of a run"):
            train({"config": str(tmp_path)}, alexnet.MODELS)


W, MEAN = "model.conv1.w", "preparation.mean"
ARRAYS = [
    (W, lambda a: None, "the parameter conv1.w is missing"),
    ("model.conv9.w", lambda a: np.ones(3), "conv9.w is not in its network"),
    (W, lambda a: a[1:], r"conv1.w is float32 \(10, 11.*needs float32 \(11, 11"),
    (W, lambda a: a.astype("float64"), "conv1.w is float64"),
    (W, lambda a: np.full_like(a, np.nan), "conv1.w holds values that are not finite"),
    (MEAN, lambda a: None, "preparation.mean is missing"),
    (MEAN, lambda a: a[0], "preparation.mean is float32"),
    (MEAN, lambda a: a + np.inf, "preparation.mean is float32 .*finite numbers"),
    ("preparation.scale", lambda a: 0 * a, "must be above 0"),
]


@pytest.mark.parametrize(("name", "how", "words"), ARRAYS)
def test_arrays(written, tmp_path, name, how, words):
    arrays, settings = written
    changed = dict(arrays)
    new = how(changed.pop(name, None))
    file = tmp_path / "c.safetensors"
    checkpoint.save(file, changed | ({} if new is None else {name: new}), {"settings": settings})
    with pytest.raises(CheckpointError, match=f"c.safetensors: .*{words}"):
        read_run(file)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    data.synthetic.draw_set(place / "set", train=2, val=1)
    run(f"{ONE_EPOCH} --output run --cache off --schedule plateau", cwd=place)
    return place


PLACES = [
    ("place", KeyError, "place: Expected `object`, got `null`"),
    ("place.epoch", -1, r"Expected `int` >= 0 - at `\$.epoch`"),
    ("place.step", "3", "got `str` - at `\\$.step`"),
    ("place.batch", 10**6, "its place.batch does not fit"),
    ("place.epoch_sums", [1.0], "length >= 3 - at `\\$.epoch_sums`"),
    ("place.streams", {}, "its place.streams does not fit"),
    ("place.streams", {"drop6": "x"}, "got `str`"),
    ("place.plateau", None, "its place.plateau does not fit"),
    ("place.plateau.waited", None, "got `null` - at `\\$.plateau.waited`"),
    ("place.new", 1, "there is no 'new' in a Place"),
]


@pytest.mark.parametrize(("path", "new", "words"), PLACES)
def test_the_place_of_a_training(trained, tmp_path, path, new, words):
    shutil.copytree(trained / "run", tmp_path / "run")
    file = tmp_path / "run" / CHECKPOINT
    arrays, description = checkpoint.load(file)
    checkpoint.save(file, arrays, change(description, path, new))
    with pytest.raises(CheckpointError, match=f"{CHECKPOINT}: .*{words}"):
        train({"resume": str(tmp_path / "run"), "workers": 0}, alexnet.MODELS, report=str)


def test_features_ask_for_the_place_too(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    file = tmp_path / "run" / CHECKPOINT
    arrays, description = checkpoint.load(file)
    checkpoint.save(file, arrays, {"settings": description["settings"]})
    with pytest.raises(CheckpointError, match=f"{CHECKPOINT}: place: Expected `object`"):
        list(RunFolder(tmp_path / "run").features())


def test_a_velocity_of_another_shape(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    file = tmp_path / "run" / CHECKPOINT
    arrays, description = checkpoint.load(file)
    checkpoint.save(file, arrays | {"velocity.conv1.w": np.ones(3, np.float32)}, description)
    with pytest.raises(CheckpointError, match="its velocity of conv1.w does not fit"):
        train({"resume": str(tmp_path / "run"), "workers": 0}, alexnet.MODELS, report=str)


@pytest.mark.parametrize(
    "command",
    ["evaluate run", "predict run set/val", "look run", "report run", "train --resume run"],
)
def test_every_command_says_so(trained, tmp_path, command):
    shutil.copytree(trained / "run", tmp_path / "run")
    file = tmp_path / "run" / CHECKPOINT
    arrays, description = checkpoint.load(file)
    checkpoint.save(file, {n: a for n, a in arrays.items() if n != W}, description)
    out = run(command, cwd=tmp_path, code=2)
    assert out == f"error: {CHECKPOINT}: the parameter conv1.w is missing\n".replace(
        CHECKPOINT, f"run/{CHECKPOINT}"
    )


def test_a_checkpoint_of_another_run_is_noticed(written, trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    arrays, settings = written
    checkpoint.save(tmp_path / "run" / CHECKPOINT, arrays, {"settings": settings})
    with pytest.raises(CheckpointError, match="is of another run than .*settings.json"):
        read_run(tmp_path / "run")
    (tmp_path / "run" / "settings.json").write_text("damaged")  # it would be written again
    assert read_run(tmp_path / "run")[1].classes == CLASSES


def test_rows_that_hold_no_numbers_are_left_out(trained, tmp_path):
    said = []
    folder = RunFolder(shutil.copytree(trained / "run", tmp_path / "run"), said.append)
    (whole,) = folder.rows("metrics.csv")
    with open(folder.path / "metrics.csv", "a") as file:
        for step in ("²", "x", "", "nan", "9" * 5000):
            file.write(",".join([str(2), step, *list(whole.values())[2:]]) + "\n")
    assert folder.rows("metrics.csv") == folder.rows("metrics.csv") == [whole]
    assert len(said) == 1
    assert "metrics.csv: 5 rows hold no numbers" in said[0]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_mode_that_the_umask_asks_for(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        checkpoint.save(tmp_path / "c.safetensors", {"a": np.ones(3)}, {})
        with replacing(tmp_path / "text") as unfinished:
            unfinished.write_text("x")
    finally:
        os.umask(before)
    for name in ("c.safetensors", "text"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode


# File systems without locks, without hard links, and full.


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    said = []
    folder = RunFolder.create(str(tmp_path / "run"), "name", said.append)
    assert said == [
        f"{tmp_path / 'run'} cannot be locked ([Errno {number}] {os.strerror(number)}): start no"
        " second run in it"
    ]
    folder.close()
    assert not (tmp_path / "run").exists(), "nothing was written"


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    folder = RunFolder.create(str(tmp_path / "run"), "name")
    folder.save({"a": np.ones(3)}, {})
    whole = (folder.path / CHECKPOINT).read_bytes()

    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    folder.link_epoch(1, best=True, keep=1)
    for name in ("epoch-0001.safetensors", "best.safetensors"):
        assert (folder.path / name).read_bytes() == whole

    def full(source, target):
        Path(target).write_bytes(whole[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    assert not folder.attempt(lambda: folder.link_epoch(2, best=True, keep=1), step=7)
    names = [CHECKPOINT, "best.safetensors", "epoch-0001.safetensors"]
    assert sorted(p.name for p in folder.path.iterdir()) == sorted(names)
    assert (folder.path / "best.safetensors").read_bytes() == whole
