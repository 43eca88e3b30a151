"""Options of a training: limits, types, what a resumed run may change, and that each of them
reaches the place where it acts."""

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import record

import alexnet
from minigrad import backend, commands, data, optim
from minigrad.columns import Column, column_of
from minigrad.distributed import Communicator
from minigrad.models.cifar import CIFAR10_26PCT
from minigrad.models.lenet import LENET5
from minigrad.models.records import LRN, Dense, small_subset
from minigrad.network import Network, shrunken
from minigrad.training import checkpoint, session
from minigrad.training.evaluation import scored
from minigrad.training.options import Options
from minigrad.training.run_folder import RunFolder
from minigrad.training.settings import Settings, settled
from minigrad.training.trainer import Stopped
from tests.test_trainer import TINY


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("--workers must be at least 0, not -1", {"workers": -1}),
        ("--keep must be at least 0, not -1", {"keep": -1}),
        ("--save-every must be a number, not nan", {"save_every": float("nan")}),
        ("--most-skipped must be a number, not nan", {"most_skipped": float("nan")}),
        ("--lr must be a number, not inf", {"lr": float("inf")}),
        ("--worker-timeout must be above 0, not 0.0", {"worker_timeout": 0.0}),
        ("--epochs must be of type int, not '3'", {"epochs": "3"}),
        ("--workers must be of type int, not None", {"workers": None}),
        ("--keep must be of type int, not True", {"keep": True}),
        ("--lr must be at least 0, not -0.1", {"lr": -0.1}),
        ("--columns must be at least 2, not 1", {"columns": 1}),
        ("--recipe must be one of auto, preset, small: 'foo'", {"recipe": "foo"}),
    ],
)
def test_limits_and_types(words, given):
    with pytest.raises(ValueError, match=words):
        Options(**given)
    with pytest.raises(ValueError, match=words):
        Options.from_json(given)


def test_resumed():
    before, said = Options(data="set", epochs=3, cache="off"), []
    after = before.resumed({"resume": "run", "epochs": 5, "workers": 0}, said.append)
    assert (after.epochs, after.workers, after.output) == (5, 0, "run")
    assert said == ["--epochs 5, in place of 3 so far", "--workers 0, in place of 2 so far"]
    said.clear()
    with pytest.raises(ValueError, match="--batch-size 8: .* with its recipe's own, which cannot"):
        before.resumed({"resume": "run", "epochs": 5, "batch_size": 8}, said.append)
    assert said == []
    with pytest.raises(ValueError, match="give one of them"):
        before.resumed({"resume": "run", "config": "x"})


def test_the_page_lists_what_a_resumed_run_may_change():
    page = (Path(__file__).resolve().parents[1] / "docs" / "training.md").read_text()
    listed = page.split("random moments to show it).")[1].split("may be given again")[0]
    free = [f.name for f in fields(Options) if f.metadata["resume"] == "free"]
    assert re.findall("`(.*?)`", listed) == ["--" + name.replace("_", "-") for name in free]


# A value of each option that is not its default.
OTHER = {
    "data": "set", "classes": "3", "images_per_class": 7, "holdout": 0.25, "preset": "zfnet",
    "schedule": "plateau", "recipe": "small", "epochs": 5, "batch_size": 6, "lr": 0.0,
    "device": "gpu", "ranks": 2, "rank_timeout": 7.0, "columns": 2, "accumulate": 3, "workers": 4,
    "worker_timeout": 45.0, "most_skipped": 0.4, "keep": 9, "seed": 8, "cache": "off",
    "report": "numbers", "output": "there", "save_every": 33.0, "resume": "run", "config": "file",
    "finetune": "other",
}  # fmt: skip
FIXED = {
    "classes", "images_per_class", "holdout", "preset", "schedule", "recipe", "batch_size", "seed",
    "finetune",
}  # fmt: skip
ONCE = {"ranks", "columns", "output", "resume", "config"}


