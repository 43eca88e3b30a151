"""Several ranks over MPI, by real mpiexec: the same run as one process, and nothing hangs when one
of them fails."""

import contextlib
import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from minigrad import distributed, launcher
from minigrad.data import synthetic
from minigrad.distributed import (
    Beat,
    Communicator,
    DistributedError,
    Mpi,
    connect,
    launched,
    read_beats,
    share,
    told,
)
from minigrad.launcher import Watch, verdict, without_ranks
from minigrad.training import checkpoint

MPIEXEC = Path(sys.executable).with_name("mpiexec")
needs_mpi = pytest.mark.skipif(
    not MPIEXEC.exists() and "MINIGRAD_ALL_TESTS" not in os.environ,
    reason="mpi4py and MPICH are not installed: pip install '.[mpi]'",
)
ROOT = Path(__file__).resolve().parents[1]
# alexnet.py with two presets in small, without drawings; FAULT is what one rank does at a step.
PROGRAM = """
import os, signal, sys, time
import alexnet
from minigrad import distributed
from minigrad.models.records import LRN
from minigrad.network import shrunken
from minigrad.training import session, trainer
for name in ("paper", "krizhevsky2012"):
    alexnet.MODELS["tiny-" + name] = shrunken(alexnet.PRESETS[name]).with_each(LRN, alpha=1e-4)
def draw_run(*_):
    fault = os.environ.get("FAULT", "").split() or [""]
    if fault[0] == "slow-end":
        time.sleep(7)
    if fault[0] == "raise-end":
        raise ZeroDivisionError("a mistake at the end")
    return []
session.draw_run = draw_run
session.write_report = lambda *a, **o: "no page"
if os.environ.get("APART") and "PMI_RANK" in os.environ:
    # each rank a host of its own: sums overlap
    distributed.Communicator.host = "node" + os.environ["PMI_RANK"]
own = trainer.Trainer.run_step
def run_step(self, x, t):
    fault, rank, step = (os.environ.get("FAULT", "none 0 0") + " 0 0").split()[:3]
    if self.comm.rank == int(rank) and self.step == int(step):
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "exit":
            sys.exit("left")
        if fault == "raise":
            raise ZeroDivisionError("a mistake of one rank")
        if fault == "refuse":
            raise trainer.RunError("one rank will not go on")
        if fault == "hang":
            time.sleep(1000)
        if fault == "leave":
            os._exit(0)
        if fault == "sum":
            def broken(*_):
                raise ZeroDivisionError("a mistake in a sum")
            distributed.Mpi.sum = broken
        if fault == "drift":
            self.model.layers["conv1"].w.data[0, 0, 0, 0] += 1
    return own(self, x, t)
trainer.Trainer.run_step = run_step
sys.exit(alexnet.main(sys.argv[1:]))
"""
TRAIN = "train --data set --epochs 2 --batch-size 12 --workers 1 --preset"


