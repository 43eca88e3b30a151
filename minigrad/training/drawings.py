"""The pictures that are drawn at the end of a training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minigrad import backend, look, random
from minigrad.engine import no_grad
from minigrad.network import Network, Row, feature_stage, ledger
from minigrad.training import checkpoint
from minigrad.training.evaluation import Evaluation
from minigrad.training.settings import Settings
from minigrad.training.trainer import Trainer

GRID = 24  # pictures of predictions.png and strongest.png
MAPS = 16  # maps of a stage that are drawn by default


def draw_run(trainer: Trainer, result: Evaluation, settings: Settings) -> list[Path]:
    """Draw into the run's folder: learning curves, filters, the ledger, a grid of predictions, and
    for the pictures of that grid the strongest maps with what caused them."""
    run, model, pictures = trainer.run, trainer.model, trainer.val.pictures
    if trainer.in_columns:  # the whole network, from the checkpoint
        own = checkpoint.part(run.newest("model.")[0], "model.")
        model = Network(settings.network, len(settings.classes), seed=None)
        model.load_state_dict(own)
        model.to(trainer.device)
    few = random.Stream(settings.options.seed, "grid").permutation(len(result.labels))[:GRID]
    rows = run.rows("steps.csv"), run.rows("metrics.csv")
    files = [look.draw_curves(*rows, run.path / "curves.png")]
    if isinstance(model, Network):
        first = look.weight_stages(model)[0]
        files.append(look.draw_filters(model, first, run.path / "filters.png"))
        stages = ledger(model.preset, model.classes)
        files.append(look.draw_ledgers({settings.options.preset: stages}, run.path / "ledger.png"))
        files.append(draw_strongest(trainer, model, np.sort(result.indices[few]), stages))
    files.append(
        look.draw_predictions(
            [pictures.read(int(result.indices[i])) for i in few],
            [int(result.labels[i]) for i in few],
            result.probabilities[few],
            settings.names,
            run.path / "predictions.png",
        )
    )
    return files


def draw_strongest(trainer: Trainer, model: Network, few: np.ndarray, rows: Sequence[Row]) -> Path:
    """strongest.png: the strongest activations of the highest stage's maps in a few pictures."""
    stage, val = feature_stage(model.preset), trainer.val
    row = next(r for r in rows if r.stage == stage)
    with model.in_test_mode(), no_grad():
        x = backend.to_device(val.prepare(few)[0], trainer.device)
        found = look.peaks_of(model.run(x, stage).data, few)
    maps = [int(m) for m in found.order()[:MAPS]]
    pixels = look.project_strongest(model, val, stage, found, maps, trainer.device)
    path = trainer.run.path / "strongest.png"
    return look.draw_nine(
        found, row, maps, lambda i: val.preparation.crop_of(val.pictures.read(i)), pixels, path
    )
