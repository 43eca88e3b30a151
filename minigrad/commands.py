"""The command-line program, for given presets; about_presets.py, actions.py and training/session.py
hold what its commands do.

`main(presets)` is a whole program; examples use `training_options` and `run_command`.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from minigrad import about_presets, actions, kernels, look, machine, terminal
from minigrad.distributed import Communicator, DistributedError, connect, launched
from minigrad.launcher import launch
from minigrad.models.records import Preset
from minigrad.training import session
from minigrad.training.exported import export_run
from minigrad.training.imported import import_weights
from minigrad.training.inside import INSTRUMENTS
from minigrad.training.options import Options
from minigrad.training.run_folder import RunError
from minigrad.training.trainer import Stopped

TYPES = {"str": str, "int": int, "float": float}


def add_options(parser: argparse.ArgumentParser, presets: Mapping[str, Preset]) -> None:
    """Add an argument for each field of Options. Arguments not given are absent from the result."""
    for f in fields(Options):
        text = f.metadata["help"]
        if f.name == "preset":
            text += f": {', '.join(presets)}"
        if f.default is not None:
            text += f" (default {f.default:g})" if f.type == "float" else f" (default {f.default})"
        parser.add_argument(
            f"--{f.name.replace('_', '-')}",
            type=TYPES[str(f.type).split()[0]],
            default=argparse.SUPPRESS,
            choices=f.metadata["choices"],
            metavar=f.metadata["metavar"],
            help=text.replace("%", "%%"),
        )


def at_least_one(text: str) -> int:
    """The type of an argument that counts something."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def training_options(
    description: str, presets: Mapping[str, Preset], argv: Sequence[str] | None = None
) -> dict[str, Any]:
    """The training options that the command line gives, by name."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=raw)
    add_options(parser, presets)
    return vars(parser.parse_args(argv))


def parser_of(presets: Mapping[str, Preset], program: str) -> argparse.ArgumentParser:
    """The parser of every command."""
    about = (
        "AlexNet and its relatives: count, compare, train, evaluate, predict, look inside, check."
    )
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog=program,
        description=about,
        epilog=f"examples:\n  python {program} summary paper\n"
        f"  python {program} train --data pictures --epochs 30\n"
        f"`python {program} COMMAND --help` shows more.",
        formatter_class=raw,
    )
    names = "models|summary|diff|train|evaluate|predict|look|report|import|export|gradcheck"
    commands = parser.add_subparsers(dest="command", required=True, metavar=names)

    def add(name: str, about: str, *examples: str) -> argparse.ArgumentParser:
        shown = "\n".join(f"  python {program} {name} {example}" for example in examples)
        epilog = f"examples:\n{shown}"
        return commands.add_parser(
            name, help=about, description=about, epilog=epilog, formatter_class=raw
        )

    add("models", "list the presets: sources, counts, accuracy, weights that can be had", "")
    sub = add(
        "summary",
        "sizes, parameters and multiply-adds of a preset",
        "paper",
        "zfnet --compare paper --plot zfnet.png",
        "paper --set pool1.size=2 --set pool2.size=2",
    )
    every = ", ".join(presets)
    sub.add_argument("preset", nargs="?", default="paper", help=f"one of {every}, or all")
    sub.add_argument("--classes", type=int, help="default: as many as the preset was made for")
    compared = "also print its parameters and multiply-adds as a multiple of this preset's"
    sub.add_argument("--compare", metavar="PRESET", help=compared)
    drawn = "draw it stage by stage, with measured times, beside the preset of --compare"
    apart = "print the table of one of N columns and the number of bytes that it sends"
    sub.add_argument("--columns", type=int, metavar="N", help=apart)
    sub.add_argument("--plot", metavar="FILE.png", help=drawn)
    by_hand = "try a change first, such as pool1.size=2 or norm1=none; may be repeated"
    sub.add_argument(
        "--set",
        dest="assignments",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help=by_hand,
    )
    rows = "write it as CSV; - for standard output"
    sub.add_argument("--csv", dest="table_file", metavar="FILE.csv", help=rows)
    sub = add(
        "diff", "how two presets or runs differ, with sources", "paper caffe", "paper runs/main"
    )
    for name in ("a", "b"):
        sub.add_argument(name, help="a preset, a run folder or a checkpoint file")
    sub = add(
        "train",
        "train on a folder of pictures",
        "--data pictures --epochs 30",
        "--data cifar-10.zip --preset cifar10_26pct --seed 1",
        "--resume runs/main",
    )
    add_options(sub, presets)
    sub = add(
        "evaluate",
        "accuracy of a run on validation pictures",
        "runs/main --views ten --by-class classes.csv",
        "runs/a runs/b runs/c --data pictures",
    )
    run = "run folder, or a checkpoint file"
    sub.add_argument("runs", nargs="+", metavar="run", help=f"{run}; several are averaged")
    sub.add_argument("--data", metavar="WHERE", help="default: the pictures that the run held out")
    ten = "ten: the paper's four corners and centre, each also mirrored"
    sub.add_argument("--views", choices=("centre", "ten"), default="centre", help=ten)
    sub.add_argument("--by-class", metavar="FILE.csv", help="write a line for each class")
    sub.add_argument("--predictions", metavar="FILE.csv", help="write a line per picture")
    confusion = "draw the confusion matrix: which class is taken for which"
    sub.add_argument("--confusion", metavar="FILE.png", help=confusion)
    sub.add_argument("--batch-size", type=int, default=64)
    sub.add_argument("--workers", type=int, default=Options.workers)
    timeout = Options.worker_timeout
    sub.add_argument("--worker-timeout", type=float, default=timeout, metavar="SECONDS")
    sub.add_argument("--device", default=Options.device)
    sub = add(
        "predict",
        "classes of single pictures",
        "runs/main cat.jpg dog.png",
        "runs/main pictures/ --plot guesses.png --json guesses.json",
    )
    sub.add_argument("run", help=run)
    sub.add_argument("pictures", nargs="+", help="picture files, or folders of them")
    bars = "draw the pictures with their five most probable classes as bars"
    sub.add_argument("--plot", metavar="FILE.png", help=bars)
    kept = "write them unrounded; - for standard output"
    sub.add_argument("--json", dest="json_file", metavar="FILE.json", help=kept)
    sub.add_argument("--csv", dest="csv_file", metavar="FILE.csv", help=kept)
    sub.add_argument("--device", default=Options.device)
    add_look(
        add(
            "look",
            "draw what is inside a run's network",
            "runs/main",
            "runs/main --what deconvnet --picture cat.jpg --stage conv5 --map 7 12",
        )
    )
    place = "pictures of the same classes; default: those that the run held out"
    sub = add(
        "report",
        "write the report page of a run's network again",
        "runs/main --picture cat.jpg -o cat.html",
    )
    sub.add_argument("run", help=run)
    sub.add_argument("--picture", metavar="FILE", help="to look at; default: one that it held out")
    sub.add_argument("--data", dest="place", metavar="WHERE", help=place)
    kind = "numbers: leave all pictures out"
    sub.add_argument("--kind", choices=("full", "numbers"), default="full", help=kind)
    page = "default: report.html in the run's folder"
    sub.add_argument("-o", "--output", metavar="FILE.html", help=page)
    sub.add_argument("--workers", type=int, default=Options.workers)
    sub = add(
        "import",
        "make a run of weights that another program trained",
        "lenet_iter_10000.caffemodel --preset caffe_lenet -o runs/lenet",
        "alexnet-owt-7be5be79.pth --preset torchvision --classes synset_words.txt",
    )
    kinds = ".caffemodel, .pt or .pth (a state dict; not executed), or .safetensors"
    sub.add_argument("file", help=kinds)
    sub.add_argument("--preset", required=True, help=f"the network: {every}")
    subtracted = "the mean of its training pictures: .npy or .binaryproto"
    sub.add_argument("--mean", metavar="FILE", help=subtracted)
    computed = "compute that mean from these training pictures"
    sub.add_argument("--mean-of", metavar="WHERE", help=computed)
    lines = "class names in the order of the outputs, one on a line; default: the preset's"
    sub.add_argument("--classes", metavar="FILE", help=lines)
    sub.add_argument(
        "-o", "--output", metavar="RUN", help="run folder; default: a new one in runs/"
    )
    sub = add(
        "export",
        "write a run's network for other programs",
        "runs/main -o main.onnx",
        "runs/main -o main.safetensors",
    )
    sub.add_argument("run", help=run)
    written = ".onnx (needs the package onnx) or .safetensors (PyTorch's axes)"
    sub.add_argument("-o", "--output", required=True, metavar="FILE", help=written)
    sub = add("gradcheck", "check the gradients of a shrunken network", "zfnet")
    sub.add_argument("preset", nargs="?", default="paper")
    return parser


def main(
    presets: Mapping[str, Preset], argv: Sequence[str] | None = None, program: str = "alexnet.py"
) -> int:
    """Run the command that the arguments name. Returns the exit code: 0 for success, 2 for a
    mistake in the input, 130 if stopped."""
    parser = parser_of(presets, program)
    given = vars(parser.parse_args(argv))
    command = given.pop("command")
    if command == "train" and not {"data", "resume", "config"} & set(given):
        parser.error("train needs --data WHERE (or --resume RUN, or --config FILE)")
    chosen: dict[str, Callable[[Communicator], object]] = {
        "models": lambda comm: about_presets.print_models(presets),
        "summary": lambda comm: about_presets.print_summaries(presets, **given),
        "diff": lambda comm: about_presets.print_differences(presets, **given),
        "train": lambda comm: session.train(given, presets, comm=comm),
        "evaluate": lambda comm: actions.evaluate_runs(**given),
        "predict": lambda comm: actions.predict(**given),
        "look": lambda comm: actions.look_inside(**given),
        "report": lambda comm: actions.make_report(**given),
        "import": lambda comm: import_weights(presets=presets, **given),
        "export": lambda comm: export_run(presets=presets, **given),
        "gradcheck": lambda comm: about_presets.gradcheck(presets, **given),
    }
    return run_command(chosen[command], given if command == "train" else None)


def add_look(sub: argparse.ArgumentParser) -> None:
    """The arguments of `look`."""
    sub.add_argument("run", help="run folder, or a checkpoint file")
    every = list(INSTRUMENTS)
    what = f"any of {', '.join(every)}; default: all"
    sub.add_argument("--what", nargs="+", choices=every, metavar="WHAT", help=what)
    one = "for maps, deconvnet, occlusion, invariance; default: one that the run held out"
    sub.add_argument("--picture", metavar="FILE", help=one)
    place = "pictures of the same classes; default: those that the run held out"
    sub.add_argument("--data", dest="place", metavar="WHERE", help=place)
    sub.add_argument("--stage", help="such as conv5; default: each instrument's usual one")
    maps = "for deconvnet, nine, occlusion, evolution; default: the strongest"
    sub.add_argument("--map", dest="maps", type=int, nargs="+", metavar="N", help=maps)
    back = "the projection method of nine and evolution"
    sub.add_argument("--method", choices=tuple(look.METHODS), default="deconvnet", help=back)
    sub.add_argument("--size", type=int, help="side of the occluding square, in pixels")
    sub.add_argument("--stride", type=int, help="step of the occluding square, in pixels")
    folder = "folder for the PNG files; default: look, in the run's folder"
    sub.add_argument("-o", "--output", metavar="DIR", help=folder)
    sub.add_argument("--batch-size", type=int, default=64)
    sub.add_argument("--workers", type=int, default=Options.workers)
    sub.add_argument("--device", default=Options.device)


def run_command(
    command: Callable[[Communicator], object], given: Mapping[str, Any] | None = None
) -> int:
    """Run a command with the Communicator of this process, and return the exit code. A mistake in
    the input is reported in one sentence, with exit code 2; Ctrl-C gives 130. If one of several
    ranks fails, all of them end. given: the options of a training; if `ranks` is among them, that
    many processes run this program's command."""
    terminal.use(lasting=given is not None)
    comm = Communicator()
    try:
        if given and given.get("ranks") and not launched():
            return launch(given["ranks"], given.get("rank_timeout", Options.rank_timeout))
        comm = connect()
        machine.set_up(comm.local_size)
        with machine.stops_go_to(signal.default_int_handler):
            command(comm)
        comm.beat(done=True)
    except BrokenPipeError:  # the reader of what is printed has seen enough
        terminal.use(lasting=True)
        return 0
    except (ValueError, RunError, DistributedError, kernels.KernelError, OSError) as error:
        if "MINIGRAD_TRACEBACK" in os.environ:
            return fail(comm, traceback.format_exc(), 2)
        return fail(comm, f"error: {error}", 2)
    except (MemoryError, RecursionError) as error:
        what = "out of memory" if isinstance(error, MemoryError) else "nested too deeply"
        return fail(comm, f"error: {what}", 2)
    except Stopped as stop:  # all ranks stop together
        if comm.rank == 0:
            print(stop, file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        return fail(comm, "stopped", 130)
    except BaseException:
        if comm.size == 1:
            raise
        return fail(comm, traceback.format_exc(), 1)
    return 0


def fail(comm: Communicator, sentence: str, code: int) -> int:
    """Print the reason, and end the other ranks, if there are any. Ranks other than 0 wait a moment
    before they print: if rank 0 has the same error, it reports it for all."""
    if comm.size > 1:
        time.sleep(0.5 * (comm.rank > 0))
        sentence = f"rank {comm.rank} on {comm.host}: {sentence}" if comm.rank else sentence
    try:
        comm.beat(said=True)
        print(sentence, file=sys.stderr, flush=True)
    finally:
        comm.abort(code)
    return code
