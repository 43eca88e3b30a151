"""The maps of several columns, joined: every check of functions/gather.py that needs one process.
With several: tests/test_columns.py."""

from types import SimpleNamespace

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
    (
        lambda: gather(np.ones((3, 5)), Communicator(), (5, 4)),
        "gather: rank 0 of 1 has x of shape (3, 5); its last axis must be its part of (5, 4), one",
    ),
)
test_planted_faults = checks.planted_faults(
    CASES, ("gather", Gather, change(0, lambda g: 2 * g), "added up where it is the whole already")
)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_each_column_gets_the_gradient_of_its_part(rank, rng):
    """Summed over the columns, or where all share one loss, of its own gy alone."""
    sizes, gy = [1, 2, 2], rng.standard_normal((3, 5))
    part = [slice(0, 1), slice(1, 3), slice(3, 5)][rank]
    summed = rng.standard_normal(gy[..., part].shape)
    comm = SimpleNamespace(
        rank=rank, size=3, join=lambda x, s: np.tile(x, 5)[..., :5] if s == (1, 2, 2) else None,
        scatter_sum=lambda g, s: summed if g is gy and s == (1, 2, 2) else None,
    )  # fmt: skip
    x = rng.standard_normal((3, sizes[rank]))
    for shared, expected in ((False, summed), (True, gy[..., part])):
        gx = checks.gradient(lambda x, shared=shared: gather(x, comm, sizes, shared), x, gy)
        np.testing.assert_array_equal(gx, expected)
        assert gx.flags.c_contiguous


@pytest.mark.parametrize("shared", [False, True])
def test_one_column_alone_is_the_identity(rng, shared):
    x, gy = rng.standard_normal((2, 3, 5))
    assert (gather(x, Communicator(), (5,), shared).data == x).all()
    gx = checks.gradient(lambda x: gather(x, Communicator(), (5,), shared), x, gy)
    np.testing.assert_array_equal(gx, gy)
