"""The maps of several columns, joined: every check of functions/gather.py that needs one process.
With several: tests/test_columns.py."""

import checks
import numpy as np
import pytest
from checks import change

from minigrad.distributed import Communicator
from minigrad.functions.gather import CASES, Gather, gather

test_cases = checks.cases(CASES, pytorch=lambda x, comm, sizes: x * 1)
test_kernel = checks.kernel(CASES)
test_wrong_calls = checks.wrong_calls(
    (
        lambda: gather(np.ones((3, 5)), Communicator(), (4,)),
        "gather: rank 0 of 1 has x of shape (3, 5); its last axis must be its part of (4,)",
    ),
)
test_planted_faults = checks.planted_faults(
    CASES, ("gather", Gather, change(0, lambda g: 2 * g), "added up where it is the whole already")
)


@pytest.mark.parametrize("shared", [False, True])
def test_one_column_alone_is_the_identity(rng, shared):
    x, gy = rng.standard_normal((2, 3, 5))
    assert (gather(x, Communicator(), (5,), shared).data == x).all()
    gx = checks.gradient(lambda x: gather(x, Communicator(), (5,), shared), x, gy)
    np.testing.assert_array_equal(gx, gy)
