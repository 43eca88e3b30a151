"""Load a run from its folder: its network, its preparation, and the pictures that it held out."""

from __future__ import annotations

from pathlib import Path

from minigrad import backend, data
from minigrad.files import default_cache_folder
from minigrad.network import Network
from minigrad.training import checkpoint
from minigrad.training.options import Options
from minigrad.training.run_folder import checkpoint_of
from minigrad.training.settings import Settings


def load_run(run: str, device: str = "cpu") -> tuple[Network, data.Preparation, Settings]:
    """(model in test mode, preparation, settings) from a run folder or a checkpoint file."""
    path = checkpoint_of(run)
    tensors, description = checkpoint.load(path, prefix=("model.", "preparation."))
    settings = Settings.of(description, run)
    backend.use(device)
    model = Network(settings.network, len(settings.classes), seed=None)
    model.load_state_dict(checkpoint.part(tensors, "model."))
    model.to(device).eval()
    prep = data.Preparation.from_arrays(tensors, settings.network.preprocessing)
    return model, prep, settings


def held_out_by(run: str, settings: Settings) -> data.ImageSet:
    """The pictures that a run validated on, opened again from its data."""
    sets = open_sets(settings.options)
    if (sets[0].classes, len(sets[0])) != (settings.classes, settings.pictures):
        raise data.DataError(
            f"{sets[0].root} has changed since the run {run}: it has {len(sets[0])} training"
            f" pictures in {len(sets[0].classes)} classes, and had {settings.pictures} in"
            f" {len(settings.classes)}; name what to evaluate on with --data"
        )
    return sets[1]


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
