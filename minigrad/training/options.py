"""The options of a training: each field is an option of the command line, with its default and
help."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from minigrad import data
from minigrad.data.loader import MOST_SKIPPED
from minigrad.files import default_cache_folder

DATA_HELP = (
    "a folder, .zip or .tar with train/CLASS/PICTURE and val/CLASS/PICTURE, or CLASS/PICTURE (a"
    " tenth is then held out); a folder with ImageNet's own tars, or with MNIST's or CIFAR-10's"
    " files; or a name to download once: " + ", ".join(data.DOWNLOADS)
)


def option(
    default: Any,
    help: str,
    metavar: str | None = None,
    choices: tuple[str, ...] | None = None,
    resume: str = "fixed",
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
) -> Any:
    """A field of Options.

    Args:
        help, metavar, choices: as argparse has them; the default is added to the help.
        resume: "free" if the option may be changed when a run is resumed, "fixed" if not, "never"
            if a resumed run does not inherit it.
        least, most, above: the smallest and the largest number that are allowed; the number that
            it must exceed.
    """
    about: dict[str, Any] = {"help": help, "metavar": metavar, "choices": choices, "resume": resume}
    about |= {"least": least, "above": above, "most": most}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Options:
    """The options of a training. None means "not given": the data set's or the recipe's value is
    used."""

    data: str | None = option(None, DATA_HELP, "WHERE", resume="free")
    classes: str | None = option(
        None,
        "train on the first N classes, on a comma-separated list of folder names, or on those in a "
        "file",
        "N|LIST|FILE",
    )
    images_per_class: int | None = option(
        None, "use at most N training pictures of each class", "N"
    )
    holdout: float | None = option(
        None, "validate on this share of train/ instead of val/ (for tuning)", "SHARE"
    )
    preset: str = option("paper", "the network")
    schedule: str = option(
        "auto",
        "plateau: divide the rate by 10 when validation stops improving, three times",
        choices=("auto", "plateau"),
    )
    recipe: str = option(
        "auto",
        "how it is trained: preset, its own recipe; small, one for small subsets; auto: small below"
        " 100,000 pictures, else preset",
        choices=("auto", "preset", "small"),
    )
    epochs: int | None = option(
        None, "default: the recipe's", "N", resume="free", least=1, most=10**6
    )
    batch_size: int | None = option(None, "default: the recipe's", "N", least=1, most=10**6)
    lr: float | None = option(
        None, "initial learning rate; default: the recipe's", "RATE", resume="free", least=0
    )
    device: str = option("cpu", "cpu, gpu or gpu:N", resume="free")
    ranks: int | None = option(
        None,
        "start N processes with mpiexec, which share each batch",
        "N",
        resume="never",
        least=1,
    )
    rank_timeout: float = option(
        300.0,
        "time after which --ranks ends a run in which a rank has stopped",
        "SECONDS",
        resume="free",
        above=0,
    )
    columns: int | None = option(
        None,
        "train the network in N columns, each on a rank of its own, as the paper did on two GPUs",
        "N",
        resume="never",
        least=2,
    )
    accumulate: int = option(
        1,
        "send each batch through in N parts, to save memory",
        "N",
        resume="free",
        least=1,
        most=10**6,
    )
    workers: int = option(
        2, "processes that read pictures; changes no result", "N", resume="free", least=0, most=256
    )
    worker_timeout: float = option(
        30.0,
        "time after which a reading process that hangs is replaced",
        "SECONDS",
        resume="free",
        above=0,
    )
    most_skipped: float = option(
        MOST_SKIPPED, "tolerated share of unreadable pictures", "SHARE", resume="free", least=0
    )
    keep: int = option(
        2,
        "keep the checkpoints of the last K epochs, beside the newest and the best",
        "K",
        resume="free",
        least=0,
    )
    seed: int = option(0, "seed of all random numbers", "SEED")
    cache: str | None = option(
        None,
        f"where decoded pictures are kept, or off (default {default_cache_folder()})",
        "DIR|off",
        resume="free",
    )
    report: str = option(
        "full",
        "write report.html at the end, a page about the network: full shows pictures of the set,"
        " numbers leaves them out",
        choices=("full", "numbers", "off"),
        resume="free",
    )
    output: str | None = option(
        None, "run folder (default runs/TIME-PRESET)", "DIR", resume="never"
    )
    save_every: float = option(
        120.0, "time between checkpoints within an epoch", "SECONDS", resume="free", least=0
    )
    resume: str | None = option(None, "go on with the run in this folder", "RUN", resume="never")
    config: str | None = option(
        None,
        "repeat a run: take the options that are not given here from its settings.json",
        "FILE",
        resume="never",
    )
    finetune: str | None = option(
        None, "begin with the weights of a run or checkpoint, as far as they fit", "RUN"
    )

    def __post_init__(self) -> None:
        """Raise ValueError for a value of the wrong type or out of its limits."""
        for f in fields(self):
            value, about, flag = getattr(self, f.name), f.metadata, flag_of(f.name)
            kind, *optional = str(f.type).split(" | ")
            if value is None and optional:
                continue
            allowed = {"str": (str,), "int": (int,), "float": (int, float)}[kind]
            if isinstance(value, bool) or not isinstance(value, allowed):
                raise ValueError(f"{flag} must be of type {kind}, not {value!r}")
            if about["choices"] and value not in about["choices"]:
                raise ValueError(f"{flag} must be one of {', '.join(about['choices'])}: {value!r}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{flag} must be a number, not {value}")
            if about["least"] is not None and value < about["least"]:
                raise ValueError(f"{flag} must be at least {about['least']}, not {value}")
            if about["most"] is not None and value > about["most"]:
                raise ValueError(f"{flag} must be at most {about['most']:,}, not {value}")
            if about["above"] is not None and value <= about["above"]:
                raise ValueError(f"{flag} must be above {about['above']}, not {value}")

    def to_json(self) -> dict[str, Any]:
        """The options for a run folder: with absolute paths, so that any folder can resume it."""
        return {name: absolute(name, value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> Options:
        """The options that to_json turned into `written`."""
        return cls(**{f.name: written[f.name] for f in fields(cls) if f.name in written})

    def resumed(self, given: Mapping[str, Any], report: Callable[[str], None] = print) -> Options:
        """The options of a resumed run: its own, with the given changes. Raises ValueError for an
        option that may not change."""
        run, lines = given["resume"], []
        if given.get("config"):
            raise ValueError("--resume goes on with a run, --config repeats one: give one of them")
        for f in fields(self):
            before, now = getattr(self, f.name), absolute(f.name, given.get(f.name))
            if f.name not in given or f.metadata["resume"] == "never" or now == before:
                continue
            flag = f"{flag_of(f.name)} {given[f.name]}"
            if f.metadata["resume"] == "fixed":
                own = "its recipe's own" if before is None else before
                raise ValueError(
                    f"{flag}: the run {run} was started with {own}, which cannot change"
                )
            lines.append(f"{flag}, in place of {before} so far")
        for line in lines:
            report(line)
        free = {f.name for f in fields(self) if f.metadata["resume"] == "free"}
        anew = {name: value for name, value in given.items() if name in free}
        once = {"resume": run, "output": run, "config": None, "ranks": None}
        once["columns"] = given.get("columns")
        return replace(self, **anew, **once)

    def repeated(self, given: Mapping[str, Any]) -> Options:
        """The options to repeat a run: its own, with the given ones in their place."""
        once = {"resume": None, "output": None, "config": None, "ranks": None, "columns": None}
        return replace(self, **{**once, **given})


def flag_of(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def absolute(name: str, value: Any) -> Any:
    """An absolute path for an option that names an existing path; other values as they are."""
    paths = ("data", "classes", "cache", "finetune")
    if value == "off" or (name == "classes" and value and value.isdigit()):
        return value  # a word or a number, even if a file has this name
    return os.path.abspath(value) if name in paths and value and os.path.exists(value) else value
