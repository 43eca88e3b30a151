"""A labelled synthetic set of ten classes of drawn shapes and textures, for trying out a network
without any data.

Every picture shows an irregular patch on a cluttered background. The class is the pattern in the
patch: one of five scattered shapes (crosses, moons, rings, stars, triangles) or one of five
textures (checks, dots, stripes, targets, waves). Everything else is random and independent of the
class: both colours, the sizes, positions and rotations, the background and its clutter, and the
lighting. So neither the mean colour nor any single pixel tells the class.
"""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from minigrad import random
from minigrad.data.sources import DataError
from minigrad.files import load_json
from minigrad.models.records import PHOTOGRAPH

SIZE = PHOTOGRAPH[0]

VERSION = 1
SHAPES = ("crosses", "moons", "rings", "stars", "triangles")
TEXTURES = ("checks", "dots", "stripes", "targets", "waves")
CLASSES = tuple(sorted(SHAPES + TEXTURES))


def inside(kind: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where (u, v) lies inside a shape that fills about -1 .. 1."""
    r, angle = np.hypot(u, v), np.arctan2(v, u)
    if kind == "moons":
        return (r < 0.95) & (np.hypot(u - 0.5, v) > 0.75)
    if kind == "rings":
        return (r < 0.95) & (r > 0.55)
    if kind == "crosses":
        return (np.minimum(abs(u), abs(v)) < 0.25) & (np.maximum(abs(u), abs(v)) < 0.95)
    if kind == "triangles":
        return r * np.cos((angle % (2 * np.pi / 3)) - np.pi / 3) < 0.5
    if kind == "stars":
        return r < 0.42 + 0.55 * abs(1 - 2 * ((angle * 5 / (2 * np.pi)) % 1))
    raise ValueError(f"no such shape: {kind}")


def pattern(kind: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where a texture of period 1 has its second colour."""
    if kind == "stripes":
        return u % 1 < 0.5
    if kind == "checks":
        return (u % 1 < 0.5) ^ (v % 1 < 0.5)
    if kind == "dots":
        return np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.3
    if kind == "targets":
        return np.hypot(u, v) % 1 < 0.5
    if kind == "waves":
        return (u + 0.35 * np.sin(2 * np.pi * 0.6 * v)) % 1 < 0.5
    raise ValueError(f"no such texture: {kind}")


def scattered(kind: str, u: np.ndarray, v: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Where (u, v) lies inside one of the shapes on a lattice of period 1, each with its own
    rotation."""
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    turn = turns[i % len(turns), j % len(turns)]
    u, v = (u - i - 0.5) / 0.46, (v - j - 0.5) / 0.46
    return inside(kind, u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn))


def background(rng: random.Stream) -> np.ndarray:
    """A colour gradient with lines, boxes and blobs: (256, 256, 3) float."""
    colours = rng.uniform((2, 3)) * 255
    direction = rng.uniform() * 2 * np.pi
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    t = (x * np.cos(direction) + y * np.sin(direction) + 0.7)[..., None] / 1.4
    image = Image.fromarray((colours[0] * t + colours[1] * (1 - t)).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(4 + int(rng.integers(8))):
        corner, extent = rng.uniform(2) * SIZE, (rng.uniform(2) - 0.5) * 90
        colour = tuple(int(c) for c in rng.uniform(3) * 255)
        box = [*np.minimum(corner, corner + extent), *np.maximum(corner, corner + extent)]
        what = int(rng.integers(3))
        if what == 0:
            draw.line(
                [*corner, *(corner + 2 * extent)], fill=colour, width=1 + int(rng.integers(5))
            )
        elif what == 1:
            draw.rectangle(box, outline=colour, width=1 + int(rng.integers(4)))
        else:
            draw.ellipse(box, outline=colour, width=1 + int(rng.integers(4)))
    return np.asarray(image, np.float64)


def two_colours(rng: random.Stream) -> np.ndarray:
    """Two colours, one at least 90 grey levels lighter than the other: (2, 3)."""
    while True:
        colours = rng.uniform((2, 3)) * 255
        if abs((colours[0] - colours[1]) @ (0.299, 0.587, 0.114)) > 90:
            return colours


def local(rng: random.Stream, centre: np.ndarray, unit) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (u, v) of every pixel relative to `centre`, in units of `unit` pixels, rotated by
    up to 0.25 radians."""
    turn = (rng.uniform() - 0.5) / 2
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    x, y = (x - centre[0]) / unit, (y - centre[1]) / unit
    return x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)


def draw_picture(kind: str, rng: random.Stream) -> np.ndarray:
    """One picture of a class: (256, 256, 3) uint8."""
    picture = background(rng)
    colours = two_colours(rng)
    radius = (0.38 + 0.16 * rng.uniform()) * SIZE
    centre = SIZE / 2 + (rng.uniform(2) - 0.5) * 2 * max(0.56 * SIZE - float(radius), 0.0)
    u, v = local(rng, centre, radius)
    # An irregular patch in the first colour, drawn alike for every class; the pattern in the second
    # colour makes the class.
    wobble, angle = rng.uniform(2) * 2 * np.pi, np.arctan2(v, u)
    patch = np.hypot(u, v) < 0.85 + 0.12 * np.sin(2 * angle + wobble[0]) + 0.08 * np.sin(
        5 * angle + wobble[1]
    )
    if kind in SHAPES:
        figure = scattered(
            kind,
            *local(rng, centre, 34 + 14 * rng.uniform()),
            turns=(rng.uniform((16, 16)) - 0.5) / 2,
        )
    else:
        figure = pattern(
            kind, *local(rng, centre + (rng.uniform(2) - 0.5) * radius, 16 + 8 * rng.uniform())
        )
    picture = np.where(
        patch[..., None], np.where(figure[..., None], colours[1], colours[0]), picture
    )
    light = rng.uniform() * 2 * np.pi
    shade = 1 + 0.15 * rng.uniform() * (u * np.cos(light) + v * np.sin(light))
    noise = rng.normal((SIZE, SIZE, 1)) * 6 * rng.uniform()
    return (
        (picture * shade[..., None] * (0.75 + 0.4 * rng.uniform()) + noise)
        .clip(0, 255)
        .astype(np.uint8)
    )


def draw_set(root: Path, train: int = 200, val: int = 30, seed: int = 0, workers: int = 2) -> None:
    """Draw the set below root: train/CLASS/0000.JPEG and val/CLASS/0000.JPEG, `train` and `val`
    pictures per class.

    Training and validation pictures are drawn from separate random streams, both background and
    object. A folder that already holds the same set is left as it is.
    """
    label = {
        "what": "synthetic shapes and textures, drawn by minigrad",
        "version": VERSION,
        "train": train,
        "val": val,
        "seed": seed,
    }
    marker = root / "synthetic.json"
    try:
        found = load_json(marker) if marker.is_file() else None
    except ValueError as error:
        raise DataError(f"{marker} is damaged ({error}): draw into another folder") from error
    if found == label | {"complete": True}:
        return
    if found is None and root.is_dir() and any(root.iterdir()):
        raise DataError(f"{root} is not empty and holds no synthetic set; draw into another folder")
    for part in ("train", "val"):
        shutil.rmtree(root / part, ignore_errors=True)
        for kind in CLASSES:
            (root / part / kind).mkdir(parents=True)
    marker.write_text(json.dumps(label | {"complete": False}))

    def one(job: tuple[str, str, int]) -> None:
        part, kind, i = job
        picture = draw_picture(kind, random.Stream(seed, f"synthetic {part} {kind} {i}"))
        Image.fromarray(picture).save(root / part / kind / f"{i:04}.JPEG", quality=90)

    jobs = [
        (part, kind, i)
        for part, count in (("train", train), ("val", val))
        for kind in CLASSES
        for i in range(count)
    ]
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for _ in tqdm(
            pool.map(one, jobs), "drawing synthetic pictures", len(jobs), leave=False, disable=None
        ):
            pass
    marker.write_text(json.dumps(label | {"complete": True}))
