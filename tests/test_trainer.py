"""The loop on a tiny network: learning, the run folder, exact resumption, and evaluation."""

import math
import sys
import types
from dataclasses import replace

import numpy as np
import pytest

import alexnet
from minigrad import data, optim
from minigrad.models.records import LRN, Conv, small_subset
from minigrad.network import Network, shrunken
from minigrad.training import checkpoint
from minigrad.training.evaluation import evaluate, top_k
from minigrad.training.run_folder import CHECKPOINT, FILES, RunError, RunFolder
from minigrad.training.trainer import Stopped, Trainer, duration
from tests.rows import read as read_rows

SMALL = small_subset(shrunken(alexnet.PAPER)).with_each(LRN, alpha=1e-4)
TINY = SMALL.with_recipe(lr=0.01, batch_size=8, epochs=3)


def trainer(pictures, folder, preset=TINY, schedule=None, workers=1):
    folder.mkdir(exist_ok=True)
    prep = data.Preparation.of(preset.preprocessing, data.statistics(pictures[0]))
    loaders = [
        data.Loader(p, prep, preset.recipe.batch_size, t, 0, workers)
        for p, t in zip(pictures, (True, False))
    ]
    model = Network(preset, 10, 0)
    optimizer = model.make_optimizer()
    schedule = (schedule or (lambda opt: optim.StepSchedule(opt, (2,))))(optimizer)
    return Trainer(
        model,
        optimizer,
        schedule,
        *loaders,
        run=RunFolder(folder),
        settings={"a": 1},
        report=lambda line: None,
    )


def state(t):
    velocity = {f"v.{n}": t.optimizer.velocity[p].copy() for n, p in t.model.named_parameters()}
    return t.model.state_dict() | velocity


