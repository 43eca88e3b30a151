"""Writes a network as an ONNX file, opset 17.

ONNX has channels first: the input is (N, C, size, size), prepared as the metadata say, and weights
have the axes of PyTorch. Layers that ONNX has no operator for are composed:

    LRN            ONNX divides alpha by n; where the preset does not, alpha * n is written.
                   With groups: Split, an LRN for each group, Concat
    LRNWithinMap   x * (k + alpha * mean over n x n of x^2)^-beta, by AveragePool over padded pixels
    rounding up    the pixels that the last window lacks are padded at the end, explicitly
    dropout        nothing if it is inverted; if not, a multiplication by 1 - p

The outputs are "logits" and "probabilities". Metadata: preprocessing, classes and names, as JSON.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minigrad.data import Preparation
from minigrad.models import records
from minigrad.models.records import LRN, Conv, Dense, Dropout, LRNWithinMap, Pool, Preset
from minigrad.network import Row, ledger
from minigrad.weights.file import WeightsError
from minigrad.weights.fitting import to_theirs

OPSET, IR_VERSION = 17, 9


@dataclass(frozen=True)
class Described:
    """What the metadata hold."""

    classes: list[str]
    names: list[str]
    preparation: Preparation


class Graph:
    """The nodes and initializers of an ONNX graph, as they are added one by one. `last` is the name
    of the newest output."""

    def __init__(self, onnx: Any, last: str) -> None:
        self.onnx, self.last = onnx, last
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def constant(self, name: str, array: np.ndarray) -> str:
        """An initializer. Returns its name."""
        self.initializers.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def add(self, kind: str, output: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output; its inputs are the newest output and `inputs`."""
        return self.join(kind, [self.last, *inputs], [output], **attributes)

    def join(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        """A node with these inputs and outputs."""
        self.nodes.append(
            self.onnx.helper.make_node(kind, inputs, outputs, outputs[0], **attributes)
        )
        self.last = outputs[0]
        return self.last


def save_onnx(
    preset: Preset, parameters: dict[str, np.ndarray], about: Described, path: Path
) -> None:
    """Write a network with its parameters. Raises WeightsError if a layer cannot be written, or if
    the package onnx is missing."""
    try:
        import onnx
    except ImportError as error:
        raise WeightsError(
            f"{path.name} needs the package onnx: pip install 'minigrad[onnx]'"
        ) from error
    p = preset.preprocessing
    graph = Graph(onnx, "pictures")
    for row in ledger(preset, len(about.classes)):
        add_layer(graph, row, parameters)
    graph.nodes[-1].output[0] = "logits"
    graph.last = "logits"
    graph.add("Softmax", "probabilities", axis=1)
    tensor, number = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    outputs = [tensor(name, number, ["N", len(about.classes)]) for name in ("logits", graph.last)]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "minigrad",
            [tensor("pictures", number, ["N", p.channels, p.size, p.size])],
            outputs,
            graph.initializers,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="minigrad",
        doc_string=f"{preset.source}. Pictures: (crop - mean) * scale, see the metadata.",
    )
    metadata = {
        "preprocessing": json.dumps(preprocessing(preset, about.preparation)),
        "classes": json.dumps(about.classes),
        "names": json.dumps(about.names),
    }
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def preprocessing(preset: Preset, preparation: Preparation) -> dict[str, Any]:
    """How a picture becomes input, for the metadata. The mean is a list of one number for each
    channel, or the float32 bytes of an image (channels, size, size) in base64."""
    p = preset.preprocessing
    mean = preparation.mean.transpose(2, 0, 1)
    channels = mean[:, 0, 0]
    same = bool((mean == channels[:, None, None]).all())
    image = base64.b64encode(np.ascontiguousarray(mean, "<f4").tobytes()).decode()
    return {
        "scale_shorter_side_to": p.picture,
        "central_crop": p.size,
        "channels": "red, green, blue" if p.channels == 3 else "grey",
        "values": "0 to 255",
        "mean": channels.tolist() if same else {"shape": mean.shape, "float32_base64": image},
        "scale": np.asarray(preparation.scale).tolist(),
    }


