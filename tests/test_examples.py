"""The examples run from top to bottom. (The main job, train_imagenet_subset.py:
test_command_line.py.)"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from minigrad.data.fonts import draw_digits
from minigrad.models.lenet import LENET5
from minigrad.network import ledger

ROOT = Path(__file__).resolve().parents[1]


def test_digits_from_fonts():
    (a, labels), (b, _), (c, _) = (
        draw_digits(60, seed, part) for seed, part in ((0, "train"), (0, "train"), (0, "test"))
    )
    assert a.shape == (60, 28, 28, 1)
    assert np.bincount(labels, minlength=10).tolist() == [6] * 10
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    assert (a.reshape(60, -1).max(axis=1) > 150).all(), "no picture is empty"
    assert a[:, :2].max() < 100, "none is cut off"


def test_what_digits_are_drawn_with(monkeypatch):
    """Every fourth font for testing alone; each digit as its label says, turned a little."""
    fonts, texts, turns = {}, [], []
    truetype, text, rotate = ImageFont.truetype, ImageDraw.ImageDraw.text, Image.Image.rotate

    def opened(path, size):
        fonts.setdefault(part, set()).add(Path(path).name)
        return truetype(path, size)

    def written(self, place, digit, *args, **options):
        texts.append(int(digit))
        return text(self, place, digit, *args, **options)

    def turned(self, angle, *args):
        turns.append(angle)
        return rotate(self, angle, *args)

    monkeypatch.setattr(ImageFont, "truetype", opened)
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", written)
    monkeypatch.setattr(Image.Image, "rotate", turned)
    drawn = []
    for part in ("train", "test"):
        drawn.append(draw_digits(40, 3, part))
        assert texts[-40:] == drawn[-1][1].tolist()
    assert not fonts["train"] & fonts["test"]
    assert len(fonts["train"]) == 3 * len(fonts["test"]) == 9
    assert max(map(abs, turns)) <= 15
    assert min(turns) < -10
    assert max(turns) > 10
    assert not np.array_equal(drawn[0][1], draw_digits(40, 4, "train")[1]), "another seed"


def test_lenet_counts():
    rows = ledger(LENET5)
    assert sum(r.parameters for r in rows) == 61_706
    assert sum(r.multiply_adds for r in rows) == 416_520
    assert [r.shape for r in rows if r.parameters] == [
        (28, 28, 6), (10, 10, 16), (120,), (84,), (10,),
    ]  # fmt: skip


def test_lenet_from_top_to_bottom(tmp_path):
    """In small: one epoch, fewer digits."""
    text = (ROOT / "examples" / "5_lenet.py").read_text()
    small = (
        text.replace("EPOCHS = 12", "EPOCHS = 1").replace("12_000", "3_000").replace("2_000", "500")
    )
    assert small.count("# %%") >= 7
    command = [sys.executable, "-W", "error", "-c", small]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert "3,000 digits to learn from, 500 to be asked about" in out.stdout
    assert "61,706" in out.stdout
    accuracy = float(re.search(r"epoch  1: .* test accuracy ([\d.]+)%", out.stdout)[1])
    assert accuracy > 80


def run_example(name, *options, cwd, code=0):
    """What an example prints; warnings are errors."""
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / name), *options]
    out = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert out.returncode == code, out.stderr
    return out.stdout if code == 0 else out.stderr


def test_a_backward_pass_by_hand(tmp_path):
    """The numbers of docs/reading.md, by the example's own walk and by the engine's."""
    out = run_example("1_backward_by_hand.py", cwd=tmp_path)
    for name, value in (("x", "30.0"), ("w", "-20.0"), ("b", "-11.0")):
        assert re.search(rf"dz/d{name}: by hand +{value}, by the engine +{value}", out)
    assert "Add  was made of Mul, b" in out


def test_a_perceptron_tells_spirals_apart(tmp_path):
    out = run_example("2_multilayer_perceptron.py", cwd=tmp_path)
    assert "step 600" in out
    assert "held-out points right 100%" in out.splitlines()[-1]


def test_the_checker_tells_right_from_wrong(tmp_path):
    out = run_example("3_check_your_own_layer.py", cwd=tmp_path)
    assert float(re.search(r"softplus, right: .* error (\S+)", out)[1]) < 1e-9
    assert re.search(r"softplus, wrong: .*input 0\[\d\]: backward", out, re.DOTALL)
    assert "hinge at its kink: input 0 lies on a kink" in out


def test_a_convolution_by_hand_finds_edges(tmp_path):
    """In a picture with one edge: white left of the middle, black right of it."""
    picture = np.zeros((256, 256), np.uint8)
    picture[:, :128] = 255
    Image.fromarray(picture).save(tmp_path / "half.png")
    out = run_example("4_convolution_by_hand.py", "--picture", "half.png", cwd=tmp_path)
    assert "1 * 1 + 2 * 2 + 4 * 3 + 5 * -1 = 12" in out
    sheet = np.asarray(Image.open(tmp_path / "edges.png"))
    assert sheet.shape == (256, 4 * 256)
    inner = sheet[2:-2, 3 * 256 + 2 : -2]  # the strength, away from the border
    assert (np.flatnonzero(inner.max(axis=0)) + 2).tolist() == [127, 128]
    out = run_example("4_convolution_by_hand.py", cwd=tmp_path)
    assert "written: edges.png" in out
    for options in (("--picture", "none.png"), ("--output", "none/edges.png")):
        said = run_example("4_convolution_by_hand.py", *options, cwd=tmp_path, code=1)
        assert said.startswith("error: ")
        assert "none" in said


def test_every_example_has_cells():
    for path in (ROOT / "examples").glob("[0-9]_*.py"):
        assert path.read_text().count("# %%") >= 3, path
