"""ONNX files: onnxruntime computes what the network computes."""

import base64
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import alexnet
from minigrad.data import Preparation
from minigrad.engine import no_grad
from minigrad.functions import softmax
from minigrad.models.records import LRN, Conv, Gather
from minigrad.network import Network, ledger, shrunken
from minigrad.training import checkpoint
from minigrad.training.checkpoint import part
from minigrad.training.runs import read_run
from minigrad.weights import WeightsError
from minigrad.weights.fitting import to_ours, to_theirs
from minigrad.weights.onnx_file import Described, save_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def network(preset, classes=5):
    """With weights that leave the softmax undecided, and biases that show."""
    model = Network(preset, classes, 3)
    rng = np.random.default_rng(0)
    p = preset.preprocessing
    x = rng.standard_normal((8, p.size, p.size, p.channels)).astype(np.float32)
    model.standardize(x)
    for name, parameter in model.named_parameters():
        if name.endswith(".b"):
            parameter.data[...] = 0.1 * rng.standard_normal(parameter.shape)
    return model.eval(), x[:2]


def written(model, path, preparation=None):
    p, C = model.preset.preprocessing, model.classes
    names = [str(i) for i in range(C)]
    preparation = preparation or Preparation(p.size, np.zeros(p.channels), 1.0)
    parameters = {name: q.data for name, q in model.named_parameters()}
    save_onnx(model.preset, parameters, Described(names, names, preparation), path)
    return path


def outputs(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits", "probabilities"], {"pictures": x.transpose(0, 3, 1, 2).copy()})


def largest_difference(model, x, path):
    with no_grad():
        logits = model(x)
        p = softmax(logits).numpy()
    assert 1e-5 < p.min() <= p.max() < 0.99, "unsaturated"
    theirs = outputs(written(model, path), x)
    np.testing.assert_allclose(theirs[0], logits.numpy(), rtol=0, atol=2e-4)
    return float(np.abs(theirs[1] - p).max())


def odd_sizes(name):
    """The preset, smaller, with windows that do not fit exactly where it rounds up."""
    preset = shrunken(alexnet.MODELS[name])
    return preset.with_preprocessing(size=70) if preset.preprocessing.size == 67 else preset


@pytest.mark.parametrize("name", alexnet.MODELS)
def test_onnxruntime_agrees(name, tmp_path):
    model, x = network(odd_sizes(name))
    assert largest_difference(model, x, tmp_path / "net.onnx") <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", alexnet.MODELS)
def test_onnxruntime_agrees_in_full_size(name, tmp_path):
    model, x = network(alexnet.MODELS[name])
    difference = largest_difference(model, x, tmp_path / "net.onnx")
    print(f"{name}: {difference:.1e}")
    assert difference <= 1e-5


def test_what_is_composed_shows(tmp_path):
    """Without each part of it, the file would compute something else."""
    model, x = network(odd_sizes("krizhevsky2012"))
    graph = onnx.load(written(model, tmp_path / "net.onnx")).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("LRN") == 4, "a column each"
    assert kinds.count("Split") == kinds.count("Concat") == 2
    assert kinds.count("Pow") == 1
    assert not any(a.name == "ceil_mode" for node in graph.node for a in node.attribute)
    assert any(
        a.name == "pads" and a.ints[2] > a.ints[0] for node in graph.node for a in node.attribute
    )
    dropped = [
        node for node in graph.node if node.op_type == "Mul" and node.output[0][:4] == "drop"
    ]
    assert len(dropped) == 2
    assert not [n for n in onnx.load(written(network(odd_sizes("caffe"))[0], tmp_path / "c.onnx"))
                .graph.node if n.output[0].startswith("drop")]  # fmt: skip
    with no_grad():
        expected = model(x).numpy()
    for kind in ("Pow", "Concat"):
        broken = onnx.load(tmp_path / "net.onnx")
        node = next(node for node in broken.graph.node if node.op_type == kind)
        if kind == "Pow":
            node.op_type = "Mul"
        else:
            node.input[:] = list(reversed(node.input))
        onnx.save(broken, tmp_path / "broken.onnx")
        assert np.abs(outputs(tmp_path / "broken.onnx", x)[0] - expected).max() > 1e-3


def test_the_file_itself(tmp_path):
    model, _ = network(shrunken(alexnet.MODELS["torchvision"]), 1000)
    p = model.preset.preprocessing
    mean, scale = np.array(p.mean), np.array(p.scale)
    path = written(model, tmp_path / "net.onnx", Preparation(p.size, mean, scale))
    file = onnx.load(path)
    assert (file.ir_version, file.opset_import[0].version, file.producer_name) == (
        9,
        17,
        "minigrad",
    )
    given = file.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in given] == ["N", 3, 67, 67]
    metadata = {entry.key: json.loads(entry.value) for entry in file.metadata_props}
    how = metadata["preprocessing"]
    np.testing.assert_allclose(how["mean"], [123.675, 116.28, 103.53], rtol=1e-6)
    np.testing.assert_allclose(how["scale"], 1 / np.array([58.395, 57.12, 57.375]), rtol=1e-6)
    assert (how["scale_shorter_side_to"], how["central_crop"]) == (256, 67)
    assert metadata["classes"][:3] == ["0", "1", "2"]
    image = np.random.default_rng(0).uniform(0, 255, (p.size, p.size, 3)).astype(np.float32)
    path = written(model, path, Preparation(p.size, image, 1.0))
    how = json.loads({e.key: e.value for e in onnx.load(path).metadata_props}["preprocessing"])
    content = base64.b64decode(how["mean"]["float32_base64"])
    np.testing.assert_array_equal(
        np.frombuffer(content, "<f4").reshape(how["mean"]["shape"]), image.transpose(2, 0, 1)
    )
    own = {t.name: onnx.numpy_helper.to_array(t) for t in file.graph.initializer}
    for row in ledger(model.preset, 1000):
        if row.parameters:
            for kind in "wb":
                again = to_ours(own[f"{row.stage}.{kind}"], row)
                np.testing.assert_array_equal(again, dict(model.named_parameters())
                                              [f"{row.stage}.{kind}"].data)  # fmt: skip


