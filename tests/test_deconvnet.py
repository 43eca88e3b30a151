"""The deconvnet: against the engine's gradients, a reference in plain loops, captum, and faults."""

import numpy as np
import pytest

import alexnet
from minigrad import look, nn
from minigrad.engine import Tensor, no_grad
from minigrad.functions.conv2d import Conv2d
from minigrad.functions.max_pool2d import MaxPool2d
from minigrad.look import deconvnet
from minigrad.models.records import LRN
from minigrad.network import Network, ledger, shrunken

PRESETS = {name: shrunken(preset) for name, preset in alexnet.MODELS.items()}  # alpha = 1


def network(name, dtype="float32"):
    return Network(PRESETS[name], 5, seed=2, dtype=dtype).eval()


def pictures(model, n=2):
    p = model.preset.preprocessing
    shape = (n, p.size, p.size, p.channels)
    return np.random.default_rng(0).normal(size=shape).astype(model.parameters()[0].dtype)


@pytest.mark.parametrize("name", PRESETS)
def test_mask_and_gradient_are_the_gradient_to_the_bit(name, forms):
    """At every stage: the seed's gradient with respect to the pictures, as the engine has it."""
    model = network(name)
    for stage in model.stages:
        x = Tensor(pictures(model), requires_grad=True)
        y = model.run(x, stage)
        found = look.project(model, x.data, stage, **look.METHODS["gradient"])
        seed = np.zeros_like(y.data)
        places = (range(2), *(found.at.T if y.ndim == 4 else ()), found.maps)
        seed[places] = y.data[places]
        assert np.array_equal(found.values, y.data[places])
        assert found.values.tolist() == [picture.max() for picture in y.data]
        y.backward(seed)
        assert np.array_equal(found.pixels, x.grad), stage


def test_four_times_the_seed_gives_four_times_the_projection(forms):
    model = network("paper")
    steps = deconvnet.ascend(model, pictures(model), "pool5")
    for rules in look.METHODS.values():
        once, fourfold = (
            [s for *_, s in deconvnet.descend(steps, k * steps[-1].y, **rules)][-1] for k in (1, 4)
        )
        assert np.abs(once).max() > 0
        assert np.array_equal(4 * once, fourfold)


@pytest.mark.parametrize("name", PRESETS)
def test_nothing_outside_the_receptive_field(name):
    """That the ledger gives a unit, borders included; and conv1 fills its field."""
    model = network(name)
    x = pictures(model, 1)
    filled = []
    for row in ledger(model.preset, 5):
        if len(row.shape) < 3:
            continue
        at = (row.shape[0] // 2, 0)
        for rules in look.METHODS.values():
            pixels = look.project(model, x, row.stage, maps=0, at=at, **rules).pixels[0]
            for axis, place in enumerate(at):
                first = row.start + place * row.jump
                seen = np.flatnonzero(pixels.any(axis=(1 - axis, 2)))
                if seen.size:
                    assert first <= seen[0], row.stage
                    assert seen[-1] < first + row.field, row.stage
                filled.append(seen.size == row.field)
    assert filled[0]


LINEAR = {
    "stride": (nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=None, dtype="float64"), (7, 9, 3)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2, bias=None, dtype="float64"), (6, 6, 4)),
    "ceil": (nn.Conv2d(2, 3, 4, 3, ceil_mode=True, bias=None, dtype="float64"), (9, 8, 2)),
    "overlap": (nn.MaxPool2d(3, 2), (9, 9, 2)),
    "overlap, ceil": (nn.MaxPool2d(3, 2, ceil_mode=True), (8, 10, 3)),
    "padding": (nn.MaxPool2d(3, 1, 1), (5, 6, 2)),
    "mean": (nn.AvgPool2d(3, 2, ceil_mode=True), (8, 6, 2)),
    "dense": (nn.Linear(12, 5, bias=None, dtype="float64"), (2, 3, 2)),
    "dropout": (nn.Dropout(0.5, inverted=False), (3, 4, 2)),
}  # fmt: skip


