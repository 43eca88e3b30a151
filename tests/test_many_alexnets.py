"""docs/the-many-alexnets.md against the engine: its tables of presets, its computations and the
numbers in its sentences."""

import ast
import contextlib
import io
import math
import re
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest

from alexnet import PAPER, PRESETS
from minigrad.functions.geometry import output_size, windows
from minigrad.models.records import LRN, Conv, Dense, Dropout, Pool, Preset, diff
from minigrad.network import ledger

PAGE = (Path(__file__).parents[1] / "docs/the-many-alexnets.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```\n(?:```text\n(.*?)```)?", PAGE, re.DOTALL)


def section(title: str) -> str:
    """The text under a heading."""
    return re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[
        1
    ]


def tables(title: str) -> list[list[list[str]]]:
    """The tables of a section, as cells, without their headings."""
    found = re.findall(r"((?:^\|.*\n)+)", section(title), re.MULTILINE)
    return [
        [[c.strip() for c in row[1:-1].split("|")] for row in text.splitlines()[2:]]
        for text in found
    ]


SAID = {row[0]: row[1] for row in tables("What is often said")[0]}


def said(claim: str) -> str:
    """What the page answers to the claim that starts so."""
    (answer,) = (a for c, a in SAID.items() if c.startswith(claim))
    return answer


def states(text: str, *facts: object) -> None:
    """Check that a text holds every fact, numbers as whole numbers with commas."""
    for fact in facts:
        words = f"{fact:,}" if isinstance(fact, int) else str(fact)
        assert re.search(rf"(?<![\d.,]){re.escape(words)}(?![\d]|[.,]\d)", text), (
            f"{words!r} is not in: {text}"
        )


def count(preset: str | Preset):
    """(parameters, multiply-adds, rows by stage) of a preset."""
    rows = ledger(PRESETS[preset] if isinstance(preset, str) else preset)
    counts = (sum(getattr(r, what) for r in rows) for what in ("parameters", "multiply_adds"))
    return (*counts, {r.stage: r for r in rows})


def convs(preset: Preset) -> list[Conv]:
    return [layer for layer in preset.layers.values() if isinstance(layer, Conv)]


def changed(preset: Preset, **columns) -> Preset:
    """The preset with fields of its convolutions replaced, a value for each."""
    names = [name for name, layer in preset.layers.items() if isinstance(layer, Conv)]
    rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
    return preset.changed(
        **{name: replace(preset.layers[name], **row) for name, row in zip(names, rows)}
    )


def after(preset: Preset, stage: str) -> str:
    """The kinds of layers that follow a convolution, up to the next layer with weights."""
    following = []
    for name in list(preset.layers)[list(preset.layers).index(stage) + 1 :]:
        if isinstance(preset.layers[name], (Conv, Dense, Dropout)):
            break
        following.append(name.rstrip("0123456789"))
    return " ".join(following)


@pytest.fixture(scope="module")
def outputs():
    """What the page's computations print, run in order in one namespace."""
    space: dict = {}
    printed = []
    for code, _ in BLOCKS:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, space)
        printed.append(out.getvalue())
    return printed


def test_computations_print_what_the_page_says(outputs):
    assert len(BLOCKS) == 13
    assert outputs == [text for _, text in BLOCKS]


def test_every_computation_referred_to_exists():
    assert (
        set(re.findall(r"\[([0-9]+)\](?!\.)", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)))
        == set(re.findall(r"\*\*\[(\d+)\] ", PAGE))
        == set(map(str, range(1, 13)))
    )


@pytest.mark.parametrize("name", PRESETS)
def test_row_of_shapes(name):
    p = PRESETS[name]
    parameters, multiply_adds, rows = count(name)
    pools = [layer for layer in p.layers.values() if isinstance(layer, Pool)]
    (rounded,) = {layer.ceil for layer in convs(p)}
    (pool_rounded,) = {layer.ceil for layer in pools}
    expected = [
        f"`{name}`",
        str(p.preprocessing.size),
        ", ".join("up" if up else "down" for up in (rounded, pool_rounded)),
        str(rows["conv1"].shape[0]),
        *(
            " ".join(str(getattr(row, key)) for row in convs(p))
            for key in ("padding", "filters", "groups")
        ),
        "; ".join(after(p, f"conv{i}") for i in (1, 2, 5)),
        f"{parameters:,}",
        f"{multiply_adds / 1e6:.2f} M",
    ]
    assert expected in tables("The presets")[0]
    assert {(pool.size, pool.stride) for pool in pools} == {(3, 2)}
    assert [after(p, stage) for stage in ("conv3", "conv4")] == ["relu", "relu"]