@pytest.mark.parametrize("name", [f.name for f in fields(Options)])
def test_an_option_of_a_resumed_and_of_a_repeated_run(name):
    """Inherited or not, changed or refused."""
    value, default = OTHER[name], getattr(Options(), name)
    assert value != default
    own = Options(**{name: value})
    now = own.resumed({"resume": "again"}, str)
    again = own.repeated({"config": "file"})
    if name in ONCE:
        expected = {"resume": "again", "output": "again"}.get(name)
        assert getattr(now, name) == expected
        assert getattr(again, name) == {"config": "file"}.get(name)
    else:
        assert getattr(now, name) == getattr(again, name) == value
        assert getattr(own.repeated({name: default}), name) == default
        if name in FIXED:
            with pytest.raises(ValueError, match="cannot change"):
                Options().resumed({"resume": "again", name: value}, str)
        else:
            changed = Options().resumed({"resume": "again", name: value}, str)
            assert getattr(changed, name) == value
    if name == "columns":
        assert own.resumed({"resume": "again", name: 4}, str).columns == 4


def test_words_are_no_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("off", "3", "set"):
        (tmp_path / name).mkdir()
    written = Options(cache="off", classes="3", data="set", finetune="set").to_json()
    assert (written["cache"], written["classes"]) == ("off", "3")
    assert written["data"] == written["finetune"] == str(tmp_path / "set")
    assert Options(cache="set").to_json()["cache"] == str(tmp_path / "set")
    assert Options(finetune="none").to_json()["finetune"] == "none", "no such path"


class Few:
    """A set of `count` pictures in two classes."""

    classes, names, root = ["a", "b"], ["an a, first", "a b"], Path("few")

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


PRESET = TINY.with_recipe(
    batch_size=16, epochs=10, lr=0.02, lr_drops=(5.0, 8.0), colour_until=6.0, least=100
)


def settings_of(count=100, **options):
    return settled(Options(preset="tiny", **options), None, Few(count), {"tiny": PRESET})


def test_options_make_the_recipe():
    own = settings_of()
    assert (own.recipe, own.network, own.pictures) == ("preset", PRESET, 100)
    assert (own.classes, own.names) == (Few.classes, Few.names)
    small = settings_of(99)
    assert (small.recipe, small.network) == ("small", small_subset(PRESET))
    assert settings_of(recipe="small").network == small_subset(PRESET)
    assert settings_of(99, recipe="preset").network == PRESET
    changed = settings_of(epochs=5, batch_size=7, lr=0.0).network.recipe
    assert (changed.epochs, changed.batch_size, changed.lr) == (5, 7, 0.0)
    assert (changed.lr_drops, changed.colour_until) == ((2.5, 4.0), 3.0)
    assert settings_of(schedule="plateau").network.recipe == replace(PRESET.recipe, lr_drops=None)


def test_settings_come_back_from_json():
    before = settings_of(seed=3, lr=0.5)
    written = json.loads(json.dumps(before.to_json()))
    assert Settings.from_json(written) == before
    assert written["names"] == ["an a, first", "a b"]
    options = before.options.resumed({"resume": "run", "epochs": 20}, str)
    resumed = settled(options, before, Few(100), {})
    assert resumed.network.recipe == before.network.recipe.stretched(20)
    renamed = Few(100)
    renamed.classes = ["a", "c"]
    for other in (Few(101), renamed):
        with pytest.raises(data.DataError, match="it can only go on with the same"):
            settled(options, before, other, {})


class Ranks(Communicator):
    """One of six ranks, of which two share each host."""

    size, local_size = 6, 2

    def __init__(self, rank):
        self.rank, self.local_rank = rank, rank % 2


@pytest.fixture
def opened(monkeypatch):
    """What data.open_pictures and data.statistics are called with, by open_loaders."""
    calls = SimpleNamespace(pictures=[], statistics=[])
    statistics = data.statistics

    def open_pictures(images, *options):
        calls.pictures.append(options)
        return data.Pictures(images)

    def seen(pictures, seed=0):
        calls.statistics.append((pictures.images, seed))
        return statistics(pictures, seed=seed)

    monkeypatch.setattr(data, "open_pictures", open_pictures)
    monkeypatch.setattr(data, "statistics", seen)
    return calls


NAMES = [f"class {k}" for k in range(10)]
TOLD = {
    "seed": 7, "workers": 3, "worker_timeout": 45.0, "most_skipped": 0.4, "save_every": 33.0,
    "keep": 9, "accumulate": 3,
}  # fmt: skip


def loaders_of(pictures, settings, tensors=None, comm=None):
    sets = [p.images for p in pictures]
    return session.open_loaders(sets, settings, tensors or {}, str, comm or Communicator())


