"""What the commands about presets print: summary, models, diff and gradcheck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from minigrad import look
from minigrad.actions import png_name, write_csv
from minigrad.columns import bytes_sent, column_of
from minigrad.differences import differences, table, with_values
from minigrad.models.records import Preset, find
from minigrad.network import Network, Row, check_network, ledger, summary
from minigrad.training.runs import read_run


def print_summaries(
    presets: Mapping[str, Preset],
    preset: str,
    classes: int | None,
    compare: str | None,
    columns: int | None,
    plot: str | None,
    assignments: Sequence[str],
    table_file: str | None,
) -> None:
    """Print the table of a preset (of every preset for "all"), or of one column of it, and compare
    it with another preset; with `plot`, draw it; with `table_file`, write it as CSV. assignments:
    fields that are set by hand first, such as "pool1.size=2"."""
    if assignments and preset == "all":
        raise ValueError("--set changes one preset: name it in place of all")
    if assignments:
        changed = with_values(find(preset, presets), assignments)
        presets = {**presets, preset: changed}
    if plot := png_name(plot):
        names = list(presets) if preset == "all" else [preset]
        drawn: dict[str, int | None] = dict.fromkeys(names, classes)
        if compare is not None:
            drawn.setdefault(compare, None)
        chosen = {name: find(name, presets) for name in drawn}
        seconds = {name: look.stage_seconds(Network(p, drawn[name])) for name, p in chosen.items()}
        ledgers = {name: ledger(p, drawn[name]) for name, p in chosen.items()}
        print(f"written: {look.draw_ledgers(ledgers, Path(plot), seconds)}")
    named = list(presets) if preset == "all" else [preset]
    if table_file:
        write_ledgers({name: ledger(find(name, presets), classes) for name in named}, table_file)
    for name in named if table_file != "-" else ():
        own, count = find(name, presets), classes
        if columns:
            own, count = column_of(own, columns, 0, classes), None
        print(summary(own, name, count))
        if columns:
            rows = ledger(own)
            print(
                f"one of {columns} columns: {sum(r.parameters for r in rows):,} parameters; in a"
                f" step it sends {bytes_sent(rows, 0):,} bytes a picture"
            )
        if compare is not None:
            both = ledger(find(name, presets), classes), ledger(find(compare, presets))
            parameters = [sum(r.parameters for r in part) for part in both]
            adds = [sum(r.multiply_adds for r in part) for part in both]
            print(
                f"{parameters[0] / parameters[1]:.4g} times the parameters and "
                f"{adds[0] / adds[1]:.4g} times the multiply-adds of {compare} ({parameters[1]:,}; "
                f"{adds[1]:,})"
            )


LEDGER = (
    "preset", "stage", "kind", "output", "parameters", "multiply_adds", "bytes_out", "bytes_kept",
    "field", "step",
)  # fmt: skip


def write_ledgers(ledgers: Mapping[str, Sequence[Row]], file: str) -> None:
    """Write ledgers as CSV, to a file or for "-" to standard output."""
    lines = []
    for name, rows in ledgers.items():
        for r in rows:
            shape, kind = "x".join(map(str, r.shape)), type(r.layer).__name__
            counts = r.parameters, r.multiply_adds, r.bytes_out, r.bytes_kept
            lines.append([name, r.stage, kind, shape, *counts, r.field, r.jump])
    write_csv(file, LEDGER, lines)


def print_models(presets: Mapping[str, Preset]) -> None:
    """Print the presets: source, input, counts, published accuracy, and weights of others."""
    for name, preset in presets.items():
        p, rows = preset.preprocessing, ledger(preset)
        parameters, adds = (
            sum(getattr(r, f) for r in rows) for f in ("parameters", "multiply_adds")
        )
        print(f"{name}: {preset.source}")
        print(
            f"    input {p.size}x{p.size}x{p.channels}, {preset.classes} classes;"
            f" {parameters:,} parameters, {adds / 1e6:.2f} M multiply-adds"
        )
        if preset.accuracy:
            print(f"    published accuracy: {preset.accuracy}")
        for file in preset.pretrained.files:
            print(f"    weights: {file.where}\n        {file.checksum}; {file.scores}")


def print_differences(presets: Mapping[str, Preset], a: str, b: str) -> None:
    """Print the fields in which two presets, or the networks of two runs, differ."""
    one, other = (preset_or_run(name, presets) for name in (a, b))
    print(table(differences(one, other), (a, b)))


def preset_or_run(name: str, presets: Mapping[str, Preset]) -> Preset:
    """A preset by name, or the network of a run by its folder or checkpoint. A field of a run has
    the source of its preset's, unless the run has another value."""
    if name in presets:
        return presets[name]
    if not Path(name).exists():
        raise ValueError(f"{name} is neither a run nor a preset: choose from {', '.join(presets)}")
    _, settings = read_run(name, ())
    preset = presets.get(settings.options.preset)
    if preset is None:
        return settings.network
    own = {d.what: f"the run {name}" for d in differences(preset, settings.network)}
    return replace(settings.network, sources={**own, **preset.sources})


def gradcheck(presets: Mapping[str, Preset], preset: str) -> None:
    """Check the gradients of a shrunken copy of a preset's network."""
    error = check_network(find(preset, presets))
    print(
        f"{preset}: loss of the shrunken network against its input and every parameter: largest "
        f"relative error {error:.1e}"
    )
