"""Pictures in, batches out: reading image files, folders of classes, a decoded cache, augmentation, a synthetic set."""

from minigrad.data.cache import Pictures, open_pictures
from minigrad.data.folder import DataError, ImageSet, open_folder, open_sets
from minigrad.data.images import ImageError, read_image
from minigrad.data.loader import Loader
from minigrad.data.preparation import Preparation, Statistics, statistics

__all__ = [
    "DataError",
    "ImageError",
    "ImageSet",
    "Loader",
    "Pictures",
    "Preparation",
    "Statistics",
    "open_folder",
    "open_pictures",
    "open_sets",
    "read_image",
    "statistics",
]  # fmt: skip