def trainer_of(pictures, folder, settings, comm=None):
    comm = comm or Communicator()
    prep = data.Preparation.of(PRESET.preprocessing, data.statistics(pictures[0]))
    two = [data.Loader(p, prep, 8, t, workers=0) for p, t in zip(pictures, (True, False))]
    return session.make_trainer(settings, *two, RunFolder(folder), str, "cpu", comm)


@pytest.mark.parametrize("cache", ["off", "mine", None])
def test_options_reach_the_loaders(pictures, opened, cache, monkeypatch, tmp_path):
    monkeypatch.setattr("minigrad.training.runs.default_cache_folder", lambda: tmp_path)
    settings = Settings(Options(cache=cache, **TOLD), "preset", PRESET, NAMES, NAMES, 30)
    train, val = loaders_of(pictures, settings)
    folder = {"off": None, "mine": Path("mine"), None: tmp_path}[cache]
    for call, what in zip(opened.pictures, ("training pictures", "validation pictures")):
        assert call == (folder, 3, str, what, 45.0, (256, 256, 3))
    assert opened.statistics == [(pictures[0].images, 7)]
    assert (train.training, val.training) == (True, False)
    for loader in (train, val):
        assert (loader.batch_size, loader.seed, loader.workers) == (16, 7, 3)
        assert (loader.worker_timeout, loader.most_skipped) == (45.0, 0.4)
        assert (loader.colour_until, loader.part) == (6.0, (0, 1))
        known = data.statistics(pictures[0], seed=7)
        expected = data.Preparation.of(PRESET.preprocessing, known)
        np.testing.assert_array_equal(loader.preparation.mean, expected.mean)


def test_a_resumed_run_prepares_as_its_checkpoint_says(pictures, opened):
    """Every number, whatever the pictures are now; on one of several ranks, for its part."""
    before = data.Preparation(67, np.arange(3.0), 0.5, np.eye(3), 1.25)
    settings = Settings(Options(), "preset", PRESET, NAMES, NAMES, 30)
    for comm, part in ((Communicator(), (0, 1)), (Ranks(4), (4, 6))):
        for loader in loaders_of(pictures, settings, before.arrays(), comm):
            again = loader.preparation.arrays()
            assert all(np.array_equal(again[name], a) for name, a in before.arrays().items())
            assert loader.part == part
    assert opened.statistics == []
    columns = replace(settings, options=Options(columns=6))
    assert loaders_of(pictures, columns, before.arrays(), Ranks(4))[0].part == (0, 1)


def test_options_reach_the_trainer(pictures, tmp_path):
    settings = Settings(Options(**TOLD), "preset", PRESET, NAMES, NAMES, 30)
    t = trainer_of(pictures, tmp_path, settings)
    for seed, same in ((7, True), (0, False)):
        whole = Network(PRESET, 10, seed).state_dict()
        equal = [np.array_equal(t.model.state_dict()[n], w) for n, w in whole.items()]
        assert all(equal) is same
    assert (t.save_every, t.keep, t.accumulate, t.gradients.accumulate) == (33.0, 9, 3, 3)
    assert (t.watch.classes, t.in_columns, t.report) == (10, False, str)
    assert (t.optimizer.lr, t.schedule.epochs) == (0.02, [5.0, 8.0])
    assert t.settings == settings.to_json()
    own = t.train.preparation.arrays()
    assert t.extra.keys() == own.keys()
    plateau = replace(settings, network=PRESET.with_recipe(lr_drops=None))
    schedule = trainer_of(pictures, tmp_path, plateau).schedule
    assert type(schedule) is optim.PlateauSchedule


def test_a_column_is_drawn_by_the_seed(pictures, tmp_path):
    preset = shrunken(alexnet.PRESETS["krizhevsky2012"]).with_each(LRN, alpha=1e-4)
    settings = Settings(Options(columns=2, seed=7), "preset", preset, NAMES, NAMES, 30)
    comm = Ranks(1)
    comm.size = 2
    model = trainer_of(pictures, tmp_path, settings, comm).model
    expected = Column(preset, 10, 7, "float32", comm, 2, 1)
    assert isinstance(model, Column)
    assert model.preset.layers == column_of(preset, 2, 1, 10).layers
    for name, w in expected.state_dict().items():
        np.testing.assert_array_equal(model.state_dict()[name], w)


