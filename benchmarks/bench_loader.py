"""Pictures per second from files to prepared batches: minigrad's Loader, from files and from its
cache, compared with PyTorch's DataLoader with Pillow.

    python benchmarks/bench_loader.py --data imagenet/train --pictures 1024

Both use as many worker processes as there are processors, the same files, the same decoding and
scaling, and the same crops and mirrors: before anything is timed, one epoch of each must agree to
the bit. Their epochs alternate, and the first one of each is a warm-up. The given pictures are
repeated until there are enough.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from setting import whole_number

from minigrad import data, kernels, random
from minigrad.models.records import PHOTOGRAPH

SIZE = PHOTOGRAPH[0]

CROP = 227


class PillowSet:
    """A map-style dataset as a PyTorch user would write it: decode with Pillow, crop, mirror and
    subtract the mean. A key is (picture, top, left, mirror)."""

    def __init__(self, files: list[str], mean: np.ndarray) -> None:
        self.files, self.mean = files, mean

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key):
        index, top, left, mirror = key
        with Image.open(self.files[index]) as image:
            image.draft(None, (SIZE, SIZE))
            image = ImageOps.exif_transpose(image).convert("RGB")
        W, H = image.size
        side = min(W, H)
        x, y = (W - side) / 2, (H - side) / 2
        pixels = np.asarray(
            image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=(x, y, x + side, y + side))
        )
        crop = pixels[top : top + CROP, left : left + CROP]
        return (crop[:, ::-1] if mirror else crop).astype(np.float32) - self.mean, index


def torch_epochs(files: list[str], mean: np.ndarray, batch: int, workers: int):
    """A function that gives the batches of an epoch, from PyTorch's DataLoader."""
    import torch

    class Keys:  # a sampler that draws what minigrad draws
        epoch = 0

        def __iter__(self):
            n = len(files)
            order = random.Stream(0, f"shuffle {self.epoch}").permutation(n)
            rng = random.Stream(0, f"augment {self.epoch}")
            crops, mirrors = rng.integers(SIZE - CROP + 1, (n, 2)), rng.integers(2, n)
            return iter(
                [(int(i), int(crops[i, 0]), int(crops[i, 1]), int(mirrors[i])) for i in order]
            )

        def __len__(self):
            return len(files)

    keys = Keys()
    loader = torch.utils.data.DataLoader(
        PillowSet(files, mean),
        batch,
        sampler=keys,
        num_workers=workers,
        persistent_workers=True,
        multiprocessing_context="fork",
    )

    def epoch(number: int):
        keys.epoch = number
        for x, indices in loader:
            yield x.numpy(), indices.numpy()

    return epoch


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="CLASS/PICTURE")
    parser.add_argument("--pictures", type=whole_number, default=1024)
    parser.add_argument("--batch", type=whole_number, default=128)
    parser.add_argument("--epochs", type=whole_number, default=4)
    parser.add_argument("--workers", type=whole_number, default=kernels.threads())
    args = parser.parse_args()
    try:
        images = data.open_folder(args.data)
    except data.DataError as error:
        parser.error(str(error))
    images = images.take(np.arange(args.pictures) % len(images))
    mean = np.full(3, 120, np.float32)
    preparation = data.Preparation(CROP, mean, 1.0)

    def ours(pictures: data.Pictures):
        loader = data.Loader(pictures, preparation, args.batch, True, 0, args.workers)
        return lambda number: ((x, i) for x, _, i in loader.batches(number))

    files = [images.where(i) for i in range(len(images))]
    contenders = {
        "minigrad, files": ours(data.Pictures(images)),
        "PyTorch, files": torch_epochs(files, mean, args.batch, args.workers),
    }
    with tempfile.TemporaryDirectory() as folder:
        contenders["minigrad, cache"] = ours(data.open_pictures(images, Path(folder), args.workers))
        for batches in zip(*(epoch(0) for epoch in contenders.values()), strict=True):
            if not all(
                np.array_equal(a, b) for other in batches[1:] for a, b in zip(batches[0], other)
            ):
                raise SystemExit("the batches differ: nothing is timed")
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(args.epochs + 1):
            for name, epoch in contenders.items():
                began = time.perf_counter()
                count = sum(len(i) for _, i in epoch(number))
                if number:
                    times[name].append(time.perf_counter() - began)
        print(
            f"{count} pictures ({len(set(files))} files), batch {args.batch}, {args.workers}"
            " workers, crops equal to the bit"
        )
        reference = np.median(times["PyTorch, files"])
        for name, seconds in times.items():
            rate = count / np.array(seconds)
            share = reference / np.median(seconds)
            print(
                f"{name:16}{np.median(rate):9.0f} images/s ({rate.min():.0f} -"
                f" {rate.max():.0f}){share:8.2f} of PyTorch"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
