"""Activation maps: the values of every map of a stage for one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minigrad.look.sheet import enlarged, hatched, largest, save, sheet, signed

UNITS = 64  # units of a dense layer in a row


def dead_maps(y: np.ndarray) -> np.ndarray:
    """(M,): whether a map (or unit) of y (N, ..., M) is nowhere above 0, for every picture. The
    column `dead` of health.csv is the mean of this."""
    return np.logical_not((y > 0).reshape(-1, y.shape[-1]).any(axis=0))


def draw_maps(y: np.ndarray, stage: str, path: Path, scale: str = "map", side: int = 56) -> Path:
    """Draw all maps of one picture, y (H, W, M) or (M,), to `path` as PNG.

    Zero is white, negative values are blue, positive ones red. scale: "map" scales each map to its
    own largest |value|, which is in its caption; "layer" scales all to the same value, drawn below.
    A map that is 0 everywhere is hatched, and counted in the title. The units of a dense layer are
    squares, 64 in a row, on one scale.
    """
    if scale not in ("map", "layer"):
        raise ValueError(f"scale must be map or layer, not {scale!r}")
    limit, M = largest(y), y.shape[-1]
    zero = np.logical_not(y.reshape(-1, M).any(axis=0))
    title = f"{stage}: {M} {'maps' if y.ndim == 3 else 'units'}, {zero.sum()} of them dead"
    if y.ndim == 1:
        rows = -(-M // UNITS)
        squares = np.full(rows * UNITS, np.nan)
        squares[:M] = y
        tile = signed(squares.reshape(rows, UNITS), limit)
        tile[np.isnan(squares).reshape(rows, UNITS)] = 225
        return save(sheet([enlarged(tile, 8 * UNITS)], title=title, limit=limit), path)
    tiles, captions = [], []
    for m in range(M):
        tile = signed(y[..., m], limit if scale == "layer" else None)
        tile = enlarged(tile, side)
        tiles.append(hatched(*tile.shape[:2]) if zero[m] else tile)
        captions.append(f"{m}: {largest(y[..., m]):.3g}")
    shown = sheet(tiles, captions=captions, title=title, limit=limit if scale == "layer" else None)
    return save(shown, path)
