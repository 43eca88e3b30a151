"""Modules: names, state, modes, initialisers."""

import numpy as np
import pytest

from minigrad import functions as F
from minigrad import nn, random
from minigrad.engine import Tensor, as_tensor


def small():
    rng = random.Stream(0, "small")
    return nn.Sequential(
        conv1=nn.Conv2d(3, 4, 3, padding=1, rng=rng),
        relu1=nn.ReLU(),
        norm1=nn.LRN(),
        pool1=nn.MaxPool2d(3, 2),
        drop1=nn.Dropout(0.5),
        avg=nn.AvgPool2d(2),
        tanh=nn.Tanh(),
        flat=nn.Flatten(),
        fc2=nn.Linear(16, 5, rng=rng),
    )


def test_names_and_state_round_trip():
    a, b = small(), small()
    assert list(a.state_dict()) == ["conv1.w", "conv1.b", "fc2.w", "fc2.b"]
    for p in b.parameters():
        p.data = p.data + 1
    b.load_state_dict(a.state_dict())
    x = np.ones((2, 9, 9, 3), np.float32)
    np.testing.assert_array_equal(a.eval()(x).data, b.eval()(x).data)
    state = a.state_dict()
    state["fc2.b"][:] = 7
    assert a["fc2"].b.data[0] == 0, "the state is a copy"
    b.load_state_dict(state)
    state["fc2.b"][:] = 8
    assert b["fc2"].b.data[0] == 7, "what is loaded is copied"


def test_another_dtype_is_not_loaded():
    model = nn.Linear(2, 3)
    state = {name: a.astype(np.float64) for name, a in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"w is float64 \(2, 3\), here float32 \(2, 3\)"):
        model.load_state_dict(state)


EVERY_OPTION = {
    "conv": (
        nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), groups=2, ceil_mode=True, bias=0.3),
        lambda m, x: F.conv2d(x, m.w, m.b, (2, 1), (1, 0), 2, True),
        (2, 8, 6, 4),
    ),
    "linear": (nn.Linear(12, 3), lambda m, x: F.linear(F.flatten(x), m.w, m.b), (2, 3, 4)),
    "lrn": (
        nn.LRN(3, 1.5, 0.5, 0.6, True, 2),
        lambda m, x: F.lrn(x, 3, 1.5, 0.5, 0.6, True, 2),
        (2, 2, 2, 6),
    ),
    "lrn by default": (nn.LRN(), lambda m, x: F.lrn(x, 5, 2.0, 1e-4, 0.75, False, 1), (1, 1, 1, 9)),
    "within": (
        nn.LRNWithinMap(3, 1.5, 0.5, 0.6),
        lambda m, x: F.lrn_within_map(x, 3, 1.5, 0.5, 0.6),
        (2, 5, 6, 2),
    ),
    "within by default": (
        nn.LRNWithinMap(),
        lambda m, x: F.lrn_within_map(x, 5, 1.0, 1e-3, 0.75),
        (1, 6, 6, 2),
    ),
    "max": (
        nn.MaxPool2d((2, 3), (3, 2), (1, 1), ceil_mode=True),
        lambda m, x: F.max_pool2d(x, (2, 3), (3, 2), (1, 1), True),
        (2, 7, 8, 2),
    ),
    "max by default": (nn.MaxPool2d(2), lambda m, x: F.max_pool2d(x, 2, 2, 0, False), (1, 7, 7, 1)),
    "mean": (
        nn.AvgPool2d((2, 3), (3, 2), (1, 1), ceil_mode=True),
        lambda m, x: F.avg_pool2d(x, (2, 3), (3, 2), (1, 1), True),
        (2, 7, 8, 2),
    ),
    "dropout": (
        nn.Dropout(0.3, inverted=False, rng=random.Stream(1, "d")),
        lambda m, x: F.dropout(x, 0.3, True, False, random.Stream(1, "d")),
        (4, 5),
    ),
    "dropout by default": (
        nn.Dropout(rng=random.Stream(1, "d")),
        lambda m, x: F.dropout(x, 0.5, True, True, random.Stream(1, "d")),
        (4, 5),
    ),
    "dropout at test time": (
        nn.Dropout(0.3, inverted=False).eval(),
        lambda m, x: 0.7 * x,
        (4, 5),
    ),
}