@pytest.mark.parametrize("case", LINEAR)
def test_the_way_down_is_the_adjoint_of_the_way_up(case, forms):
    """<A x, y> = <x, A^T y>, where A is linear, or, with its switches, what max-pooling was."""
    layer, shape = LINEAR[case]
    numbers = np.random.default_rng(1)
    x = numbers.normal(size=(2, *shape))
    model = nn.Sequential(a=layer).eval()
    steps = deconvnet.ascend(model, x, "a")
    y = numbers.normal(size=steps[-1].y.shape)
    ((_, _, back),) = deconvnet.descend(steps, y, "backward", "skip")
    np.testing.assert_allclose((steps[-1].y * y).sum(), (x * back).sum(), rtol=1e-12)


# A deconvnet in plain loops, for one picture: convolution, ReLU, LRN, max-pooling, convolution.

SMALL = {
    "conv1": nn.Conv2d(2, 4, 3, dtype="float64"),
    "relu1": nn.ReLU(),
    "norm1": nn.LRN(n=3, alpha=1.0),
    "pool1": nn.MaxPool2d(3, 2),
    "conv2": nn.Conv2d(4, 4, 2, groups=2, dtype="float64"),
    "relu2": nn.ReLU(),
}


def conv_in_loops(x, w, groups):
    K, _, C, O = w.shape
    y = np.zeros((x.shape[0] - K + 1, x.shape[1] - K + 1, O))
    for r, c, o in np.ndindex(*y.shape):
        first = o // (O // groups) * C
        y[r, c, o] = (x[r : r + K, c : c + K, first : first + C] * w[..., o]).sum()
    return y


def conv_back_in_loops(g, w, groups, shape):
    K, _, C, O = w.shape
    x = np.zeros(shape)
    for r, c, o in np.ndindex(*g.shape):
        first = o // (O // groups) * C
        x[r : r + K, c : c + K, first : first + C] += g[r, c, o] * w[..., o]
    return x


def reference(x, maps, at, drop=False):
    """The paper's section 2.1, step by step."""
    conv1, conv2 = SMALL["conv1"].w.data, SMALL["conv2"].w.data
    relu1 = np.maximum(conv_in_loops(x, conv1, 1), 0)
    norm1 = np.zeros_like(relu1)
    for o in range(4):
        window = relu1[..., max(o - 1, 0) : o + 2]
        norm1[..., o] = relu1[..., o] / (2 + (window**2).sum(-1)) ** 0.75
    size = (norm1.shape[0] - 3) // 2 + 1
    pool1, switches = np.zeros((size, size, 4)), {}
    for r, c, o in np.ndindex(size, size, 4):
        window = norm1[2 * r : 2 * r + 3, 2 * c : 2 * c + 3, o]
        pool1[r, c, o] = window.max()
        dr, dc = divmod(int(window.argmax()), 3)
        switches[r, c, o] = (2 * r + dr, 2 * c + dc, o)
    relu2 = np.maximum(conv_in_loops(pool1, conv2, 2), 0)
    seed = np.zeros_like(relu2)
    seed[(*at, maps)] = relu2[(*at, maps)]
    signal = conv_back_in_loops(np.maximum(seed, 0), conv2, 2, pool1.shape)
    unpooled = np.zeros_like(norm1)
    for window, pixel in switches.items():
        if not (drop and pool1[window] == 0):
            unpooled[pixel] += signal[window]
    return conv_back_in_loops(np.maximum(unpooled, 0), conv1, 1, x.shape)


def against_the_reference(**rules):
    x = np.random.default_rng(3).normal(size=(11, 11, 2))
    x[:7] = 1  # half of the maps are 0 there, and windows hold only zeros
    SMALL["conv1"].b.data[...] = 0
    model, shares, largest = nn.Sequential(**SMALL), [], 0
    for map in range(4):
        for at in ((0, 0), (1, 0), (2, 2)):
            found = look.project(model, x[None], "relu2", map, at, **rules)
            expected = reference(x, map, at, drop=rules.get("zeros") == "drop")
            np.testing.assert_allclose(found.pixels[0], expected, rtol=1e-12, atol=1e-14)
            shares.append(found.zero_windows["pool1"])
            largest = max(largest, np.abs(expected).max())
    assert largest > 0
    assert max(shares) > 0


