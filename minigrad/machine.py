"""What a program that trains asks of its process, once, at its start; a library call never does."""

from __future__ import annotations

from minigrad import backend, kernels


def set_up() -> None:
    """Keep freed memory for the next step, and have NumPy's BLAS work on the kernels' threads."""
    backend.keep_memory()
    kernels.lend_threads_to_blas()
