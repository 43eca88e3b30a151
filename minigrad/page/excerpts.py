"""The formula of each kind of layer and the lines that compute it, taken from their files."""

from __future__ import annotations

import importlib
import inspect
import re
from types import ModuleType
from typing import Any

from minigrad import kernels
from minigrad.models.records import Layer, Pool

# For each kind of layer: its file in functions/, the functions that compute its output, there or in
# another file, and its kernels.
SOURCES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "Conv": ("conv2d", ("conv2d_columns:im2col", "conv2d_columns:forward"), ("im2col",)),
    "Dense": ("linear", ("Linear.forward",), ("add_bias",)),
    "ReLU": ("relu", ("ReLU.forward",), ("relu_forward",)),
    "Tanh": ("tanh", ("Tanh.forward",), ()),
    "Sigmoid": ("sigmoid", ("Sigmoid.forward",), ()),
    "LRN": ("lrn", ("LRN.forward",), ("lrn_forward",)),
    "LRNWithinMap": ("lrn_within_map", ("LRNWithinMap.forward",), ("lrn_within_map_forward",)),
    "Pool": ("max_pool2d", ("MaxPool2d.forward",), ("max_pool_forward",)),
    "AvgPool": ("avg_pool2d", ("AvgPool2d.forward",), ("avg_pool_forward",)),
    "Dropout": ("dropout", ("Dropout.forward",), ("dropout",)),
}


def kind_of(layer: Layer) -> str:
    """The name of a layer's kind, which differs for max- and average-pooling."""
    return "AvgPool" if isinstance(layer, Pool) and layer.mean else type(layer).__name__


def excerpt(kind: str) -> dict[str, Any]:
    """{formula, parts: [{file, lines: [[number, text], ...]}]} of a kind of layer."""
    file, functions, names = SOURCES[kind]
    module = importlib.import_module(f"minigrad.functions.{file}")
    parts = [python_part(name if ":" in name else f"{file}:{name}") for name in functions]
    parts += [kernel_part(name) for name in names]
    return {"formula": formula(module), "parts": parts}


def formula(module: ModuleType) -> str:
    """The first paragraph of a function's file, and its first block of formulas, if any."""
    paragraphs = (inspect.getdoc(module) or "").split("\n\n")
    found = [paragraphs[0]]
    found += [p for p in paragraphs[1:] if p.startswith("    ")][:1]
    return "\n\n".join(found)


def python_part(place: str) -> dict[str, Any]:
    file, name = place.split(":")
    module = importlib.import_module(f"minigrad.functions.{file}")
    function: Any = module
    for part in name.split("."):
        function = getattr(function, part)
    lines, first = inspect.getsourcelines(function)
    return {
        "file": f"{module.__name__.replace('.', '/')}.py: {name}",
        "lines": [[first + n, line.rstrip()] for n, line in enumerate(lines)],
    }


def kernel_part(name: str) -> dict[str, Any]:
    """A kernel, and the device functions of its file that it calls."""
    for path in sorted(kernels.folder().glob("*.cu")):
        parts = definitions(path.read_text().splitlines())
        if name not in parts:
            continue
        wanted, text = {name}, ""
        while len(text) < len(text := "\n".join(line for n in wanted for _, line in parts[n])):
            wanted |= {n for n in parts if re.search(rf"\b{n}\s*[<(]", text)}
        lines = sorted(line for n in wanted for line in parts[n])
        return {"file": f"kernels/{path.name}: {name}", "lines": [list(line) for line in lines]}
    raise ValueError(f"there is no kernel {name}")


def definitions(lines: list[str]) -> dict[str, list[tuple[int, str]]]:
    """The functions of a C file, by name, as numbered lines from the head to the closing brace. A
    line without indentation begins a function, and `}` without indentation ends it."""
    found: dict[str, list[tuple[int, str]]] = {}
    held: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        if not held and not re.match(r"(template|extern|__device__|static|inline)\b", line):
            continue
        held.append((number, line))
        if line.endswith("}") and (line == "}" or len(held) == 1):
            head = " ".join(text for _, text in held).split("{")[0]
            if name := re.search(r"(\w+)\(", head):
                found[name[1]] = [*found.get(name[1], []), *held]
            held = []
        elif line.endswith(";") and len(held) == 1:
            held = []
    return found