def start(place, command, ranks=1, **environment):
    """The program in one process, or on several ranks."""
    launcher = [str(MPIEXEC), "-n", str(ranks)] if ranks > 1 else []
    threads = {"MINIGRAD_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # BLAS's bits depend on them
    own = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(place / "cache"), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [*launcher, sys.executable, "-c", PROGRAM, *command.split()],
        cwd=place,
        env=os.environ | threads | own | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def run(place, command, ranks=1, code=0, **environment):
    process = start(place, command, ranks, **environment)
    try:
        out = process.communicate(timeout=120)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code, out
    return out


def losses(folder):
    with open(folder / "steps.csv") as file:
        return np.array([float(row["loss"]) for row in csv.DictReader(file)])


def state(folder):
    return checkpoint.load(folder / "checkpoint.safetensors")[0]


def assert_close(folder, other):
    """The same run, as far as the order of sums allows."""
    np.testing.assert_allclose(losses(folder), losses(other), rtol=1e-5)
    ours, theirs = state(folder), state(other)
    assert set(ours) == set(theirs)
    for name, array in ours.items():
        if name.startswith("model."):
            error = np.abs(array - theirs[name]).max() / np.abs(theirs[name]).max()
            assert error < 1e-4, name


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A set whose last batch is uneven, and one with two unreadable pictures."""
    place = tmp_path_factory.mktemp("ranks")
    synthetic.draw_set(place / "set", train=5, val=2)
    shutil.copytree(place / "set", place / "broken")
    for name in ("dots/0001", "stars/0003"):
        (place / "broken" / "train" / f"{name}.JPEG").write_bytes(b"")
    run(place, f"{TRAIN} tiny-paper --output one")
    return place


@needs_mpi
def test_ranks_are_one_process_in_parts(place):
    """Two ranks and one process that takes each batch in two parts: the same bytes; and as near to
    the whole batch as sums in another order are."""
    out = run(place, f"{TRAIN} tiny-paper --output two", ranks=2)
    assert "2 ranks, a part of each batch on each" in out
    assert out.count("held-out pictures, last epoch") == 1, "one rank speaks"
    run(place, f"{TRAIN} tiny-paper --accumulate 2 --output parts")
    ours, theirs = state(place / "two"), state(place / "parts")
    assert all(np.array_equal(array, theirs[name]) for name, array in ours.items())
    assert (place / "two" / "steps.csv").read_text() == (place / "parts" / "steps.csv").read_text()
    assert_close(place / "two", place / "one")
    run(place, f"{TRAIN} tiny-paper --output apart", ranks=2, APART="1")
    apart = state(place / "apart")
    assert all(np.array_equal(array, apart[name]) for name, array in ours.items())
    for name in ("parts", "one"):
        ours, theirs = (
            [row.split(",")[:8] for row in (place / f / "metrics.csv").read_text().split()[1:]]
            for f in ("two", name)
        )
        assert len(ours) == 2
        np.testing.assert_allclose(
            np.array(ours, float), np.array(theirs, float), rtol=1e-4, atol=1e-4
        )


@needs_mpi
def test_unreadable_pictures_and_few_rows(place):
    """Three ranks, a last batch of fewer rows than ranks, pictures that cannot be read."""
    command = f"{TRAIN} tiny-paper --data broken"
    run(place, f"{command} --output broken1")
    run(place, f"{command} --output broken3", ranks=3)
    assert_close(place / "broken3", place / "broken1")
    listed = [(place / f / "skipped.csv").read_text() for f in ("broken1", "broken3")]
    assert listed[0] == listed[1]
    assert listed[0].count("\n") == 3


@needs_mpi
def test_a_run_goes_on_on_another_number_of_ranks(place):
    run(place, f"{TRAIN} tiny-paper --epochs 1 --output moved")
    run(place, "train --resume moved --epochs 2", ranks=3)
    run(place, "train --resume moved --epochs 3", ranks=2)
    run(place, f"{TRAIN} tiny-paper --epochs 3 --output stayed")
    # the drops of the rate depend on the epochs that a run is told, so the losses are compared
    # as long as both were told the same
    np.testing.assert_allclose(losses(place / "moved")[:3], losses(place / "stayed")[:3], rtol=1e-5)
    assert len(losses(place / "moved")) == len(losses(place / "stayed"))


@needs_mpi
def test_two_columns_on_two_ranks(place):
    """They train as the grouped network does; its checkpoint is evaluated and goes on on one."""
    run(place, f"{TRAIN} tiny-krizhevsky2012 --output grouped")
    out = run(place, f"{TRAIN} tiny-krizhevsky2012 --columns 2 --output columns", ranks=2)
    assert "2 ranks, a column of the network on each" in out
    assert_close(place / "columns", place / "grouped")
    features = checkpoint.load(place / "columns" / "features" / "epoch-0002.safetensors")[0]
    whole = state(place / "columns")
    assert all(np.array_equal(array, whole[f"model.{n}"]) for n, array in features.items())
    said = [run(place, f"evaluate {name} --workers 0") for name in ("columns", "grouped")]
    assert said[0].split("loss ")[1][:5] == said[1].split("loss ")[1][:5]
    run(place, "train --resume columns --epochs 3")
    run(place, "train --resume columns --epochs 4 --columns 2", ranks=2)
    assert len(losses(place / "columns")) == 4 * 5


@needs_mpi
def test_columns_that_cannot_be(place):
    out = run(place, f"{TRAIN} tiny-krizhevsky2012 --columns 2 --output no", code=2)
    assert "--columns 2 needs 2 ranks, one for each column, and there are 1" in out
    out = run(place, f"{TRAIN} tiny-paper --columns 2 --output no", ranks=2, code=2)
    assert out.count("error: norm1: the windows of its normalisation reach from one column") == 1


@needs_mpi
@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("raise", 1, "rank 1 on .*ZeroDivisionError: a mistake of one rank"),
        ("refuse", 2, "rank 1 on .*: error: one rank will not go on"),
        ("exit", 1, "rank 1 on .*SystemExit: left"),
        ("kill", 9, ""),
        ("drift", 2, "the parameter conv1.w of rank 1 is not that of rank 0"),
    ],
)
def test_one_rank_fails_and_all_end(place, fault, code, words):
    """Within seconds, with its sentence; nothing is left running, and the run goes on."""
    process = start(place, f"{TRAIN} tiny-paper --output {fault}", 2, FAULT=f"{fault} 1 3")
    began = time.monotonic()
    out = process.communicate(timeout=60)[0]
    assert time.monotonic() - began < 60
    assert process.returncode == code, out
    assert re.search(words, out, re.DOTALL), out
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    run(place, f"train --resume {fault} --epochs 2", ranks=2)
    assert_close(place / fault, place / "one")


@needs_mpi
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            "raise",
            "rank 1 on .*ZeroDivisionError.*error: a rank failed, as it says above at step 3",
        ),
        ("kill", r"error: rank 1 on .* \(process \d+\) was killed by signal 9 at step 3"),
        ("hang", r"error: rank 1 on .* \(process \d+\) has done nothing for 3 seconds"),
        ("leave", r"error: rank 1 on .* \(process \d+\) ended before its work was done at step 3"),
        ("sum", "rank 1 on .*ZeroDivisionError: a mistake in a sum.*error: a rank failed, as it"),
    ],
)
def test_the_launcher_says_which_rank_failed(place, fault, words):
    """`--ranks 2` ends with one sentence and exit code 2, and leaves no process."""
    command = f"{TRAIN} tiny-paper --ranks 2 --rank-timeout 3 --output launched-{fault}"
    mark = f"{fault}-{os.getpid()}-{time.monotonic_ns()}"
    before = set(Path("/dev/shm").glob("mpich_shm_*"))
    process = start(place, command, FAULT=f"{fault} 1 3", MARK=mark, APART="1" * (fault == "sum"))
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 2, out
    assert re.search(words, out, re.DOTALL), out
    assert f"all ranks have ended; go on with --resume launched-{fault}" in out
    assert "BAD TERMINATION" not in out
    if fault != "sum":  # there the ranks are on other hosts, whose memory this one cannot see
        assert set(Path("/dev/shm").glob("mpich_shm_*")) <= before
    assert with_mark(mark) == []
    out = run(place, f"train --resume launched-{fault} --epochs 2 --ranks 2")
    assert "2 ranks, a part of each batch on each" in out
    assert_close(place / f"launched-{fault}", place / "one")


def with_mark(mark):
    """Processes with this mark in their environment, ranks and those that read for them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"MARK={mark}".encode() in (process / "environ").read_bytes():
                found.append(process.name)
    return found


@needs_mpi
def test_the_end_of_a_run_takes_its_time(place):
    """The first rank draws, the others have done their part: no timeout ends that."""
    command = f"{TRAIN} tiny-paper --ranks 2 --rank-timeout 3 --output slow"
    out = run(place, command, FAULT="slow-end")
    assert "done nothing" not in out
    out = run(place, f"{TRAIN} tiny-paper --ranks 2 --output fails", code=2, FAULT="raise-end")
    assert "ZeroDivisionError: a mistake at the end" in out


@needs_mpi
def test_a_mistake_is_said_once_and_ends_all_ranks(place):
    command = "train --data nowhere --preset tiny-paper --ranks 2 --output nothing"
    out = run(place, command, code=2)
    assert out.count("error:") == 1, out
    out = run(place, command, code=2, MINIGRAD_TRACEBACK="1")
    assert "Traceback" in out


@needs_mpi
def test_bad_launches(place):
    assert "--ranks must be at least 1, not 0" in run(place, f"{TRAIN} paper --ranks 0", code=2)
    process = start(place, f"{TRAIN} tiny-paper --epochs 900 --ranks 2 --output halted")
    while not (place / "halted" / "steps.csv").exists() or len(losses(place / "halted")) < 4:
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=60)[0]
    assert process.returncode == 130, out
    assert "go on with --resume halted" in out


