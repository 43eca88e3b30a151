"""Everything that runs on a GPU: `pytest -m gpu`. The bodies and cases are those of the CPU, which
is the oracle.

Without a GPU tests/test_gpu_path.py runs this file on a stand-in for CuPy.
"""

import re
import sys

import numpy as np
import pytest
import test_trainer
from checks import DTYPES, numbers
from test_kernels import CASES, prepared

import alexnet
from minigrad import backend, gradcheck, kernels, look, optim, random
from minigrad import functions as F
from minigrad.data import synthetic
from minigrad.engine import Tensor, as_tensor, no_grad, topological_order
from minigrad.models.krizhevsky2012 import KRIZHEVSKY2012
from minigrad.models.records import LRN, LRNWithinMap
from minigrad.network import Network, shrunken
from minigrad.training import health

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        backend.gpu_count() == 0,
        reason="no GPU that CuPy can use: the kernels run on the CPU only here",
    ),
]
DEVICES = ["gpu", "gpu:1"][: backend.gpu_count()]
TOLERANCE = {"float32": 2e-4, "float64": 1e-11}


def on(device, f, *arrays):
    """(output, gradients) of f on a device, as NumPy arrays."""
    leaves = [
        Tensor(backend.to_device(a.copy(), device), requires_grad=a.dtype.kind == "f")
        for a in arrays
    ]
    with random.rewound():
        y = f(*leaves)
        y.backward(
            backend.to_device(numbers(*y.shape, dtype=y.dtype, seed=9), y.device)
            if y.shape
            else None
        )
    return [y.numpy()] + [backend.to_numpy(x.grad) for x in leaves if x.requires_grad]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_gpu_against_cpu(name, dtype):
    f, arrays = CASES[name], CASES[name].draw(dtype)
    for a, b in zip(on("gpu", f, *arrays), on("cpu", f, *arrays), strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.fixture(autouse=True)
def current_device():
    """The first one again, after a test that used another."""
    yield
    backend.use("gpu:0")


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """New memory holds NaN: an element that no kernel wrote cannot pass for the one that stood
    there in the run before."""
    cupy = backend.cupy()

    def poisoning(make):
        def made(*args, **kwargs):
            out = make(*args, **kwargs)
            if out.dtype.kind == "f":
                out.fill(np.nan)
            return out

        return made

    for name in {"empty", "empty_like"} & set(
        dir(cupy)
    ):  # the stand-in for CuPy, which has neither, does the same by itself
        monkeypatch.setattr(cupy, name, poisoning(getattr(cupy, name)))


def test_new_memory_is_poisoned():
    x = backend.to_device(numbers(3, 4), "gpu")
    for new in (np.empty_like(x), np.empty_like(x, shape=(2,)), np.empty((2, 3), x.dtype, like=x)):
        assert np.isnan(backend.to_numpy(new)).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
@pytest.mark.parametrize(
    ("name", "f", "inputs"), gradcheck.cases(), ids=lambda v: v if isinstance(v, str) else ""
)
def test_every_function(name, f, inputs, layout, device):
    """Those without kernels too: their array forms run on CuPy's arrays, on whatever GPU they
    lie."""
    if layout == "transposed":
        inputs = [a.T.copy().T for a in inputs]
    results = []
    for place in (device, "cpu"):
        leaves = [
            Tensor(backend.to_device(a, place), requires_grad=a.dtype.kind == "f") for a in inputs
        ]
        with random.rewound():
            y = f(*leaves)
        y.backward(backend.to_device(numbers(*y.shape, seed=9), y.device))
        results.append([y.numpy()] + [backend.to_numpy(x.grad) for x in leaves if x.requires_grad])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("device", DEVICES)
def test_numbers_beside_a_tensor(device):
    x = Tensor(backend.to_device(np.arange(6.0).reshape(2, 3), device), requires_grad=True)
    assert (x * 2.0).creator.parents[0] is x
    assert as_tensor(2.0, like=x).shape == ()
    y = F.sum(-x * 2.0 + 1.0)
    y[...].backward()
    np.testing.assert_array_equal(backend.to_numpy(x.grad), -2)
    (F.sum(x).to("cpu") * 3.0).backward()
    np.testing.assert_array_equal(backend.to_numpy(x.grad), 1)
    x.grad = None
    x.backward(backend.to_device(np.ones((2, 3)), device))
    assert backend.device_of(x.grad) == x.device


def test_a_bias_gradient_of_transposed_rows():
    """70 rows: two blocks of sum_rows, whose sums must not take over the order of a gy that lies in
    columns."""
    arrays = numbers(70, 1, 1, 3), numbers(1, 1, 3, 4, seed=1), numbers(4, seed=2)
    f = lambda x, w, b: F.transpose(F.reshape(F.conv2d(x, w, b), 70, 4), 1, 0)  # noqa: E731
    for a, b in zip(on("gpu", f, *arrays), on("cpu", f, *arrays), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def test_relu_and_bias_in_one_pass():
    model = Network(shrunken(alexnet.PAPER), 5, 0).eval()
    model.to("gpu")
    x = backend.to_device(numbers(2, 67, 67, 3, dtype="float32"), "gpu")
    logits, stages = model(x), model.activations(x)
    assert (
        sum(type(node).__name__ == "ReLU" for node in topological_order(stages["fc8"].creator)) == 7
    )
    assert not any(type(node).__name__ == "ReLU" for node in topological_order(logits.creator))
    np.testing.assert_array_equal(logits.numpy(), stages["fc8"].numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [5, 3 * kernels.THREADS + 1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(reduction, classes, dtype):
    """Rows shorter and longer than a block has threads."""
    x, t = numbers(7, classes, dtype=dtype), np.arange(7) % 5
    results = [
        on(d, lambda x, d=d: F.softmax_cross_entropy(x, backend.to_device(t, d), reduction), x)
        for d in ("gpu", "cpu")
    ]
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["paper", "torch"])
def test_sgd_update(form, dtype):
    results = []
    for device in ("gpu", "cpu"):
        w, v, g = (
            backend.to_device(numbers(2 * kernels.SPAN + 3, dtype=dtype, seed=s), device)
            for s in range(3)
        )
        optim.sgd_update(w, v, g, 0.1, 0.9, 0.01, form)
        results.append([backend.to_numpy(w), backend.to_numpy(v)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_prepared_pictures(dtype):
    out = backend.to_numpy(prepared(dtype, "gpu"))
    np.testing.assert_allclose(
        out, prepared(dtype, "cpu"), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
    )


def test_dropout_masks_are_identical():
    f = CASES["dropout: longer than a block"]
    ones = np.ones_like(f.draw()[0])
    np.testing.assert_array_equal(on("gpu", f, ones)[0], on("cpu", f, ones)[0])


def test_more_than_2_to_the_31_column_elements(monkeypatch):
    """im2col addresses its columns in 64 bits; the last image's result shows whether it does. Takes
    10 GB."""
    if backend.cupy().cuda.runtime.memGetInfo()[0] < 12 << 30:
        pytest.skip("less than 12 GB of the GPU's memory are free")
    monkeypatch.setattr(
        sys.modules["minigrad.functions.conv2d_columns"], "GPU_COLUMN_BYTES", 1 << 40
    )  # all images in one launch
    x = np.zeros((70, 224, 224, 3), np.float32)
    x[-1] = numbers(224, 224, 3, dtype="float32")
    w = numbers(16, 16, 3, 2, dtype="float32", seed=1)
    with no_grad():
        y = F.conv2d(backend.to_device(x, "gpu"), backend.to_device(w, "gpu")).numpy()
        expected = F.conv2d(x[-1:], w).numpy()
    np.testing.assert_allclose(y[-1:], expected, rtol=1e-3, atol=1e-2)


def test_steps_of_alexnet_follow_the_cpu():
    preset = shrunken(alexnet.PAPER).with_each(LRN, alpha=1e-4)
    losses = []
    for device in ("gpu", "cpu"):
        model = Network(preset, 5, 0)
        model.to(device)
        optimizer = model.make_optimizer()
        x = Tensor(backend.to_device(numbers(8, 67, 67, 3, dtype="float32"), device))
        t = backend.to_device(np.arange(8) % 5, device)
        path = []
        for _ in range(5):
            loss = F.softmax_cross_entropy(model(x), t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            path.append(loss.item())
        losses.append(path)
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_health_is_read_on_the_gpu():
    model = Network(shrunken(alexnet.PAPER), 5, 0)
    model.to("gpu")
    x = backend.to_device(numbers(2, 67, 67, 3, dtype="float32"), "gpu")
    before = {name: p.data.copy() for name, p in model.named_parameters()}
    model.layers["conv3"].w.data *= np.float32(2)
    rows = {row["layer"]: row for row in health.readings(model, before, x, 1)}
    assert float(rows["conv3.w"]["ratio"]) == pytest.approx(0.5)
    assert 0 <= float(rows["relu3"]["dead"]) < 1
    assert health.first_not_finite(model, x) == ""
    model.layers["conv3"].w.data[...] = np.float32(3e38)
    assert health.first_not_finite(model, x) == "they appear first in the output of conv3"


@pytest.mark.parametrize("gpu", DEVICES)
def test_a_run_on_the_gpu(gpu, tmp_path, monkeypatch, capsys):
    """Trained and fine-tuned there; evaluated and used on either machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "mpl"))
    monkeypatch.setitem(
        alexnet.MODELS,
        "tiny",
        shrunken(KRIZHEVSKY2012).with_each(LRN, alpha=1e-4).with_each(LRNWithinMap, alpha=1e-4),
    )
    synthetic.draw_set(tmp_path / "set", train=4, val=2)

    def said(*args):
        code = alexnet.main([str(a) for a in args])
        out, err = capsys.readouterr()
        assert code in (None, 0), err
        return out + err

    start = ["train", "--data", "set", "--preset", "tiny", "--batch-size", 8, "--device", gpu]
    said(*start, "--epochs", 2, "--output", "run")
    said(*start, "--epochs", 1, "--finetune", "run", "--output", "tuned")
    losses = [
        float(said("evaluate", "run", "--device", device).split("loss ")[1].split(",")[0])
        for device in (gpu, "cpu")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    picture = next(path for path in (tmp_path / "set" / "val").rglob("*") if path.is_file())
    answers = [said("predict", "run", picture, "--device", device) for device in (gpu, "cpu")]
    shares = [dict(re.findall(r"(\w+) ([\d.]+)%", answer.split(": ", 1)[1])) for answer in answers]
    assert len(shares[0]) >= 2
    assert set(shares[0]) == set(shares[1])
    for name, share in shares[0].items():
        assert float(share) == pytest.approx(float(shares[1][name]), abs=0.15)  # printed to 0.1
    what = "deconvnet", "nine", "occlusion", "neighbours"
    drawn = said("look", "run", "--device", gpu, "--workers", 0, "--what", *what)
    assert drawn.count("written: ") == 5


def test_a_run_taken_up_on_the_gpu(pictures, tmp_path):
    def trainer(name):
        t = test_trainer.trainer(pictures, tmp_path / name)
        t.model.to("gpu")
        t.optimizer, t.device = t.model.make_optimizer(), "gpu"
        t.gradients.device = "gpu"
        t.schedule = optim.StepSchedule(t.optimizer, (2,))
        return t

    whole, first, second = trainer("whole"), trainer("parts"), trainer("parts")
    whole.fit(2)
    first.fit(1)
    second.resume()
    second.fit(2)
    assert {p.device for p in second.model.parameters()} == {"gpu:0"}
    for name, value in whole.model.state_dict().items():
        np.testing.assert_allclose(second.model.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def test_arrays_on_two_devices_are_refused():
    x = Tensor(backend.to_device(numbers(2, 3), "gpu"))
    with pytest.raises(ValueError, match="different devices .gpu:0, cpu.; move them with .to"):
        F.add(x, numbers(2, 3))
    with pytest.raises(ValueError, match="labels are on cpu, logits on gpu:0"):
        F.softmax_cross_entropy(x, np.array([0, 1]))


def test_memory_is_returned():
    pool = backend.cupy().get_default_memory_pool()
    f = CASES["conv2d: as conv1"]
    arrays = f.draw()
    on("gpu", f, *arrays)
    before = pool.used_bytes()
    on("gpu", f, *arrays)
    assert pool.used_bytes() == before


@pytest.mark.parametrize("gpu", DEVICES)
def test_projections_on_the_gpu(gpu):
    """By every method, as on the CPU."""
    model = Network(shrunken(KRIZHEVSKY2012), 5, seed=2)
    p = model.preset.preprocessing
    x = np.random.default_rng(0).normal(size=(3, p.size, p.size, 3)).astype(np.float32)
    here = [look.project(model, x, "relu5", **rules) for rules in look.METHODS.values()]
    model.to(gpu)
    there = backend.to_device(x, gpu)
    for one, rules in zip(here, look.METHODS.values()):
        other = look.project(model, there, "relu5", **rules)
        assert np.array_equal(one.maps, other.maps)
        error = np.abs(one.pixels - other.pixels).max() / np.abs(one.pixels).max()
        assert error < 1e-4
