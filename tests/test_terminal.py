"""What is printed: a stream that fails ends no training; names of any bytes are shown literally."""

import os
import shutil
import subprocess
import sys

import pytest

from minigrad import terminal
from minigrad.data import synthetic
from minigrad.terminal import Terminal
from minigrad.text import shown
from tests.test_command_line import ONE_EPOCH, ROOT, START, environment, run


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    synthetic.draw_set(place / "set", train=2, val=1)
    return place


@pytest.mark.parametrize(
    "streams",
    [">/dev/full 2>/dev/full", "<&- >&- 2>&-", "2>&-", "2>&1 | head -1"],
    ids=["a full disk", "all closed", "no standard error", "a reader that leaves"],
)
def test_a_training_outlives_its_terminal(place, streams):
    name = str(abs(hash(streams)))
    command = (
        f'"$0" -c "$1" {ONE_EPOCH} --cache off --output {name} {streams}; exit ${{PIPESTATUS[0]}}'
    )
    variables = os.environ | environment(place) | {"PYTHONPATH": str(ROOT)}
    shell = ["bash", "-c", command, sys.executable, "from unittest import mock\n" + QUICK + START]
    ended = subprocess.run(shell, cwd=place, env=variables, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    names = {path.name for path in (place / name).iterdir()}
    assert {"checkpoint.safetensors", "best.safetensors", "metrics.csv"} <= names
    assert not [n for n in names if n.startswith(".")]


QUICK = """
from minigrad.training import session
session.draw_run = session.write_report = lambda *a, **k: []
"""


def test_a_result_that_cannot_be_printed_is_an_error():
    command = [sys.executable, "alexnet.py", "summary", "paper"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (2, "error: [Errno 28] No space left on device\n")


def test_a_reader_that_leaves_ends_a_command_in_silence():
    program = (
        "import alexnet, sys; sys.exit(max(alexnet.main(['summary', 'all']) for _ in range(9)))"
    )
    command = f"""{sys.executable} -c "{program}" | head -1; exit ${{PIPESTATUS[0]}}"""
    ended = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(ended.stdout.splitlines()) == 1


@pytest.mark.parametrize("module", ["minigrad", "minigrad.gradcheck", "minigrad.kernels --help"])
def test_a_reader_that_leaves_a_module_and_a_full_disk(module):
    command = f"{sys.executable} -m {module} | head -1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(ended.stdout.splitlines()) == 1
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", *module.split()]
        ended = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr) == (2, "error: [Errno 28] No space left on device\n")


def test_a_terminal_escapes_control_characters_but_lays_out_lines(tmp_path):
    with open(tmp_path / "said", "wb") as file:
        stream = Terminal(file.fileno(), lasting=False)
        print("a\x1b[31m\u202eb\udcff", "c\td\r", file=stream)
        assert stream.write("é") == 1
    assert (tmp_path / "said").read_bytes() == b"a\\x1b[31m\\u202eb\\xff c\td\r\n\xc3\xa9"


def test_a_stream_of_a_test_or_a_notebook_stays(capsys):
    terminal.use(lasting=True)
    print("here")
    assert capsys.readouterr().out == "here\n"


def test_shown():
    assert shown("été ä, 猫") == "été ä, 猫"
    assert shown("a\nb\x1b[2J\x7f\udcff\u202e") == r"a\nb\x1b[2J\x7f\xff\u202e"


ODD = ["$\\foo$", "a\x1b[31mb", "\udcff\udcfe", "<script>&amp;", "l\nm"]


def test_classes_of_any_name(tmp_path):
    """Trained on, drawn, evaluated into CSV files, predicted and put into the page."""
    synthetic.draw_set(tmp_path / "drawn", train=2, val=1)
    for part in ("train", "val"):
        folders = sorted((tmp_path / "drawn" / part).iterdir())
        for folder, name in zip(folders, ODD):
            shutil.copytree(folder, tmp_path / "set" / part / name)
    out = run(f"{ONE_EPOCH} --cache off --output run", cwd=tmp_path, draw=True)
    out += run("evaluate run --workers 0 --by-class c.csv --predictions p.csv", cwd=tmp_path)
    page = (tmp_path / "run" / "report.html").read_text()
    tables = [(tmp_path / name).read_text() for name in ("c.csv", "p.csv")]
    for text in (page, *tables):
        assert "\x1b" not in text
        assert "\\x1b[31mb" in text.replace("\\\\", "\\")
    assert "<script>&amp;" not in page
    assert len(tables[0].splitlines()) == 1 + len(ODD)
    assert "could not be written" not in out
