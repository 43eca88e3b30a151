"""`--ranks N`: start so many ranks with mpiexec, watch them, and say which one failed.

Each rank leaves its heartbeat in a file (distributed.Beat): its process, its step, and whether it
waits for the others. mpiexec ends all ranks where one dies; here that becomes one sentence. A rank
that hangs is the one that the others wait for: where no rank has gone on for `timeout` seconds, all
are ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minigrad.distributed import BEATS, DistributedError, read_beats

POLL = 0.2  # seconds between two looks at the ranks
NOISE = re.compile(r"^[=\s]*$|^=   |^YOUR APPLICATION|^This typically|^Please see|^HYDT|^\[mpiexec")


def without_ranks(command: Sequence[str]) -> list[str]:
    """A command without its --ranks option."""
    kept, skip = [], False
    for word in command:
        if skip or word.startswith("--ranks="):
            skip = False
        elif word == "--ranks":
            skip = True
        else:
            kept.append(word)
    return kept


def launch(ranks: int, timeout: float, command: Sequence[str] = ()) -> int:
    """Run this program's own command on so many ranks. Returns its exit code: 2 where a rank
    failed, after a sentence."""
    if ranks < 1:
        raise ValueError(f"--ranks must be at least 1, not {ranks}")
    beside = Path(sys.executable).with_name("mpiexec")
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    if mpiexec is None:
        raise DistributedError("--ranks needs mpiexec and mpi4py: pip install 'minigrad[mpi]'")
    own = [mpiexec, "-n", str(ranks), *(command or without_ranks(sys.orig_argv))]
    with tempfile.TemporaryDirectory(prefix="minigrad-ranks-") as folder:
        process = subprocess.Popen(
            own,
            env=os.environ | {BEATS: folder},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            start_new_session=True,  # a Ctrl-C reaches the ranks once, from here
        )
        echo = threading.Thread(target=pass_on, args=(process,))
        echo.start()
        before = {
            number: signal.signal(number, lambda n, _: process.send_signal(n))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            why, dead = watch(process, folder, timeout)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            end(process)
            echo.join()
        code = process.returncode
        if code in (0, 130) and not why:
            return code
        print(verdict(read_beats(folder), dead, code, why), file=sys.stderr, flush=True)
        return 2


def pass_on(process: subprocess.Popen) -> None:
    """Print what the ranks say, without mpiexec's banner."""
    assert process.stdout is not None
    for line in process.stdout:
        if not NOISE.match(line) or not line.strip():
            print(line, end="", flush=True)


def watch(process: subprocess.Popen, folder: str, timeout: float) -> tuple[str, list[int]]:
    """Wait for the end. Returns why the ranks had to be ended, or "", and the processes of this
    host that ended first: mpiexec ends the others a moment later."""
    alive: dict[int, int] = {}  # descriptor of a process: its number
    seen: set[int] = set()
    dead: list[int] = []
    while process.poll() is None:
        ended = select.select(list(alive), [], [], POLL)[0]
        dead = dead or [alive[descriptor] for descriptor in ended]
        for descriptor in ended:
            os.close(descriptor)
            del alive[descriptor]
        beats = read_beats(folder)
        for beat in beats:
            if beat["host"] == socket.gethostname() and beat["pid"] not in seen:
                seen.add(beat["pid"])
                with contextlib.suppress(OSError, AttributeError):  # gone; or no such system call
                    alive[os.pidfd_open(beat["pid"])] = beat["pid"]
        training = [beat for beat in beats if beat["step"] is not None]
        if training and all(time.time() - beat["time"] > timeout for beat in beats):
            stuck = [beat for beat in beats if not beat["waiting"]] or beats
            return f"{name(stuck[0])} has done nothing for {timeout:g} seconds (--rank-timeout)", []
    return "", dead


def end(process: subprocess.Popen) -> None:
    """End mpiexec and all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def name(beat: dict[str, Any]) -> str:
    return f"rank {beat['rank']} on {beat['host']} (process {beat['pid']})"


def verdict(beats: list[dict[str, Any]], dead: Sequence[int], code: int, why: str) -> str:
    """One sentence: which rank, at which step, and how to go on."""
    lost = [beat for beat in beats if beat["pid"] in dead]
    if not why and lost and code > 2:
        why = f"{name(lost[0])} was killed by signal {code}"
    elif not why:
        why = "a rank failed, as it says above"
    step = max((beat["step"] for beat in beats if beat["step"] is not None), default=None)
    run = next((beat["run"] for beat in beats if beat["run"]), None)
    at = f" at step {step}" if step is not None else ""
    further = f"; go on with --resume {run}" if run else ""
    return f"error: {why}{at}: all ranks have ended{further}"
