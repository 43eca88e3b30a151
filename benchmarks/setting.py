"""Shared by the benchmarks: checks of their arguments, and a record of what they ran on."""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from pathlib import Path

from minigrad.__main__ import report

VARIABLES = (
    "MINIGRAD_",
    "OMP_",
    "OPENBLAS_",
    "MKL_",
    "CUPY_",
    "NVIDIA_TF32",
    "CUDA_VISIBLE",
)  # prefixes of variables that affect speed


def whole_number(text: str) -> int:
    """An argument that is a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number, at least 1, is wanted")
    return int(text)


def writable(text: str) -> Path:
    """An argument that names a file to write at the end. Writing is tried now, so that hours of
    measurements are not lost later."""
    try:
        with open(text, "a"):
            return Path(text)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: cannot be written ({error.strerror})") from error


def describe() -> str:
    """`python -m minigrad`, the date, the commit, and the environment variables that matter."""
    git = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
    ]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        commit = "unknown"
    chosen = " ".join(
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith(VARIABLES)
    )
    return (
        f"{report()}\n{'measured':12} {time.strftime('%Y-%m-%d %H:%M')}, commit"
        f" {commit}\n{'variables':12} {chosen or 'none set'}"
    )
