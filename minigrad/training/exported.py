"""Writes a run's network for other programs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.numpy import save_file

from minigrad import weights
from minigrad.data import Preparation
from minigrad.files import replacing
from minigrad.models.records import Preset
from minigrad.training.checkpoint import part
from minigrad.training.run_folder import check_outputs
from minigrad.training.runs import read_run
from minigrad.weights.onnx_file import Described, save_onnx


def export_run(run: str, output: str, presets: Mapping[str, Preset]) -> None:
    """Write a run's network as an ONNX file, or its parameters as a safetensors file under the
    names of its preset's files. The suffix says which."""
    path = Path(output)
    check_outputs([output], [run])
    if path.suffix not in (".onnx", ".safetensors"):
        raise ValueError(f"{output}: the name must end in .onnx or .safetensors")
    tensors, settings = read_run(run)
    parameters, network = part(tensors, "model."), settings.network
    named = presets.get(settings.options.preset)
    if path.suffix == ".onnx":
        preparation = Preparation.from_arrays(tensors, network.preprocessing)
        about = Described(settings.classes, settings.names, preparation)
        with replacing(path) as unfinished:
            save_onnx(network, parameters, about, unfinished)
    else:
        if named is not None and list(named.layers.items()) == list(network.layers.items()):
            network = named
        renamed = weights.unfit(parameters, network, len(settings.classes))
        with replacing(path) as unfinished:
            save_file(renamed, unfinished, {"format": "pt"})
    print(f"written: {path}")
