"""One network, several, ten views: what averaging predictions is worth.

    python examples/ensembles.py RUN RUN ...            # run folders of one network, several seeds

Every network is asked about the pictures that it held out, once with the centre of each and once
with the paper's ten views (section 4.1). Then the outputs of every subset of the networks are
averaged (section 6: five networks, 40.7 -> 38.1 % on ImageNet's validation pictures). One row of
ensembles.csv for each subset; the gain is over the mean of the subset's networks, and half_width
belongs to its 95 % interval over pictures. Of more than 10 networks, only each one and all together
are averaged.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from minigrad import commands
from minigrad.data.loader import Loader
from minigrad.training import runs
from minigrad.training.evaluation import Evaluation, ensemble, evaluate
from minigrad.training.run_folder import RunFolder, check_outputs

TABLE = "ensembles.csv"
MOST = 10  # networks of which every subset is averaged
COLUMNS = ("networks", "views", "members", "test_error", "gain", "half_width")
NUMBERS = ("networks", "test_error", "gain", "half_width")


def evaluations(run: str) -> tuple[list[str], dict[str, Evaluation]]:
    """(names, {"centre": ..., "ten": ...}) of a run's held-out pictures."""
    model, preparation, settings = runs.load_run(run)
    pictures = runs.held_out_pictures(run, settings)
    size = settings.network.recipe.batch_size
    return [pictures.where(i) for i in range(len(pictures))], {
        views: evaluate(
            model,
            Loader(pictures, preparation, size, False, workers=0, ten_views=views == "ten"),
            what=f"evaluating {run}",
        )
        for views in ("centre", "ten")
    }


def row_of(members: Sequence[int], views: str, results: Sequence[Evaluation]) -> dict[str, str]:
    """The row of a subset: its error, and by how much it is lower than that of its networks. The
    interval is that of the mean over pictures, 1.96 s / sqrt(n)."""
    whole = ensemble(results)
    right = [r.probabilities.argmax(axis=1) == r.labels for r in (whole, *results)]
    gain = right[0] - np.mean(right[1:], axis=0)  # of each picture
    return {
        "networks": str(len(members)),
        "views": views,
        "members": " ".join(map(str, members)),
        "test_error": f"{1 - whole.top(1):.4f}",
        "gain": f"{gain.mean():.5f}",
        "half_width": f"{1.96 * gain.std() / np.sqrt(len(gain)):.5f}",
    }


def compare(folders: Sequence[str], table: Path) -> list[dict[str, str]]:
    """The rows of the subsets of these runs; they are written into the table. Raises ValueError if
    the runs held out different pictures."""
    names, found = zip(*map(evaluations, folders))
    for run, own in zip(folders, names):
        if own != names[0]:
            raise ValueError(f"{run} held out other pictures than {folders[0]}")
    counts = range(1, len(found) + 1) if len(found) <= MOST else (1, len(found))
    rows = [
        row_of(members, views, [found[i][views] for i in members])
        for views in ("centre", "ten")
        for count in counts
        for members in combinations(range(len(found)), count)
    ]
    written = ([row[c] for c in COLUMNS] for row in rows)
    RunFolder(table.parent).write(table.name, COLUMNS, written)
    return rows


def lines_of(rows: Sequence[dict[str, str]]) -> list[str]:
    """The mean error of the subsets of each size, and the smallest and the largest."""
    lines = [f"{'networks':8} {'views':7} {'subsets':7} {'mean error':>10} {'from .. to':>18}"]
    for kind in dict.fromkeys((row["networks"], row["views"]) for row in rows):
        errors = [100 * float(r["test_error"]) for r in rows if (r["networks"], r["views"]) == kind]
        spread = f"{min(errors):.2f} .. {max(errors):.2f} %"
        lines.append(
            f"{kind[0]:>8} {kind[1]:7} {len(errors):7} {np.mean(errors):8.2f} % {spread:>18}"
        )
    return lines


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--output", default=TABLE, help=f"the table (default {TABLE})")
    given = parser.parse_args()

    def run(comm: object) -> None:
        check_outputs([given.output], given.runs)
        print("\n".join(lines_of(compare(given.runs, Path(given.output)))))

    return commands.run_command(run)


if __name__ == "__main__":
    sys.exit(main())