def assert_identical(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_run_folder(pictures, tmp_path):
    t = trainer(pictures, tmp_path / "run")
    t.fit(2)
    metrics = read_rows(tmp_path / "run" / "metrics.csv")
    steps = read_rows(tmp_path / "run" / "steps.csv")
    assert [row[:2] for row in metrics] == [["1", "4"], ["2", "8"]]
    assert [row[0] for row in steps] == [str(i) for i in range(1, 9)]
    tensors, description = checkpoint.load(tmp_path / "run" / CHECKPOINT)
    assert description["settings"] == {"a": 1}
    assert_identical(
        {n.removeprefix("model."): a for n, a in tensors.items() if n.startswith("model.")},
        t.model.state_dict(),
    )


@pytest.mark.parametrize(
    "held",
    [
        "checkpoint.safetensors",
        "best.safetensors",
        "epoch-0001.safetensors",
        "metrics.csv",
        "settings.json",
    ],
)
def test_another_runs_files_are_not_written_over(pictures, tmp_path, held):
    """Neither by fit nor by save, of a trainer that has not resumed that run."""
    t = trainer(pictures, tmp_path / "run", workers=0)
    (tmp_path / "run" / held).write_bytes(b"another's")
    for action in (lambda: t.fit(1), t.save):
        with pytest.raises(
            RunError, match=rf"holds {held} of another run: resume\(\) goes on with it"
        ):
            action()
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == {held: b"another's"}


def test_a_tiny_network_learns_a_batch_by_heart(pictures, tmp_path):
    convs = {name: x for name, x in TINY.layers.items() if isinstance(x, Conv)}
    wide = {name: replace(x, filters=4 * x.filters) for name, x in convs.items()}
    preset = TINY.changed(**wide, drop6=None, drop7=None).with_recipe(lr=0.02)
    t = trainer(pictures, tmp_path / "run", preset)
    x, labels, _ = t.train.prepare(np.arange(0, 30, 3))
    first = t.learn(x, labels)[0]
    for _ in range(60):
        last = t.learn(x, labels)[0]
    assert first > 1.5
    assert last < 0.1


@pytest.mark.parametrize(
    "schedule", [None, lambda opt: optim.PlateauSchedule(opt, patience=1)], ids=["step", "plateau"]
)
def test_interrupted_and_whole_runs_end_with_the_same_bytes(pictures, tmp_path, schedule):
    whole = trainer(pictures, tmp_path / "whole", schedule=schedule)
    whole.fit(3)

    broken = trainer(pictures, tmp_path / "broken", schedule=schedule, workers=0)
    learn, done = broken.learn, []

    def interrupted(x, t):
        done.append(1)
        broken.stopping = len(done) == 6  # in the middle of the second epoch
        return learn(x, t)

    broken.learn = interrupted
    with pytest.raises(Stopped, match="go on with --resume"):
        broken.fit(3)
    again = trainer(pictures, tmp_path / "broken", schedule=schedule, workers=2)
    again.resume()
    assert (again.epoch, again.batch, again.step) == (1, 2, 6)
    again.fit(3)
    assert_identical(state(again), state(whole))
    steps = [read_rows(tmp_path / name / "steps.csv") for name in ("whole", "broken")]
    assert steps[0] == steps[1]


def test_a_look_ahead_changes_nothing(pictures, tmp_path):
    a, b = trainer(pictures, tmp_path / "a"), trainer(pictures, tmp_path / "b")
    assert a.seconds_ahead(2) > 0
    a.fit(1)
    b.fit(1)
    assert_identical(state(a), state(b))


def test_a_loss_that_is_no_number_stops_with_a_sentence(pictures, tmp_path):
    t = trainer(pictures, tmp_path / "run")
    t.save()
    before = checkpoint.load(tmp_path / "run" / CHECKPOINT)[0]
    x, labels, _ = t.train.prepare(np.arange(4))
    x[0, 0, 0, 0] = np.nan
    with pytest.raises(
        RunError,
        match=(
            "the loss became nan at step 1.*pictures of this batch hold values that are not finite"
        ),
    ):
        t.learn(x, labels)
    assert_identical(
        {n: a for n, a in before.items() if n.startswith("model.")},
        {f"model.{n}": a for n, a in t.model.state_dict().items()},
    )


def test_evaluation_leaves_the_mode_alone(pictures, tmp_path):
    t = trainer(pictures, tmp_path / "run")
    t.model.train()
    result = evaluate(t.model, t.val)
    assert t.model.training
    assert result.probabilities.shape == (20, 10)
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, rtol=1e-5)
    own = result.probabilities[np.arange(20), result.labels]
    assert result.loss == pytest.approx(-np.log(own).mean(), rel=1e-5)
    assert result.top(10) == 1.0


