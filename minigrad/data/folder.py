"""A labelled set of pictures, from a folder or an archive in ImageNet's layout. The index of a
class is the position of its name in sorted order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from minigrad import random
from minigrad.data.sources import Archive, DataError, Files, Pixels

Source = Files | Archive | Pixels
Tree = dict[str, list[str]]  # {class: items}


@dataclass(frozen=True)
class ImageSet:
    """Pictures with labels. items[i], read from `source`, belongs to class classes[labels[i]]; its
    name in words is names[labels[i]]."""

    source: Source
    root: Path  # for messages
    classes: list[str]
    names: list[str]
    items: list[str] = field(repr=False)
    labels: np.ndarray = field(repr=False)  # (len(items),) int64

    def __len__(self) -> int:
        return len(self.items)

    def where(self, i: int) -> str:
        """File, or archive and member, of picture i."""
        return self.source.where(self.items[i])

    def take(self, indices: Sequence[int] | np.ndarray) -> ImageSet:
        """The chosen pictures, in the given order."""
        return replace(
            self,
            items=[self.items[i] for i in indices],
            labels=self.labels[np.asarray(indices, int)],
        )

    def split(self, share: float, seed: int) -> tuple[ImageSet, ImageSet]:
        """Hold out `share` of each class: (rest, held out). The same pictures for the same seed."""
        if not 0 < share < 1:
            raise DataError(f"the share to hold out must lie between 0 and 1, not {share}")
        held: list[int] = []
        for c in range(len(self.classes)):
            members = np.flatnonzero(self.labels == c)
            count = max(1, round(share * len(members)))
            if count >= len(members):
                raise DataError(
                    f"class {self.classes[c]} has {len(members)} pictures: too few to hold out"
                    f" {share:.0%}"
                )
            order = random.Stream(seed, f"hold out {self.classes[c]}").permutation(len(members))
            held += [int(i) for i in members[order[:count]]]
        chosen = set(held)
        return self.take([i for i in range(len(self)) if i not in chosen]), self.take(sorted(held))


def read_words(root: Path) -> dict[str, str]:
    """Class names in words from `words.txt` (or `LOC_synset_mapping.txt`). Each line is a folder
    name, a tab or space, and the words."""
    for place in (root, root.parent):
        for file in (place / "words.txt", place / "LOC_synset_mapping.txt"):
            if file.is_file():
                lines = (
                    line.split(None, 1)
                    for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
                )
                return {parts[0]: parts[1].strip() for parts in lines if len(parts) == 2}
    return {}


def choose(
    tree: Tree,
    source: Source,
    root: Path,
    words: dict[str, str],
    classes: int | Sequence[str] | None = None,
    images_per_class: int | None = None,
    seed: int = 0,
) -> ImageSet:
    """The set of a tree's chosen classes and pictures; see open_folder."""
    present = sorted(tree)
    if not present:
        raise DataError(
            f"{root} holds no class folders: expected {root}/CLASS/PICTURE.JPEG, one folder for"
            " each class"
        )
    if classes is None:
        chosen = present
    elif isinstance(classes, int):
        if not 1 <= classes <= len(present):
            raise DataError(
                f"{root} has {len(present)} classes, so --classes must be 1 to {len(present)}, not"
                f" {classes}"
            )
        chosen = present[:classes]
    else:
        chosen = list(dict.fromkeys(classes))
        absent = [c for c in chosen if c not in tree]
        if absent:
            raise DataError(
                f"{root} has no class folder {', '.join(absent)}; it has"
                f" {', '.join(present[:10])}{', ...' * (len(present) > 10)}"
            )
    if images_per_class is not None and images_per_class < 1:
        raise DataError(f"images per class must be at least 1, not {images_per_class}")
    items: list[str] = []
    labels: list[int] = []
    for index, name in enumerate(chosen):
        own = tree[name]
        if not own:
            raise DataError(
                f"class folder {root / name} holds no pictures (.jpg, .jpeg or .png); remove it, or"
                " put some in"
            )
        if images_per_class is not None and images_per_class < len(own):
            order = random.Stream(seed, f"subset {name}").permutation(len(own))[:images_per_class]
            own = [own[i] for i in sorted(order)]
        items += own
        labels += [index] * len(own)
    return ImageSet(
        source, root, chosen, [words.get(c, c) for c in chosen], items, np.array(labels, np.int64)
    )


def open_folder(
    root: str | Path,
    classes: int | Sequence[str] | None = None,
    images_per_class: int | None = None,
    seed: int = 0,
) -> ImageSet:
    """Read a folder with one sub-folder per class.

    Args:
        root: e.g. imagenet/train.
        classes: None for all, a number N for the first N in sorted order, or folder names, in the
            order that they have here.
        images_per_class: at most this many of each class, chosen at random by seed; None for all.
    Raises DataError: no such folder, no classes, an empty class, a class that is not there.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"there is no folder {root}: give a folder that holds one folder of pictures for each"
            " class"
        )
    source = Files(root)
    return choose(source.tree(), source, root, read_words(root), classes, images_per_class, seed)
