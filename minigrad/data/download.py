"""Public data sets by name. A set is downloaded once into the cache folder, resumed where a
download broke off, checked against its published MD5 sums, and unpacked so that no file
lands elsewhere.

Sources: github.com/fastai/imagenette; cs.toronto.edu/~kriz/cifar.html; yann.lecun.com/exdb/mnist,
by the mirror that torchvision uses.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from minigrad.data.sources import DataError, open_tar
from minigrad.files import ABANDONED, replacing, sweep

TRIES, PAUSE, TIMEOUT = 5, 2.0, 30.0  # seconds
SLOWEST = 1024  # bytes a second, over each TIMEOUT
LARGEST, LARGEST_UNPACKED = 4 * 2**30, 20 * 2**30  # the largest set has 1.6 GB
SPARED = 2**30  # bytes of the disk that a download leaves free


@dataclass(frozen=True)
class Download:
    """The files of a data set, {name: MD5}, below an address. A .tgz or .tar.gz is unpacked, and
    `inside` is the folder in it to open."""

    address: str
    files: dict[str, str]
    inside: str = ""


FASTAI = "https://s3.amazonaws.com/fast-ai-imageclas/"
NAMES = {
    "imagenette": Download(
        FASTAI, {"imagenette2.tgz": "fe2fc210e6bb7c5664d602c3cd71e612"}, "imagenette2"
    ),
    "imagenette320": Download(
        FASTAI, {"imagenette2-320.tgz": "3df6f0d01a2c9592104656642f5e78a3"}, "imagenette2-320"
    ),
    "imagenette160": Download(
        FASTAI, {"imagenette2-160.tgz": "e793b78cc4c9e9a4ccc0c1155377a412"}, "imagenette2-160"
    ),
    "cifar10": Download(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        "cifar-10-batches-bin",
    ),
    "mnist": Download(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
}


def fetch(name: str, cache: Path | None) -> Path:
    """The folder of a data set, downloaded if it is not there."""
    if cache is None:
        raise DataError(
            f"{name} is downloaded into the cache folder, so it cannot be used with --cache off"
        )
    wanted, folder = NAMES[name], cache / "downloads" / name
    done = folder / "complete"
    if not done.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder, ABANDONED)
            for file, md5 in wanted.files.items():
                path = folder / file
                if not path.is_file():
                    fetch_file(wanted.address + file, path, md5)
                elif md5_of(path) != md5:
                    raise DataError(
                        f"{path} has not the checksum {md5} that {file} should have: remove it, and"
                        " run again"
                    )
                if wanted.inside:
                    unpack(path, folder, wanted.inside)
                    path.unlink()
            done.touch()
        except OSError as error:
            raise DataError(f"{name} could not be put into {folder} ({error})") from error
    return folder / wanted.inside


def fetch_file(address: str, path: Path, md5: str) -> None:
    """Download to `path` by way of `path`.part, which a later call resumes."""
    part = path.with_name(path.name + ".part")
    for attempt in range(TRIES):
        try:
            transfer(address, part)
            break
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code in (
                401,
                403,
                404,
                410,
            )
            if refused or attempt == TRIES - 1:
                have = (
                    f" ({part.stat().st_size:,} bytes are kept, and the next run goes on from"
                    " there)"
                    if part.is_file()
                    else ""
                )
                raise DataError(
                    f"could not download {address}: {error}{have}. Without a network, put"
                    f" {path.name} (MD5 {md5}) into {path.parent}"
                ) from error
            time.sleep(PAUSE)
    found = md5_of(part)
    if found != md5:
        part.unlink()
        raise DataError(
            f"what came from {address} has the MD5 sum {found}, not {md5}: it was thrown away; run"
            f" again, or put the right file at {path}"
        )
    os.replace(part, path)


def transfer(address: str, part: Path) -> None:
    """Append the missing rest to `part`. Raises an error if the connection ends too early."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if (
            error.code == 416
        ):  # no bytes after ours: the file is whole, or another one; the checksum will tell
            return
        raise
    with answer:
        if answer.status != 206:
            have = 0  # the server sends the file from its start
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if re.fullmatch("[0-9]{1,18}", length) else None
        limit = min(LARGEST, have + max(0, shutil.disk_usage(part.parent).free - SPARED))
        if (total or 0) > limit:
            raise DataError(f"{address} has {total:,} bytes, and at most {limit:,} may come")
        with (
            open(part, "ab" if have else "wb") as file,
            tqdm(
                desc=part.stem,
                total=total,
                initial=have,
                unit="B",
                unit_scale=True,
                leave=False,
                disable=None,
            ) as bar,
        ):
            since, came = time.monotonic(), 0  # of the bytes that are counted for the speed
            while piece := answer.read1(1 << 16):
                file.write(piece)
                bar.update(len(piece))
                came += len(piece)
                if file.tell() > limit:
                    part.unlink()
                    raise DataError(f"{address} sends more than {limit:,} bytes: it was stopped")
                if time.monotonic() - since > TIMEOUT:
                    if came < SLOWEST * TIMEOUT:
                        raise ConnectionError(f"only {came:,} bytes came in {TIMEOUT:g} s")
                    since, came = time.monotonic(), 0
            if total is not None and file.tell() < total:
                raise ConnectionError(
                    f"the connection ended after {file.tell():,} of {total:,} bytes"
                )


def md5_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def unpack(archive: Path, folder: Path, inside: str) -> None:
    """Unpack into folder / inside, which appears only when it is whole. Links, devices and names
    that reach outside are refused."""
    total = 0
    try:
        with replacing(folder / inside) as unfinished, open_tar(archive) as tar:
            for member in tqdm(tar, f"unpacking {archive.name}", leave=False, disable=None):
                total += member.size
                outside = member.name.startswith(("/", "\\")) or ".." in member.name.replace(
                    "\\", "/"
                ).split("/")
                if outside or not (member.isfile() or member.isdir()) or total > LARGEST_UNPACKED:
                    why = (
                        "reaches outside"
                        if outside
                        else (
                            "is no plain file"
                            if total <= LARGEST_UNPACKED
                            else "makes it absurdly large"
                        )
                    )
                    raise DataError(f"{archive}: refused, its member {member.name!r} {why}")
                tar.extract(member, unfinished.parent, filter="data")
            if not unfinished.is_dir():
                raise DataError(f"{archive} holds no folder {inside}")
    except (DataError, OSError, MemoryError):
        raise
    except Exception as error:  # damage comes as many types
        raise DataError(f"{archive} is damaged or cut off ({error})") from error
