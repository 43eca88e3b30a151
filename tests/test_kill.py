"""kill -9 at any moment: no more is lost than the work since the last checkpoint, and the run ends
with the bytes of one left alone.

pytest tests/test_kill.py -m slow -s        twenty trials, a line for each
"""

import random
import shutil
import signal
import time

import numpy as np
import pytest

from minigrad.data import synthetic
from minigrad.training import checkpoint
from tests.rows import read as read_rows
from tests.test_command_line import TRAIN, start

EPOCHS, STEPS = 12, 120


def finish(process):
    out = process.communicate(timeout=300)[0]
    assert process.returncode == 0, out


FIRST = f"{TRAIN} --batch-size 16 --epochs {EPOCHS} --save-every 0.15"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("killed")
    synthetic.draw_set(place / "set", train=16, val=2)
    finish(start(f"{FIRST} --output whole --workers 0", place))
    return place


def trial(place, k: int) -> str:
    """Start, kill at a random moment, and again while it goes on, then let it end. A sentence on
    what was lost."""
    folder, rng, lost = place / f"run{k}", random.Random(k), []
    for life in range(2):
        if life == 0:
            command = f"{FIRST} --output {folder}"
        else:
            command = f"train --resume {folder} --workers {rng.choice([0, 1, 3])}"
        process = start(command, place)
        after = rng.randint(1, STEPS * 2 // 5) + life * STEPS // 2  # steps
        while process.poll() is None and len(read_rows(folder / "steps.csv")) < after:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))  # not always just after a line was written
        process.send_signal(signal.SIGKILL)
        process.communicate()
        done = len(read_rows(folder / "steps.csv"))
        saved = checkpoint.load(folder / "checkpoint.safetensors")[1]["place"]["step"]
        lost.append(f"{max(0, done - saved)} of {done}")
    finish(start(f"train --resume {folder} --workers {k % 3}", place))
    ours, theirs = (
        checkpoint.load(f / "checkpoint.safetensors")[0] for f in (folder, place / "whole")
    )
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not np.array_equal(ours[name], theirs[name])]
    assert not different, different
    assert not list(folder.glob(".*")), "what a killed run left half-written is swept up"
    for file in ("steps.csv", "metrics.csv"):
        columns = slice(0, 8)
        assert [r[columns] for r in read_rows(folder / file)] == [
            r[columns] for r in read_rows(place / "whole" / file)
        ]
    return f"trial {k:2}: steps lost {', '.join(lost)}; {len(ours)} tensors identical"


def test_killed_twice(place):
    trial(place, 100)


@pytest.mark.slow
@pytest.mark.parametrize("k", range(20))
def test_killed_at_random(place, k):
    print(trial(place, k))


# Killed at chosen system calls, by strace.

SHORT = f"{TRAIN} --batch-size 16 --epochs 3 --save-every 0 --keep 1 --workers 0 --cache off"
CALLS = {
    "write": "write,pwrite64", "rename": "rename,renameat,renameat2", "link": "link,linkat",
    "fsync": "fsync,fdatasync", "unlink": "unlink,unlinkat,rmdir",
}  # fmt: skip


def traced(place, command, *options):
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", *options]
    return start(command, place, through=strace)


@pytest.fixture(scope="module")
def counted(place):
    """The files of a short run left alone, and how often it made each system call."""
    finish(start(f"{SHORT} --output short", place))
    counts = {}
    for name, calls in CALLS.items():
        log = place / f"{name}.txt"
        finish(traced(place, f"{SHORT} --output {name}", "-e", f"trace={calls}", "-o", str(log)))
        counts[name] = len(log.read_text().splitlines())
    return counts


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("k", range(6))
@pytest.mark.parametrize("name", CALLS)
def test_killed_at_a_system_call(place, counted, name, k):
    at = 1 + (counted[name] - 1) * k // 5  # the first call, the last, and four between them
    folder = place / f"{name}{k}"
    inject = f"inject={CALLS[name]}:signal=KILL:when={at}"
    process = traced(place, f"{SHORT} --output {folder}", "-o", "/dev/null", "-e", inject)
    process.communicate(timeout=300)
    # The first run of all fills caches and makes more calls: the last ones may never come.
    assert process.returncode != 0 or k > 2
    written = folder / "checkpoint.safetensors"
    if written.exists():
        checkpoint.load(written)  # it is whole
        finish(start(f"train --resume {folder} --workers 0", place))
    else:
        left = {p.name for p in folder.iterdir()} if folder.exists() else set()
        assert not [n for n in left if n.endswith(".safetensors") and n != "checkpoint.safetensors"]
        folder = place / f"{name}{k}-again"
        finish(start(f"{SHORT} --output {folder}", place))
    ours, theirs = (
        checkpoint.load(f / "checkpoint.safetensors")[0] for f in (folder, place / "short")
    )
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    assert not list(folder.glob(".*"))
    print(
        f"{name}: killed at call {at} of {counted[name]}, checkpoint {written.exists()}: identical"
    )
