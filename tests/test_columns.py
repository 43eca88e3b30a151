"""The paper's two columns: together they are the grouped network, in one process or two."""

from dataclasses import replace

import numpy as np
import pytest

import alexnet
from minigrad import functions as F
from minigrad import nn, optim
from minigrad.columns import Column, TwoColumns, bytes_sent, column_of, cut, join, parts
from minigrad.distributed import Communicator
from minigrad.models.records import LRN, Gather
from minigrad.network import Network, ledger, shrunken

FULL = alexnet.PRESETS["krizhevsky2012"]
SMALL = shrunken(FULL)


def batch(preset, n, step=0):
    rng = np.random.default_rng(step)
    p = preset.preprocessing
    return rng.normal(size=(n, p.size, p.size, 3)).astype("f"), rng.integers(0, 7, n)


def train(model, preset, steps, dtype="float32"):
    """Losses of a few steps, with dropout."""
    optimizer = optim.SGD(model.parameters(), 0.005, 0.9, 0.0005)
    losses = []
    for step in range(steps):
        x, t = batch(preset, 6, step)
        loss = F.softmax_cross_entropy(model(x.astype(dtype)), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def test_one_column_is_half_of_the_network():
    rows = [ledger(column_of(FULL, 2, rank)) for rank in (0, 1)]
    whole = sum(row.parameters for row in ledger(FULL))
    assert [sum(row.parameters for row in r) for r in rows] == [whole // 2, whole // 2]
    assert whole // 2 == 30_482_612
    gathers = [row for row in rows[0] if isinstance(row.layer, Gather)]
    assert [row.stage for row in gathers] == ["gather3", "gather6", "gather7", "gather8", "gather"]
    assert [row.shape for row in gathers] == [(13, 13, 256), (6, 6, 256), (4096,), (4096,), (1000,)]
    assert [bytes_sent(r, rank) for rank, r in enumerate(rows)] == [244_688, 244_688]
    shapes = {row.stage: row.shape for row in rows[1]}
    assert shapes["conv1"] == (55, 55, 48)
    assert shapes["conv5"] == (13, 13, 128)
    assert shapes["fc7"] == (2048,)


@pytest.mark.parametrize("name", ["paper", "textbook", "caffe", "torchvision"])
def test_columns_that_do_not_keep_apart_are_refused(name):
    preset = alexnet.PRESETS[name]
    if any(isinstance(layer, LRN) for layer in preset.layers.values()):
        with pytest.raises(ValueError, match="reach from one column into the next"):
            column_of(preset, 2, 0)
    else:  # without LRN there is nothing in the way: every convolution gathers
        assert sum(isinstance(x, Gather) for x in column_of(preset, 2, 0).layers.values()) == 8
    with pytest.raises(ValueError, match="2 columns or more, not 1"):
        column_of(FULL, 1, 0)
    with pytest.raises(ValueError, match="conv2: its 2 groups are not the maps of 3 columns"):
        column_of(FULL.with_each(LRN, groups=3), 3, 0)


def test_columns_of_unequal_sizes():
    """The first ones are larger; a layer has at least one map in each column."""
    assert parts(7, 3) == (3, 2, 2)
    rows = [ledger(column_of(SMALL, 2, rank, 7)) for rank in (0, 1)]
    assert [row[-2].shape for row in rows] == [(4,), (3,)]
    assert [row[-1].shape for row in rows] == [(7,), (7,)]
    with pytest.raises(ValueError, match="fc8: 1 maps are too few for 2 columns"):
        column_of(SMALL, 2, 0, 1)
    model = Column(SMALL, 7, 0, "float32", Communicator(), 2, 1)
    assert [model.place(stage) for stage in ("fc8", "fc6", "conv1")] == [(4, 7), (32, 64), (3, 6)]


def test_bytes_by_hand():
    """Of three columns with 2, 1 and 1 of the maps: own maps to two others, and back what the
    others have; nothing back from the last."""
    row = ledger(column_of(FULL, 2, 0))[0]
    rows = [
        replace(row, stage=stage, shape=shape, layer=Gather((2, 1, 1)))
        for stage, shape in (("gather3", (5, 5, 4)), ("gather", (4,)))
    ]
    assert bytes_sent(rows, 0) == 4 * (25 * (2 * 2 + 2) + 2 * 2)
    assert bytes_sent(rows, 1) == 4 * (25 * (1 * 2 + 3) + 1 * 2)


def test_the_last_gather_alone_shares_its_gradient():
    model = Column(SMALL, 7, 0, "float32", Communicator(), 2, 0)
    gathers = {n: m.shared for n, m in model.layers.items() if isinstance(m, nn.Gather)}
    assert gathers == {
        "gather3": False, "gather6": False, "gather7": False, "gather8": False, "gather": True
    }  # fmt: skip


def test_the_columns_start_as_the_network():
    """Together they hold its weights, drawn from the same numbers."""
    whole = Network(SMALL, 7, seed=4).state_dict()
    columns = [Column(SMALL, 7, 4, "float32", Communicator(), 2, r).state_dict() for r in (0, 1)]
    together = join(columns)
    assert set(together) == set(whole)
    assert all(np.array_equal(together[name], w) for name, w in whole.items())
    for rank, column in enumerate(columns):
        assert all(np.array_equal(column[n], w) for n, w in cut(whole, 2, rank).items())


def test_two_columns_in_one_process_train_as_the_network(forms):
    grouped, columns = Network(SMALL, 7, seed=4), TwoColumns(SMALL, 7, seed=4)
    losses = train(grouped, SMALL, 20)
    np.testing.assert_allclose(train(columns, SMALL, 20), losses, rtol=1e-5)
    assert losses[-1] != losses[0]
    together = join([tower.state_dict() for tower in columns.towers])
    for name, w in grouped.state_dict().items():
        np.testing.assert_allclose(together[name], w, rtol=1e-3, atol=1e-5 * np.abs(w).max())


def test_two_columns_in_float64():
    """Where rounding does not matter, no difference is left."""
    grouped = Network(SMALL, 7, seed=4, dtype="float64")
    columns = TwoColumns(SMALL, 7, seed=4, dtype="float64")
    losses = train(grouped, SMALL, 3, "float64")
    np.testing.assert_allclose(train(columns, SMALL, 3, "float64"), losses, rtol=1e-13)
