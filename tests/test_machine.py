"""What a training program sets for its process: threads, memory, the signals that stop it."""

import os
import signal

import pytest

from minigrad import backend, kernels, machine


@pytest.mark.parametrize(
    ("processes", "variables", "blas", "threads"),
    [
        (1, {}, [], None),
        (3, {}, [2], "2"),
        (9, {}, [1], "1"),
        (3, {"MINIGRAD_THREADS": "5"}, [], "5"),
        (3, {"OMP_NUM_THREADS": "5"}, [], None),
    ],
)
def test_processes_share_the_processors(monkeypatch, processes, variables, blas, threads):
    """Unless the environment says how many threads each has."""
    for name in ("MINIGRAD_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # set_up changes it, and the fixture sets it back
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    limits, done = [], []
    monkeypatch.setattr(kernels, "threads", lambda: 7)
    monkeypatch.setattr(machine.threadpoolctl, "threadpool_limits", lambda *a: limits.append(a))
    monkeypatch.setattr(backend, "keep_memory", lambda: done.append("memory"))
    monkeypatch.setattr(kernels, "lend_threads_to_blas", lambda: done.append("threads"))
    machine.set_up(processes)
    assert limits == [(n, "blas") for n in blas]
    assert os.environ.get("MINIGRAD_THREADS") == threads
    assert done == ["memory", "threads"]


def test_freed_memory_is_kept_as_malloc_understands(monkeypatch):
    """mallopt's numbers, from malloc.h: no mmap, and never trim."""
    asked, answer = [], {}

    def mallopt(option, value):
        asked.append((option, value))
        return answer.get(option, 1)

    library = type("library", (), {"mallopt": staticmethod(mallopt)})
    monkeypatch.setattr(backend.ctypes, "CDLL", lambda _: library)
    assert backend.keep_memory() is True
    assert sorted(asked) == [(-4, 0), (-1, 2**31 - 1)]
    for option in (-4, -1):
        answer = {option: 0}
        assert backend.keep_memory() is False
    monkeypatch.setattr(backend.ctypes, "CDLL", lambda _: object())
    assert backend.keep_memory() is False


@pytest.mark.skipif(os.name != "posix", reason="other systems have fewer signals")
def test_the_signals_that_ask_to_stop():
    assert machine.STOPS == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