def add_layer(graph: Graph, row: Row, parameters: dict[str, np.ndarray]) -> None:
    """The nodes of one layer."""
    name, layer = row.stage, row.layer
    match layer:
        case Conv() | Dense():
            own = [
                graph.constant(f"{name}.{kind}", to_theirs(parameters[f"{name}.{kind}"], row))
                for kind in ("w", "b")
            ]
            if isinstance(layer, Conv):
                sides = {"kernel_shape": [layer.size] * 2, "strides": [layer.stride] * 2}
                pads = padded(row, layer.padding)
                graph.add("Conv", name, *own, group=layer.groups, pads=pads, **sides)
            else:
                if len(row.inputs) == 3:
                    graph.add("Flatten", f"{name}_input", axis=1)
                graph.add("Gemm", name, *own, transB=1)
        case Pool():
            sides = {"kernel_shape": [layer.size] * 2, "strides": [layer.stride] * 2}
            kind = "AveragePool" if layer.mean else "MaxPool"
            graph.add(kind, name, pads=padded(row, 0), **sides)
        case LRN():
            add_lrn(graph, name, layer, row.inputs[-1])
        case LRNWithinMap():
            add_lrn_within_map(graph, name, layer)
        case Dropout():
            if not layer.inverted:
                factor = np.array(1 - layer.p, np.float32)
                graph.add("Mul", name, graph.constant(f"{name}.kept", factor))
        case records.ReLU() | records.Tanh() | records.Sigmoid():
            kind = {"ReLU": "Relu"}.get(type(layer).__name__, type(layer).__name__)
            graph.add(kind, name)
        case _:
            raise WeightsError(f"{name}: ONNX is not written for {type(layer).__name__}")


def padded(row: Row, padding: int) -> list[int]:
    """Padding of a window: top, left, bottom, right, with what the last window lacks."""
    layer = row.layer
    assert isinstance(layer, (Conv, Pool))
    lack = [
        max(0, (out - 1) * layer.stride + layer.size - (side + 2 * padding))
        for side, out in zip(row.inputs[:2], row.shape[:2])
    ]
    return [padding, padding, padding + lack[0], padding + lack[1]]


def add_lrn(graph: Graph, name: str, layer: LRN, channels: int) -> None:
    """LRN; with groups, one for each."""
    if layer.n % 2 == 0:
        raise WeightsError(f"{name}: ONNX centres an even window (n = {layer.n}) in another way")
    constants = {
        "alpha": layer.alpha * (1 if layer.divide_by_n else layer.n),
        "beta": layer.beta,
        "bias": layer.k,
        "size": layer.n,
    }
    if layer.groups == 1:
        graph.add("LRN", name, **constants)
        return
    sizes = np.full(layer.groups, channels // layer.groups, np.int64)
    parts = [f"{name}_part{g}" for g in range(layer.groups)]
    graph.join("Split", [graph.last, graph.constant(f"{name}.parts", sizes)], parts, axis=1)
    done = [graph.join("LRN", [part], [f"{part}_lrn"], **constants) for part in parts]
    graph.join("Concat", done, [name], axis=1)


def add_lrn_within_map(graph: Graph, name: str, layer: LRNWithinMap) -> None:
    """x * (k + alpha * mean over the n x n pixels around)^-beta."""

    def constant(what: str, value: float) -> str:
        return graph.constant(f"{name}.{what}", np.array(value, np.float32))

    x, before, after = graph.last, layer.n // 2, (layer.n - 1) // 2
    graph.add("Mul", f"{name}_square", x)
    graph.add(
        "AveragePool",
        f"{name}_mean",
        kernel_shape=[layer.n] * 2,
        strides=[1, 1],
        pads=[before, before, after, after],
        count_include_pad=1,
    )
    graph.add("Mul", f"{name}_scaled", constant("alpha", layer.alpha))
    graph.add("Add", f"{name}_sum", constant("k", layer.k))
    graph.add("Pow", f"{name}_power", constant("minus_beta", -layer.beta))
    graph.add("Mul", name, x)