def test_a_command_without_its_ranks():
    command = ["python", "a.py", "--ranks", "4", "--epochs", "2", "--ranks=3", "-x"]
    assert without_ranks(command) == ["python", "a.py", "--epochs", "2", "-x"]


@needs_mpi
def test_a_signal_stops_all_ranks_after_the_same_step(place):
    process = start(place, f"{TRAIN} tiny-paper --epochs 900 --output stopped", 2)
    while not (place / "stopped" / "steps.csv").exists() or len(losses(place / "stopped")) < 4:
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out = process.communicate(timeout=60)[0]
    assert "go on with --resume stopped" in out
    steps = len(losses(place / "stopped"))
    about = checkpoint.load(place / "stopped" / "checkpoint.safetensors")[1]
    assert about["place"]["step"] == steps


def test_without_a_launcher_mpi_is_not_loaded():
    code = (
        "import sys; from minigrad.distributed import connect; c = connect({});"
        " print(c.rank, c.size, 'mpi4py' in sys.modules)"
    )
    own = os.environ | {"PYTHONPATH": str(ROOT)}
    out = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True)
    assert out.stdout == "0 1 False\n", out.stderr


def test_a_launcher_without_mpi4py(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(DistributedError, match="started 4 processes.*pip install 'minigrad.mpi.'"):
        connect({"OMPI_COMM_WORLD_SIZE": "4"})


def test_who_was_started_by_a_launcher():
    """mpiexec, and srun with PMI-2, PMIx or neither; not a shell in a step of one task."""
    assert told({"PMI_SIZE": "2", "SLURM_STEP_NUM_TASKS": "8"}) == ("PMI_SIZE", 2)
    assert told({"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "4"}) == ("SLURM_STEP_NUM_TASKS", 4)
    assert told({"PMI_SIZE": "1"}) == ("PMI_SIZE", 1)
    for alone in ({}, {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, {"PMI_SIZE": ""}):
        assert told(alone) is None
        assert not launched(alone)


@needs_mpi
@pytest.mark.parametrize("name", ["OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_a_launcher_that_mpi_does_not_see(name):
    """N runs in one folder would come of it."""
    code = (
        "import sys; from minigrad import commands;"
        " sys.exit(commands.run_command(lambda comm: print(comm.size)))"
    )
    own = {"PYTHONPATH": str(ROOT), name: "3"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | own, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "error: the launcher started 3 processes" in result.stderr
    assert "but MPI sees 1: launcher and mpi4py belong to different MPIs" in result.stderr


@pytest.mark.parametrize(("count", "parts"), [(12, 3), (5, 2), (2, 3), (0, 2), (7, 1)])
def test_shares_are_all_of_it(count, parts):
    slices = [share(count, k, parts) for k in range(parts)]
    assert [i for s in slices for i in range(count)[s]] == list(range(count))
    sizes = [len(range(count)[s]) for s in slices]
    assert max(sizes) - min(sizes) <= 1


def test_alone_nothing_is_exchanged():
    alone, array = Communicator(), np.arange(6.0).reshape(2, 3)
    alone.sum(array)
    assert alone.join(array, (3,)) is array
    assert alone.scatter_sum(array, (3,)) is array
    assert (alone.exchange(4), alone.broadcast(5), alone.in_turn(lambda: 6)) == ([4], 5, 6)


def test_one_rank_of_each_host_goes_first():
    """Two ranks that share a host: the second begins when the first has met it."""
    done = []

    class Rank(Communicator):
        def exchange(self, value):
            done.append("met")
            return [value]

    comm = Rank()
    assert comm.in_turn(lambda: done.append("first") or 1) == 1
    comm.local_rank = 1
    assert comm.in_turn(lambda: done.append("second") or 2) == 2
    assert done == ["first", "met", "met", "second"]


def test_heartbeats_are_read_as_they_were_last_written(tmp_path):
    """A short one after a long one; in order of rank, though the files are not."""
    for rank in (10, 9, 2):
        beat = Beat(str(tmp_path), rank, "here")
        beat(step=rank, run="a" * 300)
        beat(step=rank + 1, run=None, waiting=True)
        os.close(beat.file)
    beats = read_beats(str(tmp_path))
    assert [(beat["rank"], beat["step"], beat["run"]) for beat in beats] == [
        (2, 3, None),
        (9, 10, None),
        (10, 11, None),
    ]
    assert all(beat["waiting"] and not beat["done"] for beat in beats)
    assert {beat["pid"] for beat in beats} == {os.getpid()}


class World:
    """The second of three ranks, all of which send the same."""

    def Get_rank(self):
        return 1

    def Get_size(self):
        return 3

    def allgather(self, value):
        return [value, value, "elsewhere"] if isinstance(value, str) else [value] * 3

    def Allreduce(self, _, part):
        part *= 3

    def Alltoallv(self, outgoing, incoming):
        sent, counts = outgoing
        received, expected = incoming
        assert counts == [2 * 2, 0, 2 * 3]
        assert expected == [2 * 1, 0, 2 * 1]
        received[...] = [10, 20, 100, 200]
        self.sent = sent


def test_arrays_between_ranks(monkeypatch, tmp_path):
    """Large sums in pieces, a scattered sum in order of rank; and the heartbeat around them."""
    monkeypatch.setenv("MINIGRAD_BEATS", str(tmp_path))
    monkeypatch.setattr(distributed, "PIECE", 32)
    comm = Mpi(SimpleNamespace(COMM_WORLD=World(), IN_PLACE=None))
    assert (comm.rank, comm.size, comm.local_rank, comm.local_size) == (1, 3, 1, 2)
    assert comm.overlaps
    told, heart = [], comm.heart
    comm.heart = lambda **values: told.append(values) or heart(**values)
    array = np.arange(11.0)
    comm.sum(array)
    np.testing.assert_array_equal(array, 3 * np.arange(11.0))
    assert told == [{"waiting": True}, {"waiting": False}] * 3
    whole = np.arange(12.0).reshape(2, 6)
    own = comm.scatter_sum(whole, [2, 1, 3])
    np.testing.assert_array_equal(own, [[2 + 10 + 100], [8 + 20 + 200]])
    np.testing.assert_array_equal(comm.world.sent, [0, 1, 6, 7, 3, 4, 5, 9, 10, 11])
    os.close(heart.file)


def beat(rank, step=3, run="there", **values):
    return {"rank": rank, "host": "here", "pid": 50 + rank, "step": step, "run": run,
            "done": False} | values  # fmt: skip


def test_the_verdict_on_a_run_that_failed():
    two = [beat(0, 4), beat(1, 3)]
    rest = "at step 4: all ranks have ended; go on with --resume there"
    assert verdict(two, [51], 9, "") == (
        f"error: rank 1 on here (process 51) was killed by signal 9 {rest}"
    )
    assert verdict(two, [51], 0, "") == (
        f"error: rank 1 on here (process 51) ended before its work was done {rest}"
    )
    assert verdict(two, [], 15, "") == f"error: a rank was killed by signal 15 {rest}"
    assert verdict(two, [51], 0, "it hangs") == f"error: it hangs {rest}"
    done = [beat(0, 4), beat(1, 3, done=True)]
    assert verdict(done, [51], 0, "") == f"error: a rank failed {rest}"
    assert verdict(done, [51, 50], 9, "") == (
        f"error: rank 0 on here (process 50) was killed by signal 9 {rest}"
    )
    at_once = [beat(0, 4, waiting=True), beat(1, 3, waiting=False), beat(2, 3, waiting=True)]
    assert verdict(at_once, [50, 51, 52], 0, "") == (
        f"error: rank 1 on here (process 51) ended before its work was done {rest}"
    )
    said = [beat(0, 4), beat(1, 3, said=True)]
    assert verdict(said, [51], 0, "") == f"error: a rank failed, as it says above {rest}"
    early = [beat(0, None, None), beat(1, None, None, said=True)]
    assert verdict(early, [51], 0, "") == ""
    silent = [beat(0, None, None), beat(1, None, None)]
    assert verdict(silent, [], 0, "") == "error: a rank failed: all ranks have ended"


@pytest.mark.parametrize(
    ("ages", "steps", "waiting", "words"),
    [
        ((9, 9), (3, 3), (True, False), "rank 1 on here (process 51) has done nothing for 5"),
        ((9, 9), (3, 3), (True, True), "rank 0 on here (process 50) has done nothing for 5"),
        ((9, 1), (3, 3), (False, True), ""),
        ((9, 9), (None, None), (False, True), ""),
        ((9, 9), (3, None), (False, True), "rank 0 on here (process 50) has done nothing for 5"),
    ],
)
def test_which_rank_hangs(monkeypatch, ages, steps, waiting, words):
    """None of them does while one has a young heartbeat, or before the first step."""
    now = time.time()
    beats = [
        beat(rank, step, time=now - age, waiting=waits)
        for rank, (age, step, waits) in enumerate(zip(ages, steps, waiting))
    ]
    monkeypatch.setattr(launcher, "read_beats", lambda folder: beats)
    monkeypatch.setattr(launcher, "POLL", 0)
    ends = iter([None, None, 0])
    watch = Watch(SimpleNamespace(poll=lambda: next(ends)), "nowhere")
    why = watch.until_the_end(5)
    assert why == (f"{words} seconds (--rank-timeout)" if words else "")
    assert list(ends) == ([None, 0] if words else [])


def test_what_the_ranks_print_is_passed_on(capsys):
    """With their empty lines, and without mpiexec's banner, from which the signal is taken."""
    lines = [
        "epoch 1\n", "\n", "=================\n", "=   BAD TERMINATION OF ONE\n",
        "YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)\n", "epoch 2\n",
    ]  # fmt: skip
    watch = Watch(SimpleNamespace(stdout=lines), "nowhere")
    watch.pass_on()
    assert capsys.readouterr().out == "epoch 1\n\nepoch 2\n"
    assert watch.killed_by == 9


def test_the_shared_memory_of_killed_ranks_is_removed(tmp_path):
    watch = Watch(SimpleNamespace(poll=lambda: 0), "nowhere")
    (tmp_path / "left").touch()
    watch.shared = {str(tmp_path / "left"), str(tmp_path / "gone")}
    watch.end()
    assert not list(tmp_path.iterdir())
