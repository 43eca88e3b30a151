"""docs/results against the CSV files beside it."""

import csv
import re
from pathlib import Path

import numpy as np

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
