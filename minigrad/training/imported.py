"""Makes a run folder of weights that another program trained."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from minigrad import data, weights
from minigrad.files import default_cache_folder
from minigrad.models.records import Preset, WeightsFile, find
from minigrad.text import shown
from minigrad.training.options import Options
from minigrad.training.place import Place
from minigrad.training.run_folder import RunFolder
from minigrad.training.settings import Settings
from minigrad.weights import WeightsError

LARGEST_NAMES = 1 << 24  # bytes
MOST = 200_000  # pictures that a mean is computed from, at about a thousand a second


def import_weights(
    file: str,
    preset: str,
    presets: Mapping[str, Preset],
    mean: str | None,
    mean_of: str | None,
    classes: str | None,
    output: str | None,
    report: Callable[[str], None] = print,
) -> Path:
    """Read a file of weights into a new run folder, which is evaluated, looked into and fine-tuned
    like any other. Reports where each parameter came from. Returns the folder.

    Args:
        mean, mean_of: a file that holds the training pictures' mean, or where those pictures are.
        classes: a file of class names, one a line, in the order of the outputs.
    """
    network, path = find(preset, presets), Path(file)
    read = weights.load(path)
    known = known_file(path, presets)
    images = None
    if mean_of is not None:
        images, _ = data.open_sets(mean_of, cache=default_cache_folder())
    named = class_names(classes, network, images)
    outputs = len(named[0]) if named else network.classes
    last = list(read.arrays.values())[-1].get("bias")
    if named and read.ordered and last is not None and last.size != outputs:
        raise WeightsError(
            f"{path}: its last layer has {last.size} outputs, and there are {outputs} class names:"
            " give --classes FILE with one line for each output"
        )
    parameters, lines = weights.fit(read, network, outputs)
    if not named:
        width = len(str(outputs - 1))
        named = ([f"class {i:0{width}}" for i in range(outputs)],) * 2
    preparation = prepared_with(network, mean, mean_of, images)
    for line in (f"{path}: {read.format}, {len(read.arrays)} layers with weights", *lines):
        report(line)
    trained_on = images is not None and images.classes == named[0]
    options = Options(preset=preset, data=mean_of if trained_on else None, recipe="preset")
    settings = Settings(options, "preset", network, *named, pictures=0)
    run = RunFolder.create(output, preset, report)
    try:
        place = Place(0, 0, 0, 0.0, None, float("inf"), 0, [0.0] * 3, {})
        tensors = {f"model.{name}": array for name, array in parameters.items()}
        description = {"settings": settings.to_json(), "place": asdict(place)}
        run.start(settings.to_json(), 0, 0)
        run.save(tensors | preparation.arrays(), description)
    finally:
        run.close()
    report(f"{len(named[0])} classes: {', '.join(map(shown, named[1][:5]))} ...")
    report(f"written: {run.path}")
    if known is not None:
        name, found = known
        if name != preset:
            report(f"the file is known as one for the preset {name}, not for {preset}")
        report(f"a known file ({found.where}); it must score {found.scores}")
    else:
        report("not a known file: shapes that fit prove nothing, so evaluate it on known pictures")
    return run.path


def known_file(path: Path, presets: Mapping[str, Preset]) -> tuple[str, WeightsFile] | None:
    """(name of the preset, record) of a file that a preset lists, by its checksum."""
    sums = {}
    for kind in ("sha256", "sha1"):
        with open(path, "rb") as content:
            sums[kind] = hashlib.file_digest(content, kind).hexdigest()
    for name, preset in presets.items():
        for file in preset.pretrained.files:
            kind, _, digits = file.checksum.partition(":")
            if sums[kind].startswith(digits):
                return name, file
    return None


def class_names(
    path: str | None, network: Preset, images: data.ImageSet | None
) -> tuple[list[str], list[str]] | None:
    """(folder names, names in words) of the classes, in the order of the outputs: from a file, the
    preset, or the pictures; None if none of these says."""
    if path is not None:
        file = Path(path)
        if not file.is_file() or file.stat().st_size > LARGEST_NAMES:
            raise WeightsError(f"{path}: a file of class names is needed, one on each line")
        try:
            lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
        except UnicodeDecodeError as error:
            raise WeightsError(f"{path}: class names are text in UTF-8 ({error})") from error
        rows = [line for line in lines if line]
        synsets = [row.split(None, 1) for row in rows]
        if synsets and all(r[0][:1] == "n" and r[0][1:].isdigit() for r in synsets):
            rows_ = [(r[0], r[-1]) for r in synsets]  # n01440764 tench, Tinca tinca
        else:
            rows_ = [(row, row) for row in rows]
        if not rows_ or len({folder for folder, _ in rows_}) < len(rows_):
            raise WeightsError(f"{path}: it must name each class once, one on each line")
        return [folder for folder, _ in rows_], [words for _, words in rows_]
    if network.names:
        return list(network.names), list(network.names)
    if images is not None:
        return images.classes, images.names
    return None


def prepared_with(
    network: Preset, mean: str | None, mean_of: str | None, images: data.ImageSet | None
) -> data.Preparation:
    """How pictures become the network's input. Raises WeightsError if the mean is missing."""
    p = network.preprocessing
    fixed = not isinstance(p.mean, str) and not p.unit_std
    if fixed and (mean or mean_of):
        raise WeightsError(
            f"the preset subtracts {p.mean}, as its source does; leave {mean or mean_of} out"
        )
    if images is not None and not mean:
        pictures = data.Pictures(images, shape=p.shape)
        return data.Preparation.of(p, data.statistics(pictures, most=MOST))
    if not fixed and (p.unit_std or not mean):
        what = "and their standard deviation, " if p.unit_std else ""
        kind = "image" if p.mean == "pixel" else "of each channel"
        raise WeightsError(
            f"this network needs the mean {kind} of its training pictures {what}which the file of"
            " weights does not hold: give --mean-of PICTURES"
            + (" or --mean FILE (.npy or .binaryproto)" if not p.unit_std else "")
        )
    if mean:
        own = weights.fitted_mean(weights.load_mean(mean), network, mean)
    else:
        own = np.full(p.channels, p.mean)
    return data.Preparation(
        p.size, own, np.array(p.scale), None, p.shrink, p.mirror, p.random_crops
    )
