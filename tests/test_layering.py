"""Imports run downward only, and nothing above the floor of devices imports CuPy."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    "minigrad.backend": 0, "minigrad.files": 0, "minigrad.kernel_build": 0, "minigrad.written": 0,
    "minigrad.text": 0, "minigrad.terminal": 1, "minigrad.models": 1,
    "minigrad.kernels": 1, "minigrad.checks": 1, "minigrad.random": 1,
    "minigrad.distributed": 1,
    "minigrad.nccl": 2,
    "minigrad.engine": 2, "minigrad.machine": 2,
    "minigrad.functions": 3,
    "minigrad.gradcheck": 4, "minigrad.nn": 4, "minigrad.optim": 4, "minigrad.data": 4,
    "minigrad.network": 5, "minigrad.kernels.examples": 5, "minigrad.kernels.__main__": 6,
    "minigrad.look": 6, "minigrad.page": 6, "minigrad.columns": 6,
    "minigrad.differences": 6, "minigrad.weights": 6,
    "minigrad.training": 7,
    "minigrad.launcher": 3, "minigrad.actions": 8, "minigrad.about_presets": 9,
    "minigrad.commands": 10,
    "alexnet": 11,
    "examples": 12, "benchmarks": 12,
}  # fmt: skip
LISTED = [f"minigrad/{room}/" for room in ("data", "look", "page", "training", "weights")]
FREE = {"minigrad", "minigrad.__main__"}  # the package's front, and its report
SOURCES = [
    *sorted(
        p
        for folder in ("minigrad", "examples", "benchmarks")
        for p in (ROOT / folder).rglob("*.py")
    ),
    ROOT / "alexnet.py",
]


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    while module and module not in FLOORS and module not in FREE:
        module = module.rpartition(".")[0]
    return module


def imports(path: Path):
    """Modules of ours that a file imports, and whether cupy is among its imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for a in node.names:
                full = f"{node.module}.{a.name}"
                yield full if room(full) not in ("", "minigrad") else node.module


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downward(path):
    here = module_name(path)
    if here in FREE:
        return
    assert room(here) in FLOORS, f"{here} has no floor in this test and in docs/architecture.md"
    for target in imports(path):
        assert not target.startswith("cupy") or here == "minigrad.backend", (
            f"{path} imports {target}: only backend.py may"
        )
        if room(target) in FLOORS and room(target) != room(here):
            assert FLOORS[room(target)] < FLOORS[room(here)], (
                f"{here} (floor {FLOORS[room(here)]}) imports {target} (floor"
                f" {FLOORS[room(target)]})"
            )


def test_the_page_has_the_same_floors():
    """And the rows of LISTED name every file of the room."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    found = {}
    for floor, rooms, role in re.findall(r"^\| (\d+) \| (.*?) \| (.*) \|$", page, re.M):
        for name in re.findall("`(.*?)`", rooms):
            found[name.removesuffix(".py").rstrip("/").replace("/", ".")] = int(floor)
            if name in LISTED:
                files = {path.name for path in (ROOT / name).glob("*.py")} - {"__init__.py"}
                assert set(re.findall(r"`(\w+\.py)`", role)) == files, name
    assert found == FLOORS


def test_functions_do_not_know_of_gpus():
    for path in (ROOT / "minigrad" / "functions").glob("*.py"):
        assert "cupy" not in path.read_text().lower(), path


BUDGETS = [("minigrad/engine.py", 290), ("minigrad/functions/*.py", 180), ("kernels/*.cu", 140)]
OVER = {
    "minigrad/functions/basic.py": 215,
}  # reasons: docs/architecture.md


@pytest.mark.parametrize(("pattern", "budget"), BUDGETS)
def test_a_file_is_one_sitting(pattern, budget):
    for path in sorted(ROOT.glob(pattern)):
        name = str(path.relative_to(ROOT))
        lines = len(path.read_text().splitlines())
        print(f"{name}: {lines} of {OVER.get(name, budget)} lines")
        assert lines <= OVER.get(name, budget), (
            f"{name} has {lines} lines, its budget is {OVER.get(name, budget)}"
        )