@pytest.mark.parametrize("name", EVERY_OPTION)
def test_every_option_reaches_its_function(name):
    layer, function, shape = EVERY_OPTION[name]
    x = 3 * random.Stream(0, name).normal(shape).astype(np.float32)
    np.testing.assert_array_equal(layer(x).data, function(layer, as_tensor(x)).data, strict=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_relu_is_done_by_the_layer_before_it_with_the_same_bits(dtype, forms):
    rng = random.Stream(0, "relu")
    model = nn.Sequential(
        nn.Conv2d(3, 35, 3, groups=1, bias=0.1, rng=rng, dtype=dtype),
        nn.ReLU(),
        nn.Conv2d(35, 4, 2, bias=None, rng=rng, dtype=dtype),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(36, 7, rng=rng, dtype=dtype),
        nn.ReLU(),
        nn.ReLU(),
        nn.Linear(7, 3, rng=rng, dtype=dtype),
    )
    x = rng.normal((2, 6, 6, 3)).astype(dtype)
    x[0, 2, 2, 1] = np.nan
    fused = list(model.walk(x, fuse=True))
    assert [name for name, _, _ in fused] == ["1", "3", "4", "6", "7", "8"]
    assert [name for name, _, _ in model.walk(x)] == list(model.layers)
    together = fused[-1][2]
    one_by_one = model(x)
    gy = rng.normal((2, 3)).astype(dtype)
    gradients = []
    for y in (together, one_by_one):
        y.backward(gy)
        gradients.append([p.grad for p in model.parameters()])
        for p in model.parameters():
            p.grad = None
    np.testing.assert_array_equal(together.data, one_by_one.data)
    assert np.isnan(together.data[0]).all()
    assert np.isfinite(together.data[1]).all()
    for a, b in zip(*gradients, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_relu_of_somebody_else_is_a_step_of_its_own():
    class Doubled(nn.ReLU):
        def forward(self, x):
            return super().forward(x) * 2.0

    class Halved(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 0.5

    x = np.ones((1, 2), np.float32)
    model = nn.Sequential(nn.Linear(2, 2), Doubled(), Halved(2, 2), nn.ReLU())
    assert [name for name, _, _ in model.walk(x, fuse=True)] == ["0", "1", "2", "3"]
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    x = random.Stream(0, "x").normal((8, 2)).astype(np.float32)
    ((name, layer, y),) = model.walk(x, fuse=True)
    assert (name, layer) == ("1", model["1"])
    assert (model["0"](x).data < 0).any()
    np.testing.assert_array_equal(y.data, model(x).data)


def test_a_walk_goes_into_a_sequential_and_names_where_it_fails():
    model = nn.Sequential(a=nn.Linear(2, 2), b=nn.Sequential(nn.ReLU(), nn.Linear(2, 3)))
    x = np.ones((1, 2), np.float32)
    names, layers, outputs = zip(*model.walk(x))
    assert names == ("a", "b.0", "b.1")
    assert layers == (model["a"], model["b"]["0"], model["b"]["1"])
    np.testing.assert_array_equal(outputs[-1].data, model(x).data)
    model["b"].layers["1"] = nn.Linear(5, 3)
    with pytest.raises(ValueError, match="linear") as caught:
        model(x)
    assert caught.value.__notes__ == ["in 1", "in b"]


def test_nested_names():
    class Net(nn.Module):
        def __init__(self):
            self.body = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
            self.scale = nn.Parameter(np.ones(1, np.float32))

    assert [n for n, _ in Net().named_parameters()] == [
        "scale",
        "body.0.w",
        "body.0.b",
        "body.1.0.w",
        "body.1.0.b",
    ]


def test_load_says_everything_that_differs_and_changes_nothing():
    model = small()
    before = model.state_dict()
    state = model.state_dict()
    state["fc2.w"] = np.zeros((16, 7), np.float32)
    del state["conv1.b"]
    state["fc9.w"] = np.zeros(1)
    state["conv1.w"] = state["conv1.w"] + 1
    with pytest.raises(
        ValueError,
        match=(
            r"conv1.b is missing; fc9.w is not in this model; fc2.w is float32 \(16, 7\), here"
            r" float32 \(16, 5\)"
        ),
    ):
        model.load_state_dict(state)
    np.testing.assert_array_equal(model.state_dict()["conv1.w"], before["conv1.w"])


def test_train_and_eval_reach_every_layer():
    model = small()
    x = np.ones((2, 9, 9, 3), np.float32)
    model.eval()
    np.testing.assert_array_equal(model(x).data, model(x).data)
    model.train()
    assert not np.array_equal(model(x).data, model(x).data)


def test_two_dropouts_never_share_a_mask():
    a, b = nn.Dropout(0.5), nn.Dropout(0.5)
    x = np.ones(1000, np.float32)
    assert not np.array_equal(a(x).data, b(x).data)
    assert list(nn.Sequential(a, b).streams()) == ["0", "1"]


def test_gather_with_and_without_a_shared_loss():
    class SecondOfTwo:
        rank, size = 1, 2

        def join(self, x, sizes):
            return np.concatenate([np.zeros((len(x), sizes[0])), x], axis=-1)

        def scatter_sum(self, gy, sizes):
            return 3 * gy[..., sizes[0] :]

    for shared, gradient in ((False, 3), (True, 1)):
        x = Tensor(np.ones((1, 2)), requires_grad=True)
        y = nn.Gather(SecondOfTwo(), (3, 2), shared)(x)
        assert y.data.tolist() == [[0, 0, 0, 1, 1]]
        y.backward(np.ones((1, 5)))
        assert x.grad.tolist() == [[gradient] * 2]


def test_a_dropout_has_the_default_seed():
    before = random.default_stream().seed
    try:
        random.seed(41)
        assert nn.Dropout().rng.seed == 41
    finally:
        random.seed(before)
    assert nn.Dropout().rng.seed == before


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back(training):
    """After a look in test mode, after an error too, in every layer."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train(training)
    with model.in_test_mode():
        assert not model["1"].training
    assert [m.training for _, m in model.modules()] == [training] * 3
    with pytest.raises(KeyError), model.in_test_mode():
        raise KeyError
    assert [m.training for _, m in model.modules()] == [training] * 3


def test_gradients_reach_every_parameter():
    model = small()
    F.softmax_cross_entropy(model(np.ones((2, 9, 9, 3), np.float32)), np.array([1, 2])).backward()
    assert all(p.grad is not None and p.grad.dtype == np.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ("init", "std"),
    [
        (nn.gaussian(0.01), 0.01),
        (nn.he, np.sqrt(2 / (5 * 5 * 8))),
    ],
)
def test_initialisers(init, std):
    w = init(random.Stream(0, "init"), (5, 5, 8, 16))
    assert abs(w.mean()) < 5 * std / np.sqrt(w.size)
    assert abs(w.std() / std - 1) < 5 / np.sqrt(2 * w.size)


def test_a_single_number_keeps_its_shape():
    x = nn.Parameter(np.array(2.0))
    y = F.relu(x)
    assert y.shape == ()
    y.backward()
    assert x.grad.shape == ()


def test_no_bias():
    assert list(nn.Linear(3, 2, bias=None).state_dict()) == ["w"]
    assert list(nn.Conv2d(3, 2, 3, bias=None).state_dict()) == ["w"]


class Many(nn.Module):
    """Layers and parameters in lists, tuples and dicts."""

    def __init__(self):
        self.blocks = [nn.Linear(2, 2), (nn.Linear(2, 2), nn.Dropout())]
        self.heads = {"left": nn.Linear(2, 3), "right": {"a": nn.Linear(2, 3)}}
        self.scales = [nn.Parameter(np.ones(3))]
        self.again = self.blocks[0]
        self.scale = self.scales[0]
        self.sizes = [3, "x", None]
        self.parent = {"me": self}


def test_layers_in_lists_and_dicts_are_found():
    """And what several attributes share once, by its first name: an optimiser would move it
    twice."""
    model = Many()
    parameters = dict(model.named_parameters())
    names = ["blocks.0", "blocks.1.0", "heads.left", "heads.right.a"]
    assert list(parameters) == ["scales.0"] + [f"{n}.{p}" for n in names for p in "wb"]
    assert len(model.parameters()) == len({id(p) for p in model.parameters()})
    assert list(model.streams()) == ["blocks.1.1"]
    assert not model.eval().blocks[1][1].training
    model.load_state_dict({name: a + 1 for name, a in model.state_dict().items()})
    assert (model.scales[0].data == 2).all()


def test_what_cannot_be_named():
    model = nn.Module()
    model.layers, model.drop = {"drop": nn.Dropout()}, nn.Dropout()
    with pytest.raises(ValueError, match="two layers are called 'drop'"):
        model.streams()
    model = nn.Module()
    model.layers = {nn.Linear(2, 2)}
    with pytest.raises(TypeError, match="layers: a set has no order"):
        model.parameters()
    model = nn.Module()
    model.chain = [nn.Linear(2, 2)]
    model.chain.append(model.chain)
    assert [name for name, _ in model.named_parameters()] == ["chain.0.w", "chain.0.b"]


def test_a_sequential_with_a_forward_of_its_own_is_one_layer():
    class Residual(nn.Sequential):
        def forward(self, x):
            return super().forward(x) + x

    inner = Residual(nn.Linear(2, 2))
    model, x = nn.Sequential(inner, nn.ReLU()), np.ones((1, 2), np.float32)
    assert [name for name, _, _ in model.walk(x)] == ["0", "1"]
    np.testing.assert_array_equal(model(x).data, F.relu(inner(x)).data)


def test_two_parameters_of_one_name_are_refused():
    model = nn.Module()
    model.layers, model.fc = {"fc": nn.Linear(2, 2)}, nn.Linear(2, 2)
    with pytest.raises(ValueError, match="two parameters would be called 'fc.w'"):
        model.state_dict()


@pytest.mark.parametrize(
    "layer", [lambda **o: nn.Conv2d(3, 2, 3, **o), lambda **o: nn.Linear(3, 2, **o)]
)
@pytest.mark.parametrize(
    ("error", "words", "options"),
    [
        (
            TypeError,
            "bias is the number that b starts from .* or None for no bias, not False",
            {"bias": False},
        ),
        (TypeError, "not True", {"bias": True}),
        (TypeError, "not array", {"bias": np.zeros(2)}),
        (
            TypeError,
            r"rng must be a minigrad.random.Stream, .* not Generator",
            {"rng": np.random.default_rng(0)},
        ),
        (TypeError, "rng must be .* not int", {"rng": 0}),
        (
            ValueError,
            r"init returned shape \(2,\) for a weight of shape",
            {"init": lambda rng, shape: rng.normal(2)},
        ),
    ],
)
def test_what_is_no_bias_stream_or_initialiser(layer, error, words, options):
    with pytest.raises(error, match=words):
        layer(**options)


@pytest.mark.parametrize(
    "action", [lambda rng: nn.Dropout(0.5, rng=rng), lambda rng: F.dropout(np.ones(3), rng=rng)]
)
def test_dropout_draws_from_streams_alone(action):
    with pytest.raises(TypeError, match="ropout: rng must be a minigrad.random.Stream"):
        action(np.random.default_rng(0))


@pytest.mark.parametrize("make", [lambda: nn.Conv2d(3, 4, 3, groups=2), lambda: nn.Conv2d(3, 4, 0)])
def test_errors(make):
    with pytest.raises(ValueError, match="Conv2d"):
        make()


def test_forward_must_be_written():
    with pytest.raises(NotImplementedError, match="Module must write forward"):
        nn.Module()(1)
