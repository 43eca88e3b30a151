"""Weights in and out: files of Caffe and PyTorch, safetensors and ONNX.

    load(path)                 the layers of a file, as they stand in it
    fit(weights, preset, ...)  the parameters of a preset's network, with the axes that it needs

No file is executed, and no length in one is believed before the bytes have been counted.
"""

from minigrad.weights.file import Weights, WeightsError
from minigrad.weights.fitting import fit, fitted_mean, unfit
from minigrad.weights.formats import load, load_mean

__all__ = ["Weights", "WeightsError", "fit", "fitted_mean", "load", "load_mean", "unfit"]
