"""The commands as a user types them, on a network made small through the presets' own table.

They run in this process, or in one of their own where signals, limits or its end are the matter.
"""

import contextlib
import csv
import fcntl
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image

import alexnet
import minigrad.__main__ as about
from minigrad import about_presets, actions, commands, kernel_build, look
from minigrad import functions as F
from minigrad.columns import bytes_sent, column_of
from minigrad.data import Loader, Pictures, open_validation, read_image, synthetic
from minigrad.engine import no_grad
from minigrad.models.records import LRN
from minigrad.network import ledger, shrunken
from minigrad.training import checkpoint, session
from minigrad.training.evaluation import ensemble, evaluate
from minigrad.training.run_folder import CHECKPOINT, RunFolder
from minigrad.training.runs import load_run
from tests.rows import read as read_rows
from tests.test_workers import assert_they_end

ROOT = Path(__file__).resolve().parents[1]
TINY = shrunken(alexnet.PAPER).with_each(LRN, alpha=1e-4)  # the paper's layers, 67 x 67 crops
TRAIN = "train --data set --preset tiny"
ONE_EPOCH = f"{TRAIN} --epochs 1 --workers 0"
# The same command line in a process of its own, also for a script of examples/.
START = """
import runpy, sys, alexnet
from tests.test_command_line import TINY
alexnet.MODELS["tiny"] = TINY
if sys.argv[1].endswith(".py"):
    sys.argv.pop(0)
    sys.path.insert(0, "examples")
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    sys.exit(alexnet.main(sys.argv[1:]))
"""


def environment(place):
    return {
        "XDG_CACHE_HOME": str(place / "cache"),
        "MPLCONFIGDIR": str(place / "mpl"),
    }


def _no_files(*_):
    return []


