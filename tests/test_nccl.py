"""Ranks with a GPU each, on stand-ins for CuPy and NCCL: threads, each with its device."""

import importlib
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import stand_in_cupy
import stand_in_nccl
from stand_in_nccl import Meeting, NcclError, Threads

import alexnet
from minigrad import backend
from minigrad.columns import Column
from minigrad.distributed import Communicator
from minigrad.models.records import LRN
from minigrad.nccl import Nccl, between_gpus
from minigrad.network import Network, shrunken
from minigrad.training.gradients import Gradients


@pytest.fixture(autouse=True)
def gpus(monkeypatch):
    monkeypatch.setattr(backend, "cupy", lambda: stand_in_cupy)
    monkeypatch.setattr(backend, "nccl", lambda: stand_in_nccl)


def on_ranks(action, size=2, devices=("gpu:0", "gpu:1")):
    """action(communicator, device) in a thread for each rank: what each returned. The first error
    of a rank is raised."""
    meeting, results, errors = Meeting(size), [None] * size, []

    def rank(r):
        try:
            with backend.on_device(devices[r]):
                results[r] = action(Threads(r, meeting), devices[r])
        except Exception as error:
            errors.append(error)
            for each in (meeting, *stand_in_nccl.meetings.values()):
                each.barrier.abort()

    threads = [threading.Thread(target=rank, args=(r,)) for r in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def unique(comm, device, library=stand_in_nccl):
    return Nccl(comm, device, library)


def test_sums_and_parts_between_two_gpus():
    """The three ways in which arrays travel, against the array forms on the host."""
    rng = np.random.default_rng(0)
    wholes = [rng.standard_normal((3, 2, 8)).astype(np.float32) for _ in range(2)]

    def action(comm, device):
        nccl = unique(comm, device)
        array = backend.to_device(wholes[comm.rank], device)
        joined = nccl.join(array, [8, 8])
        own = nccl.scatter_sum(array, [4, 4])
        transposed = nccl.join(array.transpose(1, 0, 2), [8, 8])
        nccl.sum(array)
        assert comm.beats[0] == {"waiting": True}
        assert comm.beats[-1] == {"waiting": False}
        assert not nccl.stream.pending
        return [a.get() for a in (array, joined, own, transposed)]

    first, second = on_ranks(action)
    total, both = wholes[0] + wholes[1], np.concatenate(wholes, axis=-1)
    for summed, joined, _, transposed in (first, second):
        np.testing.assert_array_equal(summed, total)
        np.testing.assert_array_equal(joined, both)
        np.testing.assert_array_equal(transposed, both.transpose(1, 0, 2))
    np.testing.assert_array_equal(first[2], total[..., :4])
    np.testing.assert_array_equal(second[2], total[..., 4:])


def test_numbers_of_both_precisions():
    """NCCL is told which: the sum of float64 is exact to its last bits."""
    wholes = [np.array([1 / 3, 1e-300, 2.0**60 + 2.0**9]), np.array([1.0, 1e-300, 2.0**9])]

    def action(comm, device):
        nccl = unique(comm, device)
        array = backend.to_device(wholes[comm.rank], device)
        nccl.sum(array)
        return array.get()

    for summed in on_ranks(action):
        np.testing.assert_array_equal(summed, wholes[0] + wholes[1])


def test_unequal_parts_take_the_other_way():
    """NCCL gathers equal parts; 5 classes in two columns are 3 and 2."""
    whole = np.arange(20, dtype=np.float32).reshape(4, 5)

    def action(comm, device):
        nccl = unique(comm, device)
        part = np.ascontiguousarray(whole[:, :3] if comm.rank == 0 else whole[:, 3:])
        joined = nccl.join(backend.to_device(part, device), [3, 2])
        own = nccl.scatter_sum(backend.to_device(whole, device), [3, 2])
        assert backend.device_of(joined) == backend.device_of(own) == device
        return joined.get(), own.get()

    first, second = on_ranks(action)
    np.testing.assert_array_equal(first[0], whole)
    np.testing.assert_array_equal(first[1], 2 * whole[:, :3])
    np.testing.assert_array_equal(second[1], 2 * whole[:, 3:])


TINY = shrunken(alexnet.PRESETS["krizhevsky2012"]).with_each(LRN, alpha=1e-4)


def batch(rows):
    rng = np.random.default_rng(1)
    size = TINY.preprocessing.size
    return rng.standard_normal((rows, size, size, 3), dtype=np.float32), rng.integers(0, 4, rows)


def test_two_gpus_compute_the_gradients_of_one_process():
    x, t = batch(6)
    alone = Network(TINY, 4, seed=0)
    loss, top1 = Gradients(alone, accumulate=2).of(x, t)

    def action(comm, device):
        model = Network(TINY, 4, seed=0)
        model.to(device)
        rows = slice(3 * comm.rank, 3 * comm.rank + 3)
        gradients = Gradients(model, device, unique(comm, device))
        assert gradients.thread is not None
        result = gradients.of(x[rows], t[rows])
        return result, {n: p.grad.get() for n, p in model.named_parameters()}

    for result, found in on_ranks(action):
        assert result == pytest.approx((loss, top1), rel=1e-6)
        for name, p in alone.named_parameters():
            scale = np.abs(p.grad).max()
            assert np.abs(found[name] - p.grad).max() <= 2e-6 * scale, name


def test_a_sum_waits_for_its_own_gradient_alone():
    """Not for what the device was asked for later, which is the rest of the backward pass."""

    def action(comm, device):
        nccl = unique(comm, device)
        first, second = (backend.to_device(np.ones(3, np.float32), device) for _ in range(2))
        mark = nccl.mark()
        later = second + 1
        with pytest.raises(NcclError, match="does not wait for"):
            nccl.sum(later, mark)  # of this thread's own work the stand-in knows
        done = []
        thread = threading.Thread(target=lambda: done.append(nccl.sum(first, mark)))
        thread.start()
        thread.join()
        assert nccl.stream.waited == mark < stand_in_cupy.asked()
        return first.get()

    for summed in on_ranks(action):
        np.testing.assert_array_equal(summed, [2, 2, 2])


def test_two_columns_on_two_gpus():
    x, t = batch(4)
    alone = Network(TINY, 4, seed=0)
    loss, _ = Gradients(alone).of(x, t)

    def action(comm, device):
        model = Column(TINY, 4, 0, "float32", unique(comm, device), 2, comm.rank)
        model.to(device)
        result = Gradients(model, device).of(x, t)
        return result[0], model.layers["conv5"].w.grad.get()

    (first, top), (second, bottom) = on_ranks(action)
    assert first == second == pytest.approx(loss, rel=1e-5)
    whole = alone.layers["conv5"].w.grad
    both = np.concatenate([top, bottom], axis=-1)
    assert np.abs(both - whole).max() <= 1e-5 * np.abs(whole).max()


def test_where_nccl_serves(monkeypatch):
    said = []

    def choose(comm, device):
        report = said.append if comm.rank == 0 else lambda line: None
        return type(between_gpus(comm, device, report)).__name__

    assert on_ranks(choose) == ["Nccl", "Nccl"]
    assert said == ["2 GPUs, over NCCL: a run on more than one GPU has not been tried yet"]
    said.clear()
    assert on_ranks(choose, devices=("gpu:0", "gpu:0")) == ["Threads", "Threads"]
    assert "several ranks share a GPU, which NCCL refuses" in said[0]
    said.clear()
    monkeypatch.setattr(backend, "nccl", lambda: None)
    assert on_ranks(choose) == ["Threads", "Threads"]
    assert "NCCL is not installed everywhere (pip install nvidia-nccl-cu13, or -cu12)" in said[0]
    said.clear()
    libraries = iter([None, stand_in_nccl])
    monkeypatch.setattr(backend, "nccl", lambda: next(libraries))
    assert on_ranks(choose) == ["Threads", "Threads"]
    assert "NCCL is not installed everywhere" in said[0]
    said.clear()
    assert on_ranks(choose, devices=("cpu", "cpu")) == ["Threads", "Threads"]
    alone = Communicator()
    assert between_gpus(alone, "gpu:0", said.append) is alone
    assert said == []


def test_the_stand_in_refuses_what_nccl_refuses():
    def refused(action, words, **options):
        with pytest.raises((NcclError, TypeError), match=words):
            on_ranks(action, **options)

    ones = np.ones(4, np.float32)
    refused(unique, "invalid usage", devices=("gpu:0", "gpu:0"))
    refused(
        lambda c, d: unique(c, d).sum(backend.to_device(np.ones(3 + c.rank, np.float32), d)),
        "a hang",
    )
    refused(lambda c, d: unique(c, d).sum(backend.to_device(ones.astype(np.float16), d)), "float16")

    def other_gpu(comm, device):
        with backend.on_device("gpu:1"):
            array = stand_in_cupy.asarray(ones)
        unique(comm, device).sum(array)

    refused(other_gpu, "an array of another GPU")

    def too_late(comm, device):
        nccl = unique(comm, device)
        with nccl.sending() as stream:
            array = stand_in_cupy.asarray(ones)  # after the event
            nccl.link.allReduce(array.data.ptr, array.data.ptr, 4, 7, 0, stream)

    refused(too_late, "does not wait for")

    def overrun(comm, device):
        nccl, array = unique(comm, device), stand_in_cupy.asarray(ones)
        with nccl.sending() as stream:
            nccl.link.allReduce(array.data.ptr, array.data.ptr, 5, 7, 0, stream)

    refused(overrun, "an illegal memory access")


def test_cupy_without_the_library(monkeypatch):
    """CuPy warns, and has a module that says no."""
    monkeypatch.undo()

    def without(name):
        warnings.warn("nccl library could not be loaded", stacklevel=2)
        return SimpleNamespace(available=False)

    monkeypatch.setattr(importlib, "import_module", without)
    assert backend.nccl() is None
