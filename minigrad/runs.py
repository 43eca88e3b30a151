"""Run folders and the command lines over them: a folder claimed, its settings written, taken up again or repeated; how a command ends.

A network's program (alexnet.py) parses the arguments and trains; what it does with a run's folder, whatever the network, is here.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL

import minigrad
from minigrad import backend, checkpoint, data, kernels, nn
from minigrad.data.cache import default_cache_folder
from minigrad.files import PREFIX
from minigrad.trainer import (
    CHECKPOINT,
    SETTINGS,
    Stopped,
    TrainingError,
    files_of_a_run,
    listed,
    newest,
)

MAY_CHANGE = (
    "epochs",
    "lr",
    "data",
    "device",
    "workers",
    "worker_timeout",
    "cache",
    "keep",
    "most_skipped",
    "save_every",
)  # when a run is resumed


def make_folder(args: argparse.Namespace) -> Path:
    """The folder of this run: a new or empty one, or the one that --resume names; claimed, and found writable."""
    folder = Path(args.output or f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{args.preset}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while not args.output and folder.exists():  # another run was started in the same second
            number += 1
            folder = folder.with_name(f"{folder.name.removesuffix(f'+{number - 1}')}+{number}")
        folder.mkdir(exist_ok=bool(args.output))
        if not lock(folder):
            raise TrainingError(
                f"another process is at work on the run {folder}: wait for it, or choose another --output"
            )
        held = sorted(p.name for p in folder.iterdir() if not p.name.startswith(PREFIX))
        with tempfile.TemporaryFile(prefix=PREFIX, dir=folder):
            pass
    except OSError as error:
        raise TrainingError(
            f"cannot write into the run folder {folder} ({error}); choose another with --output"
        ) from error
    if not args.resume and held:
        raise TrainingError(
            f"{folder} is not empty, and nothing in it is written over: {what_to_do(folder, held)}"
        )
    return folder


def what_to_do(folder: Path, held: list[str]) -> str:
    """With a folder that is not empty, as --output."""
    if CHECKPOINT in held:
        return f"it holds a run; go on with it by --resume {folder}, or choose another --output"
    if ours := [name for name in files_of_a_run(folder) if name.endswith(".safetensors")]:
        return f"it holds {listed(ours)} of a run; copy one to {folder / CHECKPOINT} and --resume {folder}, or choose another --output"
    return f"it holds {listed(held)}; choose another --output, a new folder or an empty one"


def lock(folder: Path) -> bool:
    """Claim a run folder until this process ends (the open descriptor is the claim); False if another one has it."""
    try:
        import fcntl
    except ImportError:  # Windows: nothing to claim it with
        return True
    try:
        fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def absolute(key: str, value: Any) -> Any:
    """What a run folder keeps of an argument: a path in full, so that the run can be taken up from anywhere."""
    return (
        os.path.abspath(value)
        if key in ("data", "classes", "cache", "finetune") and value and os.path.exists(value)
        else value
    )


def arguments(args: argparse.Namespace) -> dict[str, Any]:
    """What a run folder keeps of the command line, and of what it ran on."""
    kept = {
        k: absolute(k, v)
        for k, v in vars(args).items()
        if isinstance(v, (str, int, float, type(None)))
    }
    return {
        "arguments": kept,
        "versions": {
            "minigrad": minigrad.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
    }


def take_up(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Settings and preparation of the run that --resume names; fills in args, and refuses what a run cannot change on its way."""
    kept, description = newest(Path(args.resume), "preparation.")
    settings = description["settings"]
    for key, value in settings["arguments"].items():
        given = getattr(args, key, None)
        if key in MAY_CHANGE:
            if given is not None and absolute(key, given) != value:
                print(f"--{key.replace('_', '-')} {given}, in place of {value} so far")
            setattr(args, key, value if given is None else given)
        elif key not in ("resume", "output", "config"):
            if given is not None and absolute(key, given) != value:
                raise ValueError(
                    f"--{key.replace('_', '-')} {given}: the run {args.resume} was started with {value}, which cannot change"
                )
            setattr(args, key, value)
    args.output = args.resume
    return settings, kept


def read_config(args: argparse.Namespace) -> None:
    """Fill in, from the settings.json that --config names, every argument that was not given."""
    path = Path(args.config)
    try:
        kept = json.loads((path / SETTINGS if path.is_dir() else path).read_text())["arguments"]
        for key, value in kept.items():
            if (
                key not in ("resume", "output", "config", "command")
                and getattr(args, key, None) is None
            ):
                setattr(args, key, value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--config {path}: not the settings.json of a run ({type(error).__name__}: {error})"
        ) from error


def checkpoint_of(run: str) -> Path:
    """The newest checkpoint of a run folder, or the file itself."""
    path = Path(run)
    return path / CHECKPOINT if path.is_dir() else path


def take_over(model: nn.Module, run: str) -> None:
    """--finetune: every parameter of a run that has the same name and shape here; says what was left."""
    tensors, _ = checkpoint.load(checkpoint_of(run), prefix="model.")
    own, left = dict(model.named_parameters()), []
    for name, p in own.items():
        array = tensors.get(f"model.{name}")
        if array is not None and array.shape == p.shape:
            p.data[...] = backend.to_device(array.astype(p.dtype), p.device)
        else:
            there = "absent" if array is None else "x".join(map(str, array.shape))
            left.append(f"{name} (here {'x'.join(map(str, p.shape))}, there {there})")
    taken = len(own) - len(left)
    left += [
        f"{name} (not in this network)"
        for n in tensors
        if (name := n.removeprefix("model.")) not in own
    ]
    if not taken:
        raise ValueError(
            f"--finetune {run}: not one parameter fits this network: {', '.join(left[:6])}"
        )
    print(f"from {run}: {taken} parameters taken; left: {', '.join(left) or 'none'}")


def held_out_by(run: str, settings: dict[str, Any]) -> data.ImageSet:
    """The pictures that a run validated on, found again."""
    a = settings["arguments"]
    sets = data.open_sets(
        a["data"],
        a["classes"],
        a["images_per_class"],
        a["holdout"],
        a["seed"],
        cache_folder(a["cache"]),
    )
    if (sets[0].classes, len(sets[0])) != (settings["classes"], settings["pictures"]):
        raise data.DataError(
            f"{sets[0].root} has changed since the run {run}: it has {len(sets[0])} training pictures in {len(sets[0].classes)} classes, "
            f"and had {settings['pictures']} in {len(settings['classes'])}; name what to evaluate on with --data"
        )
    return sets[1]


def cache_folder(choice: str | None) -> Path | None:
    """What --cache means."""
    return None if choice == "off" else Path(choice) if choice else default_cache_folder()


def say_skipped(skipped: dict[str, str], folder: Path | None = None) -> None:
    """Name pictures that could not be read; many of them by the file that lists them."""
    for reason in list(skipped.values())[:20]:
        print(f"skipped {reason}")
    if len(skipped) > 20:
        print(
            f"... and {len(skipped) - 20} more"
            + (f", listed in {folder / 'skipped.csv'}" if folder else "")
        )


def run_command(command: Callable[[], object]) -> int:
    """Run a command; a mistake in what it was given becomes one sentence and exit code 2, Ctrl-C 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may hold anything
    try:
        command()
    except (ValueError, TrainingError, kernels.KernelError, OSError) as error:
        if "MINIGRAD_TRACEBACK" in os.environ:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (Stopped, KeyboardInterrupt) as stop:
        print(stop or "stopped", file=sys.stderr)
        return 130
    return 0
