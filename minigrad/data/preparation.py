"""How a picture becomes input: the paper's preparation and augmentation.

For a picture p of 0 .. 255, for photographs 256 x 256 x 3, in training (Krizhevsky et al. 2012,
section 4.1):

    x = (mirror(crop(p)) - mean + colour) * scale
    colour = [p1 p2 p3] [a1 s1, a2 s2, a3 s3]^T

    crop     random size x size, different for each picture; mirror: for every second one
    p, s^2   eigenvectors and eigenvalues of the RGB covariance of the training pixels
    a        Gaussian, standard deviation 0.1, drawn for each picture

and in testing the centre crop, without mirror or colour. The paper writes the eigenvalue in place
of s; on a scale of 0 .. 255 that would be some thousand grey levels. The 2012 code takes its square
root (convdata.py), and so does this one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from minigrad import backend, kernels, random
from minigrad.data.cache import Pictures
from minigrad.data.images import ImageError
from minigrad.models.records import Preprocessing


@dataclass
class Statistics:
    """Statistics of the training pictures: the mean image, float32, of the pictures' shape, and the
    eigendecomposition of the covariance of the C channels."""

    mean: np.ndarray
    eigenvalues: np.ndarray  # (C,) float32, descending
    eigenvectors: np.ndarray  # (C, C) float32, one per column
    std: float  # standard deviation of all pixels about their channel's mean


def statistics(pictures: Pictures, most: int = 10_000, seed: int = 0) -> Statistics:
    """The mean image and RGB covariance of the pictures, or of `most` of them, chosen at random, if
    there are more."""
    order = np.arange(len(pictures))
    if len(order) > most:
        order = np.sort(random.Stream(seed, "statistics").permutation(len(order))[:most])
    H, W, C = pictures.shape
    total = np.zeros(pictures.shape, np.int64)
    products = np.zeros((C, C))
    count = 0
    for i in tqdm(order, "mean and colours", leave=False, disable=None):
        try:
            p = pictures.read(int(i))
        except ImageError:
            continue
        total += p
        flat = p.reshape(-1, C).astype(np.float32)
        products += flat.T @ flat
        count += 1
    if count == 0:
        raise ImageError(
            f"none of the {len(pictures)} pictures in {pictures.images.root} can be read"
        )
    mean = total / count
    centre = mean.mean(axis=(0, 1))
    covariance = products / (count * H * W) - np.outer(centre, centre)
    values, vectors = np.linalg.eigh(covariance)
    vectors = vectors * np.where(
        vectors.sum(axis=0) < 0, -1, 1
    )  # fix the sign, so that the result does not depend on the LAPACK
    return Statistics(
        mean.astype(np.float32),
        values[::-1].clip(0).astype(np.float32),
        vectors[:, ::-1].astype(np.float32),
        float(np.sqrt(max(np.trace(covariance) / C, 1e-12))),
    )


def prepare_images(
    pictures: np.ndarray,
    crops: np.ndarray,
    mean: np.ndarray,
    shift: np.ndarray,
    scale: np.ndarray,
    out: np.ndarray,
) -> None:
    """out = (mirror(crop(picture)) - mean + shift) * scale. Shapes as in Preparation.into;
    shift (n, channels), scale (channels,). Kernel: kernels/images.cu."""
    n, size = out.shape[:2]
    if kernels.ready(out):
        given = [kernels.contiguous(a) for a in (pictures, crops, mean, shift, scale)]
        kernels.launch(
            "prepare_images", n * size, *given, out, pictures.shape[1], size, out.shape[3]
        )
        return
    for i, (top, left, mirror) in enumerate(backend.to_numpy(crops)):
        crop = pictures[i, top : top + size, left : left + size]
        np.subtract(crop[:, ::-1] if mirror else crop, mean, out=out[i])
    out += shift[:, None, None]
    out *= scale


@dataclass
class Preparation:
    """How a picture becomes input. size: side of the crop; mean: (size, size, C) or (C,); scale: a
    factor, or one for each channel; colour: (C, C) with columns 0.1 p_i s_i, or None for no colour
    noise; shrink: the divisor of coloured pictures, which is 1.1 in the 2012 code."""

    size: int
    mean: np.ndarray
    scale: np.ndarray | float
    colour: np.ndarray | None = None
    shrink: float = 1.0
    mirror: bool = True  # training pictures may be mirrored
    random_crops: bool = True  # training pictures are not cropped at the centre alone

    def __post_init__(self) -> None:
        shape = (self.size, self.size, np.shape(self.mean)[-1])
        self.mean = np.ascontiguousarray(np.broadcast_to(self.mean, shape), np.float32)
        # Round them as a checkpoint does, so that a resumed run computes with the same numbers.
        self.scale = np.broadcast_to(np.asarray(self.scale, np.float32), shape[2:]).copy()
        self.shrink = float(np.float32(self.shrink))

    @classmethod
    def of(cls, p: Preprocessing, stats: Statistics) -> Preparation:
        """What a model's preprocessing asks for, with the statistics of the training pictures."""
        margin = (stats.mean.shape[0] - p.size) // 2
        inside = slice(margin, margin + p.size)
        mean = stats.mean[inside, inside]  # every crop has the mean's centre subtracted, as in 2012
        if p.mean == "channel":
            mean = stats.mean.mean(axis=(0, 1))
        elif not isinstance(p.mean, str):
            mean = np.full(p.channels, p.mean)
        scale = np.array(p.scale)
        if p.unit_std:
            scale = scale / stats.std
        colour = None
        if p.colour_noise:
            colour = p.colour_noise * stats.eigenvectors * np.sqrt(stats.eigenvalues)
        return cls(p.size, mean, scale, colour, p.shrink, p.mirror, p.random_crops)

    def prepare_into(
        self, out: np.ndarray, pictures: np.ndarray, crops: np.ndarray, noise: np.ndarray | None
    ) -> None:
        """Write prepared pictures into out (n, size, size, C) float32.

        pictures: at least n, (side, side, C) bytes each; crops: (n, 3) int32, top, left, mirror;
        noise: (n, C), called a in the paper.
        Raises ValueError if a crop reaches outside the pictures, or if arrays have other shapes or
        dtypes.
        """
        n, side, C = len(out), pictures.shape[1] if pictures.ndim > 1 else 0, self.mean.shape[2]
        if out.shape != (n, *self.mean.shape) or out.dtype != np.float32:
            raise ValueError(
                f"prepared pictures are (n, {self.size}, {self.size}, {C}) float32, not {out.shape}"
                f" {out.dtype}"
            )
        if (
            pictures.ndim != 4
            or len(pictures) < n
            or pictures.shape[1:] != (side, side, C)
            or pictures.dtype != np.uint8
        ):
            raise ValueError(
                f"pictures must be ({n} or more, side, side, {C}) uint8, not {pictures.shape}"
                f" {pictures.dtype}"
            )
        if crops.shape != (n, 3) or crops.dtype != np.int32:
            raise ValueError(
                f"crops must be ({n}, 3) int32: top, left, mirror; not {crops.shape} {crops.dtype}"
            )
        corners = crops[:, :2]
        if n and not 0 <= corners.min() <= corners.max() <= side - self.size:
            outside = tuple(
                corners[((corners < 0) | (corners > side - self.size)).any(axis=1)][0].tolist()
            )
            raise ValueError(
                f"a crop of {self.size}x{self.size} at {outside} reaches outside pictures of"
                f" {side}x{side}"
            )
        shift, scale = np.zeros((n, C), np.float32), np.asarray(self.scale)
        if self.colour is not None and noise is not None:
            shift[:] = (noise[:, None] * self.colour).sum(axis=2)  # for each picture separately
            scale = (scale.astype(np.float64) / self.shrink).astype(np.float32)
        prepare_images(pictures, crops, self.mean, shift, scale, out)

    def centre(self, pictures: np.ndarray) -> np.ndarray:
        """The test view of pictures: (n, size, size, C)."""
        margin = (pictures.shape[1] - self.size) // 2
        return self.crop(pictures, margin, margin, False)

    def crop_of(self, picture: np.ndarray) -> np.ndarray:
        """The central square of a picture, which `centre` would prepare, as it is."""
        margin = (picture.shape[0] - self.size) // 2
        return picture[margin : margin + self.size, margin : margin + self.size]

    def views(self, pictures: np.ndarray) -> Iterator[np.ndarray]:
        """The paper's ten test views (section 4.1): four corners and the centre, each also
        mirrored; each (n, size, size, C)."""
        far = pictures.shape[1] - self.size
        for top, left in ((0, 0), (0, far), (far, 0), (far, far), (far // 2, far // 2)):
            for mirror in (False, True):
                yield self.crop(pictures, top, left, mirror)

    def crop(self, pictures: np.ndarray, top: int, left: int, mirror: bool) -> np.ndarray:
        """One crop of every picture, without colour noise."""
        out = np.empty((len(pictures), *self.mean.shape), np.float32)
        self.prepare_into(
            out,
            pictures,
            np.tile(np.array([top, left, mirror], np.int32), (len(pictures), 1)),
            None,
        )
        return out

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that a checkpoint keeps, so that pictures are prepared alike later."""
        colour = np.zeros((self.mean.shape[2],) * 2) if self.colour is None else self.colour
        values = {"mean": self.mean, "scale": self.scale, "colour": colour, "shrink": self.shrink}
        return {
            f"preparation.{name}": np.asarray(value, np.float32) for name, value in values.items()
        }

    @classmethod
    def from_arrays(cls, tensors: Mapping[str, np.ndarray], p: Preprocessing) -> Preparation:
        """The inverse of arrays(); what is no array comes from the model's preprocessing."""
        mean, scale, colour, shrink = (
            tensors[f"preparation.{name}"] for name in ("mean", "scale", "colour", "shrink")
        )
        noise = colour if colour.any() else None
        return cls(p.size, mean, scale, noise, float(shrink), p.mirror, p.random_crops)
