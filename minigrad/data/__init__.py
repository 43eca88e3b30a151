"""Pictures in, batches out: image files, folders of classes, a cache of decoded pictures,
augmentation, and a synthetic set."""

from minigrad.data.cache import Pictures, open_pictures
from minigrad.data.download import NAMES as DOWNLOADS
from minigrad.data.folder import ImageSet, open_folder
from minigrad.data.images import ImageError, read_image
from minigrad.data.layouts import open_sets, open_validation
from minigrad.data.loader import Loader
from minigrad.data.preparation import Preparation, Statistics, statistics
from minigrad.data.sources import DataError

__all__ = [
    "DOWNLOADS",
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
    "open_validation",
    "read_image",
    "statistics",
]  # fmt: skip
