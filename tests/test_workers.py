"""Worker processes: the same pictures as in the caller, replaced when they die, gone when the
parent is."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from minigrad.data import workers
from minigrad.data.images import ImageError
from minigrad.data.sources import DataError
from minigrad.data.workers import Workers


@dataclass
class Numbers:
    """Picture i is full of i; some are broken, one kills whoever reads it, once or always, or
    raises what is no fault of a picture."""

    broken: tuple[int, ...] = ()
    deadly: int = -1
    marker: str = ""  # killed before, if this file is there
    trouble: int = -1
    stuck: int = -1  # stops, rather than ends, whoever reads it
    shape: tuple[int, int, int] = (256, 256, 3)

    def where(self, i):
        return f"number {i}"

    def read(self, i):
        if i in self.broken:
            raise ImageError(f"number {i} is broken")
        if i == self.trouble:
            raise OSError(24, "Too many open files")
        if i == self.deadly and not (self.marker and Path(self.marker).exists()):
            if self.marker:
                Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if i == self.stuck and not (self.marker and Path(self.marker).exists()):
            if self.marker:
                Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return np.full(self.shape, i % 256, np.uint8)


PIECES = [np.arange(3 * i, 3 * i + 3) for i in range(9)]


def read_all(source, count, pieces=PIECES, said=None):
    with Workers(source, 3, count, (said if said is not None else []).append) as pool:
        return [
            (b.indices.tolist(), b.pictures[:, 5, 5, 1].tolist(), b.skipped)
            for b in pool.batches(pieces)
        ]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_in_order_with_the_broken_named(count):
    batches = read_all(Numbers(broken=(4,)), count)
    assert [b[0] for b in batches] == [
        [3, 5] if i == 1 else p.tolist() for i, p in enumerate(PIECES)
    ]
    assert all(indices == values for indices, values, _ in batches)
    assert [b[2] for b in batches if b[2]] == [{4: "number 4 is broken"}]


def test_how_long_reading_took():
    with Workers(Slow(shape=(2, 2, 3)), 2, 1) as pool:
        batch = next(pool.batches([np.arange(2)]))
    assert 1.0 <= batch.seconds < 30.0


def test_a_worker_that_dies_is_replaced_and_nothing_is_lost(tmp_path):
    said = []
    batches = read_all(Numbers(deadly=13, marker=str(tmp_path / "killed")), 2, said=said)
    assert [b[0] for b in batches] == [p.tolist() for p in PIECES]
    assert said == ["a worker died (signal 9) while reading number 13; another takes its place"]


def test_pictures_that_kill_every_worker_end_the_run_by_name():
    said = []
    with pytest.raises(
        DataError,
        match=(
            "three workers in turn died or stood still .* the same 3 pictures, the last of them at"
            " number 13"
        ),
    ):
        read_all(Numbers(deadly=13), 2, said=said)
    assert len(said) == 3


def test_a_worker_killed_from_outside():
    said = []
    with Workers(Numbers(), 3, 2, said.append) as pool:
        for k, batch in enumerate(pool.batches(PIECES)):
            assert batch.indices.tolist() == PIECES[k].tolist()
            if k == 3:
                for worker in pool.workers:
                    worker.process.kill()
    assert 1 <= len(said) <= 2


def test_a_worker_that_stands_still_is_replaced_and_nothing_is_lost(tmp_path):
    said = []
    with Workers(
        Numbers(stuck=13, marker=str(tmp_path / "stopped")), 3, 2, said.append, timeout=4.0
    ) as pool:
        pid = pool.workers[0].process.pid
        assert [b.indices.tolist() for b in pool.batches(PIECES)] == [p.tolist() for p in PIECES]
    assert said == [
        f"worker process {pid} stood still for 4 seconds (--worker-timeout) while reading number"
        " 13; another takes its place"
    ]
    assert not alive(pid)


def test_a_picture_that_stops_every_worker_ends_the_run_by_name():
    said = []
    words = "stood still while reading the same 3 pictures, the last of them at number 13"
    with (
        Workers(Numbers(stuck=13), 3, 2, said.append, timeout=4.0) as pool,
        pytest.raises(DataError, match=words),
    ):
        list(pool.batches(PIECES))
    assert len(said) == 3


def test_a_worker_needs_some_time():
    with pytest.raises(ValueError, match="must be more than 0 seconds, not 0"):
        Workers(Numbers(), 3, 0, timeout=0.0)


def test_signals_to_the_whole_group_are_the_parents(request):
    """Ctrl-C goes to the workers, too."""
    said = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))  # inherits SIG_IGN
    with Workers(Numbers(shape=(6, 6, 3)), 3, 1, said.append) as pool:
        for k, batch in enumerate(pool.batches(PIECES)):
            assert batch.indices.tolist() == PIECES[k].tolist()
            if k in (0, 3):  # from then on it runs main()
                pool.workers[0].process.send_signal(signal.SIGTERM if k else signal.SIGINT)
    assert said == []


def test_a_worker_at_work_on_many_pictures_is_left_alone():
    """Each picture takes less than the time that a worker may stand still; all of a batch take
    more."""
    said = []
    with Workers(Slow(), 8, 1, said.append, timeout=3.0) as pool:
        assert sum(len(b.indices) for b in pool.batches([np.arange(8)])) == 8
    assert said == []


class Slow(Numbers):
    def read(self, i):
        time.sleep(0.5)
        return super().read(i)


def test_a_source_larger_than_a_pipe_waits_for_no_worker():
    """It was written into the pipe, which a worker that never starts does not empty."""
    source = Numbers(broken=tuple(range(1 << 20, (1 << 20) + 100_000)))
    with Workers(source, 3, 2, timeout=4.0) as pool:
        for worker in pool.workers:
            worker.process.send_signal(signal.SIGSTOP)
        pool.say = (said := []).append
        assert [b.indices.tolist() for b in pool.batches(PIECES)] == [p.tolist() for p in PIECES]
    assert len(said) == 2
    assert all("before reading number" in line for line in said)


def test_the_systems_trouble_comes_through():
    with pytest.raises(OSError, match="Too many open files"):
        read_all(Numbers(trouble=7), 2)


def test_an_iteration_broken_off_leaves_the_workers_fit():
    with Workers(Numbers(), 3, 2) as pool:
        first = pool.batches(PIECES)
        next(first)
        first.close()
        assert [b.indices.tolist() for b in pool.batches(PIECES[4:])] == [
            p.tolist() for p in PIECES[4:]
        ]


def test_nobody_is_left_after_closing():
    pool = Workers(Numbers(), 3, 2)
    processes = [w.process for w in pool.workers]
    next(pool.batches(PIECES))
    descriptors = pool.descriptors.copy()
    pool.close()
    assert all(p.poll() is not None for p in processes)
    assert len(descriptors) == 2
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_the_memory_has_no_descriptor_of_a_childs_pipes(monkeypatch):
    given, closed = iter([0, 1, 2, 3]), []
    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", lambda _: next(given))
        patch.setattr(os, "close", closed.append)
        found = workers.above_standard(9)
    assert (found, closed) == (3, [2, 1, 0])


@pytest.mark.parametrize("how", ["waiting", "stopped"])
def test_workers_end_when_the_parent_is_killed(how):
    code = (
        "import os, time\nfrom minigrad.data.workers import Workers\nfrom tests.test_workers import"
        " Numbers, PIECES\npool = Workers(Numbers(), 3,"
        " 2)\nnext(pool.batches(PIECES))\nprint(*[w.process.pid for w in pool.workers],"
        " flush=True)\ntime.sleep(60)"
    )
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root
    ) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        if how == "stopped":
            os.kill(children[0], signal.SIGSTOP)
        parent.kill()
    assert_they_end(children)


def assert_they_end(processes):
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in processes)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_shared_memory_that_is_too_small(monkeypatch):
    """/dev/shm of a container: the disk serves; where nothing does, a sentence."""
    reserve, refused = os.posix_fallocate, []

    def small(descriptor, offset, size):
        if not refused:
            refused.append(size)
            raise OSError(28, "No space left on device")
        return reserve(descriptor, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", small)
    assert [b[0] for b in read_all(Numbers(), 1)] == [p.tolist() for p in PIECES]
    assert refused

    def none(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", none)
    with pytest.raises(DataError, match="use --workers 0"):
        workers.memory(1000)


@pytest.mark.parametrize("how", ["closed stdin", "a module of the working folder"])
def test_workers_bear_where_they_are_started(tmp_path, how):
    """Descriptors 0 to 2 go to a child's pipes, and a working folder may hold a random.py."""
    (tmp_path / "random.py").write_text("raise RuntimeError('not me')" if "module" in how else "")
    code = (
        "from minigrad.data.workers import Workers\nfrom tests.test_workers import Numbers,"
        " PIECES\nwith Workers(Numbers(), 3, 2) as pool: print(sum(len(b.indices) for b in"
        " pool.batches(PIECES)))"
    )
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-P", "-c", code]
    shell = ["sh", "-c", 'exec "$@" <&-', "sh", *command] if "stdin" in how else command
    environment = os.environ | {"PYTHONPATH": str(root)}
    result = subprocess.run(
        shell, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.stdout == "27\n", result.stderr
