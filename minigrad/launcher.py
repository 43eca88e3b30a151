"""`--ranks N`: start N ranks with mpiexec, watch them, and report which one failed.

Each rank writes its heartbeat to a file (distributed.Beat): its process, its step, and whether it
is waiting for the others. When a rank dies, mpiexec ends all of them, and this module reports that
in one sentence. When no rank has made progress for `timeout` seconds, all are ended; the rank that
hangs is the one for which the others wait.
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

from minigrad import machine
from minigrad.distributed import BEATS, DistributedError, read_beats

POLL = 0.2  # seconds between two looks at the ranks
NOISE = re.compile(
    r"^Abort\(|^[=\s]*$|^=   |^YOUR APPLICATION|^This typically|^Please see|^HYDT|^\[mpiexec"
)


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
    """Run this program's own command on `ranks` ranks. Returns the exit code; if a rank failed,
    prints one sentence and returns 2."""
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
        watch = Watch(process, folder)
        echo = threading.Thread(target=watch.pass_on)
        echo.start()
        try:
            with machine.stops_go_to(watch.signal):
                why = watch.until_the_end(timeout)
        finally:
            watch.end()
            echo.join()
        code, beats = process.returncode, read_beats(folder)
        done = sum(beat["done"] for beat in beats) == ranks
        if not why and (code == 130 or watch.signals > 1 or (code == 0 and done)):
            return 130 if watch.signals > 1 else code
        sentence = verdict(beats, watch.dead, watch.killed_by, why)
        if sentence:
            print(sentence, file=sys.stderr, flush=True)
        return 2


class Watch:
    """Watches the ranks of this host, from their first heartbeat on.

    Attributes: dead: the processes that ended first; mpiexec ends the others a moment later.
    """

    def __init__(self, process: subprocess.Popen, folder: str) -> None:
        self.process, self.folder = process, folder
        self.alive: dict[int, int] = {}  # process id: its file descriptor
        self.seen: set[int] = set()
        self.dead: list[int] = []
        self.shared: set[str] = set()  # files of shared memory that MPICH has mapped for them
        self.signals = 0  # how many were passed on
        self.killed_by = 0  # the signal that ended a rank, as mpiexec reports it

    def pass_on(self) -> None:
        """Print the ranks' output, without mpiexec's banner. If it can no longer be written, the
        ranks are stopped as by SIGTERM, and the rest of their output is read and discarded."""
        assert self.process.stdout is not None
        heard = True
        for line in self.process.stdout:
            if found := re.match(r".*EXIT STRING: .*\(signal (\d+)\)", line):
                self.killed_by = int(found[1])
            if heard and (not NOISE.match(line) or not line.strip()):
                try:
                    print(line, end="", flush=True)
                except OSError:
                    heard = False
                    self.signal(signal.SIGTERM, None)

    def until_the_end(self, timeout: float) -> str:
        """Wait for the ranks to end. Returns why they had to be ended, or ""."""
        while self.process.poll() is None:
            ended = select.select(list(self.alive.values()), [], [], POLL)[0]
            gone = [pid for pid, descriptor in self.alive.items() if descriptor in ended]
            self.dead = self.dead or gone
            for pid in gone:
                os.close(self.alive.pop(pid))
            beats = read_beats(self.folder)
            for beat in beats:
                if beat["host"] == socket.gethostname() and beat["pid"] not in self.seen:
                    self.seen.add(beat["pid"])
                    self.begin(beat["pid"])
            training = [beat for beat in beats if beat["step"] is not None]
            if training and all(time.time() - beat["time"] > timeout for beat in beats):
                stuck = [beat for beat in beats if not beat["waiting"]] or beats
                return f"{name(stuck[0])} has done nothing for {timeout:g} seconds (--rank-timeout)"
        return ""

    def begin(self, pid: int) -> None:
        with contextlib.suppress(OSError, AttributeError):  # already gone, or no such system call
            self.alive[pid] = os.pidfd_open(pid)
            maps = Path(f"/proc/{pid}/maps").read_text()
            self.shared.update(re.findall(r"/dev/shm/mpich_shm_\w+$", maps, re.MULTILINE))

    def signal(self, number: int, _: object) -> None:
        """Pass a signal on to the ranks directly, because mpiexec loses one in twenty. Before there
        are any ranks, mpiexec gets it."""
        self.signals += 1
        for pid in list(self.alive) or [self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self) -> None:
        """End mpiexec and all that it started; remove the shared memory that killed ranks leave."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for descriptor in self.alive.values():
            os.close(descriptor)
        for path in self.shared:
            Path(path).unlink(missing_ok=True)


def name(beat: dict[str, Any]) -> str:
    return f"rank {beat['rank']} on {beat['host']} (process {beat['pid']})"


def verdict(beats: list[dict[str, Any]], dead: Sequence[int], killed_by: int, why: str) -> str:
    """One sentence: which rank failed, at which step, and how to go on. Empty if a rank has already
    said why and there is no run to resume."""
    lost = [beat for beat in beats if beat["pid"] in dead and not beat["done"]]
    # Of several found dead at once, one that waited for the others was ended by mpiexec.
    lost.sort(key=lambda beat: bool(beat.get("waiting")))
    if not why and killed_by:
        why = f"{name(lost[0]) if lost else 'a rank'} was killed by signal {killed_by}"
    said = not why and any(beat.get("said") for beat in beats)
    if not why and not said and lost:
        why = f"{name(lost[0])} ended before its work was done"
    step = max((beat["step"] for beat in beats if beat["step"] is not None), default=None)
    run = next((beat["run"] for beat in beats if beat["run"]), None)
    if said and run is None:
        return ""
    why = why or ("a rank failed, as it says above" if said else "a rank failed")
    at = f" at step {step}" if step is not None else ""
    further = f"; go on with --resume {run}" if run else ""
    return f"error: {why}{at}: all ranks have ended{further}"
