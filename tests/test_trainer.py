"""The loop on a tiny network: learning, the run folder, exact resumption, and evaluation."""

import math
import signal
import sys
import time
import types
from dataclasses import replace

import numpy as np
import pytest

import alexnet
from minigrad import data, look, nn, optim
from minigrad.distributed import Communicator
from minigrad.models.records import LRN, Conv, small_subset
from minigrad.network import Network, shrunken
from minigrad.training import checkpoint
from minigrad.training import trainer as trainer_module
from minigrad.training.drawings import draw_run
from minigrad.training.evaluation import evaluate, top_k
from minigrad.training.options import Options
from minigrad.training.run_folder import CHECKPOINT, FILES, RunError, RunFolder
from minigrad.training.settings import Settings
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
        (89, "89 s"),
        (90, "2 min"),
        (7_140, "119 min"),
        (7_200, "2 h 0 min"),
        (12_000, "3 h 20 min"),
        (2 * 86_400 - 60, "47 h 59 min"),
        (2 * 86_400, "2 d 0 h"),
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
    t.val.skipped["b.jpg"] = "b.jpg: empty"
    t.fit(1)
    assert read_rows(t.run.path / "skipped.csv") == [
        ["a.jpg", "a.jpg: damaged, or cut off"],
        ["b.jpg", "b.jpg: empty"],
    ]


class Twice(Communicator):
    """Two ranks that say the same."""

    size = 2

    def exchange(self, value):
        return [value, value]


def clock(monkeypatch, *seconds):
    """perf_counter of the trainer alone gives these numbers; monotonic stays."""
    monkeypatch.setattr(
        trainer_module,
        "time",
        types.SimpleNamespace(perf_counter=iter(seconds).__next__, monotonic=time.monotonic),
    )


def test_a_row_of_metrics_by_hand(pictures, tmp_path, monkeypatch):
    """Of two ranks, each of which reads 30 pictures an epoch with two processes, in 5 seconds of
    work, and waits 4 of 10 seconds; then the evaluation takes 4, in the second epoch 2."""
    t = trainer(
        pictures, tmp_path / "run", schedule=lambda opt: optim.StepSchedule(opt, (1,)), workers=2
    )
    t.sharers, said = Twice(), []
    t.report = said.append
    batches = t.train.batches

    def counted(epoch, start):
        yield from batches(epoch, start)
        t.train.waiting, t.train.images = 4.0 * (epoch + 1), 30 * (epoch + 1)
        t.train.reading = 5.0 * (epoch + 1)

    t.train.batches = counted
    clock(monkeypatch, 100, 110, 114, 200, 210, 212)
    t.fit(2)
    rows = [
        dict(zip(FILES["metrics.csv"], row)) for row in read_rows(tmp_path / "run" / "metrics.csv")
    ]
    for row, seconds, rate in zip(rows, ("14.0", "26.0"), ("0.01", "0.001"), strict=True):
        assert (row["seconds"], row["lr"]) == (seconds, rate)
        assert row["images_per_second"] == "6.0"
        assert row["reading_images_per_second"] == "12.0"
        assert row["waiting"] == "0.4000"
    steps = np.array(read_rows(tmp_path / "run" / "steps.csv"), float)
    for row, part in zip(rows, (steps[:4], steps[4:]), strict=True):  # the last batch has 6
        means = np.average(part[:, 2:], axis=0, weights=[8, 8, 8, 6])
        assert float(row["train_loss"]) == pytest.approx(means[0], rel=1e-5)
        assert float(row["train_top1"]) == pytest.approx(means[1], abs=1e-4)
    assert abs(steps[:4, 2].mean() - float(rows[0]["train_loss"])) > 1e-4
    top1, top5 = t.result.top(1), t.result.top(5)
    assert top1 < top5
    assert (rows[1]["val_top1"], rows[1]["val_top5"]) == (f"{top1:.4f}", f"{top5:.4f}")
    assert t.last_error == 1 - top1
    assert said[0].startswith(f"epoch   1/2  lr 0.01     train loss {means_of(rows[0])}")
    assert said[0].endswith(
        "6.0 images/s (reading alone 12; waited for 40.0% of the time), 14 s left"
    )
    assert said[1].endswith(", 0 s left")


def means_of(row):
    return f"{float(row['train_loss']):.3f}, top-1 {float(row['train_top1']):6.1%}"


def test_the_forecast_by_hand(pictures, tmp_path, monkeypatch):
    """Of two trial steps the second is timed, on a rank's part of a batch; what is done does not
    count."""
    t = trainer(pictures, tmp_path / "run", workers=0)
    rows = []
    monkeypatch.setattr(t.gradients, "alone", lambda x, labels: rows.append(len(x)))
    t.epoch, t.batch = 1, 1
    clock(monkeypatch, 0, 5, 10, 12)
    steps, passes = 3 * 4 - (4 + 1), 3 * 8 / 8 * 2  # of 20 pictures, three batches
    assert t.seconds_ahead(3) == pytest.approx(1.1 * 2 * steps + 0.4 * 2 * passes)
    assert rows == [8, 8]
    t.sharers = Twice()
    clock(monkeypatch, 0, 5, 10, 12)
    t.seconds_ahead(3)
    assert rows[2:] == [4, 4]
    t.epoch, t.batch = 3, 0
    assert t.seconds_ahead(3) == 0


