"""Files of weights that others trained: what is read of them, and what is refused."""

import io
import json
import os
import pickle
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
import weight_files
from PIL import Image

import alexnet
from minigrad import weights
from minigrad.data import Preparation
from minigrad.engine import no_grad
from minigrad.functions import softmax
from minigrad.models.records import Pretrained, WeightsFile
from minigrad.network import Network, ledger, shrunken
from minigrad.training import checkpoint, imported
from minigrad.training.runs import load_run
from minigrad.weights import WeightsError, fit, load, unfit
from minigrad.weights.caffe import read_binaryproto

try:
    import torch
except ImportError:
    torch = None
oracle = pytest.mark.skipif(torch is None, reason="PyTorch, the oracle, is not installed")

LENET, QUICK = alexnet.MODELS["caffe_lenet"], alexnet.MODELS["caffe_cifar10_quick"]


def parameters_of(preset, classes=None, seed=1):
    model = Network(preset, classes, seed)
    rng = np.random.default_rng(seed)
    for name, p in model.named_parameters():
        if name.endswith(".b"):
            p.data[...] = rng.standard_normal(p.shape)
    return {name: p.data.copy() for name, p in model.named_parameters()}


def layers_of(tensors):
    """unfit's tensors as {layer: [weight, bias]}."""
    layers = {}
    for name, array in tensors.items():
        layers.setdefault(name.rpartition(".")[0], []).append(array)
    return layers


