"""A whole training, from its options to its run folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import backend, data, nn, optim, random
from minigrad.columns import Column
from minigrad.distributed import Communicator
from minigrad.engine import Tensor
from minigrad.models.records import Conv, Dense, Preset
from minigrad.nccl import between_gpus
from minigrad.network import Network
from minigrad.training import checkpoint
from minigrad.training.drawings import draw_run
from minigrad.training.evaluation import Evaluation, evaluate
from minigrad.training.health import LossWatch
from minigrad.training.options import Options
from minigrad.training.report import write_report
from minigrad.training.run_folder import Guest, RunFolder
from minigrad.training.runs import cache_folder, open_sets, read_run
from minigrad.training.settings import Settings, configured, settled
from minigrad.training.trainer import Trainer, duration

Report = Callable[[str], None]


def silent(line: str) -> None:
    """The report function of ranks other than 0: it prints nothing."""


def train(
    given: Mapping[str, Any],
    presets: Mapping[str, Preset],
    report: Report = print,
    comm: Communicator | None = None,
) -> tuple[Trainer, Evaluation]:
    """Train with the given options, by name, and write a run folder. With a Communicator of several
    ranks, every rank calls this; rank 0 reports and writes.

    Returns the trainer and the last evaluation. Raises ValueError, RunError, CheckpointError or
    OSError, with a sentence, and Stopped after a signal.
    """
    began = time.perf_counter()
    comm = comm or Communicator()
    report = report if comm.rank == 0 else silent
    before: Settings | None = None
    tensors: dict[str, np.ndarray] = {}
    if given.get("resume"):
        tensors, before = read_run(given["resume"])
        if before.imported:
            raise ValueError(
                f"{given['resume']} holds imported weights, and no training to go on with: start"
                f" one from them with --finetune {given['resume']}"
            )
        options = before.options.resumed(given, report)
    elif given.get("config"):
        options = configured(Path(given["config"])).repeated(given)
    else:
        options = Options(**given)
        if options.finetune and "preset" not in given:
            own = read_run(options.finetune, ())[1].options.preset
            options = replace(options, preset=own if own in presets else options.preset)
    if options.columns not in (None, comm.size):
        raise ValueError(
            f"--columns {options.columns} needs {options.columns} ranks, one for each column, and"
            f" there are {comm.size}: add --ranks {options.columns}"
        )
    device = options.device
    if device == "gpu" and comm.size > 1:
        device = f"gpu:{comm.local_rank % max(1, backend.gpu_count())}"
    backend.use(device)  # fails early if the device is missing
    comm = between_gpus(comm, device, report)
    sets = comm.in_turn(lambda: open_sets(options))
    settings = settled(options, before, sets[0], presets)
    if options.finetune and not before:
        tensors, settings = prepared_as_before(options.finetune, settings, report)
    if comm.rank == 0 and before:
        run = RunFolder.resume(given["resume"], report)
    elif comm.rank == 0:
        run = RunFolder.create(options.output, options.preset, report)
    path = comm.broadcast(run.path if comm.rank == 0 else None)
    if comm.rank:
        run = Guest(path, report)
    try:
        for line in announcement(sets, settings):
            report(line)
        if comm.size > 1:
            what = "a column of the network" if options.columns else "a part of each batch"
            report(f"{comm.size} ranks, {what} on each")
        training, validation = open_loaders(sets, settings, tensors, report, comm)
        trainer = make_trainer(settings, training, validation, run, report, device, comm)
        if before:
            trainer.resume()
            report(
                f"going on with {run.path} from epoch {trainer.epoch}, step {trainer.step}, lr "
                f"{trainer.optimizer.lr:g}"
            )
        else:
            initialise(trainer, settings, report)
        epochs = settings.network.recipe.epochs
        ahead = duration(trainer.seconds_ahead(epochs))
        report(f"run folder {run.path}; the training will take about {ahead}")
        trainer.fit(epochs)
        result = trainer.result or evaluate(trainer.model, validation, device, comm=trainer.sharers)
        comm.beat(step=None)  # from here on rank 0 works alone, with no time limit
        if comm.rank == 0:
            conclude(trainer, result, settings)
        report(f"the whole run took {duration(time.perf_counter() - began)}")
        return trainer, result
    finally:
        run.close()


def open_loaders(
    sets: Sequence[data.ImageSet],
    settings: Settings,
    tensors: Mapping[str, np.ndarray],
    report: Report,
    comm: Communicator,
) -> tuple[data.Loader, data.Loader]:
    """Loaders of this rank's training and validation pictures. Their preparation comes from
    `tensors` if a run is resumed, and otherwise from the statistics of the training pictures."""
    o, p, recipe = settings.options, settings.network.preprocessing, settings.network.recipe
    cache = cache_folder(o.cache)

    def opened(some: data.ImageSet, what: str) -> data.Pictures:
        return data.open_pictures(some, cache, o.workers, report, what, o.worker_timeout, p.shape)

    names = "training pictures", "validation pictures"
    train, val = comm.in_turn(lambda: [opened(*each) for each in zip(sets, names)])
    if tensors:
        prep = data.Preparation.from_arrays(tensors, p)
    else:
        known = data.statistics(train, seed=o.seed) if comm.rank == 0 else None
        prep = data.Preparation.of(p, comm.broadcast(known))

    def loader(pictures: data.Pictures, training: bool) -> data.Loader:
        return data.Loader(
            pictures,
            prep,
            recipe.batch_size,
            training,
            o.seed,
            o.workers,
            o.most_skipped,
            worker_timeout=o.worker_timeout,
            colour_until=recipe.colour_until,
            part=(0, 1) if o.columns else (comm.rank, comm.size),
        )

    return loader(train, True), loader(val, False)


def make_trainer(
    settings: Settings,
    training: data.Loader,
    validation: data.Loader,
    run: RunFolder,
    report: Report,
    device: str,
    comm: Communicator,
) -> Trainer:
    """The network of the settings, or this rank's column of it, with its optimiser and schedule,
    ready to train."""
    o, recipe, classes = settings.options, settings.network.recipe, len(settings.classes)
    if o.columns:
        own = settings.network, classes, o.seed, "float32"
        model: Network = Column(*own, comm, o.columns, comm.rank)
    else:
        model = Network(settings.network, classes, o.seed)
    model.to(device)
    optimizer = model.make_optimizer()
    return Trainer(
        model,
        optimizer,
        schedule(optimizer, recipe.lr_drops),
        training,
        validation,
        run,
        settings.to_json(),
        training.preparation.arrays(),
        device,
        report,
        o.save_every,
        o.keep,
        watch=LossWatch(classes),
        comm=comm,
        accumulate=o.accumulate,
        in_columns=bool(o.columns),
    )


def initialise(trainer: Trainer, settings: Settings, report: Report) -> None:
    """Replace random weights by those of another run (--finetune), or fit them to pictures."""
    o, model = settings.options, trainer.model
    if o.finetune:
        if o.columns:
            raise ValueError("--finetune needs one rank: start without --columns, then --resume it")
        report(load_weights(model, o.finetune))
    elif settings.network.recipe.standardize and isinstance(model, Network):
        few = random.Stream(o.seed, "standardize").permutation(len(trainer.train.pictures))[:128]
        model.standardize(Tensor(trainer.train.prepare(few)[0]).to(trainer.device))


def conclude(trainer: Trainer, result: Evaluation, settings: Settings) -> None:
    """After a training: report unreadable pictures and the last accuracy, and draw pictures."""
    run, report = trainer.run, trainer.report
    for line in skipped_lines(trainer.train.skipped | trainer.val.skipped, run.path):
        report(line)
    report(
        f"held-out pictures, last epoch: loss {result.loss:.3f}, top-1 {result.top(1):.1%},"
        f" top-5 {result.top(5):.1%}"
    )
    try:
        files = draw_run(trainer, result, settings)
        report(f"pictures: {', '.join(map(str, files))}")
    except OSError as error:
        report(f"the pictures could not be written into {run.path} ({error})")
    kind = settings.options.report
    if kind != "off":
        try:
            o = settings.options
            seconds = max(30.0, min(60.0, trainer.seconds / 10))
            path = write_report(run.path, kind, workers=o.workers, seconds=seconds)
            report(f"a page about the network: {path}")
        except Exception as error:  # the run is trained and saved, even if its page fails
            report(f"the page about the network could not be written ({error})")


def schedule(
    optimizer: optim.SGD, lr_drops: Sequence[float] | None
) -> optim.StepSchedule | optim.PlateauSchedule:
    """A schedule that lowers the rate at these epochs, or if None when validation stalls."""
    if lr_drops is None:
        return optim.PlateauSchedule(optimizer)
    return optim.StepSchedule(optimizer, lr_drops)


def announcement(sets: Sequence[data.ImageSet], settings: Settings) -> list[str]:
    """Lines that say what will be trained, on which pictures, and how."""
    train, val = sets
    names = [name.split(",")[0] for name in train.names]
    more = ", ..." if len(names) > 10 else ""
    p, recipe = settings.network.preprocessing, settings.network.recipe
    drops = "when validation stops improving"
    if recipe.lr_drops is not None:
        drops = "at epoch " + ", ".join(f"{epoch:g}" for epoch in recipe.lr_drops)
    scaled = "on the 0..255 scale"
    if p.scaled:
        scaled = "scaled to unit variance" if p.unit_std else "multiplied as the preset says"
    weights = [x for x in settings.network.layers.values() if isinstance(x, (Conv, Dense))]
    kind = "He" if weights and weights[0].std is None else "Gaussian"
    lines = [
        settings.network.source,
        (
            f"{len(train):,} pictures for training, {len(val):,} for validation (from {val.root}), "
            f"{len(names)} classes: {', '.join(names[:10])}{more}"
        ),
        (
            f"recipe '{settings.recipe}': {recipe.epochs} epochs, batch {recipe.batch_size}, lr"
            f" {recipe.lr:g} divided by 10 {drops}, momentum {recipe.momentum:g}, decay"
            f" {recipe.weight_decay:g}, {kind} initial weights"
            f"{' fitted to the data' * recipe.standardize}, pictures"
            f" {scaled}"
        ),
    ]
    if settings.recipe == "small":
        lines.append(
            "(for small subsets: the preset's own recipe, --recipe preset, can sit at ln(classes)"
            " for longer than such a run)"
        )
    return lines


def prepared_as_before(
    run: str, settings: Settings, report: Report
) -> tuple[dict[str, np.ndarray], Settings]:
    """--finetune: the preparation of pictures that the run's weights were trained with, and the
    settings that say so; nothing and the settings as they are, if pictures have another size."""
    tensors, source = read_run(run, ("preparation.",))
    old, own = source.network.preprocessing, settings.network.preprocessing
    if (old.size, old.channels) != (own.size, own.channels):
        return {}, settings
    report(f"pictures are prepared as for {run}, with its mean and scale")
    return tensors, replace(settings, network=replace(settings.network, preprocessing=old))


def load_weights(model: nn.Module, run: str) -> str:
    """--finetune: copy every parameter of a run that has the same name and shape in the model.
    Returns a sentence on what was copied; raises ValueError if nothing was."""
    tensors = checkpoint.part(read_run(run)[0], "model.")
    own, left = dict(model.named_parameters()), []
    for name, p in own.items():
        array = tensors.get(name)
        if array is not None and array.shape == p.shape:
            p.data[...] = backend.to_device(array.astype(p.dtype), p.device)
        else:
            there = "absent" if array is None else "x".join(map(str, array.shape))
            left.append(f"{name} (here {'x'.join(map(str, p.shape))}, there {there})")
    taken = len(own) - len(left)
    left += [f"{name} (not in this network)" for name in tensors if name not in own]
    if not taken:
        raise ValueError(
            f"--finetune {run}: not one parameter fits this network: {', '.join(left[:6])}"
        )
    return f"from {run}: {taken} parameters taken; left: {', '.join(left) or 'none'}"


def skipped_lines(skipped: Mapping[str, str], folder: Path | None = None) -> list[str]:
    """A line for each picture that could not be read, at most for the first 20."""
    lines = [f"skipped {reason}" for reason in list(skipped.values())[:20]]
    if len(skipped) > 20:
        listed = f", listed in {folder / 'skipped.csv'}" if folder else ""
        lines.append(f"... and {len(skipped) - 20} more{listed}")
    return lines