def test_a_checkpoint_every_few_seconds(pictures, tmp_path, monkeypatch):
    """With a clock that ticks once a step: when more than one second has passed since the last."""
    t, saved = trainer(pictures, tmp_path / "run", workers=0), []
    t.save_every = 1
    save = t.run.save
    t.run.save = lambda tensors, about: saved.append(about["place"]["step"]) or save(tensors, about)
    ticks = types.SimpleNamespace(perf_counter=time.perf_counter, monotonic=lambda: t.step)
    monkeypatch.setattr(trainer_module, "time", ticks)
    t.fit(2)
    assert saved == [0, 2, 4, 6, 8]
    t.save_every = 3
    t.fit(3)
    assert saved[5:] == [12]


def test_a_resumed_run_knows_what_it_has_reached(pictures, tmp_path):
    """Everything that a checkpoint holds beside the network."""
    t = trainer(pictures, tmp_path / "run", workers=0)
    t.fit(1)
    held = {
        "epoch": 4, "batch": 3, "step": 21, "seconds": 77.5, "last_error": 0.5, "best_error": 0.25,
        "noted": 3, "epoch_sums": [24.0, 5.0, 6.0],
    }  # fmt: skip
    for name, value in held.items():
        setattr(t, name, value)
    t.save()
    again = trainer(pictures, tmp_path / "run", workers=0)
    again.resume()
    assert {name: getattr(again, name) for name in held} == held
    assert {n: s.counter for n, s in again.model.streams().items()} == {
        n: s.counter for n, s in t.model.streams().items()
    }
    assert any(s.counter for s in again.model.streams().values())


def test_features_are_kept_after_some_epochs(pictures, tmp_path):
    t = trainer(pictures, tmp_path / "run", workers=0)
    t.keep = 0
    t.fit(3)
    folder = tmp_path / "run" / "features"
    kept = {path.stem: checkpoint.load(path)[0] for path in sorted(folder.iterdir())}
    assert list(kept) == ["epoch-0001", "epoch-0002"]
    weights = t.model.state_dict()
    convs = {f"conv{k}.{part}" for k in range(1, 6) for part in "wb"}
    assert set(kept["epoch-0001"]) == convs
    assert kept["epoch-0001"]["conv1.w"].shape == weights["conv1.w"].shape
    assert not list(t.run.path.glob("epoch-*.safetensors")), "none of them is to be kept"


def test_ranks_that_drift_apart(pictures, tmp_path):
    t = trainer(pictures, tmp_path / "run", workers=0)

    class Drifted(Twice):
        def exchange(self, value):
            return [value, value | {"fc6.b": 1}]

    t.sharers = Twice()
    t.compare_parameters()
    t.sharers = Drifted()
    with pytest.raises(RunError, match="parameter fc6.b of rank 1 is not that of rank 0"):
        t.compare_parameters()


def test_a_training_leaves_nothing_behind(pictures, tmp_path):
    """Neither its handlers of signals nor its reading processes."""
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    t = trainer(pictures, tmp_path / "run")
    t.fit(1)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert t.train.processes is t.val.processes is None


def test_evaluation_drops_nothing_out(pictures, tmp_path):
    t = trainer(pictures, tmp_path / "run", workers=0)
    t.model.train()
    first, second = evaluate(t.model, t.val), evaluate(t.model.eval(), t.val)
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    assert any(isinstance(m, nn.Dropout) for _, m in t.model.modules())


def test_what_is_drawn_at_the_end(pictures, tmp_path, monkeypatch):
    """The same pictures with their own labels, probabilities and maps; another seed, others."""
    t = trainer(pictures, tmp_path / "run", workers=0)
    t.fit(1)
    drawn = {}
    for name in ("curves", "filters", "ledgers", "predictions", "nine"):
        monkeypatch.setattr(
            look, f"draw_{name}", lambda *a, name=name: drawn.update({name: a}) or a[-1]
        )
    monkeypatch.setattr(look, "project_strongest", lambda *a: {})
    classes = list(t.val.pictures.images.classes)
    names = [f"a {c}" for c in classes]
    shown = []
    for seed in (0, 1):
        settings = Settings(Options(seed=seed), "preset", TINY, classes, names, 30)
        draw_run(t, t.result, settings)
        images, labels, probabilities, words, path = drawn["predictions"]
        own = [
            next(i for i in range(20) if np.array_equal(t.val.pictures.read(i), image))
            for image in images
        ]
        assert sorted(own) == list(range(20))
        assert labels == [int(t.val.pictures.images.labels[i]) for i in own]
        np.testing.assert_array_equal(probabilities, t.result.probabilities[own])
        assert (words, path) == (names, t.run.path / "predictions.png")
        shown.append(own)
    assert shown[0] != shown[1]
    steps, epochs, _ = drawn["curves"]
    assert (len(steps), len(epochs)) == (4, 1)
    found, row, maps, _, _, _ = drawn["nine"]
    assert row.stage == "relu5"
    activations = t.model.eval().run(t.val.prepare(np.arange(20))[0], "relu5").data
    highest = activations.max(axis=(1, 2))
    for m in maps:
        assert found.pictures[0, m] == highest[:, m].argmax() or highest[:, m].max() == 0
    assert any(highest.max(axis=0))


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


def test_a_signal_that_comes_while_ranks_agree_is_not_lost(pictures, tmp_path):
    """It sets `stopping` between the moment when the wishes are sent and the one when they are
    back."""
    t = trainer(pictures, tmp_path / "run")
    exchange, calls = t.comm.exchange, []

    def interrupted(wish):
        calls.append(wish)
        t.stopping = True
        return exchange(wish)

    t.comm.exchange = interrupted
    with pytest.raises(Stopped, match="stopped in epoch 1, step 0"):
        t.fit(4)
    assert [wish[0] for wish in calls if isinstance(wish, tuple)] == [False, True]
