"""Settings that a training program makes for its process, once, at its start. Library calls never
make them."""

from __future__ import annotations

import os
import signal

import threadpoolctl

from minigrad import backend, kernels

# Signals that ask a program to stop; not every system has SIGHUP.
STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def set_up(processes: int = 1) -> None:
    """Keep freed memory for the next step, and have NumPy's BLAS run on the kernels' threads. If
    several processes share this host, each uses its share of the processors, unless the environment
    sets the number of threads."""
    if processes > 1 and not {"MINIGRAD_THREADS", "OMP_NUM_THREADS"} & set(os.environ):
        threads = max(1, kernels.threads() // processes)
        os.environ["MINIGRAD_THREADS"] = str(threads)
        threadpoolctl.threadpool_limits(threads, "blas")
    backend.keep_memory()
    kernels.lend_threads_to_blas()