def test_as_the_paper_writes_it(forms):
    against_the_reference()
    against_the_reference(zeros="drop")


def overwriting(self, gy):
    """torch.nn.MaxUnpool2d's way: of the windows that chose a pixel, the last one wins."""
    (winner,) = self.saved
    padded = self.win.pad(np.zeros((self.win.N, self.win.H, self.win.W, self.win.C)))
    for t, tap in enumerate(self.win.taps(padded)):
        tap[...] = np.where(winner == t, gy, tap)
    return self.win.unpad(padded)


def with_filters(change):
    own = Conv2d.backward

    def backward(self, gy):
        x, w, y = self.saved
        self.saved = x, change(w), y
        try:
            return own(self, gy)
        finally:
            self.saved = x, w, y

    return backward


FAULTS = {
    "overwriting in unpooling": (MaxPool2d, "backward", overwriting),
    "an unflipped filter": (
        Conv2d, "backward", with_filters(lambda w: np.ascontiguousarray(w[::-1, ::-1]))
    ),
    "the wrong group": (
        Conv2d, "backward",
        with_filters(lambda w: np.ascontiguousarray(np.roll(w, w.shape[3] // 2, axis=3))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault, monkeypatch):
    monkeypatch.setattr(*FAULTS[fault])
    with pytest.raises(AssertionError):
        against_the_reference()


@pytest.mark.parametrize("rules", [{"relu": "mask"}, {"relu": "both"}, {"lrn": "gradient"}])
def test_other_rules_are_told_apart(rules):
    """The mask for the clip; LRN's gradient (alpha = 1) for none."""
    with pytest.raises(AssertionError):
        against_the_reference(**rules)


def test_the_methods_are_those_of_their_papers():
    """The module's table; and what each does at a ReLU."""
    assert look.METHODS == {
        "deconvnet": {"relu": "backward", "lrn": "skip"},
        "gradient": {"relu": "mask", "lrn": "gradient"},
        "guided": {"relu": "both", "lrn": "gradient"},
    }
    model = nn.Sequential(relu=nn.ReLU())
    x = np.array([[[[-1.0, -1, 2, 2]]]])
    signal = np.array([[[[3.0, -4, 5, -6]]]])
    for name, expected in (
        ("deconvnet", [3, 0, 5, 0]),
        ("gradient", [0, 0, 5, -6]),
        ("guided", [0, 0, 5, 0]),
    ):
        steps = deconvnet.ascend(model, x, "relu")
        ((_, _, below),) = deconvnet.descend(steps, signal, **look.METHODS[name])
        assert below.ravel().tolist() == expected, name


def test_peaks_of_a_map_that_is_not_square():
    y = np.zeros((1, 2, 5, 2))
    y[0, 1, 3, 0] = 7
    y[0, 0, 4, 1] = 8
    values, at = deconvnet.peaks(y)
    assert values.tolist() == [[7, 8]]
    assert at.tolist() == [[[1, 3], [0, 4]]]
    values, at = deconvnet.peaks(y[0, :, 4])
    assert values.tolist() == [[0, 8], [0, 0]]
    assert at.tolist() == [[[0, 0]] * 2] * 2


def test_windows_of_zeros():
    """Their share of the signal, which goes to their first tap, or nowhere."""
    pool = nn.Sequential(pool=nn.MaxPool2d(2))
    x = np.zeros((1, 2, 4, 1), np.float32)
    x[0, 1, 1, 0] = 3
    steps = deconvnet.ascend(pool, x, "pool")
    seed = np.array([[[[2.0], [6.0]]]], np.float32)
    for zeros, kept in (("first", 6), ("drop", 0)):
        ((_, above, back),) = deconvnet.descend(steps, seed, "backward", "skip", zeros)
        assert above is seed
        assert back[0, ..., 0].tolist() == [[0, 0, kept, 0], [0, 2, 0, 0]]
    deep = nn.Sequential(pool=nn.MaxPool2d(2), sum=nn.Conv2d(1, 1, (1, 2), init=signs, bias=None))
    assert look.project(deep, x, "sum").zero_windows == {"pool": 0.5}, "without the sign"


def signs(rng, shape):
    return np.array([1.0, -1]).reshape(shape)


def test_normalisation_is_left_out():
    """Of both kinds: the signal goes through as it is."""
    model = network("krizhevsky2012")
    steps = deconvnet.ascend(model, pictures(model), "relu5")
    kinds = [step.stage for step in steps if "n" in step.stage[0] or "within" in step.stage]
    assert kinds == ["norm1", "norm2", "within2"]
    for step, above, below in deconvnet.descend(steps, steps[-1].y, "backward", "skip"):
        assert (below is above) == (step.stage in kinds), step.stage
    for step, above, below in deconvnet.descend(steps, steps[-1].y, "backward", "gradient"):
        assert below is not above, step.stage


def test_mistakes():
    model = network("paper")
    x = pictures(model)
    for words, arguments in (
        ("unknown stage 'conv9': choose from conv1, relu1", {"stage": "conv9"}),
        ("conv5 has maps 0 to 15, not 16", {"stage": "conv5", "maps": 16}),
        ("conv5 has 3 x 3 places, not \\(3, 0\\)", {"stage": "conv5", "at": (3, 0)}),
        ("conv5 has maps 0 to 15, not -1", {"stage": "conv5", "maps": -1}),
        ("conv5 has 3 x 3 places, not \\(0, -1\\)", {"stage": "conv5", "at": (0, -1)}),
        ("lrn must be one of skip, gradient, not 'mask'", {"stage": "conv5", "lrn": "mask"}),
        ("zeros must be one of first, drop, not 'last'", {"stage": "conv5", "zeros": "last"}),
        ("a map is given in whole numbers", {"stage": "conv5", "maps": 1.5}),
        (
            "conv5: one map for all pictures, or one for each of 2",
            {"stage": "conv5", "maps": [0] * 3},
        ),
        ("conv5: one place for all pictures", {"stage": "conv5", "at": 1}),
        ("relu must be one of backward, mask, both", {"stage": "conv5", "relu": "clip"}),
    ):
        with pytest.raises(ValueError, match=words):
            look.project(model, x, **arguments)
    with no_grad(), pytest.raises(ValueError, match="no way down from conv1: made under no_grad"):
        look.project(model, x, "conv2")


def test_the_model_is_left_as_it_was():
    model = network("paper")
    expected = look.project(model, pictures(model), "fc8").pixels
    model.train()
    assert np.array_equal(look.project(model, pictures(model), "fc8").pixels, expected)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_captum_agrees():
    """Its Deconvolution and GuidedBackprop change ReLUs in a gradient, LRN's included."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    from tests.test_torch import PRESET, TorchAlexNet

    model = Network(PRESET.with_each(LRN, alpha=1.0), 5, dtype="float64").eval()
    x, twin = pictures(model), TorchAlexNet(model, torch.float64)
    for name, rules in (
        ("Deconvolution", {"relu": "backward", "lrn": "gradient"}),
        ("GuidedBackprop", look.METHODS["guided"]),
    ):
        found = look.project(model, x, "fc8", **rules)
        target = torch.from_numpy(found.maps)
        with pytest.warns(UserWarning, match="backward hooks"):
            theirs = getattr(attr, name)(twin).attribute(
                torch.from_numpy(x).requires_grad_(), target
            )
        theirs = theirs.detach().numpy() * found.values[:, None, None, None]
        assert np.abs(theirs).max() > 0
        error = np.abs(found.pixels - theirs).max() / np.abs(theirs).max()
        print(f"captum's {name}: largest difference {error:.1e} of the largest value")
        assert error < 1e-5
