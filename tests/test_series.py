"""A series of trainings: interrupted or not, the same table; and the table of the paper's
features."""

import csv
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from minigrad.files import save_record
from minigrad.models.lenet import LENET5
from minigrad.models.records import Conv, Dropout, Pool, Tanh, diff
from minigrad.network import Network, ledger
from minigrad.training import session
from minigrad.training.evaluation import scored
from minigrad.training.run_folder import RunError, RunFolder
from minigrad.training.series import RESULT, TABLE, Cell, train_series

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("name", "seed", "test_error")


@pytest.fixture(scope="module")
def table():
    """examples/paper_table.py as a module."""
    sys.path.insert(0, str(ROOT / "examples"))
    yield importlib.import_module("paper_table")
    sys.path.remove(str(ROOT / "examples"))


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def no_process_outlives_its_test():
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            process.kill()
            process.communicate()


def start(two_shades: Path, folder: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, ROOT / "examples" / "paper_table.py", "--data", two_shades]
    command += ["--output", folder, "--cache", "off", "--epochs", "2", "--seeds", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*map(str, command), "--rows", "no-dropout", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip
    STARTED.append(process)
    return process


def written(folder: Path) -> int:
    return (folder / TABLE).read_text().count("\n") - 1 if (folder / TABLE).exists() else 0


def wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def finished(two_shades, tmp_path_factory) -> tuple[Path, str]:
    """The folder of a table of four trainings, two at a time, and what was printed."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(two_shades, folder, "--jobs", "2")
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return folder, said


def test_a_table(finished):
    folder, said = finished
    with open(folder / TABLE) as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], row["seed"], row["views"]) for row in rows] == [
        ("full", "0", "centre"), ("full", "0", "ten"), ("no-dropout", "0", "centre"),
        ("full", "1", "centre"), ("full", "1", "ten"), ("no-dropout", "1", "centre"),
    ]  # fmt: skip
    assert {row["epochs"] for row in rows} == {"2"}
    assert len({row["parameters"] for row in rows}) == 1
    for row in rows:
        with open(folder / f"{row['name']}-{row['seed']}" / "metrics.csv") as file:
            last = list(csv.DictReader(file))[-1]
        assert float(row["train_error"]) == pytest.approx(1 - float(last["train_top1"]))
        if row["views"] == "centre":
            assert float(row["test_error"]) == pytest.approx(1 - float(last["val_top1"]))
    with open(folder / "ensembles.csv") as file:
        averaged = list(csv.DictReader(file))
    assert [(row["networks"], row["views"], row["members"]) for row in averaged] == [
        (str(len(members.split())), views, members)
        for views in ("centre", "ten")
        for members in ("0", "1", "0 1")
    ]
    alone = [row["test_error"] for row in averaged if row["networks"] == "1"]
    assert alone == [rows[i]["test_error"] for i in (0, 3, 1, 4)]
    for name in ("full", "no-dropout"):
        for seed in (0, 1):
            settings = json.loads((folder / f"{name}-{seed}" / "settings.json").read_text())
            assert settings["options"]["seed"] == seed
    assert "no-dropout, seed 1: done, 0 to go\n" in said
    assert "dropout -> none *" in said
    assert "ten views -> the centre" in said
    assert "max pools -> average" not in said
    with Image.open(folder / "paper_table.png") as drawn:
        assert drawn.size[0] == 770


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_table_is_a_shorter_table(two_shades, finished, tmp_path, ending):
    process = start(two_shades, tmp_path, "--jobs", "1")
    wait_for(lambda: written(tmp_path) >= 2 and list(tmp_path.glob("no-dropout-0/*.safetensors")))
    process.send_signal(ending)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-9 if ending == signal.SIGKILL else 130), errors
    complete = (finished[0] / TABLE).read_text()
    assert complete.startswith((tmp_path / TABLE).read_text())
    assert 2 <= written(tmp_path) < 6
    process = start(two_shades, tmp_path, "--jobs", "2")
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "full, seed 0" not in said, "it is not trained again"
    for name in (TABLE, "ensembles.csv"):
        assert (tmp_path / name).read_bytes() == (finished[0] / name).read_bytes()


def test_a_signal_to_the_group_saves(two_shades, tmp_path):
    """As when a terminal closes: the training gets one signal, from the series, and saves."""
    process = start(two_shades, tmp_path, "--jobs", "1", "--epochs", "9999")
    steps = tmp_path / "full-0" / "steps.csv"
    wait_for(lambda: steps.exists() and steps.read_text().count("\n") > 3)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    groups = {os.getpgid(int(child)) for child in children}
    assert groups - {process.pid}, "the training is in a group of its own"
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    _, description = RunFolder(tmp_path / "full-0").newest(())
    last = RunFolder(tmp_path / "full-0").rows("steps.csv")[-1]
    assert description["place"]["step"] == int(last["step"]) > 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "--epochs 3",
            "holds results with options {'epochs': 2}, not {'epochs': 3}; choose",
        ),
        ("--rows convolution", "--rows: there is no 'convolution': choose from tanh, "),
        ("--show set.csv", "set.csv does not exist: --show needs the results.csv of a table"),
        ("--show {root}/docs/results/cifar10_26pct.csv", "it has no column 'name'"),
    ],
)
def test_what_a_table_does_not_take(
    table, two_shades, finished, monkeypatch, capsys, words, sentence
):
    words = words.format(root=ROOT)
    settings = f"--data {two_shades} --cache off --epochs 2 --output {finished[0]} {words}"
    monkeypatch.setattr(sys, "argv", ["paper_table.py", *settings.split()])
    assert table.main() == 2
    assert re.search(f"error: .*{sentence}", capsys.readouterr().err)


def test_a_table_is_shown_again(table, finished, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["paper_table.py", "--show", str(finished[0] / TABLE)])
    assert table.main() == 0
    said = capsys.readouterr().out
    assert said.startswith("the full network: ")
    assert said in finished[1]
    others = [row for row in (finished[0] / TABLE).read_text().splitlines() if "full," not in row]
    path = finished[0] / "others.csv"
    path.write_text("\n".join(others))
    monkeypatch.setattr(sys, "argv", ["paper_table.py", "--show", str(path)])
    assert table.main() == 2
    assert "others.csv has no row of the full network: --show needs" in capsys.readouterr().err


def test_every_seed_must_hold_out_the_same_pictures(
    table, two_shades, tmp_path, monkeypatch, capsys
):
    """Without pictures to test on, each seed holds out a tenth of its own."""
    with zipfile.ZipFile(two_shades) as archive:
        archive.extractall(tmp_path)
    command = f"paper_table.py --data {tmp_path / 'train'} --cache off --output {tmp_path / 'out'}"
    monkeypatch.setattr(sys, "argv", command.split())
    assert table.main() == 2
    assert "has no test pictures of its own, and every seed" in capsys.readouterr().err
    runs = []
    for seed in (0, 1):
        runs.append(str(tmp_path / f"run{seed}"))
        own = {"data": str(tmp_path / "train"), "seed": seed, "output": runs[-1]}
        session.train(options(two_shades) | own | {"preset": "x"}, {"x": SMALL}, session.silent)
    with pytest.raises(ValueError, match=r"run1 held out other pictures than .*run0"):
        table.ensembles.compare(runs, tmp_path / "ensembles.csv")
    table.ensembles.compare(runs[:1], tmp_path / "ensembles.csv")


def measure(cell, trainer, result):
    return [{"test_error": f"{1 - result.top(1):.4f}"}]


SMALL = LENET5.with_preprocessing(size=32, picture=32, channels=3).with_recipe(batch_size=50)


def options(two_shades: Path) -> dict:
    return {
        "data": str(two_shades),
        "cache": "off",
        "workers": 0,
        "report": "off",
        "epochs": 1,
        "recipe": "preset",
    }


def test_a_training_that_fails_is_named(two_shades, tmp_path, capfd):
    """And those that are done are in the table, of a series that can be gone on with."""
    bad = SMALL.with_preprocessing(size=2, picture=2)
    cells = [Cell("good", SMALL, 0), Cell("bad", bad, 3), Cell("good", SMALL, 1)]
    with pytest.raises(RunError, match=r"bad with seed 3 ended with code 1; mend what is"):
        train_series(cells, options(two_shades), tmp_path, COLUMNS, measure)
    assert "error: bad, seed 3: " in capfd.readouterr().err
    said: list[str] = []
    del cells[1]
    rows = train_series(cells, options(two_shades), tmp_path, COLUMNS, measure, report=said.append)
    assert said == ["good, seed 1: done, 0 to go"]
    assert [(row["name"], row["seed"]) for row in rows] == [("good", "0"), ("good", "1")]
    with pytest.raises(RunError, match="holds results with good .*size.*; choose another folder"):
        train_series([Cell("good", bad, 0)], options(two_shades), tmp_path, COLUMNS, measure)


def test_a_training_that_was_stopped_goes_on(two_shades, tmp_path):
    """From its checkpoint; without one, from the beginning."""
    cell = Cell("good", SMALL, 0)
    own = {**options(two_shades), "preset": "good", "seed": 0}
    session.train(own | {"output": str(cell.run(tmp_path))}, {"good": SMALL}, session.silent)
    rows = train_series([cell], options(two_shades), tmp_path, COLUMNS, measure)
    with open(cell.run(tmp_path) / "metrics.csv") as file:
        (last,) = csv.DictReader(file)
    assert float(rows[0]["test_error"]) == pytest.approx(1 - float(last["val_top1"]))
    settings = json.loads((cell.run(tmp_path) / "settings.json").read_text())
    assert settings["options"]["resume"] == str(cell.run(tmp_path)), "it went on"
    other = Cell("good", SMALL, 1)
    other.run(tmp_path).mkdir()
    rows = train_series([cell, other], options(two_shades), tmp_path, COLUMNS, measure)
    assert [row["seed"] for row in rows] == ["0", "1"]


def test_what_is_not_of_the_series_stays(two_shades, tmp_path, capfd):
    cell = Cell("good", SMALL, 0)
    cell.run(tmp_path).mkdir()
    (cell.run(tmp_path) / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match="good with seed 0 ended with code 1"):
        train_series([cell], options(two_shades), tmp_path, COLUMNS, measure)
    assert "good-0 is not empty, and nothing in it is written over" in capfd.readouterr().err
    assert (cell.run(tmp_path) / "letter.txt").read_text() == "dear"


def test_options_that_change_no_result_may_change(two_shades, tmp_path):
    record = tmp_path / "good-0" / RESULT
    save_record(record, [{"name": "good", "seed": "0", "test_error": "0.5"}])
    cells = [Cell("good", SMALL, 0)]
    train_series(cells, options(two_shades), tmp_path, COLUMNS, measure)
    train_series(cells, options(two_shades) | {"workers": 2}, tmp_path, COLUMNS, measure)
    more = options(two_shades) | {"batch_size": 7}
    with pytest.raises(RunError, match="with options {'batch_size': None}, not"):
        train_series(cells, more, tmp_path, COLUMNS, measure)
    with pytest.raises(ValueError, match="at least 1 job at a time, not 0"):
        train_series(cells, options(two_shades), tmp_path, COLUMNS, measure, jobs=0)
    (tmp_path / TABLE).write_text("word,number\na,1\n")
    with pytest.raises(ValueError, match=r"results.csv is another table: it has no column 'name'"):
        train_series(cells, options(two_shades), tmp_path, COLUMNS, measure)
    (tmp_path / TABLE).write_text("name,seed,test_error\ngood,0,abc\n")
    numbers = ("test_error",)
    with pytest.raises(ValueError, match="test_error must be a number, not 'abc': correct that"):
        train_series(cells, options(two_shades), tmp_path, COLUMNS, measure, numbers=numbers)


def test_results_that_are_damaged(two_shades, tmp_path):
    run = tmp_path / "good-0"
    run.mkdir()
    (run / RESULT).write_text("{")
    with pytest.raises(RunError, match=r"good-0/result.json: .*; remove it, and start the series"):
        train_series([Cell("good", SMALL, 0)], options(two_shades), tmp_path, COLUMNS, measure)
    save_record(run / RESULT, [{"name": "good", "seed": "0", "test_error": "0.5"}])
    rows = train_series([Cell("good", SMALL, 0)], options(two_shades), tmp_path, COLUMNS, measure)
    assert rows == [{"name": "good", "seed": "0", "test_error": "0.5"}]
    (tmp_path / "series.json").write_text("[]")
    with pytest.raises(RunError, match=r"series.json.*choose another folder"):
        train_series([Cell("good", SMALL, 0)], options(two_shades), tmp_path, COLUMNS, measure)


def weights_of(preset) -> int:
    convs = [n for n, layer in preset.layers.items() if isinstance(layer, Conv)]
    model = Network(preset, 10, 0)
    return sum(p.data.size for n, p in model.named_parameters() if n[:-2] in convs and n[-1] == "w")


def test_the_networks_of_the_table(table):
    """Each row changes what it says, and nothing else."""
    changes = {
        name: {what for what, *_ in diff(table.FULL, claim.preset)} - {"layers"}
        for name, claim in table.CLAIMS.items()
        if claim.preset
    }
    relus = {f"relu{i}" for i in range(1, 8)}
    assert changes == {
        "tanh": relus,
        "sigmoid": relus,
        "no-normalisation": {"norm1", "norm2"},
        "pools-of-2": {"pool1.size", "pool2.size", "pool5.size"},
        "average-pools": {"pool1.mean", "pool2.mean", "pool5.mean"},
        "no-dropout": {"drop6", "drop7"},
        "no-crops": {"preprocessing.random_crops", "preprocessing.mirror"},
        "no-colour-noise": {"preprocessing.colour_noise"},
        "one-column": {
            "conv1.filters", "conv2.filters", "conv2.groups", "conv3.filters", "conv4.filters",
            "conv4.groups", "conv5.groups",
        },
    }  # fmt: skip
    assert {type(x) for n, x in table.CLAIMS["tanh"].preset.layers.items() if n in relus} == {Tanh}
    assert (weights_of(table.FULL), weights_of(table.CLAIMS["one-column"].preset)) == (
        61_280,
        61_128,
    )
    said = table.one_column.__doc__
    assert "61,128" in said
    assert "61,280" in said
    for preset in (table.FULL, table.CLAIMS["pools-of-2"].preset):
        pools = [n for n, x in preset.layers.items() if isinstance(x, Pool)]
        sizes = [row.shape[:2] for row in ledger(preset, 10) if row.stage in pools]
        assert sizes == [(12, 12), (6, 6), (3, 3)]
    dropped = [n for n, x in table.FULL.layers.items() if isinstance(x, Dropout)]
    assert dropped == ["drop6", "drop7"]


def test_intervals(table):
    """Student's interval of the paired difference, by hand."""
    gain = table.paired([1.0, 2.0, 3.0])
    assert (gain.mean, gain.over) == (2.0, "3 seeds")
    assert gain.half == pytest.approx(4.303 / np.sqrt(3))
    assert gain.verdict == "covered by the spread"
    assert table.paired([1.9, 2.0, 2.1]).verdict == "it helps"
    assert table.paired([-1.9, -2.0, -2.1]).verdict == "it harms"
    one = table.paired([2.0])
    assert (one.mean, one.over, one.verdict) == (2.0, "1 seed", "one seed, no interval")
    np.testing.assert_allclose(table.T975, scipy.stats.t.ppf(0.975, np.arange(1, 31)), atol=6e-4)
    for n, t in ((11, 2.228), (20, 2.093), (40, 2.042)):
        some = np.random.default_rng(n).normal(size=n).tolist()
        half = t * np.std(some, ddof=1) / np.sqrt(n)
        assert table.paired(some).half == pytest.approx(half)


def row(name: str, seed: int, views: str, error: float) -> dict[str, str]:
    return {
        "name": name, "seed": str(seed), "views": views, "epochs": "4", "parameters": "5",
        "train_error": "0.1", "test_error": f"{error:.4f}",
    }  # fmt: skip


def test_gains_are_paired_by_seed(table):
    rows = [
        row("full", 0, "centre", 0.30), row("full", 0, "ten", 0.28), row("tanh", 0, "centre", 0.33),
        row("full", 1, "centre", 0.32), row("full", 1, "ten", 0.31), row("tanh", 1, "centre", 0.36),
        row("full", 2, "centre", 0.40),
    ]  # fmt: skip
    averaged = [
        {"networks": "1", "views": "centre", "members": "0", "gain": "0", "half_width": "0"},
        {"networks": "2", "views": "centre", "members": "0 1", "gain": ".02", "half_width": ".001"},
        {"networks": "2", "views": "ten", "members": "0 1", "gain": "0.5", "half_width": "0.001"},
    ]  # fmt: skip
    found = table.gains(rows, averaged)
    assert list(found) == ["tanh", "ten-views", "ensemble"]
    assert (found["tanh"].mean, found["tanh"].over) == (pytest.approx(3.5), "2 seeds")
    assert (found["ten-views"].mean, found["ten-views"].over) == (pytest.approx(1.5), "2 seeds")
    assert found["ensemble"] == table.Gain(2.0, 0.1, "pictures")
    lines = table.lines_of(rows, found)
    assert lines[0] == (
        "the full network: 34.00 % test error, from 30.00 to 40.00 %, 3 seeds, 4 epochs"
    )
    assert lines[3].startswith("ReLU -> tanh *  ")
    assert "+3.50" in lines[3]
    assert "-2.85 .. +9.85" in lines[3]
    assert lines[3].endswith("covered by the spread")
    assert lines[5].split()[:5] == ["an", "ensemble", "->", "one", "network"]
    assert lines[5].endswith("here: it helps")
    assert lines[-2:] == ["* the rate is the ReLU's", "** the interval is over test pictures"]


def test_the_interval_of_an_ensemble(table):
    """By hand: of 8 two_shades, network 0 has 4 right, network 1 has 4, both together 7."""

    def of(*p: float):
        first = np.array(p)
        stacked = np.stack([first, 1 - first], axis=1)
        return scored(stacked, np.zeros(8, int), np.arange(8))

    a = of(0.9, 0.9, 0.9, 0.9, 0.4, 0.4, 0.4, 0.1)
    b = of(0.4, 0.4, 0.2, 0.6, 0.9, 0.9, 0.9, 0.1)
    found = table.ensembles.row_of((0, 1), "ten", [a, b])
    assert (found["members"], found["views"], found["networks"]) == ("0 1", "ten", "2")
    assert float(found["test_error"]) == pytest.approx(1 / 8)
    assert float(found["gain"]) == pytest.approx(7 / 8 - 1 / 2)
    s = np.std([0.5, 0.5, 0.5, 0, 0.5, 0.5, 0.5, 0])
    assert float(found["half_width"]) == pytest.approx(1.96 * s / np.sqrt(8), rel=1e-3)
    lines = table.ensembles.lines_of([found, found | {"test_error": "0.225"}])
    assert lines[1].split() == ["2", "ten", "2", "17.50", "%", "12.50", "..", "22.50", "%"]
