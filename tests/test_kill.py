"""kill -9 at any moment: no more is lost than the work since the last checkpoint, and the run ends
with the bytes of one left alone.

pytest tests/test_kill.py -m slow -s        twenty trials, a line for each
"""

import random
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
