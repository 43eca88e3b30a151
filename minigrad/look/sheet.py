"""Sheets of tiles: arrays side by side as one picture, with numbers that explain the colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from minigrad.text import shown

WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (110, 110, 110)
NEGATIVE, POSITIVE = np.array([33, 102, 172]), np.array([178, 24, 43])  # blue, red
LINE = 14  # pixels of a line of text
GAP = 3


def signed(a: np.ndarray, limit: float | None = None) -> np.ndarray:
    """Numbers (H, W) as colours, (H, W, 3) uint8: -limit is blue, zero white, limit red, NaN black.
    If limit is None, it is the largest |a|."""
    limit = largest(a) if limit is None else limit
    share = np.clip(np.asarray(a, np.float64) / (limit or 1), -1, 1)[..., None]
    colours = 255 + np.where(share < 0, -share * (NEGATIVE - 255.0), share * (POSITIVE - 255.0))
    return np.where(np.isnan(share), 0, colours).round().astype(np.uint8)


def coloured(a: np.ndarray, limit: float | None = None) -> np.ndarray:
    """Signed numbers (H, W, 3) as red, green and blue, where grey is zero. With one channel they
    are drawn as by `signed`."""
    if a.shape[-1] != 3:
        return signed(a.mean(axis=-1), limit)
    limit = largest(a) if limit is None else limit
    share = np.clip(np.nan_to_num(np.asarray(a, np.float64)) / (limit or 1), -1, 1)
    return (127.5 + 127.5 * share).round().astype(np.uint8)


def photograph(picture: np.ndarray) -> np.ndarray:
    """A picture (H, W, 1 or 3) uint8 with three channels."""
    return np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture


def hatched(height: int, width: int) -> np.ndarray:
    """A tile that stands for nothing to show, such as a map that is never active."""
    v, u = np.mgrid[:height, :width]
    return np.where(((v + u) % 6 < 2)[..., None], 170, 235).astype(np.uint8) * np.ones(3, np.uint8)


def largest(a: np.ndarray) -> float:
    """The largest finite |a|, or 0."""
    return float(np.abs(np.nan_to_num(a, nan=0, posinf=0, neginf=0)).max(initial=0))


def contrast(a: np.ndarray) -> float:
    """A limit for `coloured` that shows a projection well: 1 % of its |a| above 0 exceed it."""
    size = np.abs(a)
    return float(np.quantile(size[size > 0], 0.99)) if size.any() else 0.0


def enlarged(tile: np.ndarray, side: int) -> np.ndarray:
    """Enlarge every pixel to a square of pixels, as large as fits into `side`, at least 1."""
    factor = max(1, side // max(tile.shape[:2]))
    return tile.repeat(factor, axis=0).repeat(factor, axis=1)


def shrunk(tile: np.ndarray, side: int) -> np.ndarray:
    """Shrink a square tile (s, s, C) of numbers or colours to at most `side` pixels."""
    if len(tile) <= side:
        return tile
    channels = [
        np.asarray(Image.fromarray(channel).resize((side, side), Image.Resampling.BILINEAR))
        for channel in np.moveaxis(tile, -1, 0)
    ]
    return np.stack(channels, axis=-1)


def sheet(
    tiles: Sequence[np.ndarray],
    columns: int = 0,
    captions: Sequence[str] = (),
    title: str = "",
    limit: float | None = None,
) -> np.ndarray:
    """Tiles (h, w, 3) uint8 in rows, each below its caption.

    columns: tiles in a row; 0 makes the sheet about square. limit: if given, the colour scale of
    `signed` is drawn below, with numbers.
    """
    count = max(1, len(tiles))
    H = max((t.shape[0] for t in tiles), default=1)
    W = max((t.shape[1] for t in tiles), default=1)
    if captions:
        W = max(W, max(math.ceil(font().getlength(c)) for c in captions))
    columns = columns or max(1, round(math.sqrt(count * (H + LINE) / W)))
    columns = min(columns, count)
    step_y, step_x = H + GAP + (LINE if captions else 0), W + GAP
    top = GAP + (LINE * len(title.splitlines()))
    height = top + step_y * -(-count // columns) + (2 * LINE + GAP if limit is not None else 0)
    width = max(GAP + step_x * columns, 220 if limit is not None else 0)
    width = max([width, *(2 * GAP + math.ceil(font().getlength(t)) for t in title.splitlines())])
    canvas = np.full((height, width, 3), 255, np.uint8)
    places = []
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        y, x = top + row * step_y, GAP + column * step_x
        places.append((x, y))
        y += LINE if captions else 0
        canvas[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    if limit is not None:
        ramp = signed(np.linspace(-1, 1, 200)[None], 1).repeat(LINE - 4, axis=0)
        canvas[height - LINE - ramp.shape[0] : height - LINE, GAP : GAP + 200] = ramp
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for n, text in enumerate(title.splitlines()):
        draw.text((GAP, GAP + n * LINE), shown(text), BLACK, font())
    for (x, y), caption in zip(places, captions):
        draw.text((x, y), shown(caption), GREY, font())
    if limit is not None:
        for x, text in ((GAP, f"{-limit:.3g}"), (GAP + 97, "0"), (GAP + 172, f"{limit:.3g}")):
            draw.text((x, height - LINE), text, BLACK, font())
    return np.asarray(image)


def beside(sheets: Sequence[np.ndarray]) -> np.ndarray:
    """Sheets side by side."""
    height = max(s.shape[0] for s in sheets)
    padded = [
        np.pad(s, ((0, height - s.shape[0]), (0, 4 * GAP), (0, 0)), constant_values=255)
        for s in sheets
    ]
    return np.concatenate(padded, axis=1)


def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default()


def save(picture: np.ndarray, path: Path) -> Path:
    """Write a sheet as PNG."""
    Image.fromarray(picture).save(path, "PNG")
    return path
