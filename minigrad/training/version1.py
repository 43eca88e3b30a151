"""Convert the settings of runs from before version 2 of settings.json. No other module knows their
format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minigrad.models import records
from minigrad.models.records import LRN, Conv, Dense, Dropout, LRNWithinMap, Pool, Preset


def upgraded(written: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of version 2 from those of version 1."""
    network = written["network"]
    return {
        "version": 2,
        "options": {k: v for k, v in written["arguments"].items() if v is not None},
        "recipe": written["recipe"],
        "network": records.to_json(preset(network)),
        "classes": written["classes"],
        "names": written["names"],
        "pictures": written["pictures"],
    }


def preset(old: Mapping[str, Any]) -> Preset:
    """The preset that version 1 wrote as one flat record."""
    lrn = {key: old[f"lrn_{key}"] for key in ("n", "k", "alpha", "beta", "divide_by_n", "groups")}
    after: dict[str, records.Layer] = {
        "relu": records.ReLU(),
        "norm": LRN(**lrn),
        "within": LRNWithinMap(alpha=old["within_alpha"]),
        "pool": Pool(old["pool_size"], old["pool_stride"], old["pool_ceil"]),
    }
    layers: dict[str, records.Layer] = {}
    for i, row in enumerate(old["convs"], start=1):
        values = {key: value for key, value in row.items() if key != "then"}
        layers[f"conv{i}"] = Conv(**values, ceil=old["ceil_mode"])
        for word in row["then"].split():
            layers[f"{word}{i}"] = after[word]
    first = len(old["convs"]) + 1
    drop = Dropout(old["dropout"], old["dropout_inverted"])
    for i, row in enumerate(old["dense"], start=first):
        hidden: dict[str, records.Layer] = {f"fc{i}": Dense(**row), f"relu{i}": records.ReLU()}
        dropped: dict[str, records.Layer] = {f"drop{i}": drop}
        layers |= dropped | hidden if old["dropout_first"] else hidden | dropped
    layers[f"fc{first + len(old['dense'])}"] = Dense(std=old["last_std"])
    preprocessing = records.Preprocessing(
        old["input_size"],
        mean=old["mean"],
        colour_noise=old["colour_noise"],
        shrink=old["shrink"],
        unit_std=old["unit_std"],
    )
    alike = (
        "batch_size",
        "epochs",
        "lr",
        "momentum",
        "weight_decay",
        "form",
        "bias_lr",
        "bias_lr_scale",
        "bias_decay",
        "max_filter_rms",
        "colour_until",
        "standardize",
    )
    drops = old["lr_drops"]
    recipe = records.Recipe(
        lr_drops=None if drops is None else tuple(drops),
        rates=tuple(("conv1.w", epoch, rate) for epoch, rate in old["conv1_rates"]),
        **{key: old[key] for key in alike},
    )
    return Preset(old["source"], layers, preprocessing, recipe)
