"""The weights of a layer as pictures, and the spectrum of a first layer's filters, which shows the
flaws that Zeiler and Fergus (arXiv 1311.2901v3, section 4.1) saw in AlexNet's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from minigrad import nn
from minigrad.look.pictures import new_figure
from minigrad.look.sheet import beside, coloured, enlarged, largest, save, sheet, signed
from minigrad.network import Network

GRID = 64  # points of a filter's Fourier transform along each axis
BANDS = 16  # bands of frequency, up to 1/2 cycle per pixel


def weight_stages(model: Network) -> list[str]:
    """Names of the stages with weights."""
    return [name for name in model.stages if isinstance(model[name], (nn.Conv2d, nn.Linear))]


def columns_of(model: Network, stage: str) -> int:
    """The number of groups of a layer's maps, in the layer itself or the next convolution; in the
    paper these are the two GPUs."""
    names = weight_stages(model)
    layers = [model[name] for name in names[names.index(stage) :][:2]]
    return max((layer.groups for layer in layers if isinstance(layer, nn.Conv2d)), default=1)


def draw_filters(model: Network, stage: str, path: Path) -> Path:
    """The weights of a stage, written to `path` as PNG.

    The first layer's filters are tiles, each on its own scale (the paper's figure 3), with the two
    groups of maps side by side. In other convolutions every filter is a row of tiles, one for each
    map that it sees, all on one scale. In a dense layer a row is a unit and a column an input; if
    there are more than 1,024 of either, a pixel is the root mean square of several weights.
    """
    if stage not in (names := weight_stages(model)):
        raise ValueError(f"{stage!r} has no weights: choose from {', '.join(names)}")
    w = dict(model.named_parameters())[f"{stage}.w"].numpy()
    if w.ndim == 2:
        return save(dense_sheet(w, stage), path)
    KH, KW, C, O = w.shape
    if stage == names[0]:
        parts = []
        for part in np.split(np.arange(O), columns_of(model, stage)):
            tiles = [enlarged(coloured(w[..., o]), 44) for o in part]
            title = f"{stage}: filters {part[0]} to {part[-1]}, {KH}x{KW}, each on its own scale"
            parts.append(sheet(tiles, captions=[str(o) for o in part], title=title))
        return save(beside(parts), path)
    limit = largest(w)
    page = np.full((O, KH + 1, C, KW + 1), np.nan, w.dtype)
    page[:, :KH, :, :KW] = w.transpose(3, 0, 2, 1)
    page = page.reshape(O * (KH + 1), C * (KW + 1))
    tile = signed(page, limit)
    tile[np.isnan(page)] = 225
    title = f"{stage}: {O} filters (rows), each of {C} maps it sees (columns), {KH}x{KW}"
    return save(sheet([tile], title=title, limit=limit), path)


def dense_sheet(w: np.ndarray, stage: str) -> np.ndarray:
    """The weights (in, out) of a dense layer as a picture of at most 1,024 x 1,024 pixels."""
    a, b = (-(-side // 1024) for side in w.shape)
    shown = w.T
    title = f"{stage}: {w.shape[1]} units (rows), {w.shape[0]} inputs (columns)"
    if a * b > 1:
        title += f"; a pixel is the root mean square of {a} x {b} weights"
        rows = np.arange(0, w.shape[0], a)
        sums = np.stack([np.square(w[r : r + a], dtype=np.float64).sum(axis=0) for r in rows])
        sums = np.add.reduceat(sums, np.arange(0, w.shape[1], b), axis=1)
        counts = (np.minimum(part, side - np.arange(0, side, part)) for part, side in
                  zip((a, b), w.shape))  # fmt: skip
        shown = np.sqrt(sums / np.outer(*counts)).T
    tile = signed(shown, largest(shown)).repeat(max(1, 256 // len(shown)), axis=0)
    return sheet([tile], title=title, limit=largest(shown))


@dataclass(frozen=True)
class Spectrum:
    """The spectrum of the filters of a first layer.

    frequencies: (BANDS,), the middle of each band, in cycles per pixel. density: (BANDS,), the mean
    energy of the filters there, where 1 is that of white noise, such as untrained filters. dead:
    (O,), whether a filter's root mean square is below a tenth of the largest one. aliased: (O,),
    whether more than half of a filter's energy lies, along either axis, above 1 / (2 stride), the
    highest frequency that its stride can resolve. White noise is aliased at every stride above 1.
    """

    frequencies: np.ndarray
    density: np.ndarray
    dead: np.ndarray
    aliased: np.ndarray


def spectrum(w: np.ndarray, stride: int = 1) -> Spectrum:
    """The spectrum of filters (KH, KW, C, O), from their Fourier transform on a grid of 64 x 64."""
    energy = (np.abs(np.fft.fft2(w, (GRID, GRID), axes=(0, 1))) ** 2).sum(axis=2)  # (., ., O)
    energy /= np.maximum(energy.sum(axis=(0, 1)), 1e-38)
    along = np.abs(np.fft.fftfreq(GRID))
    radius = np.hypot(along[:, None], along)
    edges = np.linspace(0, 0.5, BANDS + 1)
    bands = [(radius >= a) & (radius < b) for a, b in pairwise(edges)]
    density = np.array([energy[band].sum() / band.sum() for band in bands])
    density *= GRID**2 / w.shape[3]
    beyond = np.maximum(along[:, None], along) > 1 / (2 * stride)
    rms = np.sqrt(np.square(w, dtype=np.float64).mean(axis=(0, 1, 2)))
    return Spectrum(
        (edges[1:] + edges[:-1]) / 2,
        density,
        rms < 0.1 * rms.max(),
        energy[beyond].sum(axis=0) > 0.5,
    )


def draw_spectrum(layers: Mapping[str, tuple[np.ndarray, int]], path: Path) -> Path:
    """Draw the spectra of first layers, given as {name: (filters, stride)}, as curves."""
    figure = new_figure((8, 4.5))
    axes = figure.subplots()
    for i, (name, (w, stride)) in enumerate(layers.items()):
        s = spectrum(w, stride)
        label = (
            f"{name}, stride {stride}: {s.dead.sum()} dead, {s.aliased.sum()} aliased of"
            f" {w.shape[3]} filters{' (of white noise: all)' if stride > 1 else ''}"
        )
        axes.plot(s.frequencies, s.density, f"C{i}", marker=".", label=label)
        if stride > 1:
            axes.axvline(1 / (2 * stride), color=f"C{i}", linestyle=":", linewidth=1)
    axes.axhline(1, color="0.6", linewidth=1)
    axes.set(
        xlabel="frequency (cycles per pixel); dotted: the highest that the stride resolves",
        ylabel="energy (white noise: 1)", xlim=(0, 0.5), ylim=(0, None),
    )  # fmt: skip
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    return path
