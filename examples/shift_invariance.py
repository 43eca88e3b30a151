"""Is max pooling more shift invariant than average pooling? Measured on networks of paper_table.py.

    python examples/shift_invariance.py runs/paper_table    # once paper_table.py has trained both

For every seed of which the folder holds both networks, the window of 24 x 24 pixels moves over the
test pictures by 0 to 4 pixels, up, down, left and right; nothing is filled in, because the pictures
are larger. For each of STAGES the table has the change

    |f(moved) - f(centre)| / |f(centre)|,    a mean over pictures and directions

and the share of pictures whose class stays the most probable one. shift_invariance.csv and a
drawing are written into the folder. The last lines compare the two with a 95 % interval of the
paired difference over seeds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from paper_table import paired

from minigrad import Tensor, commands, data, no_grad
from minigrad.look.pictures import new_figure
from minigrad.network import Network
from minigrad.training import runs
from minigrad.training.run_folder import RunFolder
from minigrad.training.series import RESULT

NETWORKS = {"full": "max pools", "average-pools": "average pools"}
STAGES = ("pool1", "pool2", "pool5", "fc8")
SHIFTS = range(5)
PICTURES = 1000
TABLE = "shift_invariance.csv"
COLUMNS = ("name", "seed", "shift", "stage", "change", "kept")


def features(model: Network, x: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of STAGES, as rows."""
    found = {}
    with no_grad():
        for name, _, y in model.walk(Tensor(x)):
            if name in STAGES:
                found[name] = y.numpy().reshape(len(x), -1).astype(np.float64)
    return found


def measured(
    model: Network, preparation: data.Preparation, pictures: np.ndarray
) -> list[dict[str, str]]:
    """The rows of a network: shift, stage, change, kept."""
    margin = (pictures.shape[1] - preparation.size) // 2
    centre = features(model, preparation.centre(pictures))
    rows = []
    for shift in SHIFTS:
        moves = {(shift, 0), (-shift, 0), (0, shift), (0, -shift)}
        moved = [
            features(model, preparation.crop(pictures, margin + down, margin + right, False))
            for down, right in sorted(moves)
        ]
        last = STAGES[-1]
        kept = np.mean([m[last].argmax(1) == centre[last].argmax(1) for m in moved])
        for stage in STAGES:
            far = [np.linalg.norm(m[stage] - centre[stage], axis=1) for m in moved]
            change = np.mean(far / np.maximum(np.linalg.norm(centre[stage], axis=1), 1e-30))
            own = {"shift": str(shift), "stage": stage, "change": f"{change:.5f}"}
            rows.append(own | {"kept": f"{kept:.5f}" if stage == last else ""})
    return rows


def lines_of(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The change at each stage, of both networks, and the interval of the difference."""
    lines = [f"{'stage':8} {'shift':>5} {'max':>8} {'average':>8}   average - max, 95 % interval"]
    kinds = [(stage, "change") for stage in STAGES] + [(STAGES[-1], "kept")]
    for stage, column in kinds:
        for shift in SHIFTS[1:]:
            values = {
                (r["name"], r["seed"]): float(r[column])
                for r in rows
                if (r["stage"], r["shift"]) == (stage, str(shift))
            }
            seeds = [seed for name, seed in values if name == "full"]
            most, mean = ([values[n, s] for s in seeds] for n in NETWORKS)
            gain = paired([b - a for a, b in zip(most, mean)])
            said = stage if column == "change" else "same"
            low, high = gain.mean - gain.half, gain.mean + gain.half
            interval = f"{low:+.4f} .. {high:+.4f}, " if np.isfinite(gain.half) else ""
            lines.append(
                f"{said:8} {shift:5} {np.mean(most):8.4f} {np.mean(mean):8.4f}   {gain.mean:+.4f},"
                f" {interval}{gain.over}"
            )
    return [*lines, "same: share of pictures whose most probable class stays the same"]


def draw(rows: Sequence[Mapping[str, str]], path: Path) -> Path:
    """Draw the change against the shift: a plot for each stage, a line for each network."""
    figure = new_figure((3.2 * (len(STAGES) + 1), 3.2))
    plots = figure.subplots(1, len(STAGES) + 1)
    kinds = [(stage, "change") for stage in STAGES] + [(STAGES[-1], "kept")]
    for axes, (stage, column) in zip(plots, kinds):
        for k, (name, label) in enumerate(NETWORKS.items()):
            own = [r for r in rows if (r["name"], r["stage"]) == (name, stage)]
            for seed in dict.fromkeys(r["seed"] for r in own):
                curve = [float(r[column]) for r in own if r["seed"] == seed]
                axes.plot(
                    SHIFTS, curve, f"C{k}", alpha=0.6, label=label if seed == own[0]["seed"] else ""
                )
        title = f"{stage}: change" if column == "change" else "share with the same class"
        axes.set(title=title, xlabel="shift (pixels)", ylim=(0, None))
        axes.grid(alpha=0.3)
    plots[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    return path


def run(folder: Path) -> None:
    """Measure the pairs of networks in a folder; write, print and draw what was found."""
    names = [p.parent.name.removeprefix("full-") for p in folder.glob(f"full-*/{RESULT}")]
    seeds = sorted(int(name) for name in names if name.isdecimal())
    seeds = [s for s in seeds if (folder / f"average-pools-{s}" / RESULT).exists()]
    if not seeds:
        raise ValueError(
            f"{folder} holds no pair of trained networks full-SEED and average-pools-SEED:"
            " paper_table.py trains them"
        )
    rows = []
    for seed in seeds:
        for name in NETWORKS:
            path = str(folder / f"{name}-{seed}")
            model, preparation, settings = runs.load_run(path)
            opened = runs.held_out_pictures(path, settings)
            chosen = np.linspace(0, len(opened) - 1, min(PICTURES, len(opened))).astype(int)
            pictures = np.stack([opened.read(i) for i in chosen])
            own = {"name": name, "seed": str(seed)}
            rows += [own | row for row in measured(model, preparation, pictures)]
    RunFolder(folder).write(TABLE, COLUMNS, ([row[c] for c in COLUMNS] for row in rows))
    print("\n".join(lines_of(rows)))
    print(f"drawn: {draw(rows, folder / 'shift_invariance.png')}")


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("folder", type=Path, help="the output of paper_table.py")
    given = parser.parse_args()
    return commands.run_command(lambda comm: run(given.folder), vars(given))


if __name__ == "__main__":
    sys.exit(main())
