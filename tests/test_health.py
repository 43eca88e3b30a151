"""The run's own doctor: where numbers went wrong, sizes of weights and steps, dead units, a stuck
or runaway loss, memory."""

import math

import numpy as np
import pytest

from minigrad import nn
from minigrad.training import health
from minigrad.training.health import LossWatch
from minigrad.training.run_folder import CHECKPOINT, RunError
from tests.rows import read as read_rows
from tests.test_trainer import TINY, trainer


def test_the_first_layer_that_is_not_finite(pictures, tmp_path):
    t = trainer(pictures, tmp_path / "run")
    x, labels, _ = t.train.prepare(np.arange(4))
    assert health.first_not_finite(t.model, x) == ""
    t.model.layers["conv3"].w.data *= np.float32(1e38)
    assert health.first_not_finite(t.model, x) == "they appear first in the output of conv3"
    t.save()
    before = (tmp_path / "run" / CHECKPOINT).read_bytes()
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            RunError,
            match=(
                r"the loss became nan at step 1: they appear first in the output of conv3; try a"
                r" lower rate"
            ),
        ),
    ):
        t.learn(x, labels)
    t.model.layers["fc6"].w.data[0, 0] = np.inf
    assert (
        health.first_not_finite(t.model, x)
        == "the parameter fc6.w holds values that are not finite"
    )
    with pytest.raises(
        RunError, match=r"parameter fc6\.w holds values that are not finite: nothing is saved"
    ):
        t.save()
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == before


def test_watching_changes_nothing(pictures, tmp_path):
    t = trainer(pictures, tmp_path / "run")
    x, _, _ = t.train.prepare(np.arange(4))
    streams = {name: s.counter for name, s in t.model.streams().items()}
    before = {name: p.data.copy() for name, p in t.model.named_parameters()}
    read = health.readings(t.model, before, x, 1)
    assert [r["layer"] for r in read if "dead" in r] == [s for s in t.model.stages if "relu" in s]
    assert health.first_not_finite(t.model, x) == ""
    assert streams == {name: s.counter for name, s in t.model.streams().items()}


def test_readings_by_hand(pictures, tmp_path):
    t = trainer(pictures, tmp_path / "run")
    t.health_every = 2
    layer = t.model.layers["conv2"]
    layer.b.data[:3] = -1e6  # three of its maps never light up
    x, labels, _ = t.train.prepare(np.arange(6))
    t.run.start({}, 0, 0)
    t.learn(x, labels)
    t.step = 1
    before = {name: p.data.copy() for name, p in t.model.named_parameters()}
    t.learn(x, labels)
    rows = {row[1]: row for row in read_rows(t.run.path / "health.csv")}
    assert {row[0] for row in rows.values()} == {"2"}
    w = dict(t.model.named_parameters())["fc6.w"].data
    assert float(rows["fc6.w"][2]) == pytest.approx(abs(w).mean(), rel=1e-4)
    assert float(rows["fc6.w"][3]) == pytest.approx(abs(w - before["fc6.w"]).mean(), rel=1e-4)
    assert float(rows["fc6.w"][4]) == pytest.approx(
        abs(w - before["fc6.w"]).mean() / abs(w).mean(), rel=1e-2
    )
    alive = (t.model.run(x, "relu2").data > 0).any(axis=(0, 1, 2))
    assert float(rows["relu2"][5]) == pytest.approx(1 - alive.mean(), abs=1e-4)
    assert 3 <= (~alive).sum() < len(alive) / 2
    assert set(rows) == {n for n, _ in t.model.named_parameters()} | {
        n for n, m in t.model.modules() if isinstance(m, nn.ReLU)
    }


def test_a_loss_at_ln_c_is_named_once():
    watch, rng = LossWatch(10), np.random.default_rng(0)
    said = [
        watch.note(math.log(10) + 0.02 * rng.standard_normal(), 0.01, step)
        for step in range(1, 1000)
    ]
    assert [i for i, s in enumerate(said) if s] == [299]
    assert "guessing gives 2.303 (ln 10)" in said[299]
    assert "--recipe small" in said[299]


def test_a_loss_is_judged_by_its_last_steps():
    """100 steps at 3.0, then ln 10: the mean of 300 is within 2 % when 19 of the first are left."""
    watch = LossWatch(10)
    said = [watch.note(3.0 if i <= 100 else math.log(10), 0.01, i) for i in range(1, 500)]
    assert [i for i, words in enumerate(said, 1) if words] == [381]
    assert said[380].startswith("step 381: the loss has stayed at 2.347 for 300 steps")


def test_a_runaway_loss_is_named_with_what_to_change():
    watch = LossWatch(10)
    said = [s for step in range(200) if (s := watch.note(2.3 * 1.03**step, 0.01, step))]
    assert len(said) == 1
    assert "runs away" in said[0]
    assert "try --lr 0.001" in said[0]


@pytest.mark.parametrize(
    "loss", [lambda i: 2.3 * 0.997**i, lambda i: 2.0, lambda i: 9.0, lambda i: 6.0 * 0.9**i + 1.5]
)
def test_a_loss_that_falls_is_left_alone(loss):
    watch = LossWatch(10)
    assert not any(watch.note(loss(i), 0.01, i) for i in range(800))


def test_a_run_that_cannot_learn_says_so(pictures, tmp_path):
    t = trainer(pictures, tmp_path / "run", TINY.with_recipe(lr=0.0))
    t.watch, said = LossWatch(10, window=12), []
    t.report = said.append
    for p in t.model.parameters():
        p.data *= np.float32(1e-3)
    t.fit(3)
    warning = next(line for line in said if "the network does not learn yet" in line)
    assert warning.startswith("step 12: ")


class Greedy(nn.Module):
    """Has no memory for more than `most` pictures."""

    def __init__(self, inner, most):
        self.inner, self.most = inner, most

    def forward(self, x):
        if len(x.data) > self.most:
            raise MemoryError("no room")
        return self.inner(x)


@pytest.mark.parametrize(
    ("most", "words"),
    [(5, "with a batch of 12: 3 fit; try --batch-size 3"), (0, "not even one picture fits")],
)
def test_out_of_memory_names_layer_and_batch(pictures, tmp_path, most, words):
    t = trainer(pictures, tmp_path / "run")
    t.model.layers["pool1"] = Greedy(t.model.layers["pool1"], most)
    x, labels, _ = t.train.prepare(np.arange(12))
    with pytest.raises(RunError, match=f"out of memory in pool1, .*{words}"):
        t.learn(x, labels)


def test_out_of_memory_in_the_backward_pass(pictures, tmp_path, monkeypatch):
    from minigrad.functions.lrn import LRN

    t = trainer(pictures, tmp_path / "run")
    backward = LRN.backward

    def greedy(self, gy):
        if len(gy) > 6:
            raise MemoryError
        return backward(self, gy)

    monkeypatch.setattr(LRN, "backward", greedy)
    x, labels, _ = t.train.prepare(np.arange(12))
    with pytest.raises(
        RunError,
        match="out of memory in the backward pass of a LRN, with a batch of 12: 6 fit",
    ):
        t.learn(x, labels)