def same(one, other):
    assert sorted(one) == sorted(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def torch_logits(tensors, preset, x):
    """The network by PyTorch's own operators, channels first, from tensors in a file's axes."""
    own = {name: torch.from_numpy(a) for name, a in tensors.items()}
    F, y = torch.nn.functional, torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    for row in ledger(preset):
        layer, kind = row.layer, type(row.layer).__name__
        name = preset.pretrained.names.get(row.stage, row.stage)
        if kind == "Conv":
            w, b = own[f"{name}.weight"], own[f"{name}.bias"]
            y = F.conv2d(y, w, b, layer.stride, layer.padding, groups=layer.groups)
        elif kind == "Dense":
            y = F.linear(y.flatten(1), own[f"{name}.weight"], own[f"{name}.bias"])
        elif kind == "Pool" and layer.mean:
            y = F.avg_pool2d(y, layer.size, layer.stride, ceil_mode=layer.ceil)
        elif kind == "Pool":
            y = F.max_pool2d(y, layer.size, layer.stride, ceil_mode=layer.ceil)
        elif kind == "ReLU":
            y = F.relu(y)
        elif kind == "LRN":
            alpha = layer.alpha * (1 if layer.divide_by_n else layer.n)
            y = F.local_response_norm(y, layer.n, alpha, layer.beta, layer.k)
        else:
            assert kind == "Dropout", kind
            assert layer.inverted
    return y.numpy()


def assert_logits_agree(preset, parameters, tensors, blue_first=False):
    model = Network(preset, seed=None)
    model.load_state_dict(parameters)
    p = preset.preprocessing
    x = np.random.default_rng(3).standard_normal((2, p.size, p.size, p.channels)).astype(np.float32)
    with no_grad():
        ours = model.eval()(x).numpy()
    theirs = torch_logits(tensors, preset, x[..., ::-1] if blue_first else x)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


# Caffe.


@pytest.mark.parametrize("how", [{}, {"double": True}, {"packed": False}])
@pytest.mark.parametrize("old", [True, False])
def test_a_caffemodel_of_both_versions(tmp_path, old, how):
    preset = shrunken(QUICK, 4)
    own = parameters_of(preset)
    path = tmp_path / "net.caffemodel"
    path.write_bytes(weight_files.caffemodel(layers_of(unfit(own, preset, 10)), old, **how))
    read = load(path)
    assert (read.format, list(read.arrays)) == ("Caffe", ["conv1", "conv2", "conv3", "ip1", "ip2"])
    same(fit(read, preset)[0], own)


@oracle
def test_a_caffemodel_as_caffe_computes(tmp_path):
    """conv, pools rounded up, mean over the pixels inside, C, H, W order before the dense layer."""
    own = parameters_of(QUICK)
    tensors = unfit(own, QUICK, 10)
    assert_logits_agree(QUICK, own, tensors)
    assert tensors["ip1.weight"].shape == (64, 1024)


@oracle
@pytest.mark.parametrize("name", ["caffe", "caffenet"])
def test_photographs_of_caffe_have_blue_first(tmp_path, name):
    preset = shrunken(alexnet.MODELS[name])
    own = parameters_of(preset, 1000)
    path = tmp_path / "net.caffemodel"
    tensors = unfit(own, preset, 1000)
    path.write_bytes(weight_files.caffemodel(layers_of(tensors)))
    same(fit(load(path), preset)[0], own)
    np.testing.assert_array_equal(tensors["conv1.weight"][0, 0], own["conv1.w"][:, :, 2, 0])
    assert_logits_agree(preset, own, tensors, blue_first=True)
    red_first = replace(preset, pretrained=Pretrained())
    with pytest.raises(AssertionError):
        assert_logits_agree(red_first, fit(load(path), red_first)[0], tensors, blue_first=True)


def test_a_bias_may_be_absent(tmp_path):
    preset = shrunken(LENET, 4)
    own = parameters_of(preset)
    layers = layers_of(unfit(own, preset, 10))
    layers["ip2"].pop()
    path = tmp_path / "net.caffemodel"
    path.write_bytes(weight_files.caffemodel(layers))
    np.testing.assert_array_equal(fit(load(path), preset)[0]["fc4.b"], np.zeros(10))


def test_a_mean_of_caffe(tmp_path):
    mean = np.random.default_rng(0).uniform(0, 255, (3, 8, 6)).astype(np.float32)
    (tmp_path / "mean.binaryproto").write_bytes(weight_files.blob(mean, old=True))
    np.testing.assert_array_equal(read_binaryproto(tmp_path / "mean.binaryproto")[0], mean)
    np.testing.assert_array_equal(weights.load_mean(tmp_path / "mean.binaryproto"), mean)
    np.save(tmp_path / "mean.npy", mean.astype(np.float64))
    np.testing.assert_array_equal(weights.load_mean(tmp_path / "mean.npy"), mean)


def test_a_mean_fits_the_crop_and_the_colours():
    caffe = alexnet.MODELS["caffe"]
    mean = np.random.default_rng(0).uniform(0, 255, (3, 256, 256)).astype(np.float32)
    crop = weights.fitted_mean(mean, caffe, "m")
    assert crop.shape == (227, 227, 3)
    np.testing.assert_array_equal(crop[0, 5], mean[::-1, 14, 14 + 5])
    np.testing.assert_array_equal(weights.fitted_mean(crop.transpose(2, 0, 1), caffe, "m"),
                                  crop[..., ::-1])  # fmt: skip
    np.testing.assert_allclose(weights.fitted_mean(mean[:, 0, 0], caffe, "m"), mean[::-1, 0, 0])
    np.testing.assert_array_equal(weights.fitted_mean(mean[:, :32, :32], QUICK, "m")[3, 4],
                                  mean[:, 3, 4])  # fmt: skip
    by_channel = caffe.with_preprocessing(mean="channel")
    np.testing.assert_allclose(
        weights.fitted_mean(mean, by_channel, "m"), mean.mean(axis=(1, 2))[::-1], rtol=1e-5
    )
    with pytest.raises(WeightsError, match="m: a mean of 1 channels; pictures have 3"):
        weights.fitted_mean(mean[:1], caffe, "m")
    with pytest.raises(WeightsError, match="a mean image of 32x32; pictures are 256x256"):
        weights.fitted_mean(mean[:, :32, :32], caffe, "m")


# PyTorch.


def saved(state, path, new=True):
    torch.save(state, path, _use_new_zipfile_serialization=new)
    return path


def state_of(tensors):
    state = torch.nn.Module().state_dict()  # an OrderedDict with _metadata
    state.update({name: torch.from_numpy(a) for name, a in tensors.items()})
    return state


@oracle
@pytest.mark.parametrize("new", [True, False])
def test_a_state_dict_of_both_layouts(tmp_path, new):
    preset = shrunken(alexnet.MODELS["lenet_32"], 2)
    own = parameters_of(preset)
    tensors = unfit(own, preset, 10)
    read = load(saved(state_of(tensors), tmp_path / "net.pt", new))
    assert (read.format, next(iter(read.arrays))) == ("PyTorch", "convnet.c1")
    same(fit(read, preset)[0], own)
    wrapped = {"epoch": 3, "state_dict": dict(state_of(tensors)), "lr": 0.1}
    same(fit(load(saved(wrapped, tmp_path / "checkpoint.pth", new)), preset)[0], own)


@oracle
@pytest.mark.parametrize("new", [True, False])
def test_views_share_a_storage(tmp_path, new):
    base = torch.arange(24.0)
    state = {"a.weight": base[6:18].view(3, 4).T, "a.bias": base[::8], "b.weight": base.view(6, 4)}
    state["b.bias"] = base.double()[:6]
    state |= {"c.weight": base.half(), "c.bias": base.long(), "d.weight": base.int()[1:]}
    read = load(saved(state, tmp_path / "views.pt", new)).arrays
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        np.testing.assert_array_equal(read[layer][kind], tensor.numpy())
        assert read[layer][kind].dtype == np.float32


@oracle
def test_torchvisions_alexnet_in_and_out(tmp_path):
    """The network of torchvision by torch's own modules and initial weights."""
    nn = torch.nn
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 64, 11, 4, 2), nn.Conv2d(64, 192, 5, padding=2),
                    nn.Conv2d(192, 384, 3, padding=1), nn.Conv2d(384, 256, 3, padding=1),
                    nn.Conv2d(256, 256, 3, padding=1)]  # fmt: skip
    features = nn.Sequential()
    for i, conv in enumerate(convolutions):
        features.extend([conv, nn.ReLU()] + [nn.MaxPool2d(3, 2)] * (i in (0, 1, 4)))
    classifier = nn.Sequential(nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(),
                               nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000))  # fmt: skip
    model = nn.ModuleDict({"features": features, "classifier": classifier}).eval()
    path = saved(model.state_dict(), tmp_path / "alexnet.pth")
    preset = alexnet.MODELS["torchvision"]
    parameters, lines = fit(load(path), preset)
    path.unlink()
    assert lines[0] == "conv1.w           11x11x3x64   from features.0.weight 64x3x11x11"
    ours = Network(preset, seed=None)
    ours.load_state_dict(parameters)
    x = np.random.default_rng(0).standard_normal((1, 224, 224, 3)).astype(np.float32)
    with no_grad(), torch.no_grad():
        y = ours.eval()(x).numpy()
        maps = model["features"](torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
        expected = model["classifier"](maps.flatten(1)).numpy()
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    same(unfit(parameters, preset, 1000), state)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch planted",)


HOSTILE = {
    "os.system": (Hostile(), r"asks for '(posix|nt).system'; refused, and not run"),
    "in a dict": ({"a.weight": Hostile()}, "refused, and not run"),
    "eval": (
        type("E", (), {"__reduce__": lambda self: (eval, ("1",))})(),
        "builtin__?s?.eval|builtins.eval",
    ),
    "a class": (Hostile, "refused, and not run"),
    "a state": (OSError("x"), "OSError"),
    "a set": ({1, 2}, "asks for|opcode"),
    "bytes": (b"x", "opcode|asks for"),
}


def in_a_zip(path, content, **members):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", content)
        for name, data in members.items():
            archive.writestr(f"net/{name}", data)
    return path


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_hostile_pickle_is_refused_not_run(tmp_path, monkeypatch, what, protocol):
    monkeypatch.chdir(tmp_path)
    value, words = HOSTILE[what]
    content = pickle.dumps(value, protocol)
    for path in (in_a_zip(tmp_path / "zip.pt", content), tmp_path / "plain.pt"):
        if not path.exists():
            path.write_bytes(content)
        with pytest.raises(WeightsError, match=words) as error:
            load(path)
        assert str(path) in str(error.value)
    assert not (tmp_path / "planted").exists()


def rebuilt(offset=0, shape=(2, 3), strides=(3, 1), size=6, kind="FloatStorage", key="0"):
    """The pickle of {"a.weight": a tensor}, by hand."""
    tensor = weight_files.tensor(key, offset, shape, strides, size, kind)
    return weight_files.state_dict({"a.weight": tensor})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"offset": 1}, r"shape \(2, 3\) reaches outside its storage of 6"),
        ({"strides": (4, 1)}, "reaches outside"),
        ({"shape": (2, 4)}, "reaches outside"),
        ({"shape": (1 << 20, 1 << 20), "strides": (0, 0)}, "share their numbers"),
        ({"shape": (2, 0)}, "is empty"),
        ({"shape": (8, 3), "strides": (0, 1)}, "reaches outside its storage"),
        ({"size": 7}, "is not all there"),
        ({"size": 1 << 39}, "is not all there|is said to have"),
        ({"size": 1 << 60}, "numbers"),
        ({"size": 0}, "numbers"),
        ({"strides": (1,)}, "a tensor of 2 sides has 1 strides"),
        ({"kind": "BFloat16Storage"}, r"numbers of 'BFloat16Storage' are not read; save them with"),
        ({"kind": "DoubleStorage"}, "is not all there"),
        ({"key": "../0"}, "no item named"),
        ({"shape": (1,) * 9, "strides": (1,) * 9}, "more than 8 sides"),
    ],
)
def test_a_tensor_that_is_not_there(tmp_path, change, words):
    data = {"data/0": np.arange(6, dtype="<f4").tobytes()}
    good = load(in_a_zip(tmp_path / "good.pt", rebuilt(), **data)).arrays["a"]["weight"]
    np.testing.assert_array_equal(good, np.arange(6).reshape(2, 3))
    path = in_a_zip(tmp_path / "bad.pt", rebuilt(**change), **data)
    with pytest.raises(WeightsError, match=words):
        load(path)


