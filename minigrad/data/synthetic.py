"""A labelled synthetic set: ten classes of shapes and textures, drawn, for trying out a network without any data.

Five classes are filled outlines (cross, disc, ring, star, triangle), five are textures inside an irregular patch (checks, dots,
stripes, targets, waves). Everything else is drawn independently of the class: both colours, size, place, rotation, the background's
colours and clutter, the lighting. So neither the mean colour nor a pixel by itself tells the class.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from minigrad import random
from minigrad.data.images import SIZE

VERSION = 1
CLASSES = ("checks", "cross", "disc", "dots", "ring", "star", "stripes", "targets", "triangle", "waves")


def inside(kind: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where (u, v) lies inside a shape that fills about -1 .. 1."""
    r, angle = np.hypot(u, v), np.arctan2(v, u)
    if kind == "disc":
        return r < 0.85
    if kind == "ring":
        return (r < 0.95) & (r > 0.55)
    if kind == "cross":
        return (np.minimum(abs(u), abs(v)) < 0.25) & (np.maximum(abs(u), abs(v)) < 0.95)
    if kind == "triangle":
        return r * np.cos((angle % (2 * np.pi / 3)) - np.pi / 3) < 0.5
    if kind == "star":
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
            draw.line([*corner, *(corner + 2 * extent)], fill=colour, width=1 + int(rng.integers(5)))
        elif what == 1:
            draw.rectangle(box, outline=colour, width=1 + int(rng.integers(4)))
        else:
            draw.ellipse(box, outline=colour, width=1 + int(rng.integers(4)))
    return np.asarray(image, np.float64)


def two_colours(rng: random.Stream) -> np.ndarray:
    """Two colours at least 120 apart: (2, 3)."""
    while True:
        colours = rng.uniform((2, 3)) * 255
        if np.linalg.norm(colours[0] - colours[1]) > 120:
            return colours


def draw_picture(kind: str, rng: random.Stream) -> np.ndarray:
    """One picture of a class: (256, 256, 3) uint8."""
    picture = background(rng)
    colours = two_colours(rng)
    radius = (0.28 + 0.2 * rng.uniform()) * SIZE
    centre = SIZE / 2 + (rng.uniform(2) - 0.5) * 2 * (0.56 * SIZE - radius).clip(0)
    turn = rng.uniform() * 2 * np.pi
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    x, y = (x - centre[0]) / radius, (y - centre[1]) / radius
    u, v = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    wobble = rng.uniform(3)
    if kind in ("cross", "disc", "ring", "star", "triangle"):
        mask, fill = inside(kind, u, v), np.zeros_like(u, bool)
        colours[0] = away_from(colours[0], picture[mask].mean(axis=0))
    else:
        angle = np.arctan2(v, u)
        edge = 0.85 + 0.12 * np.sin(2 * angle + 6.3 * wobble[0]) + 0.08 * np.sin(5 * angle + 6.3 * wobble[1])
        period = 0.22 + 0.2 * wobble[2]
        mask, fill = np.hypot(u, v) < edge, pattern(kind, u / period, v / period)
    picture = np.where(mask[..., None], np.where(fill[..., None], colours[1], colours[0]), picture)
    light = rng.uniform() * 2 * np.pi
    shade = 1 + (0.3 * rng.uniform()) * (x * np.cos(light) + y * np.sin(light)) / 2
    noise = rng.normal((SIZE, SIZE, 1)) * 6 * rng.uniform()
    return (picture * shade[..., None] * (0.75 + 0.4 * rng.uniform()) + noise).clip(0, 255).astype(np.uint8)


def away_from(colour: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The colour, turned to its complement where it would hardly show on `other`."""
    return 255 - colour if np.linalg.norm(colour - other) < 80 < np.linalg.norm(255 - colour - other) else colour


def draw_set(root: Path, train: int = 200, val: int = 30, seed: int = 0, workers: int = 2) -> None:
    """Draw the set below root: train/CLASS/0000.JPEG and val/CLASS/0000.JPEG, `train` and `val` pictures a class.

    Training and validation pictures come from streams of their own, background and object alike. A folder that holds the same set already
    is left as it is.
    """
    label = {"what": "synthetic shapes and textures, drawn by minigrad", "version": VERSION, "train": train, "val": val, "seed": seed}
    marker = root / "synthetic.json"
    if marker.is_file() and json.loads(marker.read_text()) == label:
        return
    if root.is_dir() and any(root.iterdir()) and not marker.is_file():
        raise ValueError(f"{root} is not empty and holds no synthetic set; draw into another folder")

    def one(job: tuple[str, str, int]) -> None:
        part, kind, i = job
        picture = draw_picture(kind, random.Stream(seed, f"synthetic {part} {kind} {i}"))
        Image.fromarray(picture).save(root / part / kind / f"{i:04}.JPEG", quality=90)

    jobs = [(part, kind, i) for part, count in (("train", train), ("val", val)) for kind in CLASSES for i in range(count)]
    marker.unlink(missing_ok=True)
    for part in ("train", "val"):
        for kind in CLASSES:
            folder = root / part / kind
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob("*.JPEG"):
                old.unlink()
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        for _ in tqdm(pool.map(one, jobs), "drawing synthetic pictures", len(jobs), leave=False, disable=None):
            pass
    marker.write_text(json.dumps(label))
