"""The functions as a whole: each has cases, a page, and a file of tests that runs all checks."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

from minigrad import functions as F

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


@pytest.mark.parametrize("name", WITH_CASES)
def test_every_file_of_functions_has_its_file_of_tests(name):
    tests = importlib.import_module(f"test_{name}")
    assert Path(tests.__file__).parent == ROOT / "tests" / "layers"
    cases = FILES[name].CASES
    assert set(cases) <= set(tests.test_cases.cases)
    assert set(cases) <= set(tests.test_kernel.cases)
    functions = {case.function for case in cases}
    assert functions - tests.test_planted_faults.functions <= {"to"}  # which only moves numbers
