"""What `predict` prints, writes and draws, against the network's own probabilities."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

import alexnet
from minigrad import actions, look
from minigrad.engine import no_grad
from minigrad.functions import softmax
from minigrad.training.runs import load_run


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Five pictures in folders, and a file that is none."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("a/1.png", "a/b/2.png", "a/b/3.PNG", "single.png", "a/0.PNG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (28, 28)).astype(np.uint8)).save(tmp_path / name)
    (tmp_path / "a" / "broken.png").write_bytes(b"x")
    (tmp_path / "a" / "notes.txt").write_text("x")
    return tmp_path


def expected(run, files):
    model, preparation, _ = load_run(run)
    pixels = np.stack([np.asarray(Image.open(file))[..., None] for file in files])
    with no_grad():
        return softmax(model(preparation.centre(pixels))).numpy()


FILES = ["single.png", "a/0.PNG", "a/1.png", "a/b/2.png", "a/b/3.PNG"]


def main(*words):
    return alexnet.main(["predict", *map(str, words)])


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_files_and_folders(place, lenet_run, capsys, monkeypatch, batch):
    monkeypatch.setattr(actions, "BATCH", batch)
    run, _ = lenet_run
    assert main(run, "single.png", "a", "--json", "all.json", "--csv", "all.csv") == 0
    said = capsys.readouterr().out.splitlines()
    p = expected(run, FILES)
    found = json.loads((place / "all.json").read_text())
    assert [row["picture"] for row in found] == FILES
    for row, own in zip(found, p):
        order = np.argsort(-own, kind="stable")[:5]
        assert [g["class"] for g in row["best"]] == [g["name"] for g in row["best"]]
        assert [int(g["class"]) for g in row["best"]] == order.tolist()
        # A batch changes the last bits of a sum, and nothing else rounds.
        np.testing.assert_allclose([g["probability"] for g in row["best"]], own[order], rtol=1e-5)
        line = next(line for line in said if line.startswith(f"{row['picture']}: "))
        assert line.split(": ")[1].startswith(f"{order[0]} {own[order[0]]:.1%}, ")
    with open(place / "all.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(r["picture"], int(r["rank"]), r["class"], float(r["probability"])) for r in rows] == [
        (row["picture"], rank, g["class"], g["probability"])
        for row in found
        for rank, g in enumerate(row["best"], start=1)
    ]
    assert sum("skipped" in line and "broken.png" in line for line in said) == 1
    assert said[-2:] == ["written: all.json", "written: all.csv"]


def test_standard_output_holds_nothing_else(place, lenet_run, capsys):
    run, _ = lenet_run
    assert main(run, "a", "--json", "-", "--plot", "drawn") == 0
    out, err = capsys.readouterr()
    assert [row["picture"] for row in json.loads(out)] == FILES[1:]
    assert "skipped" in err
    assert "written: drawn.png" in err
    assert main(run, "single.png", "--csv", "-") == 0
    assert len(list(csv.reader(io.StringIO(capsys.readouterr().out)))) == 6


def test_bars_are_drawn(place, lenet_run, capsys, monkeypatch):
    run, _ = lenet_run
    seen = {}

    def draw(pictures, labels, probabilities, names, path, best, captions):
        seen.update(locals())
        return look.pictures.draw_predictions(
            pictures, labels, probabilities, names, path, best, captions=captions
        )

    monkeypatch.setattr(look, "draw_predictions", draw)
    assert main(run, "single.png", "a", "--plot", "drawn.png") == 0
    assert "written: drawn.png" in capsys.readouterr().out
    np.testing.assert_allclose(seen["probabilities"], expected(run, FILES), rtol=1e-5)
    np.testing.assert_array_equal(seen["pictures"][2][..., 0], np.asarray(Image.open("a/1.png")))
    assert (seen["best"], seen["labels"]) == (5, None)
    assert seen["captions"] == ["single.png", "0.PNG", "1.png", "2.png", "3.PNG"]
    drawn = np.asarray(Image.open("drawn.png").convert("RGB"))
    assert (drawn == (200, 200, 200)).all(axis=-1).any(), "bars"
    assert not (drawn == (128, 187, 128)).all(axis=-1).any(), "no class is known to be right"


def test_what_cannot_be_predicted(place, lenet_run, capsys):
    run, _ = lenet_run
    assert main(run, "single.png", "a/broken.png") == 2
    assert "a/broken.png: not a picture" in capsys.readouterr().err
    assert main(run, "absent.png") == 2
    assert "absent.png" in capsys.readouterr().err
    (place / "empty").mkdir()
    assert main(run, "empty") == 2
    assert "no picture can be read below empty" in capsys.readouterr().err


def test_nothing_that_is_read_is_written_over(place, lenet_run, capsys):
    run, _ = lenet_run
    for outputs in (
        ["--csv", run / "checkpoint.safetensors"],
        ["--json", run / "settings.json"],
        ["--csv", "single.png"],
        ["--csv", "same", "--json", "same"],
    ):
        assert main(run, "single.png", *outputs) == 2
        assert f"{outputs[1]} would be written over" in capsys.readouterr().err.replace(
            f"{place}/", ""
        )
    assert main(run, "single.png", "--plot", "single") == 2  # the drawing would be single.png
    assert "single.png would be written over" in capsys.readouterr().err
    assert main(run, "single.png") == 0
