"""Settings that a training program makes for its process, once, at its start. Library calls never
make them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import threadpoolctl

from minigrad import backend, kernels

# Signals that ask a program to stop; not every system has SIGHUP.
STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def stops_go_to(handler: Callable[[int, Any], Any]) -> Iterator[list[int]]:
    """Inside, signals that ask the program to stop call `handler`, if this is the main thread.
    Those that are ignored, such as SIGHUP under nohup, stay ignored. Yields their numbers."""
    main = threading.current_thread() is threading.main_thread()
    numbers = [n for n in STOPS if main and signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield numbers
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def set_up(processes: int = 1) -> None:
    """Keep freed memory for the next step, and have NumPy's BLAS run on the kernels' threads. If
    several processes share this host, each uses its share of the processors, unless the environment
    sets the number of threads."""
    given = [os.environ.get(name) for name in ("MINIGRAD_THREADS", "OMP_NUM_THREADS")]
    if processes > 1 and not any(given):
        threads = max(1, kernels.threads() // processes)
        os.environ["MINIGRAD_THREADS"] = str(threads)
        threadpoolctl.threadpool_limits(threads, "blas")
    backend.keep_memory()
    kernels.lend_threads_to_blas()
