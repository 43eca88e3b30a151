"""The command-line program: train, evaluate, predict, summary and gradcheck, for given presets.

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
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import functions as F
from minigrad import kernels, look, machine, terminal
from minigrad.columns import bytes_sent, column_of
from minigrad.data import Loader, Pictures, open_validation, read_image
from minigrad.distributed import Communicator, DistributedError, connect, launched
from minigrad.engine import Tensor, no_grad
from minigrad.files import default_cache_folder
from minigrad.launcher import launch
from minigrad.models.records import Preset, find
from minigrad.network import Network, check_network, ledger, summary
from minigrad.training import session
from minigrad.training.evaluation import (
    Evaluation,
    ensemble,
    evaluate,
    write_by_class,
    write_predictions,
)
from minigrad.training.inside import INSTRUMENTS, Inside
from minigrad.training.options import Options
from minigrad.training.report import write_report
from minigrad.training.run_folder import RunError
from minigrad.training.runs import held_out_by, load_run
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
    about = "AlexNet and its relatives: count, train, evaluate, predict, look inside, check."
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog=program,
        description=about,
        epilog=f"examples:\n  python {program} summary paper\n"
        f"  python {program} train --data pictures --epochs 30\n"
        f"`python {program} COMMAND --help` shows more.",
        formatter_class=raw,
    )
    names = "summary|train|evaluate|predict|look|report|gradcheck"
    commands = parser.add_subparsers(dest="command", required=True, metavar=names)

    def add(name: str, about: str, *examples: str) -> argparse.ArgumentParser:
        shown = "\n".join(f"  python {program} {name} {example}" for example in examples)
        epilog = f"examples:\n{shown}"
        return commands.add_parser(
            name, help=about, description=about, epilog=epilog, formatter_class=raw
        )

    sub = add(
        "summary",
        "sizes, parameters and multiply-adds of a preset",
        "paper",
        "zfnet --compare paper --plot zfnet.png",
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
    sub = add(
        "train",
        "train on a folder of pictures",
        "--data pictures --epochs 30",
        "--data cifar-10.zip --preset cifar10 --seed 1",
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
    sub = add("predict", "classes of single pictures", "runs/main cat.jpg dog.png")
    sub.add_argument("run", help=run)
    sub.add_argument("pictures", nargs="+", help="picture files")
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
    actions: dict[str, Callable[[Communicator], object]] = {
        "summary": lambda comm: print_summaries(presets, **given),
        "train": lambda comm: session.train(given, presets, comm=comm),
        "evaluate": lambda comm: evaluate_runs(**given),
        "predict": lambda comm: predict(**given),
        "look": lambda comm: look_inside(**given),
        "report": lambda comm: make_report(**given),
        "gradcheck": lambda comm: gradcheck(presets, **given),
    }
    return run_command(actions[command], given if command == "train" else None)


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


def make_report(run: str, kind: str, output: str | None, **options: Any) -> None:
    """Write the report page of a run's network."""
    print(f"written: {write_report(run, kind, output=Path(output) if output else None, **options)}")


def look_inside(run: str, what: Sequence[str] | None, output: str | None, **options: Any) -> None:
    """Draw what is inside a run's network."""
    path = Path(run)
    folder = path / "look" if path.is_dir() else path.with_name(f"look-{path.stem}")
    inside = Inside(run, Path(output) if output else folder, **options)
    inside.draw(what)


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


