"""NumPy's BLAS runs its jobs on the kernels' threads: a thread to each job, whoever calls."""

import ctypes
import multiprocessing
import subprocess
import sys
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


FEW_THREADS = """
import ctypes, resource, threading
from minigrad import kernels
library = kernels.host_library("float")
later = threading.Timer(1, lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)))
later.start()
used = next(line for line in open("/proc/self/status") if line.startswith("VmSize"))
room = int(used.split()[1]) * 1024 + 2**20  # too little for the stack of another thread
resource.setrlimit(resource.RLIMIT_AS, (room, -1))
few = library.threads_for_blas(4)
numbers = []
Job = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
job = Job(lambda number, data, extra: numbers.append(number))
library.run_blas_jobs(1, job, 4, ctypes.c_size_t(0), None, 0)
print(few, sorted(numbers), library.threads_for_blas(4))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_a_system_that_grants_few_threads():
    """The BLAS is told only where its jobs find threads; those that find none later wait."""
    result = subprocess.run(
        [sys.executable, "-c", FEW_THREADS], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == "1 [0, 1, 2, 3] 4\n"
    assert "waiting until the system grants 4 threads" in result.stderr