@pytest.mark.parametrize("name", PRESETS)
def test_row_of_constants(name):
    p = PRESETS[name]
    norms = {layer for layer in p.layers.values() if isinstance(layer, LRN)}
    (lrn,) = norms or {None}
    dense = [layer for layer in p.layers.values() if isinstance(layer, Dense)]
    drops = {layer for layer in p.layers.values() if isinstance(layer, Dropout)}
    (drop,) = drops
    weights = [*convs(p), *dense]
    stds = ["He" if layer.std is None else f"{layer.std:g}" for layer in weights]
    biases = [f"{layer.bias:g}" for layer in weights[:-1]]
    first = list(p.layers).index("drop6") < list(p.layers).index("fc6")
    expected = [
        f"`{name}`",
        f"{lrn.k:g} {lrn.alpha:g} {lrn.beta:g} {lrn.n}" if lrn else "none",
        f"{lrn.alpha / (lrn.n if lrn.divide_by_n else 1):g}" if lrn else "-",
        str(lrn.groups) if lrn else "-",
        "; ".join(" ".join(part) for part in (stds[:5], stds[5:7], stds[7:])),
        "; ".join(" ".join(part) for part in (biases[:5], biases[5:])),
        ("before" if first else "after")
        + " fc6 and fc7, "
        + ("inverted" if drop.inverted else "halved at test"),
    ]
    assert expected in tables("The presets")[1]
    assert drop.p == 0.5
    assert dense[-1].bias == 0


def test_published_results_are_those_the_presets_name():
    rows = tables("The presets")[2]
    assert {row[0].strip("`") for row in rows} == set(PRESETS)
    for name, *cells in rows:
        if cells[0] != "none":
            assert cells[0].split(" %")[0] in PRESETS[name.strip("`")].accuracy or name == "`paper`"


def test_input_and_crops():
    win = windows("conv2d", np.zeros((1, 224, 224, 3)), 11, 4, 0, True)
    past = (win.OH - 1) * win.SH + win.KH - win.H
    states(
        said("The input is 224"),
        f"1 + ceil((224 - 11) / 4) = {win.OH}",
        f"{past} pixels past",
        output_size(224, 11, 4),
        224 * 224 * 3,
    )
    assert output_size(227, 11, 4) == output_size(224, 11, 4, 2) == win.OH == 55
    states(
        said("Crops and mirrors"),
        f"2048 = {256 - 224} x",
        f"33 x 33 x 2 = {2 * (256 - 224 + 1) ** 2}",
        f"30 x 30 x 2 = {2 * (256 - 227 + 1) ** 2}",
    )


def test_pools_of_two():
    down = count(PAPER.with_each(Pool, size=2))
    assert [down[2][s].shape for s in down[2]] == [count("paper")[2][s].shape for s in down[2]]
    parameters, _, rows = count(PRESETS["krizhevsky2012"].with_each(Pool, size=2))
    sizes = ", ".join(str(rows[s].shape[0]) for s in ("pool1", "pool2", "pool5"))
    states(said("Pools are 2x2"), f"they give {sizes} and", parameters)


