"""Decode one image file to one array, as the paper does: scale the shorter side and keep the
central square (section 2)."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from minigrad.models.records import PHOTOGRAPH

# The formats that are decoded, whatever a file is called. Pillow knows more formats, but for some
# of them (such as EPS) it starts other programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")

# Pixels of a picture that is decoded whole. A JPEG can be decoded smaller; Pillow limits it to 89
# million.
LARGEST = 1 << 25


class ImageError(ValueError):
    """A file that cannot be read as a picture; the message names it and says why."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as RGB: greyscale repeated, CMYK converted, 16 bits reduced to 8,
    transparency laid over white."""
    if image.mode.startswith("I") or image.mode == "F":  # 16- and 32-bit greyscale
        values = np.asarray(image).astype(np.float64)
        if not (values.min() >= 0 and values.max() < np.inf):  # also false for NaN
            raise ValueError("its grey values are negative or not finite")
        white = values.max() if values.max() > 65535 else 65535.0
        if image.mode == "F" and values.max() <= 255:
            white = 1.0 if values.max() <= 1 else 255.0
        return Image.fromarray((values * (255 / white)).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def read_image(
    file: str | Path | bytes | np.ndarray,
    shape: tuple[int, int, int] = PHOTOGRAPH,
    path: str | Path | None = None,
) -> np.ndarray:
    """Decode a picture, rotate it as EXIF says, scale its shorter side to that of `shape` and keep
    the central square, in colour, or in grey if `shape` has one channel.

    Args:
        file: a path, the bytes of a picture file, or pixels, (H, W) or (H, W, 3) uint8.
        path: the name used in messages if `file` is not a path.
    Returns: uint8, of that shape. Raises ImageError if the file is not a picture, is cut off, or is
    absurdly large.
    """
    if isinstance(file, np.ndarray):
        if not file.size:
            raise ImageError(f"{path}: a picture of shape {file.shape} has no pixels")
        return square(Image.fromarray(np.ascontiguousarray(file)).convert("RGB"), shape)
    path = file if path is None and not isinstance(file, bytes) else path
    if not isinstance(file, bytes) and Path(file).exists() and not Path(file).is_file():
        raise ImageError(f"{path}: not a file")  # a pipe would be waited for without an end
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(
                io.BytesIO(file) if isinstance(file, bytes) else file, formats=FORMATS
            ) as image:
                if min(image.size) < 1:
                    raise ValueError(f"it has {image.width} x {image.height} pixels")
                if image.format != "JPEG" and image.width * image.height > LARGEST:
                    raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")
                image.draft(None, shape[:2])  # for JPEG only: decode at 1/2, 1/4 or 1/8 if enough
                upright = to_rgb(ImageOps.exif_transpose(image))
    except Image.UnidentifiedImageError as error:
        raise ImageError(
            f"{path}: not a picture that can be read; it must hold one of {', '.join(FORMATS)}"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{path}: refused, its size is absurd for a photograph ({error})"
        ) from error
    except MemoryError:
        raise
    except OSError as error:
        if (
            error.errno is not None
        ):  # a problem of the system: too many open files, no permission, a bad disk
            raise
        raise ImageError(f"{path}: damaged or cut off ({error})") from error
    # Pillow's decoders raise many types for damaged files; each means the file is unreadable
    except Exception as error:
        raise ImageError(f"{path}: damaged or cut off ({type(error).__name__}: {error})") from error
    return square(upright, shape)


def square(image: Image.Image, shape: tuple[int, int, int]) -> np.ndarray:
    """The central square of a picture, scaled to that shape."""
    image = image if shape[2] == PHOTOGRAPH[2] else image.convert("L")
    W, H = image.size
    side = min(W, H)
    left, top = (W - side) / 2, (H - side) / 2
    # Cropping before scaling gives the same central square and avoids an enormous intermediate
    # image.
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize(shape[:2], Image.Resampling.BILINEAR, box=box)).reshape(shape)