def test_what_cannot_be_written(tmp_path, monkeypatch):
    preset = shrunken(alexnet.PAPER)
    with pytest.raises(WeightsError, match=r"norm1: ONNX centres an even window \(n = 4\)"):
        written(Network(preset.with_each(LRN, n=4), 5, 0), tmp_path / "net.onnx")
    column = preset.changed(norm1=Gather((3, 3)), conv2=Conv(8, 5, padding=2, groups=1))
    parameters = {name: p.data for name, p in Network(preset, 5, 0).named_parameters()}
    about = Described(list("abcde"), list("abcde"), Preparation(67, np.zeros(3), 1.0))
    with pytest.raises(WeightsError, match="norm1: ONNX is not written for Gather"):
        save_onnx(column, parameters, about, tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(WeightsError, match=r"pip install 'minigrad\[onnx\]'"):
        save_onnx(preset, parameters, about, tmp_path / "net.onnx")


def test_export(tmp_path, monkeypatch, capsys, lenet_run):
    monkeypatch.chdir(tmp_path)
    run, own = lenet_run
    assert alexnet.main(["export", str(run), "-o", "net.onnx"]) == 0
    tensors, settings = read_run(run)
    model = Network(settings.network, 10)
    model.load_state_dict(part(tensors, "model."))
    x = np.random.default_rng(0).standard_normal((2, 28, 28, 1)).astype(np.float32)
    with no_grad():
        expected = model.eval()(x).numpy()
    np.testing.assert_allclose(outputs("net.onnx", x)[0], expected, rtol=0,
                               atol=1e-5 * np.abs(expected).max())  # fmt: skip
    assert alexnet.main(["export", str(run), "-o", "net.safetensors"]) == 0
    again = ["import", "net.safetensors", "--preset", "caffe_lenet", "-o", "again"]
    assert alexnet.main(again) == 0
    for name, array in part(read_run("again")[0], "model.").items():
        np.testing.assert_array_equal(array, own[name], err_msg=name)
    capsys.readouterr()
    newest = str(run / "checkpoint.safetensors")
    before = Path(newest).read_bytes()
    for source in (str(run), newest):
        assert alexnet.main(["export", source, "-o", newest]) == 2
        assert f"{newest} would be written over" in capsys.readouterr().err
    assert Path(newest).read_bytes() == before
    assert alexnet.main(["export", str(run), "-o", "net.pth"]) == 2
    assert "the name must end in .onnx or .safetensors" in capsys.readouterr().err


def test_export_of_a_run_that_changed_a_field(tmp_path, lenet_run):
    """Its preset's files have other shapes, so that the run's own record counts."""
    run, own = lenet_run
    tensors, description = checkpoint.load(run / "checkpoint.safetensors")
    layers = description["settings"]["network"]["layers"]
    assert layers[2]["name"] == "conv2"
    layers[2]["padding"] = 2
    fc3 = np.arange(6 * 6 * 50 * 500.0, dtype=np.float32).reshape(-1, 500)
    changed = tmp_path / "changed.safetensors"
    checkpoint.save(changed, tensors | {"model.fc3.w": fc3}, description)
    out = tmp_path / "out.safetensors"
    assert alexnet.main(["export", str(changed), "-o", str(out)]) == 0
    written_ = safetensors.numpy.load_file(out)
    expected = fc3.reshape(6, 6, 50, 500).transpose(3, 2, 0, 1).reshape(500, -1)
    np.testing.assert_array_equal(written_["fc3.weight"], expected)


def test_the_graph_that_onnx_ships(tmp_path):
    """light_bvlc_alexnet.onnx of the package onnx: its constant weights replaced by random ones,
    against the preset `caffe` at 224 with pool5 rounded up."""

    path = next(p for p in Path(onnx.__file__).parent.rglob("light_bvlc_alexnet.onnx"))
    preset = alexnet.MODELS["caffe"].with_preprocessing(size=224)
    preset = preset.changed(pool5=replace(preset.layers["pool5"], ceil=True))
    rows = {r.stage: r for r in ledger(preset)}
    assert [rows[s].shape[0] for s in ("conv1", "pool1", "pool2", "pool5")] == [54, 26, 12, 6]
    file = onnx.load(path)
    model, x = network(preset, 1000)
    own = dict(model.named_parameters())
    places = [n for n in file.graph.node if n.op_type in ("Conv", "Gemm")]
    assert len(places) == 8
    stages = [r for r in rows.values() if r.parameters]
    fed = {}
    for node, row in zip(places, stages):
        for at, kind in ((1, "w"), (2, "b")):
            fed[node.input[at]] = to_theirs(own[f"{row.stage}.{kind}"].data, row)
    kept = [t for t in file.graph.initializer if t.name not in fed]
    made = [n for n in file.graph.node if not set(n.output) & set(fed)]
    del file.graph.initializer[:], file.graph.node[:]
    file.graph.initializer.extend(kept)
    file.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in fed.items())
    file.graph.node.extend(made)
    inputs = [i for i in file.graph.input if i.name not in fed]
    del file.graph.input[:]
    file.graph.input.extend(inputs)
    onnx.save(file, tmp_path / "light.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "light.onnx", providers=["CPUExecutionProvider"]
    )
    data = next(i.name for i in session.get_inputs() if i.shape[-1] == 224)
    (theirs,) = session.run(None, {data: x[:1].transpose(0, 3, 1, 2).copy()})
    with no_grad():
        p = softmax(model(x[:1])).numpy()
    print("largest difference", np.abs(theirs - p).max())
    assert np.abs(theirs - p).max() <= 1e-5
