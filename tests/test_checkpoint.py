"""Checkpoints: what goes in comes out; damage is refused by name; the one before survives a failed
write."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from minigrad.training import checkpoint
from minigrad.training.checkpoint import CheckpointError

ARRAYS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.array(2.5),
    "t": np.arange(6.0).reshape(2, 3).T,
}


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


def test_a_changed_value_is_refused_by_name(path):
    raw = bytearray(path.read_bytes())
    at = raw.rindex(np.float32(7).tobytes())
    raw[at : at + 4] = np.float32(8).tobytes()
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="the values of a are not those that were written"):
        checkpoint.load(path)
    assert "b" in checkpoint.load(path, prefix="b")[0]


def test_a_changed_description_is_refused(path):
    raw = path.read_bytes()
    path.write_bytes(raw.replace(rb"\"epoch\": 3", rb"\"epoch\": 4"))
    with pytest.raises(CheckpointError, match="its description is not the one that was written"):
        checkpoint.load(path)


def test_an_array_taken_out_is_noticed(path):
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    save_file({"a": ARRAYS["a"], "t": ARRAYS["t"].copy()}, path, metadata)
    with pytest.raises(CheckpointError, match="b is missing"):
        checkpoint.load(path)


def test_an_array_put_in_is_noticed(path):
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    arrays = {name: np.ascontiguousarray(array) for name, array in ARRAYS.items()}
    save_file(arrays | {"more": np.zeros(1)}, path, metadata)
    with pytest.raises(CheckpointError, match="more is missing, or was not written by this"):
        checkpoint.load(path)


def test_an_array_of_another_shape_or_dtype_is_another():
    a = np.arange(6, dtype=np.float32)
    others = [a, a.reshape(2, 3), a.reshape(3, 2), a.view(np.int32), a.view(np.float64)]
    assert len({checkpoint.digest(other) for other in others}) == 5
    assert checkpoint.digest(a) == checkpoint.digest(a.copy())


def test_parts_by_name():
    arrays = {"model.model.w": np.zeros(1), "model.olem": np.ones(1), "velocity.w": np.ones(2)}
    assert checkpoint.part(arrays, "model.") == {"model.w": np.zeros(1), "olem": np.ones(1)}


def test_where_there_are_no_hard_links_a_second_name_is_a_copy(path, monkeypatch):
    def refused(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refused)
    checkpoint.link(path, path.parent / "best.safetensors")
    path.unlink()
    assert not (path.parent / "best.safetensors").is_symlink()
    assert set(checkpoint.load(path.parent / "best.safetensors")[0]) == set(ARRAYS)


def test_a_second_name_outlives_the_first(path):
    checkpoint.link(path, path.parent / "best.safetensors")
    checkpoint.save(path, {"a": np.zeros(1)}, {})
    np.testing.assert_array_equal(
        checkpoint.load(path.parent / "best.safetensors")[0]["a"], ARRAYS["a"]
    )
    checkpoint.link(path, path.parent / "best.safetensors")
    assert checkpoint.load(path.parent / "best.safetensors")[0]["a"].shape == (1,)


def test_the_reader_bears_any_bytes(path):
    """Whatever bytes are changed: the arrays that were written, or a CheckpointError; never another
    error, never other values."""
    whole, refusals = path.read_bytes(), []

    @settings(max_examples=300)
    @given(
        st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=8),
        st.integers(0, len(whole)),
    )
    def check(edits, length):
        raw = bytearray(whole)
        for at, value in edits:
            raw[at] = value
        path.write_bytes(raw[: length or len(raw)])
        try:
            tensors, description = checkpoint.load(path)
        except CheckpointError as error:
            refusals.append(str(error))
            return
        assert description == {"epoch": 3, "names": ["ä", "b"]}
        assert all(np.array_equal(tensors[name], array) for name, array in ARRAYS.items())

    check()
    assert refusals
    assert all(str(path) in words for words in refusals)
