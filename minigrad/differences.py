"""Which AlexNet is this? The fields in which two presets differ, with their sources and, where it
can be computed, what each difference changes; and a preset with some fields set by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from minigrad import functions as F
from minigrad.models.records import LRN, Dropout, Preset, diff
from minigrad.network import Row, ledger
from minigrad.written import read

ILSVRC = 1_281_167  # training pictures of ILSVRC-2012


@dataclass(frozen=True)
class Difference:
    """A field that two presets have different values for."""

    what: str  # such as "conv1.padding"
    values: tuple[Any, Any]
    sources: tuple[str, str]
    effect: str  # what the second value changes in the first preset, "" if that is not computed


def differences(a: Preset, b: Preset) -> list[Difference]:
    """Every field in which b differs from a. The effect of a layer's field is that of changing this
    field alone in a."""
    return [
        Difference(what, (one, other), (a.source_of(what), b.source_of(what)), effect(a, b, what))
        for what, one, other in diff(a, b)
    ]


def effect(a: Preset, b: Preset, what: str) -> str:
    """What changes if a has b's value in one field."""
    try:
        changed = with_field_of(a, b, what)
        before, after = ledger(a), ledger(changed)
    except ValueError as error:
        return f"alone it does not fit: {error}"
    name, _, field = what.partition(".")
    if what == "layers" and set(a.layers) != set(b.layers):
        return ""  # the layers that one of them lacks have rows of their own
    found = counted(before, after)
    layers = a.layers.get(name), changed.layers.get(name)
    norms = [layer for layer in layers if isinstance(layer, LRN) and layer.n < 100]
    if len(norms) == 2 and field != "groups":
        ones = np.full((1, max(layer.n for layer in norms)), 100.0)
        values = [normalised(layer, ones) for layer in norms]
        found.append(
            f"where all neighbours are 100, 100 becomes {values[1]:.1f}, not {values[0]:.1f}"
        )
    if isinstance(layers[0], Dropout) and isinstance(layers[1], Dropout) and field == "inverted":
        factor = 1 / (1 - layers[0].p) if layers[1].inverted else 1 - layers[0].p
        found.append(f"in training the next layer's input is {factor:g} times as large")
    if what in ("recipe.epochs", "recipe.batch_size") and a.classes == b.classes == 1000:
        steps = [round(p.recipe.epochs * ILSVRC / p.recipe.batch_size) for p in (a, changed)]
        found.append(f"{steps[1]:,} steps on ILSVRC-2012, not {steps[0]:,}")
    return "; ".join(found)


def with_field_of(a: Preset, b: Preset, what: str) -> Preset:
    """a with b's value in one field, or with its order of layers, or with or without a layer."""
    name, _, field = what.partition(".")
    if what == "layers":
        shared = [n for n in b.layers if n in a.layers]
        return replace(a, layers={n: a.layers[n] for n in shared})
    if name in ("preprocessing", "recipe"):
        part = getattr(a, name)
        return replace(a, **{name: replace(part, **{field: getattr(getattr(b, name), field)})})
    if field:
        new = replace(a.layers[name], **{field: getattr(b.layers[name], field)})
        return a.changed(**{name: new})
    if name in a.layers:
        return a.changed(**{name: b.layers.get(name)})
    after = list(b.layers)[: list(b.layers).index(name)]  # put in behind the layer before it
    layers = dict(a.layers)
    before = [n for n in layers if n in after]
    place = list(layers).index(before[-1]) + 1 if before else 0
    rows = list(layers.items())
    return replace(a, layers=dict([*rows[:place], (name, b.layers[name]), *rows[place:]]))


def counted(before: Sequence[Row], after: Sequence[Row]) -> list[str]:
    """The changes of sizes, parameters and multiply-adds between two ledgers."""
    found = []
    shapes = {row.stage: row.shape for row in before}
    for row in after:
        if row.stage in shapes and shapes[row.stage] != row.shape:
            sizes = ("x".join(map(str, shape)) for shape in (row.shape, shapes[row.stage]))
            found.append("{} has {} outputs, not {}".format(row.stage, *sizes))
            break
    for what, field in (("parameters", "parameters"), ("multiply-adds", "multiply_adds")):
        old, new = (sum(getattr(row, field) for row in rows) for rows in (before, after))
        if old != new:
            found.append(f"{new:,} {what}, not {old:,} ({new / old - 1:+.1%})")
    return found


def normalised(layer: LRN, row: np.ndarray) -> float:
    """The middle output of LRN for a row of channels."""
    y = F.lrn(row, layer.n, layer.k, layer.alpha, layer.beta, layer.divide_by_n).numpy()
    return float(y[0, row.shape[1] // 2])


def table(found: Sequence[Difference], names: tuple[str, str]) -> str:
    """The differences as text; fields that differ alike are listed together."""
    if not found:
        return f"{names[0]} and {names[1]} do not differ"
    alike: dict[tuple[str, ...], list[str]] = {}
    for d in found:
        shown = ["plateau" if d.what == "recipe.lr_drops" and v is None else v for v in d.values]
        key = (*map(written, shown), *d.sources, d.effect)
        alike.setdefault(key, []).append(d.what)
    width = max(map(len, names)) + 2
    lines = [f"{names[0]} and {names[1]} differ in {len(found)} fields"]
    for (*values, source, other, change), fields in alike.items():
        lines.append(together(fields))
        for name, value, text in zip(names, values, (source, other)):
            lines.append(f"    {name:{width}}{value}   ({text})")
        if change:
            lines.append(f"    {'':{width}}-> {change}")
    return "\n".join(lines)


def together(fields: Sequence[str]) -> str:
    """The fields "conv2.bias" and "conv4.bias" as "conv2, conv4: bias"."""
    names, ends = zip(*((f.partition(".")[0], f.partition(".")[2]) for f in fields))
    if len(set(ends)) == 1 and ends[0]:
        return f"{', '.join(names)}: {ends[0]}"
    return ", ".join(fields)


def written(value: Any) -> str:
    """A value as the table shows it."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(written, value)) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)


def with_values(preset: Preset, assignments: Sequence[str]) -> Preset:
    """The preset with fields set by hand, such as "pool1.size=2", "preprocessing.size=224" or
    "norm1=none", which leaves a layer out. Raises ValueError."""
    for text in assignments:
        what, equals, value = text.partition("=")
        name, dot, field = what.strip().partition(".")
        parts = {**preset.layers, "preprocessing": preset.preprocessing, "recipe": preset.recipe}
        if not equals or name not in parts:
            raise ValueError(
                f"--set {text}: write LAYER.FIELD=VALUE, or LAYER=none; there are "
                f"{', '.join(parts)}"
            )
        if not dot:
            if value.strip() != "none" or name not in preset.layers:
                raise ValueError(f"--set {text}: write {name}.FIELD=VALUE")
            preset = preset.changed(**{name: None})
            continue
        part = parts[name]
        if field not in asdict(part):
            choice = ", ".join(asdict(part)) or "none"
            raise ValueError(f"--set {text}: there is no field {field!r}; there are {choice}")
        new = read(type(part), asdict(part) | {field: parsed(value.strip())}, f"--set {text}")
        if name in preset.layers:
            preset = preset.changed(**{name: new})
        else:
            preset = replace(preset, **{name: new})
    return preset


def parsed(value: str) -> Any:
    """A value of the command line: a number, true, false, none, a list, or a word."""
    try:
        return None if value == "none" else json.loads(value.lower())
    except (ValueError, RecursionError):
        return value
