"""The training and validation set that `--data` names: a folder, an archive, ImageNet as
downloaded, the files of MNIST or CIFAR-10, or a name from the table of downloads.

    DIR/train/CLASS/PICTURE, DIR/val/CLASS/PICTURE      or DIR/CLASS/PICTURE, a tenth of it held out
    FILE.zip, FILE.tar                                  the same in an archive, read in place
                                                        (test/ is used if there is no val/)
    DIR/ILSVRC2012_img_train.tar, ..._img_val.tar       with the devkit beside them
    DIR/train-images-idx3-ubyte[.gz], ...               MNIST's IDX files
    DIR/data_batch_1.bin ... test_batch.bin             CIFAR-10's binary batches
    imagenette, cifar10, mnist, ...                     downloaded once
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minigrad.data import download
from minigrad.data.folder import ImageSet, Tree, choose, read_words
from minigrad.data.sources import (
    Archive,
    DataError,
    Files,
    Pixels,
    Tar,
    Zip,
    open_tar,
    read_cifar,
    read_idx,
)

TRAIN_TAR, VAL_TAR, DEVKIT = (
    "ILSVRC2012_img_train.tar",
    "ILSVRC2012_img_val.tar",
    "ILSVRC2012_devkit_t12",
)
TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def open_sets(
    root: str | Path,
    classes: str | None = None,
    images_per_class: int | None = None,
    holdout: float | None = None,
    seed: int = 0,
    cache: Path | None = None,
) -> tuple[ImageSet, ImageSet]:
    """(training set, validation set).

    Args:
        root: one of the layouts above.
        classes: None for all; a number N for the first N; folder names separated by commas; or a
            file of folder names.
        images_per_class: at most this many training pictures of each class.
        holdout: the share of the training pictures of each class to validate on, instead of the
            validation set; 0.1 if there is no validation set.
        cache: folder for the indices of archives and for downloads.
    """
    chosen: int | list[str] | None = None
    if classes is not None:
        words = Path(classes).read_text().split() if is_file(classes) else classes.split(",")
        words = sorted(words)
        chosen = int(words[0]) if len(words) == 1 and words[0].isdigit() else words
    train, val = trees(root, cache)
    wanted = choose(*train, chosen, images_per_class, seed)
    if len(wanted.classes) < 2:
        raise DataError(
            f"{wanted.root} has one class, {wanted.classes[0]}: training needs at least two classes"
        )
    if val is not None and holdout is None:
        return wanted, choose(*val, wanted.classes)
    return wanted.split(0.1 if holdout is None else holdout, seed)


def open_validation(
    root: str | Path, classes: Sequence[str], cache: Path | None = None
) -> ImageSet:
    """The validation pictures of a layout, or all its pictures if it has only one part."""
    train, val = trees(root, cache)
    return choose(*(val or train), classes)


def is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # a list of classes, too long for a file name
        return False


Part = tuple[
    Tree, Files | Archive | Pixels, Path, dict[str, str]
]  # tree, source, where, names in words


def trees(where: str | Path, cache: Path | None) -> tuple[Part, Part | None]:
    """The training part and the validation part, if there is one."""
    root = Path(where)
    if str(where) in download.NAMES and not root.exists():
        root = download.fetch(str(where), cache)
    if root.is_file():
        return in_archive(open_archive(root, cache))
    if not root.is_dir():
        raise DataError(
            f"there is no folder or archive {root}: give one that holds train/CLASS/PICTURE.JPEG"
            f" and val/CLASS/PICTURE.JPEG, or one of the names {', '.join(download.NAMES)}"
        )
    if (root / TRAIN_TAR).is_file():
        return imagenet_tars(root, cache)
    if any((root / f"train-images-idx3-ubyte{gz}").is_file() for gz in ("", ".gz")):
        return idx_files(root)
    for folder in (root, root / "cifar-10-batches-bin"):
        if (folder / "data_batch_1.bin").is_file():
            return cifar_batches(folder)
    if not (root / "train").is_dir():
        return in_folder(root), None
    return in_folder(root / "train"), in_folder(root / "val") if (root / "val").is_dir() else None


def in_folder(root: Path) -> Part:
    source = Files(root)
    return source.tree(), source, root, read_words(root)


def open_archive(path: Path, cache: Path | None) -> Archive:
    if path.suffix not in (".tar", ".zip"):
        raise DataError(
            f"{path} is neither a folder nor a .tar or .zip archive; unpack it, and name the folder"
        )
    return (Tar if path.suffix == ".tar" else Zip)(path, cache)


def in_archive(source: Archive) -> tuple[Part, Part | None]:
    outer = source.folders()
    if "train" not in outer:
        return (source.tree(), source, source.path, {}), None
    val = next((part for part in ("val", "test") if part in outer), None)

    def part(name: str) -> Part:
        return source.tree(name), source, source.path / name, {}

    return part("train"), part(val) if val else None


def imagenet_tars(root: Path, cache: Path | None) -> tuple[Part, Part | None]:
    """ILSVRC-2012 as downloaded. Classes are numbered in the order of their sorted wnids, as in
    Caffe and torchvision; the devkit's numbers are mapped to these."""
    train = Tar(root / TRAIN_TAR, cache)
    wnids, words = synsets(root)
    tree = train.tree()
    strange = sorted(set(tree) - set(wnids.values()))
    if strange:
        raise DataError(
            f"{train.path} holds {strange[0]}.tar, a class that the devkit does not know: is it the"
            " right devkit?"
        )
    part: Part = (tree, train, train.path, words)
    if not (root / VAL_TAR).is_file():
        return part, None
    val = Tar(root / VAL_TAR, cache)
    words_of_truth = devkit_file(root, TRUTH).split()
    if not all(w.isdigit() for w in words_of_truth):
        raise DataError(f"{TRUTH} of {root} is not a list of class numbers: it is damaged")
    numbers = [int(w) for w in words_of_truth]
    names = sorted(val.members)
    if len(numbers) != len(names):
        raise DataError(
            f"{val.path} holds {len(names):,} pictures, but {TRUTH} has {len(numbers):,} lines: one"
            " of them is incomplete"
        )
    unknown = sorted(set(numbers) - set(wnids))
    if unknown:
        raise DataError(
            f"{TRUTH} names class {unknown[0]}, which the devkit's list of synsets does not have"
        )
    val_tree: Tree = {wnid: [] for wnid in sorted(tree)}
    for name, number in zip(names, numbers):  # ILSVRC2012_val_00000001.JPEG belongs to line 1
        val_tree.setdefault(wnids[number], []).append(name)
    return part, (val_tree, val, val.path, words)


