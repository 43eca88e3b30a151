"""What the commands about runs do: evaluate, predict, look, report, import and export."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import functions as F
from minigrad import look
from minigrad.data import DataError, Loader, Pictures, open_validation, read_image
from minigrad.data.images import ImageError
from minigrad.data.sources import Files
from minigrad.engine import Tensor, no_grad
from minigrad.files import default_cache_folder, replacing
from minigrad.text import shown
from minigrad.training import session
from minigrad.training.evaluation import (
    Evaluation,
    ensemble,
    evaluate,
    write_by_class,
    write_predictions,
)
from minigrad.training.inside import Inside
from minigrad.training.report import write_report
from minigrad.training.run_folder import check_outputs
from minigrad.training.runs import held_out_by, load_run


def make_report(run: str, kind: str, output: str | None, **options: Any) -> None:
    """Write the report page of a run's network."""
    check_outputs([output], [run])
    print(f"written: {write_report(run, kind, output=Path(output) if output else None, **options)}")


def look_inside(run: str, what: Sequence[str] | None, output: str | None, **options: Any) -> None:
    """Draw what is inside a run's network."""
    path = Path(run)
    folder = path / "look" if path.is_dir() else path.with_name(f"look-{path.stem}")
    inside = Inside(run, Path(output) if output else folder, **options)
    inside.draw(what)


def evaluate_runs(
    runs: Sequence[str],
    data: str | None,
    views: str,
    by_class: str | None,
    predictions: str | None,
    confusion: str | None,
    batch_size: int,
    workers: int,
    worker_timeout: float,
    device: str,
) -> None:
    """Print the accuracy of a run, or of several runs averaged, on validation pictures."""
    check_outputs((by_class, predictions, confusion), runs)
    results: list[Evaluation] = []
    images, first = None, None
    for run in runs:
        model, preparation, settings = load_run(run, device)
        first = first or settings
        if settings.classes != first.classes:
            raise ValueError(
                f"{run} tells other classes apart than {runs[0]}: they cannot be averaged"
            )
        if data is None:
            held_out = held_out_by(run, settings)
            if images is not None and held_out.items != images.items:
                raise ValueError(
                    f"{run} held out other pictures than {runs[0]}: name what to evaluate on with "
                    "--data"
                )
            images = held_out
        elif images is None:
            images = open_validation(data, settings.classes, default_cache_folder())
        loader = Loader(
            Pictures(images, shape=settings.network.preprocessing.shape),
            preparation,
            batch_size,
            False,
            workers=workers,
            most_skipped=1.0,
            ten_views=views == "ten",
            worker_timeout=worker_timeout,
        )
        results.append(evaluate(model, loader, device, f"evaluating {run}"))
        loader.close()
        if len(runs) > 1:
            print(sentence(run, results[-1]))
    assert images is not None
    assert first is not None
    result = ensemble(results)
    averaged = f", {len(results)} runs averaged" if len(results) > 1 else ""
    view = "ten views" if views == "ten" else "centre view"
    what = f"{len(result.labels):,} pictures of {images.root}, {view}{averaged}"
    print(sentence(what, result))
    for line in session.skipped_lines(loader.skipped):
        print(line)
    if by_class:
        write_by_class(Path(by_class), result, first.classes, first.names)
    if predictions:
        where = [images.where(int(i)) for i in result.indices]
        write_predictions(Path(predictions), result, where, first.classes)
    if confusion:
        look.draw_confusion(result.confusion(), first.names, Path(confusion))
    for path in filter(None, (by_class, predictions, confusion)):
        print(f"written: {path}")


def sentence(what: str, result: Evaluation) -> str:
    return f"{what}: loss {result.loss:.4f}, top-1 {result.top(1):.2%}, top-5 {result.top(5):.2%}"


BATCH = 64  # pictures that go through the network together


def predict(
    run: str,
    pictures: Sequence[str],
    device: str,
    plot: str | None = None,
    json_file: str | None = None,
    csv_file: str | None = None,
) -> None:
    """The five most probable classes of single pictures, and of all pictures below folders:
    printed, drawn, and written as JSON and CSV ("-" for standard output, instead of the lines)."""
    plot = png_name(plot)
    check_outputs((plot, json_file, csv_file), (run, *pictures))
    model, preparation, settings = load_run(run, device)
    rows: list[dict[str, Any]] = []
    drawn: list[tuple[str, np.ndarray, np.ndarray]] = []
    quiet = "-" in (json_file, csv_file)
    for names, images in batches_of(pictures, settings.network.preprocessing.shape, quiet):
        x = Tensor(preparation.centre(np.stack(images))).to(device)
        with no_grad():
            probabilities = F.softmax(model(x)).numpy()
        for name, image, p in zip(names, images, probabilities):
            best = np.argsort(-p, kind="stable")[:5]
            guesses = [
                {
                    "class": shown(settings.classes[k]),
                    "name": shown(settings.names[k]),
                    "probability": float(p[k]),
                }
                for k in best
            ]
            rows.append({"picture": shown(name), "best": guesses})
            if plot:
                drawn.append((name, preparation.crop_of(image), p))
            if not quiet:
                line = ", ".join(f"{settings.names[k].split(',')[0]} {p[k]:.1%}" for k in best)
                print(f"{name}: {line}")
    if json_file:
        write_text(json_file, json.dumps(rows, indent=1) + "\n")
    if csv_file:
        lines = [
            [row["picture"], rank, *guess.values()]
            for row in rows
            for rank, guess in enumerate(row["best"], start=1)
        ]
        write_csv(csv_file, ["picture", "rank", "class", "name", "probability"], lines)
    if plot:
        names, images, values = zip(*drawn)
        captions = [Path(name).name for name in names]
        look.draw_predictions(
            images, None, np.stack(values), settings.names, Path(plot), best=5, captions=captions
        )
        print(f"written: {plot}", file=sys.stderr if quiet else sys.stdout)


def batches_of(
    pictures: Sequence[str], shape: tuple[int, int, int], quiet: bool
) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """(names, decoded pictures), a batch at a time, of files and of what lies below folders. A
    picture below a folder that cannot be read is reported and left out."""
    names: list[str] = []
    images: list[np.ndarray] = []
    found = False
    for place in pictures:
        inside = Path(place).is_dir()
        for item in sorted(Files(Path(place)).below("")) if inside else [""]:
            path = str(Path(place, item)) if inside else place
            try:
                images.append(read_image(path, shape))
            except (ImageError, OSError) as error:
                if not inside:
                    raise
                print(f"skipped {error}", file=sys.stderr if quiet else sys.stdout)
                continue
            names.append(path)
            found = True
            if len(names) == BATCH:
                yield names, images
                names, images = [], []
    if names:
        yield names, images
    if not found:
        raise DataError(f"no picture can be read below {', '.join(pictures)}")


def png_name(name: str | None) -> str | None:
    """The name of a drawing's file, with its suffix."""
    return f"{name}.png" if name and not name.endswith(".png") else name


def write_csv(file: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as write_text does."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(file, text.getvalue())


def write_text(file: str, text: str) -> None:
    """Write a text to a file, whole or not at all, or for "-" to standard output."""
    if file == "-":
        sys.stdout.write(text)
        return
    with replacing(Path(file)) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    print(f"written: {file}")
