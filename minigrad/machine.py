"""What a program that trains asks of its process, once, at its start; a library call never does."""

from __future__ import annotations

import os
import signal

import threadpoolctl

from minigrad import backend, kernels

# Signals that ask a program to stop; not every system has the last.
STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def set_up(processes: int = 1) -> None:
    """Keep freed memory for the next step, and have NumPy's BLAS work on the kernels' threads. Of
    several processes on this host each takes its part of the processors, unless the environment
    says how many threads it has."""
    if processes > 1 and not {"MINIGRAD_THREADS", "OMP_NUM_THREADS"} & set(os.environ):
        threads = max(1, kernels.threads() // processes)
        os.environ["MINIGRAD_THREADS"] = str(threads)
        threadpoolctl.threadpool_limits(threads, "blas")
    backend.keep_memory()
    kernels.lend_threads_to_blas()
