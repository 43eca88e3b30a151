"""RUN/report.html: one page with a run's network, how it computes its answer for one picture, and
what the instruments show (minigrad/page)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import backend, data, files, look, random
from minigrad import functions as F
from minigrad.data import synthetic
from minigrad.engine import Tensor, no_grad
from minigrad.kernels import trace
from minigrad.kernels.story import story
from minigrad.look.sheet import beside, coloured, contrast, enlarged, photograph, sheet, shrunk
from minigrad.models.records import ReLU, Sigmoid, Tanh
from minigrad.network import last_hidden_stage
from minigrad.page import (
    BUDGET,
    SCRIPTS_SIZE,
    Section,
    as_jpeg,
    as_png,
    excerpt,
    kind_of,
    network_numbers,
    page,
    size,
)
from minigrad.text import shown
from minigrad.training.checkpoint import CheckpointError
from minigrad.training.inside import Inside
from minigrad.training.run_folder import RunError, RunFolder

REPORT = "report.html"
LOOKED = 200  # held-out pictures that the instruments use
MAPS = 4  # of a stage whose strongest places are shown
SIDE = 96  # pixels of a patch or a projection
STEPS = 600  # points of a curve
NUMBERS_ONLY = (
    "This page holds numbers of the run and the names of its classes, and none of its pictures."
)
FULL = "This page holds pictures that the run was given: do not pass it on where they must not go."


def write_report(
    run: str | Path,
    kind: str = "full",
    picture: str | None = None,
    output: Path | None = None,
    workers: int = 2,
    place: str | None = None,
    seconds: float = math.inf,
) -> Path:
    """Write a run's page and return its path.

    kind: "full", or "numbers", which leaves every picture out and looks at a drawn one. picture: a
    file to look at; None takes the first that the run held out. output: None for the run's folder.
    place: a set of the same classes to use instead of the held-out pictures. seconds: the time
    after which no further instrument is started. Raises ValueError, RunError, CheckpointError or
    OSError, with a sentence.
    """
    if kind == "numbers" and picture is not None:
        raise ValueError(
            "a page of numbers shows no picture: leave --picture or --kind numbers out"
        )
    path = output or (Path(run) / REPORT if Path(run).is_dir() else Path(run).with_suffix(".html"))
    inside = Inside(
        str(run), path.parent, picture=picture, place=place, most=LOOKED, workers=workers
    )
    try:
        text = page(Report(inside, kind == "full", seconds).data())
    finally:
        inside.close()
    with files.replacing(path) as unfinished:
        unfinished.write_text(text, "utf-8")
    return path


class Report:
    """The parts of a run's page. A part that cannot be shown is left out; the page says why."""

    def __init__(self, inside: Inside, pictures: bool, seconds: float = math.inf) -> None:
        self.inside, self.pictures = inside, pictures
        self.deadline = time.monotonic() + seconds
        self.names = [shown(name) for name in inside.settings.names]
        nonlinear = ReLU, Tanh, Sigmoid
        self.stages = [  # the stages whose strongest activations are searched
            name for name, row in inside.rows.items()
            if isinstance(row.layer, nonlinear) and len(row.shape) == 3
        ]  # fmt: skip
        self.absent: dict[str, str] = {}

    def data(self) -> Section:
        inside, preparation = self.inside, self.inside.preparation
        raw, words, truth = self.looked_at()
        if not self.pictures:  # the mean of a few pictures is nearly one of them: use a mean colour
            colour = preparation.mean.mean(axis=(0, 1), keepdims=True)
            mean = np.broadcast_to(colour, preparation.mean.shape)
            preparation = replace(preparation, mean=np.ascontiguousarray(mean))
        crop, x = preparation.crop_of(raw), preparation.centre(raw[None])
        kinds = sorted({kind_of(row.layer) for row in inside.rows.values()})
        sections: Section = {
            "title": shown(
                f"{Path(inside.run).resolve().name}: the network {inside.settings.options.preset}"
            ),
            "notice": FULL if self.pictures else NUMBERS_ONLY,
            "classes": self.names,
            "picture": {
                "source": as_png(photograph(crop)),
                "words": shown(words),
                "truth": truth,
            },
            "code": {kind: excerpt(kind) for kind in kinds},
            "curves": self.curves(),
            "run": self.facts(),
            "absent": self.absent,
        }
        for name, make in (
            ("projections", lambda: self.projections(x)),
            ("occlusion", lambda: self.occlusion(crop, truth)),
            ("nine", self.nine),
            ("predictions", self.predictions),
            ("neighbours", self.neighbours),
            ("evolution", self.evolution),
            ("traces", lambda: self.traces(x)),
        ):
            sections[name] = self.unless_absent(name, make)
        room = BUDGET - SCRIPTS_SIZE
        with no_grad():
            numbers = network_numbers(inside.model, x, room - size(sections))
        for name in ("evolution", "neighbours", "nine", "projections", "predictions"):
            if size(sections) + size(numbers) > room and sections[name] is not None:
                sections[name] = None
                self.absent[name] = f"Left out: the page is at most {BUDGET / 1e6:g} MB."
        return sections | numbers

    def unless_absent(self, name: str, make: Callable[[], Any]) -> Any:
        """A part of the page, or None with a reason in `absent` if it cannot be made."""
        if not self.pictures and name != "traces":
            self.absent[name] = "This page holds numbers only: pictures were left out."
            return None
        if time.monotonic() > self.deadline:
            again = "alexnet.py report makes a whole page"
            self.absent[name] = f"Left out, for the sake of the training's time: {again}."
            return None
        try:
            return make()
        except (ValueError, RunError, CheckpointError, OSError, trace.TraceError) as error:
            self.absent[name] = shown(f"Left out: {str(error).splitlines()[0]}.")
            return None

    def looked_at(self) -> tuple[np.ndarray, str, int | None]:
        """(picture, words for it, its class if known): the requested picture, or the first that the
        run held out. If pictures are left out or not available, it is a drawn one."""
        inside = self.inside
        shape = inside.settings.network.preprocessing.shape
        if self.pictures:
            if inside.picture is not None:
                return inside.one[0], f"the picture {Path(inside.picture).name}", None
            try:
                raw, truth = inside.one
                return raw, "the first held-out picture that can be read", truth
            except (ValueError, OSError) as error:
                self.absent["picture"] = shown(str(error))
        drawn = synthetic.draw_picture(synthetic.CLASSES[0], random.Stream(0, "report"))
        return data.read_image(drawn, shape), "a drawn picture, none of the run's", None

    @cached_property
    def strongest(self) -> dict[str, look.Strongest]:
        """The strongest activations of every stage in the pictures that the instruments use."""
        inside = self.inside
        stages = dict.fromkeys([*self.stages, inside.row().stage])
        return look.find_strongest(inside.model, inside.loader, list(stages))

    def activations(self, numbers: np.ndarray) -> np.ndarray:
        return backend.to_device(self.inside.loader.prepare(numbers)[0], self.inside.device)

    def crop(self, number: int) -> np.ndarray:
        return photograph(self.inside.crop_of(int(number)))

    def facts(self) -> list[list[str]]:
        """Facts about the run, as rows of a table."""
        s = self.inside.settings
        recipe, p = s.network.recipe, s.network.preprocessing
        rows = [
            ["preset", s.options.preset],
            ["source", s.network.source],
            *([["data", str(s.options.data)]] if self.pictures else []),
            ["classes", str(len(self.names))],
            ["training pictures", f"{s.pictures:,}"],
            ["input", f"{p.size} x {p.size} x {p.channels}"],
            ["recipe", f"{s.recipe}: {recipe.epochs} epochs, batch {recipe.batch_size}, rate"
             f" {recipe.lr:g}, momentum {recipe.momentum:g}, decay {recipe.weight_decay:g}"],
            ["seed", str(s.options.seed)],
        ]  # fmt: skip
        epochs = self.rows("metrics.csv")
        if epochs:
            last = epochs[-1]
            rows.append(["held out, last epoch", f"loss {float(last['val_loss']):.3f}, top-1"
             f" {float(last['val_top1']):.1%}, top-5 {float(last['val_top5']):.1%}"])  # fmt: skip
        return [[name, shown(text)] for name, text in rows]

    def rows(self, file: str) -> Sequence[Mapping[str, str]]:
        folder = Path(self.inside.run)
        return RunFolder(folder).rows(file) if folder.is_dir() else []

    def curves(self) -> Section:
        """Loss and accuracy. Steps are averaged in groups, so that at most 600 points remain."""
        found = {}
        for part, file, names in (
            ("steps", "steps.csv", ("epoch", "loss", "top1")),
            ("epochs", "metrics.csv", ("epoch", "val_loss", "val_top1")),
        ):
            rows = self.rows(file)
            table = np.array([[float(row[n]) for n in names] for row in rows]).reshape(-1, 3)
            group = max(1, -(-len(table) // STEPS)) if part == "steps" else 1
            means = [table[i : i + group].mean(axis=0) for i in range(0, len(table), group)]
            found[part] = [
                dict(zip(names, (float(f"{v:.5g}") if np.isfinite(v) else None for v in row)))
                for row in means
            ]
        return found

    def projections(self, x: np.ndarray) -> Section:
        """The strongest maps of each stage for the picture, projected back by every method."""
        inside, found = self.inside, {}
        with no_grad():
            ys = {name: y.numpy() for name, y in inside.model.activations(x).items()}
        for stage in self.stages:
            maps = [int(m) for m in look.peaks_of(ys[stage], np.array([0]), k=1).order()[:MAPS]]
            if not maps:
                continue
            batch, row = np.repeat(x, len(maps), axis=0), inside.rows[stage]
            ways = {
                name: look.project(inside.model, batch, stage, maps, **rules)
                for name, rules in look.METHODS.items()
            }
            first = next(iter(ways.values()))
            found[stage] = [
                {
                    "map": m,
                    "at": first.at[n].tolist(),
                    "value": float(first.values[n]),
                    "ways": [
                        {"name": name, **self.drawn(look.patch(p.pixels[n], row, p.at[n], fill=0))}
                        for name, p in ways.items()
                    ],
                }
                for n, m in enumerate(maps)
            ]
        return found

    def traces(self, x: np.ndarray) -> Section:
        """For each stage that one kernel computes, alike on a GPU and a CPU: how it computed the
        strongest activation of its strongest map."""
        found: Section = {}
        before = Tensor(x)
        with no_grad():
            for name, layer, y in self.inside.model.walk(before):
                with trace.launches() as kept:
                    layer(before)
                before = y
                if len(kept) != 1 or y.ndim != 4:
                    continue
                peaks = look.peaks_of(y.data, np.array([0]), k=1)
                m = int(peaks.values[0].argmax())
                at = [0, *map(int, peaks.at[0, m]), m]
                lines = story(kept[0].kernel, at, kept[0])
                place = f"map {m}, row {at[1]}, column {at[2]}"
                found[name] = {"kernel": kept[0].kernel, "at": place, "words": lines[0],
                               "lines": lines[1:]}  # fmt: skip
        return found

    def drawn(self, pixels: np.ndarray) -> Section:
        """A projection as a picture, and the value at which its colours saturate."""
        small = shrunk(pixels, 2 * SIDE)
        limit = contrast(small)
        return {"source": as_jpeg(coloured(small, limit)), "limit": limit}

    def occlusion(self, crop: np.ndarray, label: int | None) -> Section:
        inside = self.inside
        stride = max(1, len(crop) // 14)
        found = look.occlude(
            inside.model, crop, inside.preparation, inside.row().stage, label,
            size=max(stride, round(len(crop) / 7)), stride=stride, batch_size=inside.batch_size,
        )  # fmt: skip
        return {
            "size": found.size,
            "label": found.label,
            "stage": found.stage,
            "map": found.map,
            "probability": rounded(found.probability),
            "strength": rounded(found.strength),
            "likeliest": found.likeliest.tolist(),
        }

    def nine(self) -> Section:
        inside, sections = self.inside, {}
        for stage in self.stages:
            found, row = self.strongest[stage], inside.rows[stage]
            maps = [int(m) for m in found.order()[:MAPS]]
            pixels = look.project_strongest(inside.model, inside.loader, stage, found, maps)
            shown = []
            for m in maps:
                ranks = [r for r in range(len(found.values)) if (m, r) in pixels]
                patches, back = [], []
                for r in ranks:
                    seen = look.patch(self.crop(found.pictures[r, m]), row, found.at[r, m])
                    patches.append(shrunk(enlarged(seen, SIDE), SIDE))
                    small = shrunk(look.patch(pixels[m, r], row, found.at[r, m], fill=0), SIDE)
                    back.append(shrunk(enlarged(coloured(small, contrast(small)), SIDE), SIDE))
                tiles = beside([sheet(patches, columns=3), sheet(back, columns=3)])
                value, active = float(found.values[0, m]), int(found.active[m])
                shown.append(
                    {"map": m, "active": active, "value": value, "source": as_jpeg(tiles, 82)}
                )
            sections[stage] = {"seen": found.seen, "maps": shown}
        return sections

    def evolution(self) -> Section:
        inside, row = self.inside, self.inside.row()
        if not Path(inside.run).is_dir():
            raise ValueError("a checkpoint by itself has not kept the features of earlier epochs")
        maps = [int(m) for m in self.strongest[row.stage].order()[:MAPS]]
        kept = RunFolder(inside.run).features()
        moments = look.follow_features(inside.model, kept, inside.loader, row.stage, maps)
        shown = []
        for m in maps:
            steps: list[Section] = []
            for moment in moments:
                number = int(moment.strongest.pictures[0, m])
                there = m in moment.pixels
                seen = (
                    look.patch(moment.pixels[m], row, moment.strongest.at[0, m], fill=0)
                    if there
                    else None
                )
                steps.append(
                    {
                        "epoch": f"{moment.epoch:g}",
                        "picture": number,
                        "jump": bool(steps) and steps[-1]["picture"] != number,
                        "source": self.drawn(seen)["source"] if seen is not None else None,
                    }
                )
            shown.append({"map": m, "moments": steps})
        return {"stage": row.stage, "maps": shown}

    def neighbours(self) -> Section:
        inside = self.inside
        stage = last_hidden_stage(inside.model.preset)
        found = look.find_neighbours(inside.model, inside.loader, inside.few(5), stage)

        def tile(number: int) -> Section:
            label = int(inside.loader.pictures.images.labels[number])
            return {"source": self.thumbnail(number), "words": self.names[label]}

        return {
            "stage": stage,
            "rows": [
                {
                    "query": tile(query),
                    "nearest": [
                        tile(int(n)) | {"distance": float(d)} for n, d in zip(numbers, distances)
                    ],
                }
                for query, numbers, distances in zip(found.queries, found.pictures, found.distances)
            ],
        }

    def thumbnail(self, number: int) -> str:
        return as_jpeg(shrunk(self.crop(number), 112), 82)

    def predictions(self) -> list[Section]:
        """A few held-out pictures, each with the three classes that the network finds likeliest."""
        inside = self.inside
        numbers = inside.few(12)
        with no_grad():
            p = F.softmax(inside.model(self.activations(numbers))).numpy()
        labels = inside.loader.pictures.images.labels
        return [
            {
                "source": self.thumbnail(number),
                "truth": self.names[int(labels[number])],
                "best": [
                    {"name": self.names[k], "p": float(row[k])}
                    for k in np.argsort(-row, kind="stable")[:3]
                ],
            }
            for number, row in zip(numbers, p)
        ]


def rounded(a: np.ndarray) -> list:
    """An array as nested lists of numbers with five digits."""
    return [[float(f"{v:.5g}") for v in row] for row in a]