def test_top_k():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]])
    assert [top_k(scores, np.array([2, 0]), k) for k in (1, 2, 3, 5)] == [0.5, 1.0, 1.0, 1.0]
    assert top_k(np.full((1, 3), 0.5), np.array([0]), 1) == 0.0, (
        "a network that says the same of all classes knows nothing"
    )
    assert top_k(np.array([[np.nan, 0.0]]), np.array([0]), 1) == 0.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (45, "45 s"),
        (600, "10 min"),
        (12_000, "3 h 20 min"),
        (8 * 86_400, "8 d 0 h"),
        (math.nan, "an unknown time"),
    ],
)
def test_duration(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize("when", ["during validation", "while the first batch is read"])
def test_stopped_between_two_epochs_the_schedule_moves_once(pictures, tmp_path, when):
    """The resumed run must not count the same validation error twice, whether the schedule has
    heard it before the stop or not."""

    def plateau(opt):
        return optim.PlateauSchedule(opt, patience=1)

    whole = trainer(pictures, tmp_path / "whole", schedule=plateau)
    whole.fit(4)
    broken = trainer(pictures, tmp_path / "broken", schedule=plateau)
    if when == "during validation":
        broken.report = lambda line: setattr(
            broken, "stopping", broken.epoch == 2
        )  # said at the end of an epoch
    else:
        batches = broken.train.batches

        def reading(epoch, start):
            broken.stopping = epoch == 2
            return batches(epoch, start)

        broken.train.batches = reading
    with pytest.raises(Stopped):
        broken.fit(4)
    again = trainer(pictures, tmp_path / "broken", schedule=plateau)
    again.resume()
    assert (again.epoch, again.batch) == (2, 0)
    again.fit(4)
    assert again.schedule.state() == whole.schedule.state()
    assert_identical(state(again), state(whole))


def test_a_rate_drops_in_the_middle_of_an_epoch(pictures, tmp_path):
    t = trainer(pictures, tmp_path / "run", schedule=lambda opt: optim.StepSchedule(opt, (0.5,)))
    learn, factors = t.learn, []
    t.learn = lambda x, labels: factors.append(t.optimizer.factor) or learn(x, labels)
    t.fit(1)
    assert factors == [1.0, 1.0, 0.1, 0.1]


def test_a_torn_line_does_not_keep_a_run_from_going_on(pictures, tmp_path):
    t = trainer(pictures, tmp_path / "run")
    t.fit(1)
    with open(tmp_path / "run" / "steps.csv", "a") as file:
        file.write("5,1.2")
    again = trainer(pictures, tmp_path / "run")
    again.resume()
    again.fit(2)
    assert [row[0] for row in read_rows(tmp_path / "run" / "steps.csv")] == [
        str(i) for i in range(1, 9)
    ]


def test_last_and_best_checkpoints_stay(pictures, tmp_path):
    t = trainer(pictures, tmp_path / "run")
    t.keep = 2
    errors = iter([0.6, 0.4, 0.5, 0.7])
    save_epoch = t.save_epoch

    def judged():
        t.last_error = next(errors)
        save_epoch()

    t.save_epoch = judged
    t.fit(4)
    assert {p.name for p in t.run.path.glob("*.safetensors")} == {
        CHECKPOINT, "best.safetensors", "epoch-0003.safetensors", "epoch-0004.safetensors"
    }  # fmt: skip
    assert checkpoint.load(t.run.path / "best.safetensors")[1]["place"]["epoch"] == 2
    assert checkpoint.load(t.run.path / "epoch-0003.safetensors")[1]["place"]["epoch"] == 3
    again = trainer(pictures, tmp_path / "run")
    again.resume()
    assert again.best_error == 0.4


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on files")
def test_a_full_disk_is_said_once_and_the_run_goes_on(pictures, tmp_path):
    """The largest file that may be written is smaller than a checkpoint: the one before stays, and
    the last save fails by name."""
    import resource

    t = trainer(pictures, tmp_path / "run", workers=0)
    t.save_every, said = 0.0, []
    t.report = t.run.report = said.append
    t.save()
    before = (t.run.path / CHECKPOINT).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(checkpoint.CheckpointError, match="could not write .*untouched"):
            t.fit(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (t.run.path / CHECKPOINT).read_bytes() == before
    assert not list(t.run.path.glob(".*"))
    assert sum("The run goes on" in line for line in said) == 1, said
    assert t.epoch == 2
    t.save()
    again = trainer(pictures, tmp_path / "run")
    again.resume()
    assert_identical(state(again), state(t))


def test_averages_of_an_epoch_survive_an_interruption(pictures, tmp_path):
    whole = trainer(pictures, tmp_path / "whole")
    whole.fit(1)
    broken = trainer(pictures, tmp_path / "broken")
    learn = broken.learn
    broken.learn = lambda x, t: (setattr(broken, "stopping", broken.step == 1), learn(x, t))[1]
    with pytest.raises(Stopped):
        broken.fit(1)
    again = trainer(pictures, tmp_path / "broken")
    again.resume()
    again.fit(1)
    rows = [read_rows(tmp_path / name / "metrics.csv")[0] for name in ("whole", "broken")]
    assert rows[0][:8] == rows[1][:8]


def test_skipped_pictures_are_listed(pictures, tmp_path):
    t = trainer(pictures, tmp_path / "run")
    t.train.skipped["a.jpg"] = "a.jpg: damaged, or cut off"
    t.fit(1)
    assert read_rows(t.run.path / "skipped.csv") == [["a.jpg", "a.jpg: damaged, or cut off"]]


def test_waiting_and_reading_are_reported(pictures, tmp_path):
    t = trainer(pictures, tmp_path / "run")
    said = []
    t.report = t.run.report = said.append
    t.fit(1)
    assert "reading alone" in said[-1]
    row = dict(zip(FILES["metrics.csv"], read_rows(t.run.path / "metrics.csv")[0]))
    assert 0 <= float(row["waiting"]) <= 1
    assert float(row["reading_images_per_second"]) > 0


def test_figures_for_tensorboard(pictures, tmp_path, monkeypatch):
    """A stand-in for tensorboardX: what it is told is what the CSV files hold."""

    told: list = []

    class SummaryWriter:
        def __init__(self, folder):
            told.append(folder)

        def add_scalar(self, name, value, step):
            told.append((name, value, step))

        def close(self):
            told.append("closed")

    monkeypatch.setitem(
        sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=SummaryWriter)
    )
    t = trainer(pictures, tmp_path / "run")
    t.health_every = 4
    t.fit(1)
    assert (told[0], told[-1]) == (str(t.run.path), "closed")
    losses = [float(row[2]) for row in read_rows(t.run.path / "steps.csv")]
    assert [
        (v, s) for n, v, s in (x for x in told if isinstance(x, tuple)) if n == "steps/loss"
    ] == list(zip(losses, range(1, 5)))
    names = {x[0] for x in told if isinstance(x, tuple)}
    assert {"metrics/val_top1", "metrics/lr", "health/ratio/conv1.w", "health/dead/relu1"} <= names


def test_a_best_epoch_that_could_not_be_saved_is_not_the_best(pictures, tmp_path, monkeypatch):
    t = trainer(pictures, tmp_path / "run")
    t.fit(1)
    t.best_error, t.last_error = 0.5, 0.3

    def full(*args):
        raise checkpoint.CheckpointError("full")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        t.save_epoch()
    assert t.best_error == 0.5
    t.save_epoch()
    assert t.best_error == 0.3


def test_names_that_a_kill_kept_from_being_given(pictures, tmp_path):
    t = trainer(pictures, tmp_path / "run")
    t.fit(1)
    for name in ("best.safetensors", "epoch-0001.safetensors"):
        (t.run.path / name).unlink()
    trainer(pictures, tmp_path / "run").resume()
    assert {p.name for p in t.run.path.glob("*.safetensors")} == {
        CHECKPOINT,
        "best.safetensors",
        "epoch-0001.safetensors",
    }


def test_a_row_is_written_whole_or_not_at_all(pictures, tmp_path):
    import resource

    run = RunFolder(tmp_path)
    run.start({}, 0, 0)
    run.append("steps.csv", [{"step": 1, "epoch": "0.1", "loss": "2.3", "top1": "0.1"}])
    before = (tmp_path / "steps.csv").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 7, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            run.append("steps.csv", [{"step": 2, "epoch": "0.2", "loss": "2.2222", "top1": "0.2"}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "steps.csv").read_bytes() == before


def test_no_memory_for_the_look_ahead(pictures, tmp_path, monkeypatch):
    t = trainer(pictures, tmp_path / "run")

    def greedy(x, labels):
        raise MemoryError

    monkeypatch.setattr(t.gradients, "alone", greedy)
    assert math.isnan(t.seconds_ahead(3))


def test_the_list_of_skipped_pictures_outlives_a_process(tmp_path):
    RunFolder(tmp_path).write_skipped({"b.jpg": "cut off"})
    RunFolder(tmp_path).write_skipped({"a.jpg": "empty, or so"})
    assert read_rows(tmp_path / "skipped.csv") == [
        ["a.jpg", "empty, or so"],
        ["b.jpg", "cut off"],
    ]
