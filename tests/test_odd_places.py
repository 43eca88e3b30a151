"""Folders and environments of any shape: pipes, sockets, devices, loops, depths, no home, absurd
numbers in variables. Each is refused in a sentence or ignored, and nothing is waited for."""

import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from minigrad import data, files, kernels
from minigrad.data import synthetic
from tests.test_command_line import ONE_EPOCH, run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("odd")
    synthetic.draw_set(place / "set", train=2, val=1)
    run(f"{ONE_EPOCH} --cache off --output run", cwd=place)
    os.mkfifo(place / "pipe")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(os.path.relpath(place / "socket")))
    (place / "empty").mkdir()
    return place


ODD = ["pipe", "socket", "/dev/zero", "/dev/null", "empty", "nowhere", "set/train"]
NEW = "train --preset tiny --epochs 1 --workers 0 --report off --cache off --output new"


# Instead of `odd`, a picture; a folder of pictures is none that is refused.
PREDICT = [("predict run {}", odd) for odd in ODD if odd != "set/train"]


@pytest.mark.parametrize(("command", "odd"), PREDICT)
def test_what_is_no_picture_is_refused(place, command, odd):
    test_what_is_no_file_is_refused(place, command, odd)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "command",
    [
        "predict {} set/train/dots/0000.JPEG", "evaluate {} --workers 0",
        "look {} --what filters", "report {}", "train --resume {}", NEW + " --data {}/x",
        NEW + " --data set --finetune {}", NEW + " --data set --config {}",
    ],
)  # fmt: skip
def test_what_is_no_file_is_refused(place, command, odd):
    out = run(command.format(odd), cwd=place, code=2)
    assert out.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in out
    assert not (place / "new").exists()


def test_pictures_at_any_depth_and_links_that_loop(tmp_path):
    for c in "ab":
        folder = tmp_path / "set" / c
        folder.mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (4, 4)).save(folder / f"{i}.png")
    (tmp_path / "set" / "a" / "loop").symlink_to("..")
    (tmp_path / "set" / "a" / "self.png").symlink_to("self.png")
    (tmp_path / "set" / "a" / "gone.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "set" / "a" / "pipe.png")
    before = os.getcwd()
    os.chdir(tmp_path / "set" / "b")
    try:
        for _ in range(1200):  # deeper than Python's stack
            os.mkdir("d")
            os.chdir("d")
        assert len(os.path.join(tmp_path, "set", "b", *["d"] * 1200)) < 4096
    finally:
        os.chdir(before)
    Image.new("RGB", (4, 4)).save(Path(tmp_path, "set", "b", *["d"] * 1200, "x.png"))
    images = data.open_folder(tmp_path / "set")
    assert [images.items.count(f"a/{i}.png") for i in range(2)] == [1, 1]
    assert images.labels.tolist() == [0, 0, 1, 1, 1]


def test_a_user_without_a_home(monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert files.default_cache_folder().name == f"minigrad-{os.getuid()}"


def test_a_cache_folder_that_cannot_be_made(place):
    """/proc/x: the pictures are decoded each time."""
    command = NEW.replace("--cache off", "--cache /proc/x").replace("new", "proc") + " --data set"
    assert "not cached ([Errno 2]" in run(command, cwd=place)


@pytest.mark.parametrize(
    ("value", "threads"),
    [("100000", 256), ("9" * 5000, None), ("²", None), ("-3", None), ("0", None), ("007", 7)],
)
def test_threads_of_any_number(monkeypatch, value, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MINIGRAD_THREADS", value)
    assert kernels.threads.__wrapped__() == (threads or len(os.sched_getaffinity(0)))


def test_no_more_memory_and_processes_than_pictures(place):
    """Ten pictures, and room for no more, whatever the batch size."""
    images = data.Pictures(data.open_folder(place / "set" / "val"))
    side = images.shape[0]
    mean = synthetic.np.zeros((side, side, 3), "float32")
    preparation = data.Preparation(side, mean, 1.0, None, 1.0)
    with pytest.MonkeyPatch.context() as patch:
        asked = []
        memory = data.workers.memory
        patch.setattr(data.workers, "memory", lambda size: asked.append(size) or memory(size))
        loader = data.Loader(images, preparation, 10**6, False, workers=200)
        assert sum(len(labels) for _, labels, _ in loader.batches()) == 10
        loader.close()
    assert len(asked) == 2
    assert asked[0] < 2.1 * 10 * side * side * 3 + 1000
