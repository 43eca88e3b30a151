"""The examples run from top to bottom. (The main job, train_imagenet_subset.py:
test_command_line.py.)"""

import importlib.util
import re
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from minigrad import data
from minigrad.data.fonts import draw_digits
from minigrad.distributed import Communicator
from minigrad.models.lenet import LENET5
from minigrad.network import ledger
from minigrad.training.options import Options
from minigrad.training.settings import Settings

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


@pytest.fixture(scope="module")
def subset():
    """examples/train_imagenet_subset.py as a module."""
    path = ROOT / "examples" / "train_imagenet_subset.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_baselines_by_number(subset, tmp_path):
    """Dark and light pictures: both tell them apart. Four stripes of one mean colour: the linear
    classifier alone does."""
    rng = np.random.default_rng(0)
    wave = np.where(np.arange(64) // 16 % 2, 200, 40)
    shades = [np.full((64, 64), shade) for shade in (40, 200)]
    stripes = [np.roll(np.tile(wave, (64, 1)), 8 * c, axis=1) for c in range(4)]
    found = []
    for kind, classes in (("grey", shades), ("stripes", stripes)):
        sets = []
        for part in ("train", "val"):
            for c, base in enumerate(classes):
                folder = tmp_path / kind / part / str(c)
                folder.mkdir(parents=True)
                for k in range(3):
                    pixels = base[..., None] + rng.integers(-5, 6, (64, 64, 3))
                    Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{k}.png")
            sets.append(data.open_folder(tmp_path / kind / part))
        found.append(list(subset.baselines(*sets, 0).values()))
    assert found[0] == [1.0, 1.0]
    assert found[1][0] < 0.75
    assert found[1][1] == 1.0


def test_the_set_that_is_drawn_if_none_is_given(subset, tmp_path, monkeypatch, capsys):
    """With the seed and processes that are given, for six epochs if not given otherwise."""
    monkeypatch.chdir(tmp_path)
    drawn, told = [], []

    def train(given, presets, comm):
        told.append(given)
        options = Options(**given)
        settings = Settings(options, "small", LENET5, ["a"], ["a"], 1)
        result = SimpleNamespace(top=lambda k: k / 10)
        return SimpleNamespace(settings=settings.to_json()), result

    monkeypatch.setattr(subset, "draw_set", lambda root, **o: drawn.append((root, o)))
    monkeypatch.setattr(subset.session, "train", train)
    monkeypatch.setattr(subset, "baselines", lambda *a: {"one": 0.25, "seed": a[-1]})
    monkeypatch.setattr(subset.runs, "open_sets", lambda options: ("train", "val"))
    root = Path("data/synthetic")
    subset.run({}, Communicator())
    subset.run({"epochs": 2, "seed": 1, "workers": 3}, Communicator())
    assert drawn == [(root, {"seed": 0, "workers": 2}), (root, {"seed": 1, "workers": 3})]
    assert told == [
        {"data": str(root), "epochs": 6},
        {"data": str(root), "epochs": 2, "seed": 1, "workers": 3},
    ]
    assert "baselines" not in capsys.readouterr().out, "another set may be of any kind"
    root.mkdir(parents=True)
    (root / "synthetic.json").touch()
    subset.run({"data": str(root), "seed": 1}, Communicator())
    assert len(drawn) == 2
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:3] == [["one", "25.0%"], ["seed", "100.0%"]]
    assert lines[3][5:6] == ["10.0%"]


def test_every_example_has_cells():
    for path in (ROOT / "examples").glob("[0-9]_*.py"):
        assert path.read_text().count("# %%") >= 3, path


@pytest.fixture(scope="module")
def cifar():
    """examples/cifar10_26pct.py as a module."""
    path = ROOT / "examples" / "cifar10_26pct.py"
    spec = importlib.util.spec_from_file_location("cifar10_26pct", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_small_network_trains_and_draws_its_curve(cifar, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for part, count in (("train", 14), ("test", 2)):
        for label in "0123456789":
            folder = tmp_path / "set" / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                picture = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(picture).save(folder / f"{i}.png")
    with zipfile.ZipFile("set.zip", "w") as archive:
        for path in sorted((tmp_path / "set").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path / "set"))
    drawn = []
    draw = cifar.draw_curve
    monkeypatch.setattr(
        cifar, "draw_curve", lambda rows, path: drawn.append(rows) or draw(rows, path)
    )
    words = "--data set.zip --epochs 2 --workers 0 --cache off --report off --output run"
    monkeypatch.setattr(sys, "argv", ["cifar10_26pct.py", *words.split()])
    assert cifar.main() == 0
    said = capsys.readouterr().out
    assert said.startswith("cuda-convnet, layers-80sec.cfg\n")
    assert [row["epoch"] for row in drawn[0]] == ["1", "2"]
    error = 1 - float(drawn[0][-1]["val_top1"])
    assert f"test error {error:.2%}; the curve, beside Caffe's: run/curve.png" in said
    with Image.open("run/curve.png") as curve:
        assert curve.size == (770, 495)


def test_the_small_network_without_options(cifar, monkeypatch):
    """CIFAR-10 by name, and the network of 26 %."""
    given = []

    def train(options, presets, comm):
        given.append(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(cifar.session, "train", train)
    for options in ({}, {"resume": "run"}, {"preset": "cifar10_18pct", "data": "set"}):
        with pytest.raises(KeyboardInterrupt):
            cifar.run(options, None)
    assert given == [
        {"data": "cifar10", "preset": "cifar10_26pct"},
        {"resume": "run"},
        {"preset": "cifar10_18pct", "data": "set"},
    ]


def test_what_the_curve_shows(cifar, tmp_path, monkeypatch):
    lines = {}

    def plot(self, x, y, *args, label, **kwargs):
        lines[label] = list(zip(x, y))

    from matplotlib.axes import Axes

    monkeypatch.setattr(Axes, "plot", plot)
    rows = [
        {"epoch": "1", "train_top1": "0.5", "val_top1": "0.25"},
        {"epoch": "2", "train_top1": "0.75", "val_top1": "0.5"},
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there is nothing for a legend
        cifar.draw_curve(rows, tmp_path / "curve.png")
    assert lines["training pictures"] == [(1, 50), (2, 75)]
    assert lines["test pictures"] == [(1, 25), (2, 50)]
    caffe = lines["Caffe's cifar10_quick, test pictures"]
    assert caffe[8:] == [(8, pytest.approx(68.54)), (9, pytest.approx(74.92)), (10, 74.91)]
