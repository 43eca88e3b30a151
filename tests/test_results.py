"""docs/results against the CSV files beside it."""

import csv
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet import MODELS
from minigrad.models.records import diff

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def rows_of(name: str) -> list[dict[str, str]]:
    with open(RESULTS / name) as file:
        return list(csv.DictReader(file))


def text_of(page: str) -> str:
    """A page, with its lines joined."""
    return " ".join((RESULTS / page).read_text().split())


def table_of(page: str, head: str) -> list[list[str]]:
    """The cells of the table whose first line begins with `head`."""
    text = (RESULTS / page).read_text()
    lines = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def examples():
    """The examples as modules, by name."""
    folder = str(RESULTS.parents[1] / "examples")
    sys.path.insert(0, folder)
    yield importlib.import_module
    sys.path.remove(folder)


def test_the_26_percent_network(examples):
    rows, page = rows_of("cifar10_26pct.csv"), text_of("README.md")
    assert [(row["seed"], row["epoch"]) for row in rows] == [
        (str(seed), str(epoch)) for seed in range(3) for epoch in range(1, 11)
    ]

    def errors(epoch: int, column: str) -> list[float]:
        return [100 - 100 * float(r[column]) for r in rows if r["epoch"] == str(epoch)]

    columns = [errors(8, "test_top1"), errors(10, "test_top1"), errors(10, "train_top1")]
    expected = [[*values, float(np.mean(values))] for values in columns]
    cells = table_of("README.md", "| seed | test error after 8 epochs")
    assert [row[0] for row in cells] == ["0", "1", "2", "mean"]
    for i, values in enumerate(expected, start=1):
        assert [row[i] for row in cells] == [f"{value:.2f} %" for value in values]
    drop = expected[0][3] - expected[1][3]
    caffe = examples("cifar10_26pct").CAFFE
    assert f"gives {drop:.1f} points on average, and six in Caffe's log" in page
    assert 100 * (caffe[9] - caffe[8]) == pytest.approx(6, abs=0.5)
    assert f"ends with {100 - 100 * caffe[-1]:.2f} % error" in page
    what = {what for what, *_ in diff(MODELS["cifar10_26pct"], MODELS["caffe_cifar10_quick"])}
    recipe = {f"recipe.{name}" for name in ("batch_size", "bias_decay", "decays")}
    assert what == {"layers", "relu4"} | recipe, "the four things that the page says"


def test_the_18_percent_network():
    rows = rows_of("cifar10_18pct.csv")
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(1, 141)]
    cells = [
        [row["epoch"], f"{float(row['lr']):g}"]
        + [f"{100 - 100 * float(row[name]):.2f} %" for name in ("test_top1", "train_top1")]
        for row in rows
        if row["epoch"] in ("120", "130", "140")
    ]
    assert table_of("README.md", "| after epoch |") == cells
    small = [1 - float(r["test_top1"]) for r in rows_of("cifar10_26pct.csv") if r["epoch"] == "10"]
    means = 100 * np.mean(small), 100 - 100 * float(rows[-1]["test_top1"])
    assert "below: {:.1f} and {:.1f} % error".format(*means) in text_of("README.md")
    drop = 100 * (float(rows[120]["test_top1"]) - float(rows[119]["test_top1"]))
    assert f"The first drop of the rate gives {drop:.1f} points within an epoch" in text_of(
        "README.md"
    )


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
    page = text_of("paper_table.md")
    for name, words in (
        ("pools-of-2", "overlapping pools ({:.2f} points here, 0.4 there)"),
        ("ten-views", "ten views ({:.2f} and 1.5)"),
        ("ensemble", "an average of five networks ({:.2f} and 2.6)"),
        ("average-pools", "Max pools are better than average pools by {:.2f} points."),
    ):
        assert words.format(found[name].mean) in page
    cells = []
    for name in dict.fromkeys(row["name"] for row in rows_of("training_errors.csv")):
        train = [float(r["error"]) for r in rows_of("training_errors.csv") if r["name"] == name]
        test = [float(r["test_error"]) for r in rows if (r["name"], r["views"]) == (name, "centre")]
        assert len(train) == len(test) == 5
        cells.append([name, *(f"{100 * np.mean(values):.1f} %" for values in (train, test))])
    assert table_of("paper_table.md", "| network |") == cells
    full = [float(r["test_error"]) for r in rows if (r["name"], r["views"]) == ("full", "centre")]
    errors = {(r["networks"], r["views"]): float(r["test_error"]) for r in averaged}
    best = errors["5", "ten"]
    saved = 100 * (np.mean(full) - best)
    assert f"have {100 * best:.2f} % here, {saved:.2f} points less than one" in page


def test_what_came_before():
    cells = [
        [row[name] for name in ("method", "words", "numbers", "C", "seed")]
        + [f"{100 * float(row[name]):.2f} %" for name in ("train_error", "test_error")]
        for row in rows_of("bag_of_words.csv")
    ]
    assert cells
    assert table_of("bag_of_words.md", "| method |") == cells
    last = [1 - float(r["test_top1"]) for r in rows_of("cifar10_26pct.csv") if r["epoch"] == "10"]
    page = text_of("bag_of_words.md")
    assert f"the 26 % network has [{100 * np.mean(last):.1f} % error](README.md)" in page
    names = ("full", "centre")
    rows = rows_of("paper_table.csv")
    full = [float(r["test_error"]) for r in rows if (r["name"], r["views"]) == names]
    assert f"the 32 x 32 pixels, {100 * np.mean(full):.0f} % after its 10" in page


def test_shift_curves(examples):
    rows = rows_of("shift_invariance.csv")
    lines_said("shift_invariance.md", examples("shift_invariance").lines_of(rows))
    gain = examples("paper_table").gains(rows_of("paper_table.csv"), [])["average-pools"].mean
    assert f"lower test error all the same, by {gain:.2f} points" in text_of("shift_invariance.md")


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
    errors, page = figure1.curves_of(curves), text_of("figure1.md")
    at = {arm: figure1.crossing(errors[arm, "0"], 0.25) for arm in figure1.ARMS}
    assert f"factor is about {at['tanh'] / at['relu']:.1f}, not 6" in page
    assert f"need {at['sigmoid'] / at['relu']:.1f} times the epochs" in page
    first = {f"{errors[arm, '0'][0]:.0%}" for arm in ("relu", "tanh")}
    assert first == {"61%"}
    assert "both have 61 % after the first epoch" in page
    norms = {(r["arm"], r["when"], r["layer"]): float(r["norm"]) for r in gradients}
    share = norms["sigmoid", "before", "fc5"] / norms["sigmoid", "before", "conv1"]
    assert share == pytest.approx(50, rel=0.1), "a fiftieth"
    for arm in figure1.ARMS:
        before, after = (
            [norm for (a, w, _), norm in norms.items() if (a, w) == (arm, when)]
            for when in ("before", "after")
        )
        assert arm == "sigmoid" or before[0] == max(before), "the largest of all"
        assert after[0] > max(after) / 6, "at least a sixth"
