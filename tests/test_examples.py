"""The examples run from top to bottom. (The main job, train_imagenet_subset.py:
test_command_line.py.)"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

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