def devkit_file(root: Path, name: str) -> bytes:
    """A file of the devkit, unpacked beside the tars or still in its .tar.gz."""
    for place in (root / name, root / DEVKIT / "data" / name, root / "data" / name):
        if place.is_file():
            return place.read_bytes()
    archive, content = root / f"{DEVKIT}.tar.gz", None
    try:
        with open_tar(archive) as tar:
            for member in tar:
                ours = member.isfile() and member.name.rpartition("/")[2] == name
                if content is None and ours and member.size < 1 << 26:
                    file = tar.extractfile(member)
                    assert file is not None
                    content = file.read()
            while tar.fileobj and tar.fileobj.read(1 << 20):
                pass  # only at its end does gzip know whether what it gave was right
    except FileNotFoundError:
        pass
    except DataError:
        raise
    except Exception as error:  # damage comes as many types
        raise DataError(f"{archive} is damaged or cut off ({error})") from error
    if content is not None:
        return content
    raise DataError(f"{root} lacks {name}: put {DEVKIT}.tar.gz, which holds it, beside the tars")


def synsets(root: Path) -> tuple[dict[int, str], dict[str, str]]:
    """({devkit number: wnid}, {wnid: words}) of the 1000 classes, from the devkit's meta.mat."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError(
            "the devkit's list of classes, meta.mat, is a MATLAB file: install scipy to read it"
        ) from error
    try:
        rows = loadmat(io.BytesIO(devkit_file(root, "meta.mat")), squeeze_me=True)["synsets"]
        leaves = [r for r in np.atleast_1d(rows) if int(r["num_children"]) == 0]
        return {int(r["ILSVRC2012_ID"]): str(r["WNID"]) for r in leaves}, {
            str(r["WNID"]): str(r["words"]) for r in leaves
        }
    except DataError:
        raise
    except Exception as error:  # scipy raises many types for damage
        raise DataError(
            f"meta.mat of {root} is not the devkit's list of synsets ({error})"
        ) from error


def idx_files(root: Path) -> tuple[Part, Part | None]:
    """MNIST and its relatives: train-images-idx3-ubyte, train-labels-idx1-ubyte, and t10k-... for
    validation."""

    def part(name: str) -> Part | None:
        paths = [
            next(
                (p for gz in ("", ".gz") if (p := root / f"{name}-{what}-ubyte{gz}").is_file()),
                None,
            )
            for what in ("images-idx3", "labels-idx1")
        ]
        if paths[0] is None:
            return None
        if paths[1] is None:
            raise DataError(
                f"{root} has {paths[0].name} but not {name}-labels-idx1-ubyte, with or without .gz"
            )
        source, labels = Pixels([paths[0]], "IDX"), read_idx(paths[1])
        if source.pixels.ndim != 3 or labels.ndim != 1 or len(source.pixels) != len(labels):
            raise DataError(
                f"{paths[0]} holds an array of {source.pixels.shape}, {paths[1].name} one of"
                f" {labels.shape}: they do not belong together"
            )
        return (
            by_label(labels, [str(c) for c in range(int(labels.max(initial=0)) + 1)]),
            source,
            root,
            {},
        )

    train = part("train")
    assert train is not None
    return train, part("t10k")


def cifar_batches(root: Path) -> tuple[Part, Part | None]:
    """CIFAR-10's binary version: data_batch_1.bin to _5.bin, test_batch.bin, batches.meta.txt with
    the names."""
    meta = root / "batches.meta.txt"
    names = meta.read_text().split() if meta.is_file() else [str(c) for c in range(10)]
    if len(names) != 10:
        raise DataError(f"{meta} names {len(names)} classes; CIFAR-10 has 10")

    def part(files: list[Path]) -> Part:
        return (
            by_label(np.concatenate([read_cifar(f)[0] for f in files]), names),
            Pixels(files, "CIFAR-10"),
            root,
            {},
        )

    test = root / "test_batch.bin"
    return part(sorted(root.glob("data_batch_?.bin"))), part([test]) if test.is_file() else None


def by_label(labels: np.ndarray, names: list[str]) -> Tree:
    """{class: numbers of its pictures}, without classes that have none."""
    tree = {name: [str(i) for i in np.flatnonzero(labels == c)] for c, name in enumerate(names)}
    return {name: items for name, items in tree.items() if items}
