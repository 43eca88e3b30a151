"""Digits drawn with the fonts that come with matplotlib: a set of MNIST's shape, without a
download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from minigrad import random

SIDE = 28  # as MNIST's
FAMILIES = "DejaVuSans*.ttf", "DejaVuSerif*.ttf"


def draw_digits(count: int, seed: int, part: str) -> tuple[np.ndarray, np.ndarray]:
    """(pictures (count, 28, 28, 1) uint8, white on black; labels (count,) int64), with every digit
    equally often.

    part: "train" or "test"; every fourth font is used for testing only. The font, the size, an
    angle up to 15 degrees, the slant and the position of each digit are drawn at random.
    """
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    files = sorted(path for family in FAMILIES for path in folder.glob(family))
    files = [path for path in files if "Display" not in path.name]
    files = [path for i, path in enumerate(files) if (i % 4 == 3) == (part == "test")]
    fonts = [ImageFont.truetype(str(path), size) for path in files for size in (36, 42, 48)]
    rng = random.Stream(seed, "digits")
    labels = rng.permutation(count) % 10
    which, turns = rng.integers(len(fonts), count), 30 * rng.uniform(count) - 15
    slants, places = 0.5 * rng.uniform(count) - 0.25, 9 * rng.uniform((count, 2)) - 4.5
    pictures = np.empty((count, SIDE, SIDE, 1), np.uint8)
    for i in range(count):
        page = Image.new("L", (2 * SIDE, 2 * SIDE))
        middle = tuple(SIDE + places[i])
        ImageDraw.Draw(page).text(middle, str(labels[i]), 255, fonts[which[i]], anchor="mm")
        page = page.rotate(turns[i], Image.Resampling.BILINEAR)
        shear = (1, slants[i], -slants[i] * SIDE, 0, 1, 0)
        page = page.transform(page.size, Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR)
        pictures[i, :, :, 0] = np.asarray(page.resize((SIDE, SIDE), Image.Resampling.BOX))
    return pictures, labels.astype(np.int64)
