"""Checkpoints: what goes in comes out; damage is refused by name; the one before survives a failed write."""

import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from minigrad import checkpoint
from minigrad.checkpoint import CheckpointError

ARRAYS = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.array(2.5), "t": np.arange(6.0).reshape(2, 3).T}


@pytest.fixture
def path(tmp_path):
    checkpoint.save(tmp_path / "c.safetensors", ARRAYS, {"epoch": 3, "names": ["ä", "b"]})
    return tmp_path / "c.safetensors"


def test_round_trip(path):
    tensors, description = checkpoint.load(path)
    assert description == {"epoch": 3, "names": ["ä", "b"]}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(tensors[name], array)
        assert (tensors[name].shape, tensors[name].dtype) == (array.shape, array.dtype)
    assert list(checkpoint.load(path, prefix="a")[0]) == ["a"]
    assert os.listdir(path.parent) == [path.name], "no temporary file stays"


@pytest.mark.parametrize("keep", [0, 5, 100, 0.9])
def test_cut_off(path, keep):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match="damaged or cut off"):
        checkpoint.load(path)


def test_another_format(tmp_path):
    save_file({"a": np.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint of this program"):
        checkpoint.load(tmp_path / "x.safetensors")


def test_missing(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.load(tmp_path / "none")


def test_failed_write_keeps_the_one_before(path, monkeypatch):
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device.*untouched"):
        checkpoint.save(path, ARRAYS, {})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
