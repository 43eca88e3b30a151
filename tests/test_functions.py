"""The functions as a whole: each has cases, a page, and a file of tests that runs all checks."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import numpy as np
import pytest

from minigrad import functions as F
from minigrad.functions.cases import (
    Case,
    alternating,
    apart,
    labels,
    nonzero,
    one_sign,
    positive,
    ties,
)  # fmt: skip
from minigrad.random import Stream

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    info.name: importlib.import_module(f"minigrad.functions.{info.name}")
    for info in pkgutil.iter_modules(F.__path__)
}
WITH_CASES = [name for name, module in FILES.items() if hasattr(module, "CASES")]


def test_every_function_has_cases():
    """A function that returns a Tensor is public; one without cases would be checked by nothing."""
    public = {
        name
        for module in FILES.values()
        for name, f in inspect.getmembers(module, inspect.isfunction)
        if f.__module__ == module.__name__
        and not name.startswith("_")
        and inspect.signature(f).return_annotation == "Tensor"
    }
    assert public == set(F.__all__) == {case.function for case in F.cases()}


def test_names_of_cases_are_unique():
    names = [case.name for case in F.cases()]
    assert len(names) == len(set(names))


def test_inputs_of_cases_keep_off_kinks():
    stream = Stream(0, "inputs")
    x = nonzero(50, 40, margin=0.3)(stream)
    assert x.shape == (50, 40)
    assert abs(x).min() >= 0.3
    assert {-1, 1} == set(np.sign(x).ravel())
    assert np.diff(np.sort(apart(50, 40)(stream), axis=None)).min() > 0.049
    assert 1.5 <= positive(50, 40, least=1.5)(stream).min() < 1.6
    assert (abs(one_sign(50, 40)(stream)) >= 0.1).all()
    signs = np.sign(one_sign(50, 4)(stream))
    assert (signs == np.sign(alternating(2.0, 4))).all()
    assert alternating(2.0, 4).tolist() == [2, -2, 2, -2]
    tied = ties(50, 40)(stream)
    assert (tied == np.round(tied)).all()
    assert set(labels(5, 7)) == set(range(5))


def test_a_case_draws_the_same_each_time():
    case = Case("add: both", F.add, np.arange(3), np.arange(3.0), (4, 3))
    first = case.draw("float32")
    for array in first:
        array += 1
    for a, b in zip(case.draw("float32"), first, strict=True):
        np.testing.assert_array_equal(a + 1, b)
        assert a.dtype == b.dtype
    assert [a.dtype.name for a in first] == ["int64", "float32", "float32"]


@pytest.mark.parametrize("name", WITH_CASES)
def test_every_file_of_functions_has_its_file_of_tests(name):
    tests = importlib.import_module(f"test_{name}")
    assert Path(tests.__file__).parent == ROOT / "tests" / "layers"
    cases = FILES[name].CASES
    assert set(cases) <= set(tests.test_cases.cases)
    assert set(cases) <= set(tests.test_kernel.cases)
    functions = {case.function for case in cases}
    assert functions - tests.test_planted_faults.functions <= {"to"}  # which only moves numbers