def run(command, cwd, code=0, draw=False):
    """What `alexnet.py command` prints, run in this process. Drawing takes ten times as long as
    such a small run, and is left out unless asked for."""
    said, before = io.StringIO(), os.getcwd()
    os.chdir(cwd)
    try:
        with (
            mock.patch.dict(os.environ, environment(cwd)),
            mock.patch.dict(alexnet.MODELS, tiny=TINY),
            contextlib.nullcontext()
            if draw
            else mock.patch.multiple(session, draw_run=_no_files, write_report=_no_files),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            try:
                result = alexnet.main(shlex.split(command))
            except SystemExit as end:
                result = end.code
    finally:
        os.chdir(before)
    assert result == code, f"exit code {result}\n{said.getvalue()}"
    return said.getvalue()


def start(command, cwd, before="", through=(), **options):
    """The command line in a process of its own, after the lines `before`, or in one that the
    program `through` starts."""
    return subprocess.Popen(
        [*through, sys.executable, "-c", before + START, *shlex.split(command)],
        cwd=cwd,
        env=os.environ | environment(cwd) | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | options,
    )


def run_process(*args, cwd):
    """What a program prints that must end well, with no warning."""
    result = subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=cwd,
        env=os.environ | environment(cwd) | {"PYTHONWARNINGS": "error", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    synthetic.draw_set(place / "set", train=4, val=2)
    (place / "words.txt").write_text("checks\tchecked cloth, checks\n")
    return place


@pytest.fixture(scope="module")
def trained(place):
    out = run(
        f"{TRAIN} --epochs 2 --batch-size 8 --output run",
        draw=True,
        cwd=place,
    )
    return place, out


def test_train_leaves_a_run_folder(trained):
    place, out = trained
    names = {p.name for p in (place / "run").iterdir()}
    kept = {
        "checkpoint.safetensors",
        "best.safetensors",
        "epoch-0001.safetensors",
        "epoch-0002.safetensors",
    }
    assert names == kept | {
        "settings.json",
        "metrics.csv",
        "steps.csv",
        "health.csv",
        "curves.png",
        "filters.png",
        "predictions.png",
        "strongest.png",
        "ledger.png",
        "report.html",
        "features",
    }
    for epoch in (1, 2):  # of the weights, those of the convolutions are kept for good
        name = f"epoch-{epoch:04}.safetensors"
        weights = checkpoint.part(checkpoint.load(place / "run" / name)[0], "model.")
        features, description = checkpoint.load(place / "run" / "features" / name)
        assert set(features) == {name for name in weights if name.startswith("conv")}
        assert all(np.array_equal(array, weights[name]) for name, array in features.items())
        assert description == {"epoch": epoch}
    assert "recipe 'small': 2 epochs, batch 8" in out
    assert "the training will take about" in out
    assert "held-out pictures, last epoch" in out
    settings = json.loads((place / "run" / "settings.json").read_text())
    assert settings["classes"] == list(synthetic.CLASSES)
    assert settings["network"]["recipe"]["lr_drops"] == pytest.approx([2 * 2 / 3, 2 * 9 / 10])
    assert len(read_rows(place / "run" / "metrics.csv")) == 2
    for picture in ("curves.png", "filters.png", "predictions.png"):
        assert np.asarray(Image.open(place / "run" / picture)).std() > 5


def test_evaluate_agrees_with_training(trained):
    place, out = trained
    said = out.split("last epoch: ")[1].splitlines()[0]  # loss 2.3, top-1 10.0%, top-5 50.0%
    loss = float(said.split()[1].rstrip(","))
    again = run("evaluate run", cwd=place)
    assert abs(float(again.split("loss ")[1].split(",")[0]) - loss) < 0.002


def test_predict(trained):
    place, _ = trained
    out = run("predict run set/val/stars/0000.JPEG set/val/rings/0000.JPEG", cwd=place)
    assert out.startswith("set/val/stars/0000.JPEG: ")
    assert out.count("%") == 10


@pytest.fixture(scope="module")
def two(place):
    """Runs of one epoch with other seeds, on classes that have words."""
    (place / "words" / "set").mkdir(parents=True)
    for part in ("train", "val"):
        shutil.copytree(place / "set" / part, place / "words" / "set" / part)
    (place / "words" / "set" / "words.txt").write_text("checks\tchecked cloth, checks\n")
    for seed in (1, 2):
        run(f"{ONE_EPOCH} --lr 0.001 --seed {seed} --output seed{seed}", place / "words")
    return place / "words"


def probabilities(place, name, views=False):
    """The Evaluation of a run on the set's validation pictures, by the library."""
    model, preparation, settings = load_run(str(place / name))
    images = open_validation(place / "set", settings.classes)
    loader = Loader(Pictures(images), preparation, 7, False, workers=0, ten_views=views)
    return evaluate(model, loader), settings


def sentence(result):
    return f"loss {result.loss:.4f}, top-1 {result.top(1):.2%}, top-5 {result.top(5):.2%}"


def test_predict_lists_the_five_most_probable_classes(two):
    """In words, each with its own probability."""
    files = [f"set/val/{name}/0000.JPEG" for name in ("checks", "stars")]
    model, preparation, settings = load_run(str(two / "seed1"))
    lines = run(f"predict seed1 {' '.join(files)}", two).splitlines()
    assert settings.names[settings.classes.index("checks")] == "checked cloth, checks"
    for file, line in zip(files, lines, strict=True):
        x = preparation.centre(read_image(two / file, (256, 256, 3))[None])
        with no_grad():
            p = F.softmax(model(x)).numpy()[0]
        words = [f"{name.split(',')[0]} {q:.1%}" for q, name in zip(p, settings.names)]
        best = sorted(range(10), key=lambda k: -p[k])[:5]
        assert line == f"{file}: {', '.join(words[k] for k in best)}"


def test_evaluations_by_number(two, monkeypatch):
    """One run, or the mean of two; the centre or ten views; tables and the matrix."""
    drawn = []
    monkeypatch.setattr(look, "draw_confusion", lambda *a: drawn.append(a))
    first, settings = probabilities(two, "seed1")
    out = run("evaluate seed1 --workers 0", two)
    assert out == f"20 pictures of {two}/set/val, centre view: {sentence(first)}\n"
    tens = [probabilities(two, name, views=True)[0] for name in ("seed1", "seed2")]
    mean = ensemble(tens)
    tables = "--by-class c.csv --predictions p.csv --confusion c.png"
    out = run(f"evaluate seed1 seed2 --views ten --workers 0 {tables}", two).splitlines()
    assert len({sentence(r) for r in (first, mean, *tens)}) == 4, "or the next lines show nothing"
    assert out == [
        f"seed1: {sentence(tens[0])}",
        f"seed2: {sentence(tens[1])}",
        f"20 pictures of {two}/set/val, ten views, 2 runs averaged: {sentence(mean)}",
        "written: c.csv",
        "written: p.csv",
        "written: c.png",
    ]
    rows = list(csv.reader((two / "p.csv").read_text().splitlines()))[1:]
    for k, row in enumerate(rows):
        name = settings.classes[mean.labels[k]]
        assert (row[0], row[1]) == (f"{two}/set/val/{name}/{k % 2:04}.JPEG", name)
        best = mean.probabilities[k].argsort()[::-1][:5]
        assert row[2::2] == [settings.classes[c] for c in best]
        shown = np.array(row[3::2], float)
        np.testing.assert_allclose(shown, mean.probabilities[k][best], atol=2e-6)
    rows = list(csv.reader((two / "c.csv").read_text().splitlines()))[1:]
    assert [row[:3] for row in rows] == [
        [c, name, "2"] for c, name in zip(settings.classes, settings.names)
    ]
    assert ["checks", "checked cloth, checks", "2"] in [row[:3] for row in rows]
    ((matrix, names, path),) = drawn
    np.testing.assert_array_equal(matrix, mean.confusion())
    assert (matrix != matrix.T).any()
    assert (names, path) == (settings.names, Path("c.png"))


def test_evaluation_of_other_pictures(two, tmp_path):
    """Named by --data, and with unreadable ones, however many: they are named and left out."""
    out = run("evaluate seed1 --workers 0 --data set/train", two)
    assert out.startswith("40 pictures of set/train, centre view: loss ")
    shutil.copytree(two / "set" / "val", tmp_path / "val")
    for name in ("dots", "rings", "stars"):
        (tmp_path / "val" / name / "0001.JPEG").write_bytes(b"")
    out = run(f"evaluate seed1 --workers 0 --data {tmp_path / 'val'}", two).splitlines()
    assert out[0].startswith(f"17 pictures of {tmp_path / 'val'}, centre view: loss ")
    assert [line.split(":")[0].split("/")[-2] for line in out[1:]] == ["dots", "rings", "stars"]
    assert all(line.startswith("skipped ") for line in out[1:])


def test_options_of_evaluate_reach_the_loader(two, monkeypatch):
    made = []

    class Told(Loader):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(actions, "Loader", Told)
    run("evaluate seed1 --batch-size 9 --workers 0 --worker-timeout 45", two)
    run("evaluate seed1 --views ten --workers 1", two)
    first, second = made
    assert (first.batch_size, first.workers, first.worker_timeout) == (9, 0, 45.0)
    assert (second.batch_size, second.workers, second.worker_timeout) == (64, 1, 30.0)
    assert (first.ten_views, second.ten_views) == (False, True)
    assert first.most_skipped == 1.0
    assert not first.training


def test_options_of_look_and_report_reach_them(tmp_path, monkeypatch):
    """Each with a value that is not its default; then the defaults, for a folder and for a file."""
    told, drawn = [], []

    class Inside:
        def __init__(self, *args, **options):
            told.append((args, options))

        def draw(self, what):
            drawn.append(what)

    monkeypatch.setattr(actions, "Inside", Inside)
    monkeypatch.setattr(actions, "write_report", lambda *a, **o: told.append((a, o)))
    run(
        "look r --what nine maps --picture a.png --data set --stage conv4 --map 7 12"
        " --method guided --size 5 --stride 2 -o there --batch-size 6 --workers 0 --device gpu",
        tmp_path,
    )
    assert told.pop() == (
        ("r", Path("there")),
        {
            "picture": "a.png", "place": "set", "stage": "conv4", "maps": [7, 12],
            "method": "guided", "size": 5, "stride": 2, "batch_size": 6, "workers": 0,
            "device": "gpu",
        },
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    run("look run", tmp_path)
    run("look run/best.safetensors", tmp_path)
    assert [args for args, _ in told] == [
        ("run", Path("run/look")),
        ("run/best.safetensors", Path("run/look-best")),
    ]
    assert told[0][1]["method"] == "deconvnet"
    assert drawn == [["nine", "maps"], None, None]
    told.clear()
    run("report r --picture a.png --data set --kind numbers -o b.html --workers 0", tmp_path)
    run("report r", tmp_path)
    assert told == [
        (
            ("r", "numbers"),
            {"picture": "a.png", "place": "set", "output": Path("b.html"), "workers": 0},
        ),
        (("r", "full"), {"picture": None, "place": None, "output": None, "workers": 2}),
    ]


def test_look_draws_what_is_inside(trained):
    """Every instrument, on the run's own pictures; then some of them, as asked for."""
    place, _ = trained
    before = (place / "run" / "checkpoint.safetensors").read_bytes()
    out = run("look run", cwd=place)
    drawn = sorted(p.name for p in (place / "run" / "look").iterdir())
    tiny = list(TINY.layers)
    weights = [name for name in tiny if name.startswith(("conv", "fc"))]
    expected = [f"filters-{name}.png" for name in weights] + [f"maps-{name}.png" for name in tiny]
    expected += [
        "deconvnet-relu5.png", "evolution-relu5.png", "invariance.png", "ledger.png",
        "neighbours-relu7.png", "nine-relu5.png", "occlusion.png", "predictions.png",
        "spectrum.png",
    ]  # fmt: skip
    assert drawn == sorted(expected)
    assert out.count("written: ") == len(drawn)
    for name in drawn:
        assert np.asarray(Image.open(place / "run" / "look" / name)).std() > 1, name
    assert (place / "run" / "checkpoint.safetensors").read_bytes() == before
    picture = "--picture set/train/dots/0001.JPEG"
    out = run(
        f"look run/best.safetensors {picture} --what maps deconvnet occlusion --stage conv4 --map 7"
        " --size 20 --stride 19 -o seen/there --batch-size 5 --workers 0",
        cwd=place,
    )
    drawn = sorted(p.name for p in (place / "seen" / "there").iterdir())
    assert drawn == ["deconvnet-conv4.png", "maps-conv4.png", "occlusion.png"]
    run(
        "look run --what nine neighbours --data set/train --stage relu3 --method guided -o more",
        cwd=place,
    )
    assert sorted(p.name for p in (place / "more").iterdir()) == [
        "neighbours-relu3.png",
        "nine-relu3.png",
        "predictions.png",
    ]


def test_look_leaves_out_what_does_not_apply(trained):
    """Where no instrument is named, one that has nothing to show is told, and the others draw."""
    place, _ = trained
    out = run("look run/best.safetensors --stage fc6", cwd=place)
    assert "left out, evolution: run/best.safetensors is no run folder" in out
    drawn = {p.name for p in (place / "run" / "look-best").iterdir()}
    assert {"filters-fc6.png", "maps-fc6.png", "nine-fc6.png", "ledger.png"} <= drawn
    assert not any(name.startswith("evolution") for name in drawn)
    out = run("look run --what neighbours -o run", cwd=place, code=2)
    assert "run is the run's own folder: choose another --output" in out


def test_features_of_a_life_that_was_given_up(place):
    """A run that goes back to an earlier checkpoint keeps no features from after it, and the newest
    weights are followed last, in the middle of an epoch too."""
    run(f"{ONE_EPOCH} --epochs 2 --keep 9 --output lives", cwd=place)
    folder = RunFolder(place / "lives")
    assert [epoch for epoch, _ in folder.features()] == [1, 2]
    shutil.copyfile(place / "lives" / "epoch-0001.safetensors", folder.path / CHECKPOINT)
    assert [epoch for epoch, _ in folder.features()] == [1]
    tensors, description = checkpoint.load(folder.path / CHECKPOINT)
    description["place"] |= {"batch": 1, "step": 3}
    checkpoint.save(folder.path / CHECKPOINT, tensors, description)
    assert [epoch for epoch, _ in folder.features()] == [1, 1.5]
    shutil.copyfile(place / "lives" / "epoch-0001.safetensors", folder.path / CHECKPOINT)
    folder.claimed = True
    folder.start({}, description["place"]["step"], 1)
    assert [p.name for p in (folder.path / "features").iterdir()] == ["epoch-0001.safetensors"]
    shutil.copyfile(folder.path / CHECKPOINT, folder.path / "features" / "epoch-0001.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match="holds no features that a run kept"):
        list(folder.features())


@pytest.mark.parametrize(
    ("words", "args"),
    [
        ("there is no checkpoint", "look set"),
        ("--batch-size must be at least 1, not 0", "look run --batch-size 0"),
        ("unknown stage 'conv9': choose from conv1, relu1", "look run --stage conv9"),
        ("relu5 has maps 0 to 15, not 16", "look run --map 3 16"),
        ("not a picture that can be read", "look run --what maps --picture words.txt"),
        ("No such file", "look run --what maps --picture cat.jpg"),
        ("there is no folder or archive nowhere", "look run --what nine --data nowhere"),
        ("squares of 9 moved by 10 do not", "look run --what occlusion --size 9 --stride 10"),
        ("followed as far as the convolutions go", "look run --what evolution --stage relu6"),
        ("is no run folder: evolution", "look run/best.safetensors --what evolution"),
        ("has no weights: choose from conv1", "look run --what filters --stage relu1"),
    ],
)
def test_mistakes_in_looking_get_a_sentence(trained, words, args):
    place, _ = trained
    out = run(f"{args} -o nothing", cwd=place, code=2)
    assert words in out
    assert out.splitlines()[-1].startswith("error: ")


def test_look_without_the_runs_pictures(trained, tmp_path):
    """A run whose pictures are gone looks at others; of other classes it says so."""
    place, _ = trained
    shutil.copytree(place / "run", tmp_path / "run")
    shutil.copytree(place / "set" / "val", tmp_path / "pictures")
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["options"]["data"] == str(place / "set")
    (place / "set").rename(place / "gone")
    try:
        out = run("look run --what nine -o a", cwd=tmp_path, code=2)
        assert f"there is no folder or archive {place / 'set'}" in out
        run("look run --what maps --stage conv1 --picture pictures/dots/0000.JPEG -o a", tmp_path)
        run("look run --what nine --data pictures -o a", cwd=tmp_path)
    finally:
        (place / "gone").rename(place / "set")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "maps-conv1.png",
        "nine-relu5.png",
    ]
    shutil.rmtree(tmp_path / "pictures" / "dots")
    out = run("look run --what nine --data pictures", cwd=tmp_path, code=2)
    assert "dots" in out


def test_a_ledger_is_drawn(tmp_path):
    out = run("summary lenet5 --compare cifar10_26pct --plot l.png", cwd=tmp_path)
    assert "written: l.png" in out
    assert np.asarray(Image.open(tmp_path / "l.png")).std() > 5


def test_resume_goes_on(trained):
    place, _ = trained
    out = run("train --resume run --epochs 3", cwd=place)
    assert "going on with run from epoch 2, step 10" in out
    assert [row[0] for row in read_rows(place / "run" / "metrics.csv")] == ["1", "2", "3"]


def test_resume_refuses_what_cannot_change(trained):
    place, _ = trained
    out = run("train --resume run --preset paper", cwd=place, code=2)
    assert "the run run was started with tiny, which cannot change" in out


def test_resume_on_other_pictures_is_refused(place, tmp_path):
    synthetic.draw_set(tmp_path / "set", train=3, val=1)
    args = f"{ONE_EPOCH} --output r"
    run(args, cwd=tmp_path)
    (tmp_path / "set" / "train" / "dots" / "0000.JPEG").unlink()
    out = run("train --resume r --epochs 2", cwd=tmp_path, code=2)
    assert "it can only go on with the same" in out


def test_evaluate_takes_what_the_run_held_out(place):
    args = f"{ONE_EPOCH} --data set/train --holdout 0.25 --output held"
    run(args, cwd=place)
    assert f"10 pictures of {place}/set/train" in run("evaluate held", cwd=place)


def test_same_seed_same_bytes_at_any_worker_count(place):
    for name, workers, cache in (("w0", 0, "off"), ("w3", 3, "c")):
        args = f"{ONE_EPOCH} --batch-size 8"
        run(f"{args} --output {name} --workers {workers} --cache {cache}", cwd=place)
    steps = [(place / name / "steps.csv").read_text() for name in ("w0", "w3")]
    assert steps[0] == steps[1]


def test_own_folder_without_val_and_with_subsets(place):
    script = ROOT / "examples" / "train_imagenet_subset.py"
    few = "--classes dots,stars,waves --images-per-class 3 --holdout 0.34"
    command = f"{script} --data set/train --preset tiny --epochs 1 {few} --recipe preset"
    with start(f"{command} --output own", place) as process:
        out = process.stdout.read()
    assert process.returncode == 0, out
    assert (
        "6 pictures for training, 3 for validation (from set/train), 3 classes: dots, stars, waves"
        in out
    )
    assert "recipe 'preset'" in out
    assert "top-5 100.0%" in out, "with three classes every picture is in the top five"


def test_synthetic_run_prints_baselines(trained):
    place, _ = trained
    script = ROOT / "examples" / "train_imagenet_subset.py"
    with start(f"{script} --data set --preset tiny --epochs 1 --output base", place) as process:
        out = process.stdout.read()
    assert process.returncode == 0, out
    assert "nearest class mean colour" in out
    assert "linear classifier on 32x32 pixels" in out
    assert "synthetic pictures, not photographs" in out


def test_broken_pictures_are_counted_not_fatal(place, tmp_path):
    synthetic.draw_set(tmp_path / "set", train=3, val=1)
    (tmp_path / "set" / "train" / "dots" / "0001.JPEG").write_bytes(b"")
    out = run(f"{ONE_EPOCH} --output r", cwd=tmp_path)
    assert "skipped set/train/dots/0001.JPEG" in out
    assert "it must hold one of JPEG, PNG" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_goes_on(place, number):
    folder = f"stopped{int(number)}"
    process = start(f"{TRAIN} --epochs 3000 --batch-size 8 --output {folder}", cwd=place)
    lines = iter(process.stdout.readline, "")
    assert any(line.startswith("epoch   2/") for line in lines)
    process.send_signal(number)
    rest = "".join(lines)
    process.stdout.close()
    assert process.wait() == 130
    assert f"go on with --resume {folder}" in rest
    step = int(rest.split("step ")[-1].split(";")[0])
    assert len(read_rows(place / folder / "steps.csv")) == step
    assert f"step {step}" in run(f"train --resume {folder} --epochs {step // 5 + 1}", cwd=place)


SLOW = {
    "decoding": "import minigrad.data.cache as slow; slow.read_image = wait",
    "drawing": "import minigrad.training.session as slow; slow.draw_run = wait",
}
WAIT = """
def wait(*_):
    import time
    print("now", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("what", SLOW)
def test_a_signal_outside_of_the_steps_leaves_nothing_half_written(place, tmp_path, what, number):
    shutil.copytree(place / "set", tmp_path / "set")
    process = start(f"{ONE_EPOCH} --output run", cwd=tmp_path, before=WAIT + SLOW[what])
    lines = iter(process.stdout.readline, "")
    assert any(line.startswith("now") for line in lines)
    process.send_signal(number)
    rest = "".join(lines)
    process.stdout.close()
    assert (process.wait(), rest.splitlines()[-1]) == (130, "stopped")
    assert "Traceback" not in rest
    assert not list(tmp_path.rglob(".minigrad-*"))
    assert (tmp_path / "run" / CHECKPOINT).exists() == (what == "drawing")


def test_a_hangup_that_is_ignored_as_under_nohup_stops_nothing(place):
    process = start(
        f"{TRAIN} --epochs 3000 --batch-size 8 --output nohup", cwd=place,
        before="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n",
    )  # fmt: skip
    lines = iter(process.stdout.readline, "")
    assert any(line.startswith("epoch   1/") for line in lines)
    process.send_signal(signal.SIGHUP)
    assert any(line.startswith("epoch   3/") for line in lines)
    process.send_signal(signal.SIGTERM)
    assert "go on with --resume nohup" in "".join(lines)
    process.stdout.close()
    assert process.wait() == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(place, number):
    """Also where the step in hand waits for a worker that stands still; the worker goes too."""
    command = f"{TRAIN} --epochs 3000 --batch-size 8 --output twice{int(number)} --cache off"
    with start(f"{command} --workers 1", cwd=place) as process:
        lines = iter(process.stdout.readline, "")
        try:
            assert any(line.startswith("epoch   2/") for line in lines)
            children = [
                int(pid)
                for pid in (
                    Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                )
            ]
            assert children
            for pid in children:
                os.kill(pid, signal.SIGSTOP)
            process.send_signal(number)
            assert any(
                line.startswith("stopping after the step in hand; a second signal ends at once")
                for line in lines
            )
            process.send_signal(number)
            assert process.wait(20) == -number
        finally:
            process.kill()
    assert_they_end(children)


@pytest.mark.parametrize(
    ("words", "args"),
    [
        (
            "there is no folder or archive nowhere",
            "train --data nowhere --preset tiny",
        ),
        ("unknown preset 'alex'", "train --data set --preset alex"),
        ("unknown preset 'alex'", "summary alex"),
        ("has one class", f"{TRAIN} --classes 1"),
        (
            "must be 1 to 10, not 11",
            f"{TRAIN} --classes 11",
        ),
        (
            "cannot write into the run folder",
            f"{TRAIN} --output /proc/run",
        ),
        (
            "it holds a run; go on with it by --resume run",
            f"{TRAIN} --output run",
        ),
        ("there is no checkpoint", "evaluate set"),
        ("there is no checkpoint", "train --resume set"),
        ("not a picture that can be read", "predict run words.txt"),
        ("No such file", "predict run cat.jpg"),
        ("unknown device 'cuda'", "predict run set/val/dots/0000.JPEG --device cuda"),
        (
            "CuPy",
            f"{TRAIN} --device gpu:99 --output z",
        ),
        (
            "--epochs must be at least 1, not 0",
            f"{TRAIN} --epochs 0 --output z",
        ),
        (
            "--batch-size must be at least 1",
            f"{TRAIN} --batch-size 0 --output z",
        ),
    ],
)
def test_mistakes_get_a_sentence(trained, words, args):
    place, _ = trained
    out = run(args, cwd=place, code=2)
    assert words in out
    assert out.splitlines()[-1].startswith("error: ")


def test_summary_and_gradcheck(tmp_path):
    assert "60,965,224        724.41 M" in run("summary", cwd=tmp_path)
    assert "largest relative error" in run("gradcheck caffenet", cwd=tmp_path)


def test_summaries_by_number(tmp_path):
    out = run("summary lenet5 --classes 7 --compare cifar10_26pct", tmp_path)
    own, other = (
        [sum(getattr(row, what) for row in rows) for what in ("parameters", "multiply_adds")]
        for rows in (
            ledger(alexnet.MODELS["lenet5"], 7),
            ledger(alexnet.MODELS["cifar10_26pct"]),
        )
    )
    assert f" {own[0]:,} " in out
    assert out.splitlines()[-1] == (
        f"{own[0] / other[0]:.4g} times the parameters and {own[1] / other[1]:.4g} times the"
        f" multiply-adds of cifar10_26pct ({other[0]:,}; {other[1]:,})"
    )
    out = run("summary krizhevsky2012 --columns 2", tmp_path)
    assert out.splitlines()[-1] == (
        "one of 2 columns: 30,482,612 parameters; in a step it sends 244,688 bytes a picture"
    )
    few = ledger(column_of(alexnet.MODELS["krizhevsky2012"], 2, 0, 7))
    out = run("summary krizhevsky2012 --columns 2 --classes 7", tmp_path)
    assert out.splitlines()[-1] == (
        f"one of 2 columns: {sum(row.parameters for row in few):,} parameters; in a step it sends"
        f" {bytes_sent(few, 0):,} bytes a picture"
    )
    out = run("summary all", tmp_path)
    assert all(f"{name}:" in out or f"{name} " in out for name in alexnet.MODELS)
    totals = {f"{sum(r.parameters for r in ledger(p)):,}" for p in alexnet.MODELS.values()}
    assert all(total in out for total in totals)


def test_what_summary_draws(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(about_presets, "Network", lambda preset, classes: classes or preset.classes)
    monkeypatch.setattr(look, "stage_seconds", lambda classes: {"all": classes})
    monkeypatch.setattr(look, "draw_ledgers", lambda *a: drawn.append(a) or a[1])
    out = run("summary lenet5 --classes 7 --compare cifar10_26pct --plot there", tmp_path)
    assert out.startswith("written: there.png\n")
    ((ledgers, path, seconds),) = drawn
    assert path == Path("there.png")
    assert list(ledgers) == ["lenet5", "cifar10_26pct"]
    assert [rows[-1].shape for rows in ledgers.values()] == [(7,), (10,)]
    assert seconds == {"lenet5": {"all": 7}, "cifar10_26pct": {"all": 10}}
    run("summary all --plot all.png", tmp_path)
    assert set(drawn[1][0]) == set(alexnet.MODELS) | {"tiny"}


def test_gradcheck_checks_the_preset_that_is_named(tmp_path, monkeypatch):
    checked = []
    monkeypatch.setattr(
        about_presets, "check_network", lambda preset: checked.append(preset) or 1e-9
    )
    out = run("gradcheck zfnet", tmp_path)
    run("gradcheck", tmp_path)
    assert checked == [alexnet.MODELS["zfnet"], alexnet.MODELS["paper"]]
    assert out.startswith("zfnet: ")
    assert out.endswith("largest relative error 1.0e-09\n")


COMMANDS = ["summary", "train", "evaluate", "predict", "look", "report", "gradcheck"]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_shows_examples_that_can_be_given(command, capsys):
    parser = commands.parser_of(alexnet.MODELS, "alexnet.py")
    with pytest.raises(SystemExit, match="0"):
        parser.parse_args([command, "--help"] if command else ["--help"])
    start = f"  python alexnet.py {command}".rstrip() + " "
    examples = [
        line.removeprefix("  python alexnet.py ")
        for line in capsys.readouterr().out.split("examples:")[1].splitlines()
        if line.startswith(start)
    ]
    assert examples
    for example in examples:
        assert parser.parse_args(example.split()).command == example.split()[0]


@pytest.mark.parametrize(
    "command",
    [
        ["examples/train_imagenet_subset.py"],
        ["examples/4_convolution_by_hand.py"],
        ["-m", "minigrad"],
        ["-m", "minigrad.gradcheck"],
        ["-m", "minigrad.kernels"],
        ["-m", "minigrad.kernels", "trace"],
    ],
    ids=" ".join,
)
def test_help_of_the_other_programs_shows_how_they_are_called(command, tmp_path):
    if command[0] != "-m":
        command = [str(ROOT / command[0])]
    out = run_process(*command, "--help", cwd=tmp_path)
    assert "python " + " ".join(c.removeprefix(f"{ROOT}/") for c in command) in out


def test_report(tmp_path):
    out = run_process("-m", "minigrad", cwd=tmp_path)
    for word in ("minigrad", "numpy", "devices", "BLAS", "kernels", "threads"):
        assert word in out


def test_the_report_on_what_is_broken_and_what_is_asked_wrongly(monkeypatch, capsys):
    def broken(*_):
        raise kernel_build.BuildError("no compiler")

    monkeypatch.setattr(about, "devices", broken)
    assert about.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "devices      BuildError: no compiler" in lines
    assert lines[-1].startswith("kernels      ")
    assert about.main(["word"]) == 2
    assert capsys.readouterr().err.startswith("error: word: give no argument, or build.")
    monkeypatch.setattr(kernel_build, "build", broken)
    assert about.main(["build"]) == 2
    assert capsys.readouterr().err == "error: no compiler\n"


def test_a_run_folder_is_enough_to_repeat_a_run(trained):
    place, _ = trained
    run("train --config run/settings.json --epochs 1 --output again1", cwd=place)
    run(
        "train --config again1 --output again2 --workers 0 --cache off",
        cwd=place,
    )
    first, second = ((place / name / "steps.csv").read_text() for name in ("again1", "again2"))
    assert first == second
    settings = [
        json.loads((place / name / "settings.json").read_text()) for name in ("again1", "again2")
    ]
    assert settings[0]["network"] == settings[1]["network"]
    assert "numpy" in settings[0]["versions"]


def test_finetune_takes_what_fits(trained):
    place, _ = trained
    out = run(
        f"{ONE_EPOCH} --classes 3 --finetune run --output f",
        cwd=place,
    )
    assert (
        "from run: 14 parameters taken; left: fc8.w (here 64x3, there 64x10), fc8.b (here 3,"
        " there 10)" in out
    )


def test_views_ensembles_and_tables(trained):
    place, _ = trained
    run(
        f"{ONE_EPOCH} --seed 5 --output run2",
        cwd=place,
    )
    tables = "--by-class c.csv --predictions p.csv --confusion c.png"
    out = run(f"evaluate run run2/best.safetensors --views ten {tables}", cwd=place)
    assert f"20 pictures of {place}/set/val, ten views, 2 runs averaged: loss" in out
    assert len(out.splitlines()) == 6
    assert len((place / "p.csv").read_text().splitlines()) == 21
    assert len((place / "c.csv").read_text().splitlines()) == 11
    assert "set/val/checks/0000.JPEG,checks," in (place / "p.csv").read_text()
    run(
        f"{ONE_EPOCH} --classes 3 --output three",
        cwd=place,
    )
    out = run("evaluate run three", cwd=place, code=2)
    assert "three tells other classes apart than run" in out


def test_another_rate_wins_and_is_logged(trained):
    place, _ = trained
    run("train --config run --epochs 1 --output rate", cwd=place)
    out = run("train --resume rate --lr 0.0005 --epochs 2", cwd=place)
    assert "--lr 0.0005, in place of None so far" in out
    assert "lr 0.0005" in out.split("going on with")[1]


def test_the_plateau_schedule(trained):
    place, _ = trained
    out = run(
        "train --config run --schedule plateau --epochs 1 --output plateau",
        cwd=place,
    )
    assert "divided by 10 when validation stops improving" in out


def test_too_many_broken_pictures_end_the_run(tmp_path):
    synthetic.draw_set(tmp_path / "set", train=4, val=1)
    broken = sorted((tmp_path / "set" / "train").rglob("*.JPEG"))[::4]
    for path in broken:
        path.write_bytes(path.read_bytes()[:300])
    args = ONE_EPOCH
    out = run(f"{args} --output a", cwd=tmp_path, code=2)
    assert (
        "of 40 pictures cannot be read, more than the share of 0.1 that --most-skipped allows"
        in out
    )
    out = run(f"{args} --output b --most-skipped 0.5", cwd=tmp_path)
    assert len(read_rows(tmp_path / "b" / "skipped.csv")) == 10
    assert "held-out pictures, last epoch" in out


def test_a_damaged_checkpoint_names_the_others(trained):
    place, _ = trained
    run("train --config run --epochs 1 --output hurt", cwd=place)
    path = place / "hurt" / "checkpoint.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1000] ^= 1
    path.unlink()  # the others are links to the same bytes
    path.write_bytes(raw)
    out = run("train --resume hurt --epochs 2", cwd=place, code=2)
    assert "are not those that were written" in out
    assert "Beside it are best.safetensors, epoch-0001.safetensors: copy one over it" in out
    path.write_bytes((place / "hurt" / "best.safetensors").read_bytes())
    run("train --resume hurt --epochs 2", cwd=place)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_training_from_an_archive(place, kind):
    shutil.make_archive(str(place / "packed"), kind, place / "set")
    out = run(
        f"{ONE_EPOCH} --data packed.{kind} --output {kind}",
        cwd=place,
    )
    assert f"20 for validation (from packed.{kind}/val)" in out
    run(
        f"{ONE_EPOCH} --output {kind}-folder",
        cwd=place,
    )
    assert (place / kind / "steps.csv").read_text() == (
        place / f"{kind}-folder" / "steps.csv"
    ).read_text()
    assert f"20 pictures of {place}/packed.{kind}/val" in run(f"evaluate {kind}", cwd=place)


def test_the_disk_takes_no_checkpoint(place):
    """The first save fails, and says so, before any work is done."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))"
    command = f"{ONE_EPOCH} --output full --cache off --workers 0"
    with start(command, cwd=place, before=limit) as process:
        out = process.stdout.read()
    assert process.returncode == 2, out
    assert "error: could not write full/checkpoint.safetensors" in out
    assert "Traceback" not in out


def test_runs_started_in_the_same_second_have_folders_of_their_own(place):
    same = "import time; time.strftime = lambda *a: 'now'"
    processes = [
        start(f"{ONE_EPOCH} --seed {n}", place, same, stdout=subprocess.DEVNULL) for n in range(3)
    ]
    assert [p.wait() for p in processes] == [0, 0, 0]
    folders = sorted((place / "runs").glob("now-tiny*"))
    assert [f.name for f in folders] == ["now-tiny", "now-tiny+2", "now-tiny+3"]
    assert all(len(read_rows(f / "steps.csv")) == 2 for f in folders)


def test_nothing_is_written_over(place):
    """--output names a new or an empty folder; a run's folder without its checkpoint is none
    either, and says how to go on."""
    theirs = ["metrics.csv", "steps.csv", "settings.json", "curves.png", "draft.tmp", ".hidden"]
    run(f"{ONE_EPOCH} --output lost", cwd=place)
    (place / "lost" / "checkpoint.safetensors").unlink()
    (place / "theirs").mkdir()
    for name in theirs:
        (place / "theirs" / name).write_text(f"my {name}")
    for folder, reason in (
        (
            "theirs",
            (
                "it holds .hidden, curves.png, draft.tmp, metrics.csv, settings.json and 1 more;"
                " choose another --output"
            ),
        ),
        (
            "lost",
            (
                "it holds best.safetensors, epoch-0001.safetensors of a run; copy one to"
                " lost/checkpoint.safetensors and --resume"
            ),
        ),
    ):
        before = {p: p.read_bytes() for p in (place / folder).rglob("*") if p.is_file()}
        out = run(f"{TRAIN} --output {folder}", cwd=place, code=2)
        assert f"{folder} is not empty, and nothing in it is written over: {reason}" in out
        assert {p: p.read_bytes() for p in (place / folder).rglob("*") if p.is_file()} == before
    shutil.copyfile(place / "lost" / "best.safetensors", place / "lost" / "checkpoint.safetensors")
    (place / "lost" / "draft.tmp").write_text("mine")
    run("train --resume lost --epochs 2", cwd=place)
    assert len(read_rows(place / "lost" / "metrics.csv")) == 2
    assert (place / "lost" / "draft.tmp").read_text() == "mine"


def test_a_run_killed_before_its_first_checkpoint_is_started_again(place):
    (place / "early" / ".minigrad-ab").mkdir(parents=True)
    (place / "early" / ".minigrad-ab" / ".tmpXYZ").write_bytes(b"half")
    run(f"{ONE_EPOCH} --output early", cwd=place)
    assert not list((place / "early").glob(".*"))


def test_matplotlib_is_not_loaded_before_something_is_drawn(place):
    """It takes half a second, at every start."""
    code = (
        "import sys, alexnet, minigrad.look; assert alexnet.main(['summary', 'paper']) == 0;"
        " print('matplotlib' in sys.modules)"
    )
    assert run_process("-c", code, cwd=place).endswith("\nFalse\n")


def test_a_run_folder_belongs_to_one_process(place):
    (place / "taken").mkdir()
    descriptor = os.open(place / "taken", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    out = run(f"{TRAIN} --output taken", cwd=place, code=2)
    os.close(descriptor)
    assert "another process is at work on the run taken" in out


def test_evaluation_knows_what_was_held_out(place, tmp_path):
    synthetic.draw_set(tmp_path / "set", train=6, val=1)
    for seed in (1, 2):
        run(
            f"{ONE_EPOCH} --data set/train --holdout 0.34 --seed {seed} --output s{seed}"
            " --cache here",
            cwd=tmp_path,
        )
    assert "s2 held out other pictures than s1" in run("evaluate s1 s2", cwd=tmp_path, code=2)
    (tmp_path / "elsewhere").mkdir()
    assert "20 pictures of" in run("evaluate ../s1", cwd=tmp_path / "elsewhere")
    assert "going on with ../s1" in run(
        "train --resume ../s1 --epochs 2", cwd=tmp_path / "elsewhere"
    )
    (tmp_path / "set" / "train" / "0new").mkdir()
    shutil.copy(
        tmp_path / "set" / "train" / "dots" / "0000.JPEG", tmp_path / "set" / "train" / "0new"
    )
    shutil.copy(
        tmp_path / "set" / "train" / "dots" / "0001.JPEG", tmp_path / "set" / "train" / "0new"
    )
    assert "has changed since the run s1" in run("evaluate s1", cwd=tmp_path, code=2)
