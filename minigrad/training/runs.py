"""Load a run from its folder: its network, its preparation, and the pictures that it held out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from minigrad import backend, data
from minigrad.files import default_cache_folder
from minigrad.models.records import Preprocessing
from minigrad.network import Network, shapes
from minigrad.training.checkpoint import CheckpointError, load, part
from minigrad.training.options import Options
from minigrad.training.run_folder import CHECKPOINT, SETTINGS, RunFolder, checkpoint_of
from minigrad.training.settings import Settings, written_in


def read_run(
    run: str | Path, prefix: tuple[str, ...] = ("model.", "preparation.")
) -> tuple[dict[str, np.ndarray], Settings]:
    """(arrays whose names start with one of the prefixes, settings) from the newest checkpoint of a
    run folder, or from a checkpoint file. All of it is checked: raises CheckpointError, with the
    file and the key or array that does not fit.
    """
    path = checkpoint_of(run)
    tensors, description = (
        RunFolder(run).newest(prefix) if path != Path(run) else load(path, prefix)
    )
    try:
        settings = Settings.from_json(description.get("settings"))
        needed = shapes(settings.network, len(settings.classes))
    except ValueError as error:
        raise CheckpointError(
            f"{path}: its checkpoint holds no settings of a run ({error})"
        ) from error
    if "model." in prefix:
        check_arrays(path, part(tensors, "model."), needed)
    if "preparation." in prefix:
        check_preparation(path, part(tensors, "preparation."), settings.network.preprocessing)
    beside = path.parent / SETTINGS
    try:
        other = written_in(beside) if path.name == CHECKPOINT else None
    except (OSError, ValueError):
        other = None  # settings.json is written again when the run goes on
    if other and other.run != settings.run:
        raise CheckpointError(
            f"{path} is of another run than {beside}: the network, the seed or the classes differ"
        )
    return tensors, settings


def check_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], needed: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise CheckpointError unless these are the parameters needed: float32, finite."""
    if odd := sorted(set(arrays) ^ set(needed)):
        there = "is missing" if odd[0] in needed else "is not in its network"
        raise CheckpointError(f"{path}: the parameter {odd[0]} {there}")
    for name, array in arrays.items():
        if (array.shape, array.dtype) != (needed[name], np.float32):
            raise CheckpointError(
                f"{path}: the parameter {name} is {array.dtype} {array.shape}, and its network"
                f" needs float32 {needed[name]}"
            )
        if not np.isfinite(array).all():
            raise CheckpointError(f"{path}: the parameter {name} holds values that are not finite")


def check_preparation(path: Path, arrays: Mapping[str, np.ndarray], p: Preprocessing) -> None:
    """Raise CheckpointError unless these arrays describe a preparation of pictures."""
    C = p.channels
    needed = {"mean": (p.size, p.size, C), "scale": (C,), "colour": (C, C), "shrink": ()}
    for name, shape in needed.items():
        array = arrays.get(name)
        if array is None:
            raise CheckpointError(f"{path}: preparation.{name} is missing")
        if name == "scale" and array.shape == ():  # before there was one a channel
            shape = ()
        if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise CheckpointError(
                f"{path}: preparation.{name} is {array.dtype} {array.shape}; finite numbers of the"
                f" shape {shape} are needed"
            )
    if not ((arrays["scale"] > 0).all() and arrays["shrink"] > 0):
        raise CheckpointError(f"{path}: preparation.scale and preparation.shrink must be above 0")


def load_run(run: str, device: str = "cpu") -> tuple[Network, data.Preparation, Settings]:
    """(model in test mode, preparation, settings) from a run folder or a checkpoint file."""
    tensors, settings = read_run(run)
    backend.use(device)
    model = Network(settings.network, len(settings.classes), seed=None)
    model.load_state_dict(part(tensors, "model."))
    model.to(device).eval()
    prep = data.Preparation.from_arrays(tensors, settings.network.preprocessing)
    return model, prep, settings


def held_out_by(run: str, settings: Settings) -> data.ImageSet:
    """The pictures that a run validated on, opened again from its data."""
    if settings.imported and not settings.options.data:
        raise data.DataError(
            f"{run} holds imported weights, and no pictures that they were validated on: name some"
            " with --data"
        )
    sets = open_sets(settings.options)
    if settings.imported and sets[0].classes == settings.classes:
        return sets[1]
    if (sets[0].classes, len(sets[0])) != (settings.classes, settings.pictures):
        raise data.DataError(
            f"{sets[0].root} has changed since the run {run}: it has {len(sets[0])} training"
            f" pictures in {len(sets[0].classes)} classes, and had {settings.pictures} in"
            f" {len(settings.classes)}; name what to evaluate on with --data"
        )
    return sets[1]


def held_out_pictures(run: str, settings: Settings) -> data.Pictures:
    """The pictures that a run validated on, decoded, from its cache if it has one."""
    folder, shape = cache_folder(settings.options.cache), settings.network.preprocessing.shape
    return data.open_pictures(held_out_by(run, settings), folder, say=lambda _: None, shape=shape)


def open_sets(options: Options) -> tuple[data.ImageSet, data.ImageSet]:
    """(training set, validation set) that the options name."""
    o = options
    if not o.data:
        raise ValueError(
            "training needs --data, a folder, an archive or a name (or --resume RUN, or --config "
            "RUN/settings.json)"
        )
    cache = cache_folder(o.cache)
    return data.open_sets(o.data, o.classes, o.images_per_class, o.holdout, o.seed, cache)


def cache_folder(choice: str | None) -> Path | None:
    """The cache folder that --cache names; None for "off"."""
    return None if choice == "off" else Path(choice) if choice else default_cache_folder()
