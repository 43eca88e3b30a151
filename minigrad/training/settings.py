"""The settings of a run, as settings.json and every checkpoint hold them, and how they follow from
its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL

import minigrad
from minigrad import data
from minigrad.files import load_json
from minigrad.models.records import Preset, find, from_json, small_subset, to_json
from minigrad.network import ledger
from minigrad.training.options import Options
from minigrad.training.run_folder import SETTINGS
from minigrad.training.version1 import upgraded
from minigrad.written import read


@dataclass(frozen=True)
class Settings:
    """The settings of a run, as settings.json and every checkpoint hold them."""

    options: Options
    recipe: str  # "preset" or "small"
    network: Preset  # with that recipe and the options' choices
    classes: list[str]  # folder names, in the order of the outputs
    names: list[str]  # in words
    pictures: int  # for training

    def to_json(self) -> dict[str, Any]:
        """The settings as values that JSON can hold."""
        versions = {"minigrad": minigrad.__version__, "numpy": np.__version__}
        return {
            "version": 2,
            "options": self.options.to_json(),
            "recipe": self.recipe,
            "network": to_json(self.network),
            "classes": self.classes,
            "names": self.names,
            "pictures": self.pictures,
            "versions": versions | {"pillow": PIL.__version__},
        }

    @classmethod
    def from_json(cls, written: Any) -> Settings:
        """The inverse of to_json, for what this version or the previous one has written. Raises
        ValueError for anything else, with the key that does not fit."""
        written = read(dict[str, Any], written, "settings")
        try:
            written = written if "version" in written else upgraded(written)
        except KeyError as error:
            raise ValueError(f"settings: {error} is missing") from error
        except (TypeError, AttributeError) as error:
            raise ValueError(f"settings: {error}") from error
        if written["version"] != 2:
            raise ValueError(f"settings: the version is {written['version']!r}, not 2")
        settings = cls(
            Options.from_json(read(dict[str, Any], written.get("options"), "settings.options")),
            read(Literal["preset", "small"], written.get("recipe"), "settings.recipe"),
            from_json(written.get("network")),
            read(list[str], written.get("classes"), "settings.classes"),
            read(list[str], written.get("names"), "settings.names"),
            read(int, written.get("pictures"), "settings.pictures"),
        )
        if not 0 < len(settings.classes) == len(settings.names) or settings.pictures < 0:
            raise ValueError(
                f"settings: {len(settings.classes)} classes, {len(settings.names)} names and"
                f" {settings.pictures} pictures do not go together"
            )
        ledger(settings.network, len(settings.classes))  # its layers fit together
        return settings

    @property
    def imported(self) -> bool:
        """Whether the weights were trained by another program (imported.py)."""
        return self.pictures == 0

    @property
    def run(self) -> tuple[Any, ...]:
        """What does not change when a run is resumed: two runs that differ in it are different."""
        layers = list(self.network.layers.items())
        fixed = self.network.preprocessing, self.classes, self.pictures
        return self.options.seed, self.options.preset, layers, *fixed


def configured(path: Path) -> Options:
    """The options in the settings.json that --config names, or in the folder that it names."""
    try:
        return written_in(path / SETTINGS if path.is_dir() else path).options
    except (OSError, ValueError) as error:
        raise ValueError(f"--config {path}: not the settings.json of a run ({error})") from error


def written_in(path: Path) -> Settings:
    """The settings in a settings.json. Raises OSError, or ValueError if it holds anything else."""
    return Settings.from_json(load_json(path))


def settled(
    options: Options, before: Settings | None, train: data.ImageSet, presets: Mapping[str, Preset]
) -> Settings:
    """The settings of a run: new ones, or for a resumed run the old ones with these options."""
    if before:
        if (train.classes, len(train)) != (before.classes, before.pictures):
            raise data.DataError(
                f"{train.root} has {len(train)} pictures in {len(train.classes)} classes, but the"
                f" run {options.resume} was started on {before.pictures} in {len(before.classes)},"
                " or the classes have other names: it can only go on with the same"
            )
        return replace(before, options=options, network=chosen(before.network, options))
    preset = find(options.preset, presets)
    name = options.recipe
    if name == "auto":
        name = "preset" if len(train) >= preset.recipe.least else "small"
    network = chosen(small_subset(preset) if name == "small" else preset, options)
    return Settings(options, name, network, train.classes, train.names, len(train))


def chosen(preset: Preset, options: Options) -> Preset:
    """The preset with the epochs, batch size, rate and schedule that are given."""
    recipe = preset.recipe
    if options.epochs is not None:
        recipe = recipe.stretched(options.epochs)
    if options.batch_size is not None:
        recipe = replace(recipe, batch_size=options.batch_size)
    if options.lr is not None:
        recipe = replace(recipe, lr=options.lr)
    if options.schedule == "plateau":
        recipe = replace(recipe, lr_drops=None)
    return replace(preset, recipe=recipe)