def test_shares_activations_and_neurons():
    parameters, adds, rows = count("paper")
    dense = sum(r.parameters for s, r in rows.items() if s.startswith("fc"))
    work = sum(r.multiply_adds for s, r in rows.items() if s.startswith("conv"))
    states(said("The dense layers have"), dense, parameters, f"{100 * dense / parameters:.1f} %")
    states(
        said("The dense layers have"),
        f"{work / 1e6:.2f} of {adds / 1e6:.2f} M",
        f"{100 * work / adds:.1f} %",
    )

    sizes = {s: math.prod(r.shape) for s, r in rows.items()}
    convs, all_of_them = (
        sum(n for s, n in sizes.items() if s.startswith(kinds))
        for kinds in ("conv", ("conv", "fc"))
    )
    assert max(sizes.values()) == sizes["conv1"]
    states(said("The stem"), sizes["conv1"], sizes["conv2"], convs)
    states(said("conv1 has 253,440"), f"55 x 55 x 96 = {sizes['conv1']:,}", 55 * 48 * 96)
    states(
        said("60 million"), parameters, convs, all_of_them, all_of_them - sizes["conv1"] + 253_440
    )
    states(
        said("conv3 and conv4"),
        "x".join(map(str, rows["conv3"].shape)),
        rows["conv4"].shape[2] // 2,
    )
    states(said('"Batch normalize"'), f"{rows['norm1'].parameters} parameters")
    states(said("61 million"), parameters, count("textbook")[0], count("torchvision")[0])


