"""examples/bag_of_words.py and examples/shift_invariance.py."""

import csv
import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from minigrad.files import save_record
from minigrad.models.records import Pool
from minigrad.network import Network
from minigrad.training import session
from minigrad.training.series import RESULT

ROOT = Path(__file__).resolve().parents[1]
ALL = "MINIGRAD_ALL_TESTS" in os.environ


def example(name: str):
    if str(ROOT / "examples") not in sys.path:
        sys.path.insert(0, str(ROOT / "examples"))
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def words():
    """examples/bag_of_words.py as a module."""
    if not ALL:
        pytest.importorskip("skimage")
        pytest.importorskip("sklearn")
    return example("bag_of_words")


@pytest.fixture(scope="module")
def shifts():
    """examples/shift_invariance.py as a module."""
    return example("shift_invariance")


CENTRES = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]], np.float32)


def grid_of(numbers: np.ndarray, away=(0.1, -0.2)) -> np.ndarray:
    """Descriptors a little away from the centres of these numbers."""
    return (CENTRES[numbers] + np.array(away)).astype(np.float32)


def test_a_patch_belongs_to_the_nearest_word(words):
    numbers = np.random.default_rng(0).integers(3, size=(5, 4, 4))
    np.testing.assert_array_equal(words.nearest(grid_of(numbers), CENTRES), numbers)


def test_words_are_counted_in_the_whole_and_in_each_quarter(words):
    numbers = np.zeros((2, 4, 4), int)
    numbers[0, :2, 2:] = 1  # the quarter on the top right
    numbers[0, 3, 0] = 2
    found = words.bag_of_words(grid_of(numbers), CENTRES) ** 2
    expected = np.zeros((2, 5, 3))
    expected[0] = [[11 / 16, 4 / 16, 1 / 16], [1, 0, 0], [0, 1, 0], [3 / 4, 0, 1 / 4], [1, 0, 0]]
    expected[1, :, 0] = 1
    np.testing.assert_allclose(found, expected.reshape(2, 15), atol=1e-6)


def test_vlad_adds_up_what_is_left(words):
    numbers = np.zeros((2, 2, 2), int)
    numbers[0, 0, 0] = 2
    (first, second) = words.vlad(grid_of(numbers), CENTRES).reshape(2, 3, 2)
    root = np.sqrt([[0.3, 0.6], [0, 0], [0.1, 0.2]]) * [1, -1]
    np.testing.assert_allclose(first, root / np.sqrt(1.2), rtol=1e-4, atol=1e-6)
    root = np.sqrt([[0.4, 0.8], [0, 0], [0, 0]]) * [1, -1]
    np.testing.assert_allclose(second, root / np.sqrt(1.2), rtol=1e-4, atol=1e-6)


def test_patches_of_a_picture(words):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    found = words.descriptors(pictures)
    assert found.shape == (2, 7, 7, 32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-2)
    changed = pictures.copy()
    changed[0, 24:] = 0
    other = words.descriptors(changed)
    np.testing.assert_array_equal(other[0, :4], found[0, :4])
    assert not np.array_equal(other[0, 5:], found[0, 5:])


def test_the_penalty_is_chosen_on_held_out_pictures(words, monkeypatch):
    """And the errors are those of the training and the test pictures."""
    rng = np.random.default_rng(0)
    labels, test_labels = rng.integers(2, size=200), rng.integers(2, size=500)
    x, x_test = (rng.normal(size=(n, 120)) for n in (200, 500))
    x[:, 0] += 2 * labels
    x_test[:, 0] += 2 * test_labels
    monkeypatch.setattr(words, "PENALTIES", (1e-3, 1e4))
    found = words.classified(x, labels, x_test, test_labels, seed=0)
    assert found["C"] == "0.001", "the other one fits the training pictures without an error"
    assert float(found["train_error"]) < float(found["test_error"]) < 0.3