@pytest.mark.parametrize("fitted", [True, False])
def test_initial_weights_are_fitted_where_the_recipe_asks_for_it(pictures, tmp_path, fitted):
    preset = PRESET.with_recipe(standardize=fitted)
    t = trainer_of(pictures, tmp_path, Settings(Options(), "x", preset, NAMES, NAMES, 30))
    before = t.model.state_dict()
    session.initialise(t, Settings(Options(), "x", preset, NAMES, NAMES, 30), str)
    same = [np.array_equal(before[n], w) for n, w in t.model.state_dict().items() if n[-1] == "w"]
    assert not any(same) if fitted else all(same)


def test_finetune_copies_what_fits(pictures, tmp_path):
    """Bit for bit; a layer of another shape keeps its own weights."""
    own = trainer_of(pictures, tmp_path, Settings(Options(), "small", PRESET, NAMES, NAMES, 30))
    own.save()
    few = Settings(Options(seed=1, finetune=str(tmp_path)), "x", PRESET, NAMES[:5], NAMES[:5], 30)
    t = trainer_of(pictures, tmp_path, few)
    fresh, said = t.model.state_dict(), []
    session.initialise(t, few, said.append)
    assert said == [
        f"from {tmp_path}: 14 parameters taken; left: fc8.w (here 64x5, there 64x10), fc8.b"
        " (here 5, there 10)"
    ]
    for name, w in t.model.state_dict().items():
        source = fresh if name.startswith("fc8") else own.model.state_dict()
        np.testing.assert_array_equal(w, source[name], err_msg=name)
    other = Network(CIFAR10_26PCT, 7, 0)
    with pytest.raises(ValueError, match="not one parameter fits this network: conv1.w"):
        session.load_weights(other, str(tmp_path))


def test_finetune_compares_shapes_not_counts(pictures, tmp_path):
    one = PRESET.changed(fc6=Dense(24), fc7=Dense(40))
    trainer_of(pictures, tmp_path, Settings(Options(), "small", one, NAMES, NAMES, 30)).save()
    other = Network(PRESET.changed(fc6=Dense(40), fc7=Dense(24)), 10)
    said = session.load_weights(other, str(tmp_path))
    assert "fc7.w (here 40x24, there 24x40)" in said


@pytest.mark.parametrize(("rank", "count", "device"), [(4, 3, "gpu:0"), (5, 3, "gpu:1"),
                                                       (5, 1, "gpu:0")])  # fmt: skip
def test_each_rank_of_a_host_takes_a_gpu_of_its_own(monkeypatch, rank, count, device):
    def use(name):
        raise Stopped(name)

    monkeypatch.setattr(backend, "use", use)
    monkeypatch.setattr(backend, "gpu_count", lambda: count)
    with pytest.raises(Stopped, match=f"^{device}$"):
        session.train({"data": "x", "device": "gpu"}, {}, str, Ranks(rank))
    with pytest.raises(Stopped, match="^gpu:2$"):
        session.train({"data": "x", "device": "gpu:2"}, {}, str, Ranks(rank))


def test_ranks_and_their_timeout_reach_the_launcher(monkeypatch):
    calls = []
    monkeypatch.setattr(commands, "launched", lambda: False)
    monkeypatch.setattr(commands, "launch", lambda *a: calls.append(a) or 5)
    assert commands.run_command(None, {"ranks": 3, "rank_timeout": 7.0}) == 5
    assert commands.run_command(None, {"ranks": 3}) == 5
    assert calls == [(3, 7.0), (3, 300.0)]


def test_exit_codes_of_a_command(monkeypatch, capsys):
    def code(error):
        def command(comm):
            raise error

        return commands.run_command(command), capsys.readouterr().err

    assert code(ValueError("no such set")) == (2, "error: no such set\n")
    assert code(Stopped("go on")) == (130, "go on\n")
    assert code(KeyboardInterrupt()) == (130, "stopped\n")
    with pytest.raises(ZeroDivisionError):
        code(ZeroDivisionError())
    monkeypatch.setenv("MINIGRAD_TRACEBACK", "1")
    number, said = code(ValueError("no such set"))
    assert number == 2
    assert said.startswith("Traceback")
    assert said.endswith("ValueError: no such set\n\n")


