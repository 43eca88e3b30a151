"""The gradients of a batch in parts, added up: order, overlap, and what a part counts."""

import threading

import numpy as np
import pytest

import minigrad as mg
from minigrad import functions as F
from minigrad import nn, random
from minigrad.distributed import Communicator
from minigrad.training.gradients import Gradients


class Double(Communicator):
    """A stand-in for two ranks with the same rows."""

    size = 2

    def __init__(self, overlaps):
        self.overlaps, self.sums, self.threads = overlaps, [], []

    def exchange(self, value):
        return [value, value]

    def sum(self, array, after=None):
        self.sums.append(array.shape)
        self.threads.append(threading.current_thread())
        array += array


class Pass(mg.Function):
    """The identity; its backward calls `meanwhile`."""

    def __init__(self, meanwhile):
        self.meanwhile = meanwhile

    def forward(self, x):
        return x.copy()

    def backward(self, gy):
        self.meanwhile()
        return gy


class Model(nn.Module):
    """Two dense layers, and something that runs between their backward passes."""

    def __init__(self, meanwhile=lambda: None):
        self.unused = nn.Linear(2, 2)
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3)
        self.meanwhile = meanwhile

    def forward(self, x):
        return self.second(Pass(self.meanwhile)(F.relu(self.first(mg.Tensor(x)))))


def batch(n=8):
    rng = np.random.default_rng(3)
    return rng.standard_normal((n, 6)).astype(np.float32), rng.integers(0, 3, n)


def filled(comm, accumulate=1, meanwhile=lambda: None, rows=8):
    model = Model(meanwhile)
    for p, value in zip(model.parameters(), np.linspace(0.1, 0.6, 6)):
        p.data[...] = value * np.cos(np.arange(p.size)).reshape(p.shape)
    result = Gradients(model, comm=comm, accumulate=accumulate).of(*batch(rows))
    return result, [p.grad for p in model.parameters()]


@pytest.mark.parametrize("accumulate", [1, 3, 8, 11])
def test_parts_of_a_batch_are_the_batch(accumulate):
    (loss, top1), whole = filled(None)
    (other, other_top1), parts = filled(None, accumulate)
    assert other == pytest.approx(loss, rel=1e-6)
    assert other_top1 == pytest.approx(top1)
    for a, b in zip(parts[2:], whole[2:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
    assert whole[0] is whole[1] is None, "a layer that is not used has no gradient"


@pytest.mark.parametrize("accumulate", [2, 3, 11])
def test_parts_draw_the_random_numbers_of_the_whole(accumulate):
    """With dropout, and in the next batch too."""

    def losses(accumulate):
        draws = [random.Stream(0, name) for name in ("first", "drop", "last")]
        model = nn.Sequential(
            first=nn.Linear(6, 50, rng=draws[0]),
            drop=nn.Dropout(0.5, rng=draws[1]),
            last=nn.Linear(50, 3, rng=draws[2]),
        )
        gradients = Gradients(model, accumulate=accumulate)
        return [gradients.of(*batch())[0] for _ in range(3)]

    whole = losses(1)
    assert len(set(whole)) == 3
    assert losses(accumulate) == pytest.approx(whole, rel=1e-5)


def test_a_rank_draws_for_its_own_rows(monkeypatch):
    """Eight rows behind the eight of the first rank."""
    first, part = [], random.part
    monkeypatch.setattr(random, "part", lambda n: first.append(n) or part(n))
    comm = Double(False)
    comm.rank = 1
    filled(comm, 2)
    assert first == [8, 12]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_sums_are_made_in_one_order_and_are_the_same_with_a_thread(accumulate):
    near, far = Double(False), Double(True)
    results = [filled(comm, accumulate) for comm in (near, far)]
    assert results[0][0] == results[1][0]
    for a, b in zip(*(gradients for _, gradients in results), strict=True):
        np.testing.assert_array_equal(a, b)
    backwards = [(3,), (5, 3), (5,), (6, 5), (2,), (2, 2)]
    assert near.sums == far.sums == backwards
    assert set(near.threads) == {threading.main_thread()}
    assert threading.main_thread() not in far.threads[:4]
    _, alone = filled(None, accumulate)  # two ranks of eight rows are sixteen, each eight twice
    for summed, own in zip(results[0][1][2:], alone[2:], strict=True):
        np.testing.assert_allclose(summed, own, rtol=1e-5, atol=1e-8)


def test_the_last_layers_travel_while_the_first_run_backward():
    """The backward pass of the first layer waits until the sum of the last one has begun: without
    overlap this would wait for ever."""
    begun = threading.Event()

    class Far(Double):
        def sum(self, array, after=None):
            super().sum(array, after)
            if array.shape == (5, 3):
                begun.set()

    waited = []
    filled(Far(True), meanwhile=lambda: waited.append(begun.wait(20)))
    assert waited == [True]


def test_a_rank_without_rows_gives_zeros():
    comm = Double(True)
    x, t = batch(0)
    model = Model()
    assert Gradients(model, comm=comm).of(x, t) == (0.0, 0.0)
    assert len(comm.sums) == 6
    assert not any(p.grad.any() for p in model.parameters())


def test_a_sum_that_fails_says_so():
    class Broken(Double):
        def sum(self, array, after=None):
            super().sum(array, after)
            if len(self.sums) == 2:
                raise OSError("the network is down")

    for overlaps in (False, True):
        comm = Broken(overlaps)
        with pytest.raises(OSError, match="the network is down"):
            filled(comm)
        assert len(comm.sums) == 2, "none behind it: it would meet another rank's next one"
