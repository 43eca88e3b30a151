"""Presets, preparation, optimiser and command lines do what they did when tests/record.json was
written (tests/record.py)."""

import json

import pytest
import record

from minigrad import kernels

WRITTEN = json.loads(record.FILE.read_text())
# Trainings: the sums of another BLAS, or of the array forms, differ in their last bits, and each
# step magnifies that.
TOLERANCE = {"train": 5e-3, "evaluate": 5e-3, "predict": 2e-2, "predictions.csv": 2e-2}


@pytest.fixture(scope="module")
def now():
    return json.loads(json.dumps(record.record()))


def compare(where: str, now, written, tolerance: float) -> None:
    if isinstance(written, dict):
        assert list(now) == list(written), where
        for key, value in written.items():
            compare(f"{where}, {key}", now[key], value, tolerance)
    elif isinstance(written, list):
        assert len(now) == len(written), f"{where}: {now}, written {written}"
        for i, value in enumerate(written):
            compare(f"{where} [{i}]", now[i], value, tolerance)
    elif isinstance(written, float):
        assert now == pytest.approx(written, rel=tolerance, abs=tolerance), where
    else:
        assert now == written, where


@pytest.mark.parametrize("row", WRITTEN)
def test_as_recorded(now, row):
    compare(row, now[row], WRITTEN[row], TOLERANCE.get(row.split()[0], 2e-5))


def test_nothing_is_missing(now):
    assert list(now) == list(WRITTEN)


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "summary", "gradcheck"])
def test_every_option_has_a_row(command):
    """Or a reason why it has none, in the tables of tests/record.py."""
    rows = {"train": record.TRAIN, "evaluate": record.EVALUATE}.get(command)
    if rows is None:
        rows = {option: row for (name, option), row in record.OTHERS.items() if name == command}
    assert record.listed(command) == set(rows)
    for option, row in rows.items():
        assert row if isinstance(row, str) else option in row


@pytest.mark.skipif(kernels.mode() == "none", reason="the array forms are what runs already")
def test_options_change_what_they_should(now):
    """A row that equals the base's shows nothing: those of options that change no result, by their
    own words, are named here."""
    base = now["train base"]
    same = {row.split()[1] for row in now if row.startswith("train ") and now[row] == base}
    assert same - {"base"} == {
        "device",
        "workers",
        "worker-timeout",
        "cache",
        "save-every",
        "config",
    }
