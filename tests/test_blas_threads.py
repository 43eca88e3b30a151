"""NumPy's BLAS runs its jobs on the kernels' threads: a thread to each job, whoever calls."""

import ctypes
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import threadpoolctl

from minigrad import functions as F
from minigrad import kernels

pytestmark = pytest.mark.skipif(
    kernels.mode() == "none" or kernels.host_library("float") is None,
    reason="the CPU kernels are not built, or switched off",
)
kernels.lend_threads_to_blas()
JOB = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_int)


def run_jobs(job, count, data=None, size=0, extra=0):
    kernels.host_library("float").run_blas_jobs(
        1,
        JOB(job),
        count,
        ctypes.c_size_t(size),
        data.ctypes.data_as(ctypes.c_void_p) if data is not None else None,
        extra,
    )


@pytest.mark.parametrize("count", [1, 2, 5])
def test_jobs_that_wait_for_each_other(count):
    """As those of a matrix product do: none ends before all have begun."""
    barrier, threads = threading.Barrier(count), {}

    def job(number, data, extra):
        barrier.wait(30)
        threads[number] = threading.get_native_id()

    run_jobs(job, count)
    assert sorted(threads) == list(range(count))
    assert len(set(threads.values())) == count


def test_each_job_gets_its_own_data():
    data, seen = np.zeros((4, 3)), []
    run_jobs(
        lambda number, at, extra: seen.append((number, at - data.ctypes.data, extra)),
        4,
        data,
        data.strides[0],
        7,
    )
    assert sorted(seen) == [(i, i * data.strides[0], 7) for i in range(4)]


def work(seed: int) -> bool:
    """Products and kernels in turn, on whole numbers, so that the right result is exact."""
    numbers = np.random.default_rng(seed)
    a, b = numbers.integers(-3, 4, (2, 300, 300)).astype(np.float32)
    right = a.astype(np.int64) @ b.astype(np.int64)
    return all(np.array_equal(F.relu(a @ b).data, np.maximum(right, 0)) for _ in range(20))


def test_products_and_kernels_from_several_threads():
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork"
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    assert work(1)
    child = multiprocessing.get_context("fork").Process(target=lambda: exit(0 if work(2) else 1))
    child.start()
    try:
        child.join(60)
        assert child.exitcode == 0
    finally:
        child.kill()  # one that hangs would be waited for again when the tests end


def test_the_thread_count_of_the_blas_still_counts():
    with threadpoolctl.threadpool_limits(1, "blas"):
        assert work(3)
    with threadpoolctl.threadpool_limits(3, "blas"):
        assert work(4)
