"""The numbers of a network and one picture, small enough for a page that repeats the arithmetic.

The page holds the weights and the outputs of every convolution as 16-bit integers, with a scale for
each filter and map:

    w ~ scale * q,    scale = largest |w| / 32767,    error at most scale / 2

and computes the other stages from these outputs. For each unit of a dense layer it holds the value,
the bias, the largest products and the sum of the rest. The error bound of each number is known, so
the page can say how far its sums may be from the engine's (numbers.js).
"""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Any

import numpy as np

from minigrad import nn
from minigrad.models.records import Conv, Dense
from minigrad.network import Network, Row, ledger

PRODUCTS = 12  # products of a dense unit that are kept one by one
STEPS = 32767  # steps of 16 bits on either side of zero
BUDGET = 15_000_000  # bytes of a page
KEPT = 64  # maps of a layer whose filters are kept if those of the whole layer do not fit


def encoded(array: np.ndarray) -> dict[str, Any]:
    """An array as JSON: its type, its shape, and its bytes in base64."""
    array = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    data = base64.b64encode(array.tobytes()).decode()
    return {"type": array.dtype.name, "shape": list(array.shape), "data": data}


def decoded(block: dict[str, Any]) -> np.ndarray:
    """The inverse of `encoded`."""
    return np.frombuffer(base64.b64decode(block["data"]), block["type"]).reshape(block["shape"])


def quantised(a: np.ndarray) -> dict[str, Any]:
    """Numbers (..., M) in 16 bits, with a scale for each of the M."""
    M = a.shape[-1]
    largest = np.abs(a).reshape(-1, M).max(axis=0, initial=0).astype(np.float64)
    scales = largest / STEPS
    q = np.rint(a / np.where(scales > 0, scales, 1)).astype(np.int16)
    return {"numbers": encoded(q), "scales": scales.tolist()}


def network_numbers(model: Network, x: np.ndarray, budget: float = BUDGET) -> dict[str, Any]:
    """The data that numbers.js needs for a network on a CPU and a prepared picture x (1, H, W, C).

    budget: bytes of the result as JSON. If it is too small, the convolutions after the first keep
    only the filters of their 64 strongest maps, beginning with the layer with the most weights.
    """
    rows = ledger(model.preset, model.classes)
    activations = {name: y.numpy()[0] for name, y in model.activations(x).items()}
    before = [x[0], *activations.values()]
    stages = [stage_numbers(row, model, before[n], activations[row.stage])
              for n, row in enumerate(rows)]  # fmt: skip
    numbers = {"input": quantised(x[0]), "stages": stages}
    convolutions = [s for s in stages[1:] if s["kind"] == "Conv" and s["shape"][-1] > KEPT]
    convolutions.sort(key=lambda s: -len(s["weights"]["numbers"]["data"]))
    for stage in convolutions:
        if size(numbers) <= budget:
            break
        keep_strongest(stage, activations[stage["name"]])
    return numbers


def size(value: Any) -> int:
    """The approximate size of a value as JSON, in bytes."""
    if isinstance(value, dict):
        return sum(len(key) + 4 + size(v) for key, v in value.items())
    if isinstance(value, (list, tuple)):
        return sum(1 + size(v) for v in value)
    return len(value) if isinstance(value, str) else 20


def keep_strongest(stage: dict[str, Any], y: np.ndarray) -> None:
    """Keep only the filters of a convolution's strongest maps, and list these in `kept`."""
    strength = y.reshape(-1, y.shape[-1]).max(axis=0)
    kept = np.sort(np.argsort(-strength, kind="stable")[:KEPT])
    weights = stage["weights"]
    stage["kept"] = kept.tolist()
    weights["numbers"] = encoded(decoded(weights["numbers"])[kept])
    weights["scales"] = [weights["scales"][m] for m in kept]


def stage_numbers(row: Row, model: Network, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """A stage: its row of the ledger, its constants, and the numbers that x does not determine."""
    kind, layer = type(row.layer).__name__, model[row.stage]
    stage: dict[str, Any] = {
        "name": row.stage,
        "kind": kind,
        "inputs": list(row.inputs),
        "shape": list(row.shape),
        "constants": asdict(row.layer),
        "parameters": row.parameters,
        "multiplyAdds": row.multiply_adds,
        "bytesOut": row.bytes_out,
        "bytesKept": row.bytes_kept,
        "field": row.field,
        "jump": row.jump,
        "start": row.start,
        "arithmetic": row.arithmetic,
    }
    if isinstance(row.layer, Conv):
        assert isinstance(layer, nn.Conv2d)
        weights = quantised(layer.w.numpy())
        filters = np.moveaxis(decoded(weights["numbers"]), -1, 0)  # (O, KH, KW, C / groups)
        stage["weights"] = weights | {"numbers": encoded(filters)}
        stage["bias"] = encoded(bias_of(layer, row.shape[-1]))
        stage["outputs"] = quantised(y)
    elif isinstance(row.layer, Dense):
        assert isinstance(layer, nn.Linear)
        stage |= dense_numbers(layer.w.numpy(), x.reshape(-1))
        stage["bias"] = encoded(bias_of(layer, row.shape[-1]))
        stage["values"] = encoded(y)
    return stage


def bias_of(layer: nn.Conv2d | nn.Linear, units: int) -> np.ndarray:
    return np.zeros(units, np.float32) if layer.b is None else layer.b.numpy()


def dense_numbers(w: np.ndarray, x: np.ndarray) -> dict[str, Any]:
    """For each unit, the largest products as the input's `index` and its `weight`, (units, 12), the
    largest |product| first; the sum of the others, `rest`; the sum of all |products|, `size`."""
    count = min(PRODUCTS, len(x))
    index, rest, total = [], [], []
    for first in range(0, w.shape[1], 256):
        products = w[:, first : first + 256].T.astype(np.float64) * x  # (units, in)
        far = np.abs(products)
        best = np.argpartition(-far, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(far, best, axis=1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        index.append(best)
        rest.append(products.sum(axis=1) - np.take_along_axis(products, best, axis=1).sum(axis=1))
        total.append(far.sum(axis=1))
    chosen = np.concatenate(index)
    kind = np.uint16 if len(x) <= 1 << 16 else np.uint32
    return {
        "index": encoded(chosen.astype(kind)),
        "weight": encoded(np.take_along_axis(w.T, chosen, axis=1)),
        "rest": encoded(np.concatenate(rest)),
        "size": encoded(np.concatenate(total)),
    }
