"""Look inside a run: the pictures that `alexnet.py look RUN` draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import backend, data, look, random
from minigrad import functions as F
from minigrad.engine import no_grad
from minigrad.models.lenet import LENET5
from minigrad.models.records import Conv
from minigrad.models.zfnet import ZFNET
from minigrad.network import Row, feature_stage, last_hidden_stage, ledger
from minigrad.training import runs
from minigrad.training.checkpoint import CheckpointError
from minigrad.training.drawings import MAPS
from minigrad.training.run_folder import RunError, RunFolder

QUERIES = 8  # pictures of the paper's figure 4


@dataclass
class Inside:
    """A run's network, its pictures, and one method for each instrument. The methods write PNG
    files to `output` and return their names.

    picture: a file to look at; None takes the first of the held-out set. place: another set of
    pictures, of the same classes. most: how many pictures of the set to use, spread evenly; None
    uses all. stage, maps: where to look; None takes the default of each instrument. maps is used by
    deconvnet, nine, occlusion (only the first) and evolution. size, stride: of the occluding
    square.
    """

    run: str
    output: Path
    picture: str | None = None
    place: str | None = None
    most: int | None = None
    stage: str | None = None
    maps: Sequence[int] | None = None
    method: str = "deconvnet"
    size: int | None = None
    stride: int | None = None
    batch_size: int = 64
    workers: int = 2
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, not {self.batch_size}")
        self.model, self.preparation, self.settings = runs.load_run(self.run, self.device)
        self.rows = {row.stage: row for row in ledger(self.model.preset, self.model.classes)}
        if self.stage is not None and self.stage not in self.rows:
            raise ValueError(f"unknown stage {self.stage!r}: choose from {', '.join(self.rows)}")
        count = self.row().shape[-1]
        for m in self.maps or ():
            if not 0 <= m < count:
                raise ValueError(f"{self.row().stage} has maps 0 to {count - 1}, not {m}")

    def row(self) -> Row:
        """The ledger's row of the stage to look at."""
        return self.rows[self.stage or feature_stage(self.model.preset)]

    @cached_property
    def loader(self) -> data.Loader:
        """The set's pictures as the network sees them in testing."""
        if self.place is None:
            images = runs.held_out_by(self.run, self.settings)
        else:
            cache = runs.cache_folder(None)
            images = data.open_validation(self.place, self.settings.classes, cache)
        if self.most is not None and len(images) > self.most:
            images = images.take(np.arange(self.most) * len(images) // self.most)
        shape = self.settings.network.preprocessing.shape
        return data.Loader(
            data.Pictures(images, shape=shape), self.preparation, self.batch_size, False,
            workers=self.workers, most_skipped=1.0,
        )  # fmt: skip

    def crop_of(self, number: int) -> np.ndarray:
        """The central square of a picture, which the network sees."""
        return self.preparation.crop_of(self.loader.pictures.read(number))

    def readable(self, numbers: Iterable[int], count: int) -> list[int]:
        """The first `count` of these pictures of the set that can be read."""
        good = []
        for number in numbers:
            if len(self.loader.prepare(np.array([number]))[2]):
                good.append(int(number))
            if len(good) == count:
                break
        if not good:
            raise data.DataError("there is not one readable picture to look at")
        return good

    @cached_property
    def one(self) -> tuple[np.ndarray, int | None]:
        """(picture, its class if that is known)."""
        shape = self.settings.network.preprocessing.shape
        if self.picture is not None:
            return data.read_image(self.picture, shape), None
        pictures = self.loader.pictures
        (first,) = self.readable(range(len(pictures)), 1)
        return pictures.read(first), int(pictures.images.labels[first])

    def prepared(self) -> Any:
        return backend.to_device(self.preparation.centre(self.one[0][None]), self.device)

    def chosen(self, found: look.Strongest) -> list[int]:
        """The maps that were requested, or those with the strongest activations."""
        return list(self.maps) if self.maps else [int(m) for m in found.order()[:MAPS]]

    def filters(self) -> list[Path]:
        stages = look.weight_stages(self.model)
        named = [self.stage] if self.stage else stages
        files = [
            look.draw_filters(self.model, stage, self.output / f"filters-{stage}.png")
            for stage in named
        ]
        layer = self.rows[stages[0]].layer
        if isinstance(layer, Conv) and stages[0] in named:
            w = dict(self.model.named_parameters())[f"{stages[0]}.w"].numpy()
            layers = {f"{self.settings.options.preset}, {stages[0]}": (w, layer.stride)}
            files.append(look.draw_spectrum(layers, self.output / "spectrum.png"))
        return files

    def activation_maps(self) -> list[Path]:
        with no_grad():
            activations = self.model.activations(self.prepared())
        return [
            look.draw_maps(y.numpy()[0], name, self.output / f"maps-{name}.png")
            for name, y in activations.items()
            if self.stage in (None, name)
        ]

    def deconvnet(self) -> list[Path]:
        """The maps that one picture excites most, projected by every method."""
        row, x = self.row(), self.prepared()
        with no_grad():
            found = look.peaks_of(self.model.run(x, row.stage).data, np.array([0]), k=1)
        maps = self.chosen(found)
        if not maps:
            raise ValueError(f"{row.stage} is not active anywhere for this picture")
        batch = np.repeat(x, len(maps), axis=0)
        projections = {
            name: look.project(self.model, batch, row.stage, maps, **rules)
            for name, rules in look.METHODS.items()
        }
        path = self.output / f"deconvnet-{row.stage}.png"
        by_method = {name: list(p.pixels) for name, p in projections.items()}
        values = projections["deconvnet"].values.tolist()
        return [
            look.draw_projections(
                self.preparation.crop_of(self.one[0]), row, by_method, maps, values, path
            )
        ]

    def nine(self) -> list[Path]:
        row = self.row()
        found = look.find_strongest(self.model, self.loader, [row.stage], self.device)[row.stage]
        maps = self.chosen(found)
        pixels = look.project_strongest(
            self.model, self.loader, row.stage, found, maps, self.device,
            **look.METHODS[self.method],
        )  # fmt: skip
        path = self.output / f"nine-{row.stage}.png"
        return [look.draw_nine(found, row, maps, self.crop_of, pixels, path)]

    def occlusion(self) -> list[Path]:
        picture, label = self.one
        crop = self.preparation.crop_of(picture)
        found = look.occlude(
            self.model, crop, self.preparation, self.row().stage, label, self.size, self.stride,
            batch_size=self.batch_size, device=self.device, map=self.maps[0] if self.maps else None,
        )  # fmt: skip
        path = self.output / "occlusion.png"
        guess = label is None
        return [look.draw_occlusion(found, crop, self.settings.names, path, guess)]

    def few(self, count: int) -> np.ndarray:
        """Numbers of a few pictures of the set that can be read, in ascending order."""
        stream = random.Stream(self.settings.options.seed, "grid")
        order = stream.permutation(len(self.loader.pictures))
        return np.sort(self.readable(order, count))

    def invariance(self) -> list[Path]:
        """How features of the first and the last hidden layer change, for five pictures."""
        if self.picture is not None:
            raw = self.one[0][None]
            with no_grad():
                labels = [int(self.model(self.prepared()).numpy()[0].argmax())]
        else:
            few = self.few(5)
            raw = np.stack([self.loader.pictures.read(int(i)) for i in few])
            labels = [int(self.loader.pictures.images.labels[i]) for i in few]
        stages = [look.weight_stages(self.model)[0], last_hidden_stage(self.model.preset)]
        found = [
            look.measure_invariance(
                self.model, raw, labels, self.preparation, [self.stage] if self.stage else stages,
                change, device=self.device,
            )
            for change in look.CHANGES
        ]  # fmt: skip
        path = self.output / "invariance.png"
        return [look.draw_invariance(found, labels, self.settings.names, path)]

    def evolution(self) -> list[Path]:
        row = self.row()
        if not Path(self.run).is_dir():
            raise ValueError(f"{self.run} is no run folder: evolution needs the features it keeps")
        last = look.find_strongest(self.model, self.loader, [row.stage], self.device, 1)[row.stage]
        maps = self.chosen(last)
        moments = look.follow_features(
            self.model, RunFolder(self.run).features(), self.loader, row.stage, maps, self.device,
            **look.METHODS[self.method],
        )  # fmt: skip
        path = self.output / f"evolution-{row.stage}.png"
        return [look.draw_evolution(moments, self.model, row.stage, maps, path)]

    def neighbours(self) -> list[Path]:
        """The paper's figure 4: eight pictures with their likeliest labels and their six nearest
        neighbours."""
        stage = self.stage or last_hidden_stage(self.model.preset)
        found = look.find_neighbours(self.model, self.loader, self.few(QUERIES), stage, self.device)
        path = self.output / f"neighbours-{stage}.png"
        files = [look.draw_neighbours(found, self.crop_of, stage, path)]
        with self.model.in_test_mode(), no_grad():
            x = backend.to_device(self.loader.prepare(found.queries)[0], self.device)
            p = F.softmax(self.model(x)).numpy()
        labels = [int(self.loader.pictures.images.labels[i]) for i in found.queries]
        crops = [self.crop_of(int(i)) for i in found.queries]
        path = self.output / "predictions.png"
        return [*files, look.draw_predictions(crops, labels, p, self.settings.names, path, best=5)]

    def ledger(self) -> list[Path]:
        """The ledger of this network, with measured times, beside those of ZFNet and LeNet-5."""
        rows = {self.settings.options.preset: list(self.rows.values())}
        seconds = {self.settings.options.preset: look.stage_seconds(self.model)}
        rows = {"zfnet": ledger(ZFNET), "lenet5": ledger(LENET5)} | rows
        return [look.draw_ledgers(rows, self.output / "ledger.png", seconds)]

    def draw(self, what: Sequence[str] | None, report: Callable[[str], None] = print) -> None:
        """Run these instruments; None runs all, and reports a line for each that cannot run.

        Raises ValueError, RunError, CheckpointError, DataError or OSError, with a sentence.
        """
        if Path(self.run).is_dir() and self.output.resolve() == Path(self.run).resolve():
            raise ValueError(f"{self.output} is the run's own folder: choose another --output")
        self.output.mkdir(parents=True, exist_ok=True)
        try:
            for name in what or INSTRUMENTS:
                try:
                    for path in INSTRUMENTS[name](self):
                        report(f"written: {path}")
                except (ValueError, RunError, CheckpointError) as error:
                    if what:
                        raise
                    report(f"left out, {name}: {error}")
        finally:
            self.close()

    def close(self) -> None:
        """End the processes that read pictures, if there are any."""
        if "loader" in vars(self):
            self.loader.close()


INSTRUMENTS: dict[str, Callable[[Inside], list[Path]]] = {
    "filters": Inside.filters,
    "maps": Inside.activation_maps,
    "deconvnet": Inside.deconvnet,
    "nine": Inside.nine,
    "occlusion": Inside.occlusion,
    "invariance": Inside.invariance,
    "evolution": Inside.evolution,
    "neighbours": Inside.neighbours,
    "ledger": Inside.ledger,
}