def test_lenet(outputs):
    numbers = [float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", outputs[4])]
    parameters, adds, _ = count("paper")
    assert numbers[:2] == [61_706, 416_520]
    states(
        said("250 times"),
        61_706,
        416_520,
        f"{parameters / 61_706:.0f} times its p",
        f"{adds / 416_520:.0f} times its m",
    )
    states(said("250 times"), f"{parameters / 60_000:.0f} and {adds / 340_908:.0f}")


def test_groups_columns_and_towers():
    parameters, adds, _ = count("paper")
    whole, work, _ = count("textbook")
    states(said("Two GPUs"), whole - parameters, f"{100 * (1 - parameters / whole):.1f} %")
    states(said("Two GPUs"), f"{(work - adds) / 1e6:.2f} M", f"{100 * (1 - adds / work):.1f} %")
    assert [row.groups for row in convs(PAPER)] == [1, 2, 1, 2, 2]

    one = changed(
        PRESETS["krizhevsky2012"], filters=(48, 128, 192, 192, 256), groups=(1, 1, 1, 1, 1)
    )
    n, half, _ = count(one.with_each(LRN, groups=1))
    states(said("Single-column"), n, f"{half / 1e6:.2f} M")
    runs = {row[0]: row for row in tables("The paper's gains, and the runs behind them")[0]}
    states(runs["145-half"][-1], f"{n / 1e6:.2f} M", f"{100 * half / adds:.0f} %")
    states(runs["145"][-1], f"{parameters / 1e6:.2f} M")

    wide = changed(PRESETS["torchvision"], filters=(64, 192, 384, 384, 256))
    (less, fewer, _), (more, longer, _) = count("torchvision"), count(wide)
    first = (
        f"With 256 it is {100 * (less / parameters - 1):.1f} % more parameters and"
        f" {100 * (1 - fewer / adds):.1f} % fewer multiply-adds"
    )
    second = (
        f"with the footnote's 384 {100 * (more / parameters - 1):.1f} % more and"
        f" {100 * (longer / adds - 1):.1f} % more"
    )
    states(said("torchvision has"), f"{first}, {second}")


def test_run_150(outputs):
    counts = dict(re.findall(r"^(links removed|150): ([\d,]+),", outputs[5], re.MULTILINE))
    row = next(
        row for row in tables("The paper's gains, and the runs behind them")[0] if row[0] == "150"
    )
    states(row[-1], *(f"{int(n.replace(',', '')) / 1e6:.2f} M" for n in counts.values()))
    assert len(counts) == 2


def test_normalisation_dropout_and_colour(outputs):
    states(said("LRN's alpha"), "{} or {} out of 100".format(*outputs[6].split()))
    states(said("LRN's alpha"), "2e-5 for n = 5")
    low, high = (line.split() for line in outputs[9].splitlines())
    colour = said("PCA colour")
    states(
        colour,
        f"between {low[0]} and {high[0]}",
        f"between {low[1]} and {high[1]}",
        f"{low[2]} to {high[2]} grey",
    )
    assert outputs[7].split("\n")[0].startswith("False [0. 1.] [0.5]")


def test_run_147():
    padded = changed(PRESETS["krizhevsky2012"], padding=(0, 1, 1, 1, 0))
    _, _, rows = count(padded.with_each(Pool, size=2))
    sizes = ", ".join(str(rows[s].shape[0]) for s in ("pool1", "conv2", "pool2", "conv5", "pool5"))
    row = next(
        row for row in tables("The paper's gains, and the runs behind them")[0] if row[0] == "147"
    )
    states(row[-1], f"2x2 pools, and conv2 padded by 1, conv5 by 0, so that the sizes are {sizes}")


def test_published_errors_are_those_of_the_logged_runs():
    rows = {row[0]: row for row in tables("The paper's gains, and the runs behind them")[0]}
    published = [row[1] for row in tables("The presets")[2] if row[0] == "`paper`"]
    runs = [
        rows["145"][1],
        rows["145-2010"][1],
        re.search(r"centre ([\d.]+ / [\d.]+)", rows["145-2010"][-1])[1],
    ]
    val, test, centre = (" / ".join(f"{float(n):.1f}" for n in run.split(" / ")) for run in runs)
    assert published == [f"{val} % error", f"{test} % error; one view {centre}"]


def test_gains_are_differences_of_the_logged_runs():
    rows = {row[0]: row for row in tables("The paper's gains, and the runs behind them")[0]}
    errors = {run: [float(n) for n in row[1].split(" / ")] for run, row in rows.items()}
    compared = 0
    for run, row in rows.items():
        if row[2]:
            difference, base = row[2].split(" to ")
            gap = [a - b for a, b in zip(errors[run], errors[base])]
            assert difference == " / ".join(f"{d:.3f}" for d in gap)
            assert row[3] == "not in the paper" or row[3].endswith(
                ", " + " / ".join(f"{d:.1f}" for d in gap)
            )
            compared += 1
    assert compared == 4


def test_settings_of_krizhevsky2012():
    text = " ".join(section("What the code of 2012 did differently from the text").split())
    p = PRESETS["krizhevsky2012"]
    named = {f: ast.literal_eval(v) for f, v in re.findall(r"`(\w+)=([^`]+)`", text)}
    changes = [c for c in diff(PAPER, p) if "." in c[0]]
    assert {what.split(".")[1] for what, _, _ in changes} <= set(named), (
        "every setting in which the preset leaves the paper's text is on the page"
    )
    for what, _, value in changes:
        assert named[what.split(".")[1]] == value, what
    assert {what for what, _, _ in diff(PAPER, p)} - {w for w, _, _ in changes} == {
        "layers", "within2"
    }  # fmt: skip
    assert " ".join(p.layers).startswith(
        "conv1 norm1 pool1 relu1 conv2 relu2 norm2 within2 pool2 conv3"
    )
    assert [
        int(n)
        for n in re.findall(
            r"(?<=\s)(\d+)\. \*\*", section("What the code of 2012 did differently from the text")
        )
    ] == list(range(1, 11))
    states(
        text,
        "windows over {} and {} channels".format(
            *(p.layers[f"conv{i}"].filters // p.layers[f"norm{i}"].groups for i in (1, 2))
        ),
    )
    states(
        text,
        f"conv1's {p.layers['conv1'].filters} biases",
        "minDiv=2",
        f"so {p.layers['norm1'].alpha / p.layers['norm1'].n:g}".replace("e-0", "e-"),
    )
    assert [x.std for x in convs(p)] == [0.01, 0.01, 0.03, 0.03, 0.03]
    states(text, "0.03 in conv3, conv4 and conv5, where the text has 0.01")
    n, k, alpha, beta = astuple(p.layers["within2"])
    states(
        text,
        f"over {n} x {n} pixels, scale {alpha:g} divided by {n * n}, power {beta:g}, {k:g} added",
    )
    assert all(output_size(s, 3, 2) == output_size(s, 3, 2, ceil_mode=True) for s in (55, 27, 13))


def test_the_product_speaks_of_itself_alone():
    assert not re.search(r"/work|/tmp|/home|shared/|facts sheet|session", PAGE)
