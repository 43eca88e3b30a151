"""How features develop: a map's strongest activation, projected, after several epochs (Zeiler and
Fergus, arXiv 1311.2901v3, section 4.1 and figure 4). "Sudden jumps in appearance result from a
change in the image from which the strongest activation originates", so each picture is named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minigrad import backend
from minigrad.data import Loader
from minigrad.look.activations import Strongest, find_strongest, patch, project_strongest
from minigrad.look.sheet import coloured, contrast, enlarged, hatched, save, sheet, shrunk
from minigrad.network import Network, ledger


@dataclass(frozen=True)
class Moment:
    """A stage after an epoch: the strongest activation of each map over a set, and its projection
    (H, W, C) by map. A map that is not active has no projection."""

    epoch: float
    strongest: Strongest
    pixels: dict[int, np.ndarray]


def follow_features(
    model: Network,
    weights: Iterable[tuple[float, Mapping[str, np.ndarray]]],
    loader: Loader,
    stage: str,
    maps: Sequence[int],
    device: str = "cpu",
    **rules: str,
) -> list[Moment]:
    """A Moment for each (epoch, parameters of the convolutions by name). At the end the model has
    its own parameters again. rules: those of deconvnet.project.

    Raises ValueError if parameters that the stage needs are missing, as those of dense layers
    always are, or do not fit.
    """
    own, moments = dict(model.named_parameters()), []
    below = model.stages[: model.stages.index(stage) + 1] if stage in model.stages else []
    needed = [name for name in own if name.rpartition(".")[0] in below]
    before = {name: own[name].data for name in needed}
    try:
        for epoch, kept in weights:
            for name in needed:
                if name not in kept or kept[name].shape != own[name].shape:
                    raise ValueError(
                        f"the features kept at epoch {epoch:g} have no {name} of shape"
                        f" {own[name].shape}; they can be followed as far as the convolutions go"
                    )
                own[name].data = backend.to_device(kept[name], own[name].device)
            found = find_strongest(model, loader, [stage], device, k=1)[stage]
            pixels = project_strongest(model, loader, stage, found, maps, device, **rules)
            moments.append(Moment(epoch, found, {m: p for (m, _), p in pixels.items()}))
    finally:
        for name in needed:
            own[name].data = before[name]
    if not moments:
        raise ValueError("no features were kept: there is nothing to follow")
    return moments


def draw_evolution(
    moments: Sequence[Moment], model: Network, stage: str, maps: Sequence[int], path: Path
) -> Path:
    """Draw a row for each map and a column for each epoch. The captions give the map, the epoch and
    the picture, with * if it is another than before. Each tile is scaled by itself, as in the
    paper's figure."""
    row = next(r for r in ledger(model.preset, model.classes) if r.stage == stage)
    tiles, captions = [], []
    for m in maps:
        before = None
        for moment in moments:
            picture = int(moment.strongest.pictures[0, m])
            jump = "*" if before not in (None, picture) else ""
            before = picture
            if m in moment.pixels:
                p = moment.pixels[m]
                tile = shrunk(patch(p, row, moment.strongest.at[0, m], fill=0), 96)
                tiles.append(enlarged(coloured(tile, contrast(tile)), 96))
                captions.append(f"{m} @{moment.epoch:g}: {picture}{jump}")
            else:
                tiles.append(hatched(96, 96))
                captions.append(f"{m} @{moment.epoch:g}: none")
    title = f"{stage}: map @epoch: number of the picture with the strongest activation"
    return save(sheet(tiles, len(moments), captions, title), path)