@pytest.mark.parametrize("kind", ["full", "numbers", "off"])
def test_what_is_said_and_written_at_the_end(monkeypatch, kind):
    said, pages = [], []
    monkeypatch.setattr(session, "draw_run", lambda *_: [Path("a.png"), Path("b.png")])
    monkeypatch.setattr(session, "write_report", lambda *a, **o: pages.append((a, o)) or "page")
    p = np.array([[0.1, 0.2, 0.15, 0.15, 0.2, 0.2], [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]])
    result = scored(p, np.array([2, 0]), np.arange(2))
    t = SimpleNamespace(
        run=SimpleNamespace(path=Path("here")), report=said.append, seconds=450.0,
        train=SimpleNamespace(skipped={"a": "a: torn"}),
        val=SimpleNamespace(skipped={f"b{k}": f"b{k}: empty" for k in range(22)}),
    )  # fmt: skip
    settings = Settings(Options(report=kind, workers=3), "x", PRESET, NAMES, NAMES, 30)
    session.conclude(t, result, settings)
    lines = ["skipped a: torn"] + [f"skipped b{k}: empty" for k in range(19)]
    lines += ["... and 3 more, listed in here/skipped.csv"]
    lines += ["held-out pictures, last epoch: loss 1.295, top-1 50.0%, top-5 100.0%"]
    lines += ["pictures: a.png, b.png"]
    lines += ["a page about the network: page"] * (kind != "off")
    assert said == lines
    told = ((Path("here"), kind), {"workers": 3, "seconds": 45.0})
    assert pages == [told] * (kind != "off")


def test_what_is_said_at_the_start(pictures):
    sets = [p.images for p in pictures]
    settings = Settings(Options(), "preset", PRESET, NAMES, NAMES, 30)
    source, counts, recipe = session.announcement(sets, settings)
    assert source == PRESET.source
    assert counts.startswith(f"30 pictures for training, 20 for validation (from {sets[1].root}),")
    assert f" 10 classes: {', '.join(n.split(',')[0] for n in sets[0].names)}" in counts
    assert recipe == (
        "recipe 'preset': 10 epochs, batch 16, lr 0.02 divided by 10 at epoch 5, 8, momentum 0.9,"
        " decay 0.0005, He initial weights fitted to the data, pictures scaled to unit variance"
    )
    settings = Settings(Options(), "small", alexnet.PAPER, NAMES, NAMES, 30)
    recipe, small = session.announcement(sets, settings)[2:]
    assert recipe.endswith(
        "when validation stops improving, momentum 0.9, decay 0.0005, Gaussian initial weights,"
        " pictures on the 0..255 scale"
    )
    assert small.startswith("(for small subsets:")


@pytest.mark.parametrize("description", [{}, {"settings": {}}, {"settings": {"version": 2}}])
@pytest.mark.parametrize("command", ["evaluate a", "predict a b.png", "train --resume run"])
def test_a_checkpoint_without_settings(tmp_path, monkeypatch, description, command):
    """As a Trainer with other settings writes it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for path in ("a", "run/checkpoint.safetensors"):
        checkpoint.save(tmp_path / path, {"model.w": np.zeros(1, np.float32)}, description)
    code, said = record.command(*command.split())
    assert code == 2
    assert "its checkpoint holds no settings of a run" in said


def test_a_network_without_convolutions(tmp_path, monkeypatch):
    import alexnet
    from tests.test_data import mnist_like

    monkeypatch.chdir(tmp_path)
    mnist_like(tmp_path / "set")
    names = ("conv1", "tanh1", "pool1", "conv2", "tanh2", "pool2")
    monkeypatch.setitem(alexnet.MODELS, "dense", LENET5.changed(**dict.fromkeys(names)))
    options = "--data set --preset dense --epochs 1 --workers 0 --cache off --output run"
    code, said = record.command("train", *options.split())
    assert code == 0, said
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["version"] == 2


@pytest.mark.parametrize(
    ("error", "words"),
    [(MemoryError(), "error: out of memory"), (RecursionError(), "error: nested too deeply")],
)
def test_too_little_memory_is_a_sentence(error, words, capsys):
    def command(comm):
        raise error

    assert commands.run_command(command) == 2
    assert capsys.readouterr().err.strip() == words