def test_a_bag_of_words(words, two_shades, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(words, "METHODS", {n: (f, 8) for n, (f, _) in words.METHODS.items()})

    def go(folder: str, more: str = "") -> int:
        command = f"bag_of_words.py --data {two_shades} --cache off --output {tmp_path / folder}"
        monkeypatch.setattr(sys, "argv", [*command.split(), *more.split()])
        return words.main()

    assert go("cut") == 0
    assert (tmp_path / "cut" / words.TABLE).read_text().count("\n") == 3
    real, calls = words.classified, []

    def stopped(*given):
        calls.append(given[-1])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(words, "classified", stopped)
    assert go("cut", "--seeds 2") == 130
    assert go("cut", "--seeds 2") == 0
    assert calls == [1, 1, 1], "seed 0 is in the table"
    capsys.readouterr()
    assert go("whole", "--seeds 2") == 0
    said = capsys.readouterr().out
    whole, cut = (tmp_path / folder / words.TABLE for folder in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()
    with open(whole) as file:
        rows = list(csv.DictReader(file))
    assert [(r["method"], r["seed"], r["numbers"]) for r in rows] == [
        ("bag of words", "0", "40"), ("VLAD", "0", "256"),
        ("bag of words", "1", "40"), ("VLAD", "1", "256"),
    ]  # fmt: skip
    assert "200 pictures, 49 patches in each" in said
    assert f"test error {float(rows[3]['test_error']):.2%}" in said


def test_without_the_libraries_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    monkeypatch.delitem(sys.modules, "bag_of_words", raising=False)
    with pytest.raises(SystemExit, match="this example needs scikit-image and scikit-learn"):
        example("bag_of_words")


@pytest.fixture(scope="module")
def folder(two_shades, tmp_path_factory) -> Path:
    """Both networks of a small table, for two seeds, and one without its partner."""
    table, path = example("paper_table"), tmp_path_factory.mktemp("table")
    presets = {"full": table.FULL, "average-pools": table.FULL.with_each(Pool, mean=True)}
    for name, seed in (("full", 0), ("average-pools", 0), ("full", 1), ("average-pools", 1)):
        own = {"data": str(two_shades), "cache": "off", "epochs": 1, "workers": 0, "seed": seed}
        own |= {"preset": name, "output": str(path / f"{name}-{seed}"), "report": "off"}
        session.train(own, presets, session.silent)
        save_record(path / f"{name}-{seed}" / RESULT, [])
    (path / "full-2").mkdir()
    save_record(path / "full-2" / RESULT, [])
    save_record(path / "full-backup" / RESULT, [])
    return path


def test_shift_curves(shifts, folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["shift_invariance.py", str(folder)])
    assert shifts.main() == 0
    said = capsys.readouterr().out.splitlines()
    with open(folder / shifts.TABLE) as file:
        rows = list(csv.DictReader(file))
    assert [(r["name"], r["seed"]) for r in rows[::20]] == [
        ("full", "0"), ("average-pools", "0"), ("full", "1"), ("average-pools", "1"),
    ]  # fmt: skip
    for r in rows:
        assert (float(r["change"]) == 0) == (r["shift"] == "0")
        assert (r["kept"] != "") == (r["stage"] == "fc8")
    assert len(said) == 1 + 5 * 4 + 2
    own = [float(r["change"]) for r in rows if (r["stage"], r["shift"]) == ("pool1", "1")]
    differences = own[1] - own[0], own[3] - own[2]
    words = said[1].split()
    assert words[:2] == ["pool1", "1"]
    assert float(words[2]) == pytest.approx((own[0] + own[2]) / 2, abs=1e-4)
    assert float(words[3]) == pytest.approx((own[1] + own[3]) / 2, abs=1e-4)
    assert float(words[4].rstrip(",")) == pytest.approx(np.mean(differences), abs=1e-4)
    half = 12.706 * abs(differences[0] - differences[1]) / 2
    assert float(words[5]) == pytest.approx(np.mean(differences) - half, abs=2e-4)
    assert (folder / "shift_invariance.png").stat().st_size > 1000


def test_the_change_by_hand(shifts, rng):
    """The window moves, and nothing is filled in."""
    table = example("paper_table")
    model = Network(table.FULL, 2, 0).eval()
    pictures = rng.integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    preparation = shifts.data.Preparation(24, np.full(3, 100.0), 1 / 64)
    rows = shifts.measured(model, preparation, pictures)

    def pool1(top: int, left: int) -> np.ndarray:
        window = (pictures[:, top : top + 24, left : left + 24] - np.float32(100)) / 64
        return shifts.features(model, window.astype(np.float32))["pool1"]

    centre = pool1(4, 4)
    far = [
        np.linalg.norm(pool1(4 + down, 4 + right) - centre, axis=1) / np.linalg.norm(centre, axis=1)
        for down, right in ((3, 0), (-3, 0), (0, 3), (0, -3))
    ]
    (found,) = [float(r["change"]) for r in rows if (r["stage"], r["shift"]) == ("pool1", "3")]
    assert found == pytest.approx(np.mean(far), rel=1e-4)


def test_a_folder_without_pairs(shifts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["shift_invariance.py", str(tmp_path)])
    assert shifts.main() == 2
    assert (
        f"error: {tmp_path} holds no pair of trained networks full-SEED and"
        in capsys.readouterr().err
    )
