"""A folder of pictures in ImageNet's layout: one folder a class. Class index = place of its name in sorted order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from minigrad import random

SUFFIXES = {".jpg", ".jpeg", ".png"}


class DataError(ValueError):
    """A data folder that cannot be used as asked; the message says what is wrong and what would be right."""


@dataclass(frozen=True)
class ImageSet:
    """Files with labels. paths[i] belongs to class classes[labels[i]], called names[labels[i]] in words."""

    root: Path
    classes: list[str]
    names: list[str]
    paths: list[Path]
    labels: np.ndarray = field(repr=False)  # (len(paths),) int64

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        """The chosen pictures, in the given order."""
        return replace(self, paths=[self.paths[i] for i in indices], labels=self.labels[np.asarray(indices, int)])

    def split(self, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
        """Hold out `share` of each class: (rest, held out). The same pictures for the same seed."""
        if not 0 < share < 1:
            raise DataError(f"the share to hold out must lie between 0 and 1, not {share}")
        held: list[int] = []
        for c in range(len(self.classes)):
            members = np.flatnonzero(self.labels == c)
            count = max(1, round(share * len(members)))
            if count >= len(members):
                raise DataError(f"class {self.classes[c]} has {len(members)} pictures: too few to hold out {share:.0%}")
            order = random.Stream(seed, f"hold out {self.classes[c]}").permutation(len(members))
            held += [int(i) for i in members[order[:count]]]
        chosen = set(held)
        return self.take([i for i in range(len(self)) if i not in chosen]), self.take(sorted(held))


def read_words(root: Path) -> dict[str, str]:
    """Class names in words from `words.txt` (or `LOC_synset_mapping.txt`): a line is a folder name, a tab or blank, the words."""
    for place in (root, root.parent):
        for file in (place / "words.txt", place / "LOC_synset_mapping.txt"):
            if file.is_file():
                lines = (line.split(None, 1) for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
                return {parts[0]: parts[1].strip() for parts in lines if len(parts) == 2}
    return {}


def pictures_in(folder: Path) -> list[Path]:
    """All picture files below a class folder, sorted (Tiny ImageNet keeps them one level deeper, in images/)."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def open_folder(
    root: str | Path, classes: int | Sequence[str] | None = None, images_per_class: int | None = None, seed: int = 0
) -> ImageSet:
    """Read a folder with one sub-folder a class.

    Args:
        root: e.g. imagenet/train.
        classes: None for all, a number for the first so many in sorted order, or folder names.
        images_per_class: at most so many of each class, chosen at random by seed; None for all.
    Raises DataError: no such folder, no classes, an empty class, a class that is not there.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"there is no folder {root}: give a folder that holds one folder of pictures for each class")
    present = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not present:
        raise DataError(f"{root} holds no class folders: expected {root}/CLASS/PICTURE.JPEG, one folder for each class")
    if classes is None:
        chosen = present
    elif isinstance(classes, int):
        if not 1 <= classes <= len(present):
            raise DataError(f"{root} has {len(present)} classes, so --classes must be 1 to {len(present)}, not {classes}")
        chosen = present[:classes]
    else:
        chosen = sorted(set(classes))
        absent = [c for c in chosen if c not in present]
        if absent:
            raise DataError(
                f"{root} has no class folder {', '.join(absent)}; it has {', '.join(present[:10])}{', ...' * (len(present) > 10)}"
            )
    if images_per_class is not None and images_per_class < 1:
        raise DataError(f"images per class must be at least 1, not {images_per_class}")
    paths: list[Path] = []
    labels: list[int] = []
    for index, name in enumerate(chosen):
        files = pictures_in(root / name)
        if not files:
            raise DataError(f"class folder {root / name} holds no pictures (.jpg, .jpeg or .png); remove it, or put some in")
        if images_per_class is not None and images_per_class < len(files):
            order = random.Stream(seed, f"subset {name}").permutation(len(files))[:images_per_class]
            files = [files[i] for i in sorted(order)]
        paths += files
        labels += [index] * len(files)
    words = read_words(root)
    return ImageSet(root, chosen, [words.get(c, c) for c in chosen], paths, np.array(labels, np.int64))


def open_sets(
    root: str | Path, classes: str | None = None, images_per_class: int | None = None, holdout: float | None = None, seed: int = 0
) -> tuple[ImageSet, ImageSet]:
    """(training set, validation set) of a folder: root/train and root/val, or root itself with a share of it held out.

    Args:
        root: holds train/CLASS/PICTURE and val/CLASS/PICTURE, or CLASS/PICTURE.
        classes: None for all; a number N for the first N; folder names with commas between; or a file of folder names.
        images_per_class: at most so many training pictures of each class.
        holdout: share of the training pictures of each class to validate on, instead of val; 0.1 where there is no val.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"there is no folder {root}: give one that holds train/CLASS/PICTURE.JPEG and val/CLASS/PICTURE.JPEG")
    chosen: int | list[str] | None = None
    if classes is not None:
        words = Path(classes).read_text().split() if os.path.isfile(classes) else classes.split(",")
        chosen = int(words[0]) if len(words) == 1 and words[0].isdigit() else words
    has_train = (root / "train").is_dir()
    train = open_folder(root / "train" if has_train else root, chosen, images_per_class, seed)
    if len(train.classes) < 2:
        raise DataError(f"{train.root} has one class, {train.classes[0]}: there is nothing to tell apart; at least two are needed")
    if holdout is None and has_train and (root / "val").is_dir():
        return train, open_folder(root / "val", train.classes)
    return train.split(0.1 if holdout is None else holdout, seed)