def doubled(times: int) -> bytes:
    """Opcodes for ((..), (..)) with 2^times leaves, in a few bytes."""
    return b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(times))


SMALL = {  # a few bytes that describe much
    "a nested key": b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"Ns.",
    "an exponential key": b"\x80\x02}" + doubled(40) + b"Ns.",
    "an exponential name": b"\x80\x02" + doubled(40) + doubled(40) + b"\x93.",
    "an exponential storage": b"\x80\x02(" + doubled(40) + b"NNNNtQ.",
    "an exponential shape": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00"
    + doubled(40) + doubled(40) + b"\x89NtR.",
    "a long shape": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\x00("
    + b"K\x02" * 400_000 + b"t(" + b"K\x01" * 400_000 + b"t\x89NtR.",
    "many dicts": b"\x80\x02" + b"}" * 3_000_000 + b".",
}  # fmt: skip


@pytest.mark.parametrize("what", [*SMALL, "many views"])
def test_small_pickles_that_would_take_for_ever(tmp_path, what):
    """Or all memory, or the stack of C: each is refused at once."""
    base = weight_files.tensor("0", 0, (64, 64), (64, 1), 4096)
    views = weight_files.state_dict({f"l{i}.weight": base for i in range(200)})
    path = in_a_zip(tmp_path / "a.pt", SMALL.get(what, views), **{"data/0": bytes(16384)})
    with pytest.raises(WeightsError) as error:
        load(path)
    assert len(str(error.value)) < 400
    if what == "many dicts":
        assert "more than 1,048,576 opcodes" in str(error.value)


@oracle
def test_a_negated_view_is_refused(tmp_path):
    """Its sign is a flag beside the numbers."""
    state = {"a.weight": torch._neg_view(torch.arange(6.0).view(2, 3))}
    with pytest.raises(WeightsError, match=r"negated or conjugated view; save it with .clone()"):
        load(saved(state, tmp_path / "neg.pt"))


def test_what_a_file_names_is_clipped_and_on_one_line(tmp_path):
    name = "a\nerror: " + "b" * 5000
    path = tmp_path / "net"
    path.write_bytes(weight_files.caffemodel({name: [np.zeros((2, 2), np.float32)] * 3}))
    with pytest.raises(WeightsError) as error:
        load(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    inner = weight_files.state_dict({"a.weight": weight_files.tensor("0", 0, (2,), (1,), 2)})
    outer = b"\x80\x02}(" + weight_files.text("model") + inner[2:-1] + b"u."
    with pytest.raises(WeightsError, match="'model' is a dict in it; save that one alone"):
        load(in_a_zip(tmp_path / "wrapped.pt", outer, **{"data/0": bytes(8)}))
    with pytest.raises(WeightsError) as error:
        load(in_a_zip(tmp_path / "long.pt", b"\x80\x02c" + b"m" * 100_000 + b"\nx\n."))
    assert len(str(error.value)) < 400


def test_a_zip_that_is_compressed_or_of_another_order(tmp_path):
    data = {"data/0": bytes(24)}
    path = in_a_zip(tmp_path / "big.pt", rebuilt(), byteorder=b"big", **data)
    with pytest.raises(WeightsError, match="highest byte first"):
        load(path)
    with zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data.pkl", rebuilt())
        archive.writestr("net/data/0", bytes(24))
    with pytest.raises(WeightsError, match="data.pkl is compressed"):
        load(tmp_path / "small.pt")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("picture.png", b"x")
    with pytest.raises(WeightsError, match="without PyTorch's data.pkl"):
        load(tmp_path / "other.zip")


def test_nested_depth_is_no_recursion(tmp_path):
    deep = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    with pytest.raises(WeightsError, match="no state dict"):
        load(in_a_zip(tmp_path / "deep.pt", deep))
    inside = b""
    for _ in range(2000):
        inside = weight_files.field(100, inside)
    (tmp_path / "deep.caffemodel").write_bytes(inside)
    with pytest.raises(WeightsError, match="no layer with weights"):
        load(tmp_path / "deep.caffemodel")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no .caffemodel: it holds no layer with weights"),
        (b"\x89HDF\r\n\x1a\n....", "HDF5"),
        (b"\x1f\x8b\x08....", "compressed with gzip"),
        (b"\x93NUMPY....", "a mean is named with --mean"),
        (bytes(257) + b"ustar", "a tar file, as PyTorch wrote before"),
        (b"\xff" * 40, "more than ten bytes"),
        (bytes(60_000_000), "field 1 of a message, of number 0, at byte 1"),
        (b"\x08\x00" * (1 << 23), "field 4194305 of a message"),
        (b"\x89PNG....", "none of the other formats"),
        (b"\x80\x05N.", "not one that PyTorch wrote"),
        (weight_files.field(100, b"\x0f"), "wire type 7"),
        (b"\xa2\x06\x7f" + bytes(3), "it is cut off: a field of 127 bytes, 3 left"),
        (b"\x80\x02N.", "not one that PyTorch wrote"),
        (b"\x80\x02", "pickle is cut off|exhausted"),
        (b"PK\x03\x04", "not a zip file"),
        (b"\x10" + bytes(7) + b'{"a":', "no whole safetensors file"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path, content, words):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=words) as error:
        load(path)
    assert str(path) in str(error.value)


def test_no_file_at_all(tmp_path):
    with pytest.raises(OSError, match="absent"):
        load(tmp_path / "absent")
    with pytest.raises(WeightsError, match="is not a file"):
        load(tmp_path)


def test_a_caffemodel_with_two_layers_of_one_name(tmp_path):
    layers = [np.zeros((2, 2), np.float32)]
    twice = weight_files.caffemodel({"a": layers})
    (tmp_path / "twice.caffemodel").write_bytes(twice + twice)
    with pytest.raises(WeightsError, match="the layer 'a' is there twice"):
        load(tmp_path / "twice.caffemodel")
    (tmp_path / "three.caffemodel").write_bytes(weight_files.caffemodel({"bn": layers * 3}))
    with pytest.raises(WeightsError, match="the layer 'bn' has 3 arrays"):
        load(tmp_path / "three.caffemodel")


@pytest.mark.parametrize("shape", [(2, 3), (2**40,), (2**62, 2**62), (0, 4), (1,) * 9])
def test_a_blob_of_another_size_than_its_shape(tmp_path, shape):
    sides = b"".join(map(weight_files.varint, shape))
    message = weight_files.field(7, weight_files.field(1, sides)) + weight_files.field(5, bytes(16))
    (tmp_path / "mean").write_bytes(message)
    with pytest.raises(WeightsError, match="4 numbers for an array|dimensions"):
        read_binaryproto(tmp_path / "mean")


# safetensors.


def test_safetensors_in_and_out(tmp_path):
    preset = shrunken(alexnet.MODELS["torchvision"])
    own = parameters_of(preset, 1000)
    tensors = unfit(own, preset, 1000)
    assert list(tensors) == [
        f"{part}.{i}.{kind}"
        for part, numbers in (("features", (0, 3, 6, 8, 10)), ("classifier", (1, 4, 6)))
        for i in numbers
        for kind in ("weight", "bias")
    ]
    path = tmp_path / "net.safetensors"
    safetensors.numpy.save_file(tensors, path)
    same(fit(load(path), preset)[0], own)
    with pytest.raises(WeightsError, match=r"there is no 'conv1'; it holds classifier.1, "):
        fit(load(path), replace(preset, pretrained=Pretrained()))
    safetensors.numpy.save_file({"bn.running_mean": np.zeros(3, np.float32)}, path)
    with pytest.raises(WeightsError, match=r"bn.running_mean is neither a weight nor a bias"):
        load(path)


# What does not fit.


def test_layers_found_by_order_and_what_does_not_fit(tmp_path):
    preset = shrunken(LENET, 4)
    own = parameters_of(preset)
    layers = layers_of(unfit(own, preset, 10))
    path = tmp_path / "net.caffemodel"

    def fitted(layers):
        path.write_bytes(weight_files.caffemodel(layers))
        return fit(load(path), preset)[0]

    same(fitted({f"layer{i}": a for i, a in enumerate(layers.values())}), own)
    reordered = dict(reversed(layers.items()))
    same(fitted(reordered), own)  # by name
    with pytest.raises(
        WeightsError,
        match="first layer that differs is conv2: the file's conv2.weight is 12x5x3x3, and the"
        " preset needs 12x5x5x5",
    ):
        fitted(layers | {"conv2": [np.zeros((12, 5, 3, 3)), layers["conv2"][1]]})
    with pytest.raises(WeightsError, match=r"conv1.bias is 7, and the preset needs 5"):
        fitted(layers | {"conv1": [layers["conv1"][0], np.zeros(7)]})
    with pytest.raises(WeightsError, match=r"differs is extra: the preset has none like it"):
        fitted(layers | {"extra": [np.zeros((2, 2))]})
    with pytest.raises(WeightsError, match=r"the layers conv1, ip1 are not where the preset has"
                                           r" them, and there is no 'conv2'"):  # fmt: skip
        fitted({"conv1": [], "x": [], "y": [], "ip1": []} | dict(zip(("conv1", "ip1", "x", "y"),
                                                                   layers.values())))  # fmt: skip
    few = dict(list(layers.items())[:3])
    with pytest.raises(WeightsError, match=r"it has 3 layers with weights \(conv1, conv2, ip1\)"
                                           r", and the preset has 4"):  # fmt: skip
        fitted(few)
    bad = layers["ip1"][0].copy()
    bad[0, 0] = np.nan
    with pytest.raises(WeightsError, match=r"ip1.weight holds values that are not finite"):
        fitted(layers | {"ip1": [bad, layers["ip1"][1]]})


# The command.


@pytest.fixture(scope="module")
def lenet(tmp_path_factory):
    place = tmp_path_factory.mktemp("imported")
    own = parameters_of(LENET)
    (place / "lenet.caffemodel").write_bytes(
        weight_files.caffemodel(layers_of(unfit(own, LENET, 10)))
    )
    rng = np.random.default_rng(0)
    for label in "37":
        for part, count in (("train", 12), ("val", 3)):
            folder = place / "digits" / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                picture = rng.integers(0, 256, (28, 28)).astype(np.uint8)
                Image.fromarray(picture).save(folder / f"{i}.png")
    return place, own


def main(*words):
    return alexnet.main(list(map(str, words)))


def test_import_makes_a_run(lenet, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place, own = lenet
    file = place / "lenet.caffemodel"
    assert main("import", file, "--preset", "caffe_lenet", "-o", "run") == 0
    said = capsys.readouterr().out
    assert said.splitlines()[:2] == [
        f"{file}: Caffe, 4 layers with weights",
        "conv1.w             5x5x1x20   from conv1.weight 20x1x5x5",
    ]
    assert "10 classes: 0, 1, 2, 3, 4 ...\nwritten: run\nnot a known file: shapes that" in said
    model, preparation, settings = load_run("run")
    same(model.state_dict(), own)
    assert (settings.classes, settings.pictures) == (list("0123456789"), 0)
    picture = next((place / "digits" / "val" / "7").iterdir())
    x = preparation.centre(np.asarray(Image.open(picture))[None, :, :, None])
    np.testing.assert_allclose(x[0, :, :, 0], np.asarray(Image.open(picture)) / 256, rtol=1e-6)
    assert main("evaluate", "run", "--data", place / "digits", "--workers", 0) == 2
    assert "has no class folder 0, 1, 2" in capsys.readouterr().err
    assert main("evaluate", "run") == 2
    assert "holds imported weights, and no pictures" in capsys.readouterr().err
    assert main("train", "--resume", "run", "--epochs", 3) == 2
    assert "start one from them with --finetune run" in capsys.readouterr().err
    assert main("predict", "run", picture, "--json", "-") == 0
    (row,) = json.loads(capsys.readouterr().out)
    with no_grad():
        p = softmax(model(x)).numpy()[0]
    assert [g["class"] for g in row["best"]] == [str(k) for k in np.argsort(-p)[:5]]
    np.testing.assert_allclose([g["probability"] for g in row["best"]], np.sort(p)[::-1][:5],
                               rtol=1e-5)  # fmt: skip
    assert main("look", "run", "--what", "filters", "-o", "drawn") == 0
    assert main("report", "run", "--data", place / "digits", "--kind", "numbers") == 0
    assert "written: run/report.html" in capsys.readouterr().out
    assert main("report", "run", "-o", "run/checkpoint.safetensors") == 2
    assert "run/checkpoint.safetensors would be written over" in capsys.readouterr().err
    assert main("import", file, "--preset", "caffe_lenet", "-o", "run") == 2
    assert "run is not empty" in capsys.readouterr().err
    np.save("mean.npy", np.zeros((1, 28, 28)))
    assert main("import", file, "--preset", "caffe_lenet", "--mean", "mean.npy") == 2
    assert "the preset subtracts (0.0,), as its source does" in capsys.readouterr().err


def test_finetuning_keeps_the_preparation(lenet, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place, own = lenet
    file = place / "lenet.caffemodel"
    assert main("import", file, "--preset", "caffe_lenet", "-o", "run") == 0
    new = ("train", "--data", place / "digits", "--finetune", "run")  # the run's own preset
    less = ("--epochs", 1, "--recipe", "small", "--workers", 0, "--report", "off", "--cache", "off")
    assert main(*new, *less, "--output", "tuned") == 0
    said = capsys.readouterr().out
    assert "pictures are prepared as for run, with its mean and scale" in said
    assert "from run: 6 parameters taken; left: fc4.w (here 500x2, there 500x10)" in said
    _, preparation, settings = load_run("tuned")
    assert preparation.scale.tolist() == [1 / 256]
    assert not preparation.mean.any()
    assert settings.network.preprocessing == LENET.preprocessing
    assert main("train", "--resume", "tuned", "--epochs", 2) == 0
    assert load_run("tuned")[1].scale.tolist() == [1 / 256]


def test_import_of_a_network_that_needs_a_mean(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = parameters_of(QUICK)
    file = tmp_path / "quick.caffemodel"
    file.write_bytes(weight_files.caffemodel(layers_of(unfit(own, QUICK, 10))))
    wanted = ("import", file, "--preset", "caffe_cifar10_quick", "-o", "run")
    assert main(*wanted) == 2
    assert "needs the mean image of its training pictures" in capsys.readouterr().err
    mean = np.random.default_rng(0).uniform(0, 255, (3, 32, 32)).astype(np.float32)
    np.save("mean.npy", mean)
    assert main(*wanted, "--mean", "mean.npy") == 0
    preparation = load_run("run")[1]
    np.testing.assert_array_equal(preparation.mean, mean.transpose(1, 2, 0))
    assert preparation.scale.tolist() == [1, 1, 1]
    np.save("mean.npy", np.full((3, 32, 32), 1e300))
    assert main(*wanted[:-1], "other", "--mean", "mean.npy") == 2
    assert "a mean is (C, H, W) or (C,), and finite" in capsys.readouterr().err
    np.save("mean.npy", np.array([{}]))
    assert main(*wanted[:-1], "other", "--mean", "mean.npy") == 2
    assert "mean.npy: no whole .npy file" in capsys.readouterr().err
    lenet = ("import", file, "--preset", "caffe_lenet", "--mean", "mean.npy")
    assert main(*lenet) == 2
    assert "differs is conv3: the preset has none like it" in capsys.readouterr().err


def test_the_mean_of_training_pictures(tmp_path, capsys, monkeypatch):
    """All of them, of the training part alone; the run then knows its held-out pictures."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    pictures = []
    for name in QUICK.names:
        for part, count in (("train", 2), ("val", 1)):
            folder = tmp_path / "set" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                picture = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(picture).save(folder / f"{i}.png")
                if part == "train":
                    pictures.append(picture)
    file = tmp_path / "quick.caffemodel"
    tensors = unfit(parameters_of(QUICK), QUICK, 10)
    file.write_bytes(weight_files.caffemodel(layers_of(tensors)))
    command = ("import", file, "--preset", "caffe_cifar10_quick", "--mean-of", "set", "-o", "run")
    assert main(*command) == 0
    np.testing.assert_allclose(load_run("run")[1].mean, np.mean(pictures, axis=0), rtol=1e-5)
    assert main("evaluate", "run", "--workers", 0) == 0
    assert "10 pictures of set/val" in capsys.readouterr().out.replace(f"{tmp_path}/", "")


def test_class_names(tmp_path):
    words = tmp_path / "synset_words.txt"
    words.write_text("n01440764 tench, Tinca tinca\n\nn01443537 goldfish\nn09 \n")
    names = imported.class_names(str(words), QUICK, None)
    assert names == (["n01440764", "n01443537", "n09"], ["tench, Tinca tinca", "goldfish", "n09"])
    words.write_text("big dog\ncat\n")
    assert imported.class_names(str(words), QUICK, None) == (["big dog", "cat"],) * 2
    assert imported.class_names(None, QUICK, None)[0] == list(QUICK.names)
    assert imported.class_names(None, alexnet.PAPER, None) is None
    words.write_text("cat\ncat\n")
    with pytest.raises(WeightsError, match="it must name each class once"):
        imported.class_names(str(words), QUICK, None)


def test_class_names_that_do_not_fit(lenet, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place, _ = lenet
    words = tmp_path / "names.txt"
    command = ("import", place / "lenet.caffemodel", "--preset", "caffe_lenet", "--classes", words)
    words.write_text("cat\ndog\n")
    assert main(*command) == 2
    said = capsys.readouterr().err
    assert "its last layer has 10 outputs, and there are 2 class names: give --classes" in said
    words.write_bytes(b"\xff\xfe")
    assert main(*command) == 2
    assert f"{words}: class names are text in UTF-8" in capsys.readouterr().err
    for odd in ("/dev/zero", tmp_path):
        assert main(*command[:-1], odd) == 2
        assert f"{odd}: a file of class names is needed" in capsys.readouterr().err
    words.write_bytes(b"\xef\xbb\xbfcat\ndog\n")
    assert imported.class_names(str(words), LENET, None) == (["cat", "dog"],) * 2


@pytest.mark.parametrize("kind", ["sha256", "sha1"])
def test_a_known_file(lenet, tmp_path, capsys, monkeypatch, kind):
    import hashlib

    monkeypatch.chdir(tmp_path)
    place, _ = lenet
    file = place / "lenet.caffemodel"
    digits = hashlib.new(kind, file.read_bytes()).hexdigest()[:12]
    known = WeightsFile("somewhere", f"{kind}:{digits}", "99 % of the pictures")
    other = replace(LENET, pretrained=replace(LENET.pretrained, files=(known,)))
    presets = {"caffe_lenet": LENET, "other": other}
    imported.import_weights(str(file), "caffe_lenet", presets, None, None, None, "run")
    said = capsys.readouterr().out
    assert "the file is known as one for the preset other, not for caffe_lenet" in said
    assert "a known file (somewhere); it must score 99 % of the pictures" in said


def test_classes_without_names(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    preset = replace(shrunken(LENET, 4), names=(), classes=12)
    own = parameters_of(preset, 12)
    file = tmp_path / "net.caffemodel"
    file.write_bytes(weight_files.caffemodel(layers_of(unfit(own, preset, 12))))
    imported.import_weights(str(file), "p", {"p": preset}, None, None, None, "run")
    tensors, description = checkpoint.load("run/checkpoint.safetensors")
    assert description["settings"]["classes"][:2] == ["class 00", "class 01"]
    assert isinstance(Preparation.from_arrays(tensors, preset.preprocessing), Preparation)


FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "exec",
             "compile", "import", "socket.connect", "os.remove", "pickle.find_class")  # fmt: skip
WATCH = {"on": False, "seen": []}


@pytest.fixture(scope="module")
def hook():
    def note(event, _):
        if WATCH["on"] and event in FORBIDDEN:
            WATCH["seen"].append(event)

    sys.addaudithook(note)


@pytest.mark.parametrize("kind", ["v1", "v2", "zip", "legacy", "safetensors"])
def test_fuzzed_files_give_arrays_or_a_sentence(kind, tmp_path, hook):
    rng = np.random.default_rng(0)
    tensors = unfit(parameters_of(shrunken(LENET, 10)), shrunken(LENET, 10), 10)
    path = tmp_path / "file"
    if kind in ("v1", "v2"):
        path.write_bytes(weight_files.caffemodel(layers_of(tensors), kind == "v1"))
    elif kind == "safetensors":
        safetensors.numpy.save_file(tensors, path)
    elif kind == "zip":
        path.write_bytes(weight_files.pt(tensors))
    elif torch is None:
        pytest.skip("PyTorch, which writes them, is not installed")
    else:
        saved(state_of(tensors), path, new=False)
    load(path)  # imports what it needs
    good, refused = path.read_bytes(), []
    WATCH["seen"].clear()
    for _ in range(300):
        bad = bytearray(good)
        for _ in range(rng.integers(1, 8)):
            at = int(rng.integers(0, min(len(bad), rng.choice([64, 1000, len(bad)]))))
            bad[at] = rng.choice([0, 255, 127, 128, int(rng.integers(0, 256))])
        if rng.random() < 0.3:
            del bad[int(rng.integers(0, len(bad))) :]
        path.write_bytes(bytes(bad))
        WATCH["on"] = True
        try:
            arrays = [array for layer in load(path).arrays.values() for array in layer.values()]
            assert all(isinstance(array, np.ndarray) for array in arrays)
        except WeightsError as error:
            refused.append(str(error))
        finally:
            WATCH["on"] = False
    assert all(str(path) in sentence for sentence in refused)
    assert len(refused) > 60, refused
    assert set(WATCH["seen"]) <= {"import"}, WATCH["seen"]


def test_a_zip_reader_is_told_the_truth(tmp_path):
    """A member that says it is longer than the file."""
    path = in_a_zip(tmp_path / "a.pt", rebuilt(), **{"data/0": bytes(24)})
    content = bytearray(path.read_bytes())
    at = content.rfind(b"PK\x01\x02", 0, content.rfind(b"PK\x01\x02"))
    for offset in (20, 24):
        content[at + offset : at + offset + 4] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(WeightsError, match="is said to have 1,073,741,824 bytes"):
        load(path)
    assert io.BytesIO(content).read(2) == b"PK"
