"""docs/results against the CSV files beside it."""

import csv
import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
PAGE = (RESULTS / "README.md").read_text()


def table(head: str) -> list[list[str]]:
    """The cells of the table whose first line begins with `head`."""
    lines = PAGE[PAGE.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_26_percent_network():
    with open(RESULTS / "cifar10_26pct.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["epoch"]) for row in rows] == [
        (str(seed), str(epoch)) for seed in range(3) for epoch in range(1, 11)
    ]

    def errors(epoch: int, column: str) -> list[float]:
        return [100 - 100 * float(r[column]) for r in rows if r["epoch"] == str(epoch)]

    columns = [errors(8, "test_top1"), errors(10, "test_top1"), errors(10, "train_top1")]
    expected = [[*values, float(np.mean(values))] for values in columns]
    cells = table("| seed | test error after 8 epochs")
    assert [row[0] for row in cells] == ["0", "1", "2", "mean"]
    for i, values in enumerate(expected, start=1):
        assert [row[i] for row in cells] == [f"{value:.2f} %" for value in values]
    drop = expected[0][3] - expected[1][3]
    assert re.search(r"gives ([0-9.]+) points", PAGE)[1] == f"{drop:.1f}"


def rows_of(name: str) -> list[dict[str, str]]:
    with open(RESULTS / name) as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def examples():
    """The examples as modules, by name."""
    folder = str(RESULTS.parents[1] / "examples")
    sys.path.insert(0, folder)
    yield importlib.import_module
    sys.path.remove(folder)


def lines_said(page: str, lines: list[str]) -> None:
    """Every line that the program prints for the table stands on the page, as it prints it."""
    said = (RESULTS / page).read_text().splitlines()
    assert [line for line in lines if line.rstrip() not in said] == []


def test_the_table_of_the_features(examples):
    table = examples("paper_table")
    rows, averaged = rows_of("paper_table.csv"), rows_of("ensembles.csv")
    found = table.gains(rows, averaged)
    assert list(found) == list(table.CLAIMS)
    lines_said("paper_table.md", table.lines_of(rows, found))
    lines_said("paper_table.md", table.ensembles.lines_of(averaged))


def test_what_came_before():
    said = (RESULTS / "bag_of_words.md").read_text()
    for row in rows_of("bag_of_words.csv"):
        cells = row["method"], row["words"], row["numbers"], row["C"], row["seed"]
        errors = [f"{100 * float(row[name]):.2f} %" for name in ("train_error", "test_error")]
        assert f"| {' | '.join([*cells, *errors])} |" in said


def test_shift_curves(examples):
    rows = rows_of("shift_invariance.csv")
    lines_said("shift_invariance.md", examples("shift_invariance").lines_of(rows))


def test_figure_1(examples):
    figure1 = examples("relu_vs_tanh")
    rates, curves, gradients = (
        rows_of(f"relu_vs_tanh_{name}.csv") for name in ("rates", "curves", "gradients")
    )
    lines_said("figure1.md", figure1.lines_of(curves, gradients, 0.25))
    losses = {(row["arm"], row["rate"]): float(row["loss"]) for row in rates}
    for rate in figure1.RATES:
        cells = [f"{losses[arm, f'{rate:g}']:.3f}" for arm in figure1.ARMS]
        lines_said("figure1.md", [f"| {rate:g} | {' | '.join(cells)} |"])
    for arm in figure1.ARMS:
        best = figure1.best_rate([row for row in rates if row["arm"] == arm])
        assert {float(row["rate"]) for row in curves if row["arm"] == arm} == {best}
    factor = re.search(r"factor is ([0-9.]+), not 6", (RESULTS / "figure1.md").read_text())[1]
    assert f"tanh takes {factor} times" in "\n".join(figure1.lines_of(curves, gradients, 0.25))
