"""Files and folders that appear whole or not at all, and what a killed process leaves behind."""

import os
import time
from pathlib import Path

import pytest

from minigrad import files
from minigrad.files import replacing, sweep


def test_a_file_or_folder_takes_the_old_ones_place(tmp_path):
    for text in ("old", "new"):
        with replacing(tmp_path / "file") as unfinished:
            assert unfinished.name == "file"
            unfinished.write_text(text)
        with replacing(tmp_path / "folder") as unfinished:
            unfinished.mkdir()
            (unfinished / text).touch()
    assert (tmp_path / "file").read_text() == "new"
    assert os.listdir(tmp_path / "folder") == ["new"]
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"], "nothing else stays"


def test_a_block_that_fails_changes_nothing(tmp_path):
    (tmp_path / "file").write_text("old")

    def fail():
        with replacing(tmp_path / "file") as unfinished:
            unfinished.write_text("new")
            unfinished.with_name("beside").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_first_the_file_is_on_disk_then_its_name(tmp_path, monkeypatch):
    """So that after a power cut the name stands for the old content or for the new one."""
    done, fsync, replace = [], os.fsync, os.replace

    def synced(descriptor):
        here = os.path.samestat(os.fstat(descriptor), tmp_path.stat())
        done.append(("synced", "folder" if here else "file"))
        fsync(descriptor)

    def renamed(source, target):
        done.append(("renamed", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    with replacing(tmp_path / "file") as unfinished:
        unfinished.write_text("new")
    assert done == [("synced", "file"), ("renamed", "file"), ("synced", "folder")]


def test_a_sweep_goes_by_the_youngest_file(tmp_path):
    """A folder is older than the file in it that is being written."""
    now = time.time()
    for name, own, inside in (("old", 100, 90), ("at work", 100, 10), ("fresh", 10, 90)):
        folder = tmp_path / f"{files.PREFIX}{name}"
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file").touch()
        for path, age in ((folder / "deep" / "file", inside), (folder / "deep", 90), (folder, own)):
            os.utime(path, (now - age,) * 2)
    (tmp_path / "old").mkdir()
    os.utime(tmp_path / "old", (0, 0))
    sweep(tmp_path, 50)
    assert {p.name for p in tmp_path.iterdir()} == {
        "old", f"{files.PREFIX}at work", f"{files.PREFIX}fresh",
    }  # fmt: skip
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["old"]


def test_the_cache_folder(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/somebody"))
    for value, expected in (("/x", "/x"), ("", "/home/somebody/.cache"), (None, None)):
        if value is None:
            monkeypatch.delenv("XDG_CACHE_HOME")
        else:
            monkeypatch.setenv("XDG_CACHE_HOME", value)
        expected = expected or "/home/somebody/.cache"
        assert files.default_cache_folder() == Path(expected, "minigrad")


def test_links_are_followed_and_devices_left(tmp_path):
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to("there")
    with files.replacing(tmp_path / "link") as unfinished:
        unfinished.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", Path("/dev/full")):
        with pytest.raises(OSError, match="is no file that can be written over"), \
                files.replacing(place):  # fmt: skip
            pass
    with pytest.raises(OSError, match="there is no folder: '.*/nodir'"), \
            files.replacing(tmp_path / "nodir" / "x"):  # fmt: skip
        pass