def print_summaries(
    presets: Mapping[str, Preset],
    preset: str,
    classes: int | None,
    compare: str | None,
    columns: int | None,
    plot: str | None,
) -> None:
    """Print the table of a preset (of every preset for "all"), or of one column of it, and compare
    it with another preset; with `plot`, draw it."""
    if plot:
        names = list(presets) if preset == "all" else [preset]
        drawn: dict[str, int | None] = dict.fromkeys(names, classes)
        if compare is not None:
            drawn.setdefault(compare, None)
        chosen = {name: find(name, presets) for name in drawn}
        seconds = {name: look.stage_seconds(Network(p, drawn[name])) for name, p in chosen.items()}
        ledgers = {name: ledger(p, drawn[name]) for name, p in chosen.items()}
        path = Path(plot) if plot.endswith(".png") else Path(f"{plot}.png")
        print(f"written: {look.draw_ledgers(ledgers, path, seconds)}")
    for name in presets if preset == "all" else [preset]:
        own, count = find(name, presets), classes
        if columns:
            own, count = column_of(own, columns, 0, classes), None
        print(summary(own, name, count))
        if columns:
            rows = ledger(own)
            print(
                f"one of {columns} columns: {sum(r.parameters for r in rows):,} parameters; in a"
                f" step it sends {bytes_sent(rows, 0):,} bytes a picture"
            )
        if compare is not None:
            both = ledger(find(name, presets), classes), ledger(find(compare, presets))
            parameters = [sum(r.parameters for r in part) for part in both]
            adds = [sum(r.multiply_adds for r in part) for part in both]
            print(
                f"{parameters[0] / parameters[1]:.4g} times the parameters and "
                f"{adds[0] / adds[1]:.4g} times the multiply-adds of {compare} ({parameters[1]:,}; "
                f"{adds[1]:,})"
            )


def gradcheck(presets: Mapping[str, Preset], preset: str) -> None:
    """Check the gradients of a shrunken copy of a preset's network."""
    error = check_network(find(preset, presets))
    print(
        f"{preset}: loss of the shrunken network against its input and every parameter: largest "
        f"relative error {error:.1e}"
    )


def evaluate_runs(
    runs: Sequence[str],
    data: str | None,
    views: str,
    by_class: str | None,
    predictions: str | None,
    confusion: str | None,
    batch_size: int,
    workers: int,
    worker_timeout: float,
    device: str,
) -> None:
    """Print the accuracy of a run, or of several runs averaged, on validation pictures."""
    results: list[Evaluation] = []
    images, first = None, None
    for run in runs:
        model, preparation, settings = load_run(run, device)
        first = first or settings
        if settings.classes != first.classes:
            raise ValueError(
                f"{run} tells other classes apart than {runs[0]}: they cannot be averaged"
            )
        if data is None:
            held_out = held_out_by(run, settings)
            if images is not None and held_out.items != images.items:
                raise ValueError(
                    f"{run} held out other pictures than {runs[0]}: name what to evaluate on with "
                    "--data"
                )
            images = held_out
        elif images is None:
            images = open_validation(data, settings.classes, default_cache_folder())
        loader = Loader(
            Pictures(images, shape=settings.network.preprocessing.shape),
            preparation,
            batch_size,
            False,
            workers=workers,
            most_skipped=1.0,
            ten_views=views == "ten",
            worker_timeout=worker_timeout,
        )
        results.append(evaluate(model, loader, device, f"evaluating {run}"))
        loader.close()
        if len(runs) > 1:
            print(sentence(run, results[-1]))
    assert images is not None
    assert first is not None
    result = ensemble(results)
    averaged = f", {len(results)} runs averaged" if len(results) > 1 else ""
    view = "ten views" if views == "ten" else "centre view"
    what = f"{len(result.labels):,} pictures of {images.root}, {view}{averaged}"
    print(sentence(what, result))
    for line in session.skipped_lines(loader.skipped):
        print(line)
    if by_class:
        write_by_class(Path(by_class), result, first.classes, first.names)
    if predictions:
        where = [images.where(int(i)) for i in result.indices]
        write_predictions(Path(predictions), result, where, first.classes)
    if confusion:
        look.draw_confusion(result.confusion(), first.names, Path(confusion))
    for path in filter(None, (by_class, predictions, confusion)):
        print(f"written: {path}")


def sentence(what: str, result: Evaluation) -> str:
    return f"{what}: loss {result.loss:.4f}, top-1 {result.top(1):.2%}, top-5 {result.top(5):.2%}"


def predict(run: str, pictures: Sequence[str], device: str) -> None:
    """The most probable classes of single pictures."""
    model, preparation, settings = load_run(run, device)
    for file in pictures:
        x = preparation.centre(read_image(file, settings.network.preprocessing.shape)[None])
        with no_grad():
            p = F.softmax(model(Tensor(x).to(device))).numpy()[0]
        best = np.argsort(-p, kind="stable")[: min(5, len(p))]
        guesses = (f"{settings.names[k].split(',')[0]} {p[k]:.1%}" for k in best)
        print(f"{file}: " + ", ".join(guesses))
