"""PyTorch as an oracle: every layer forward and backward, SGD, and a small AlexNet in training.

How close, measured with PyTorch 2.13 on a CPU (`python tests/test_torch.py` prints the table): in
float64 the layers differ by at most 6e-14 (conv1, sums of 363 products), most by a rounding or not
at all; SGD by a rounding. After 20 steps of a small AlexNet, in which the loss falls from 4.34 to
0.80: in float32 losses differ by 5e-7 and weights by 2e-7 (5e-7 of the largest in their array), no
more than PyTorch's float32 differs from its own float64; in float64 losses and weights by 2e-15.
"""

from dataclasses import dataclass

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch, the oracle of these tests, is not installed")

import torch.nn.functional as T  # noqa: E402

import alexnet  # noqa: E402
import minigrad as mg  # noqa: E402
from minigrad import functions as F  # noqa: E402
from minigrad import kernels, optim  # noqa: E402
from minigrad.functions.cases import Case  # noqa: E402
from minigrad.functions.geometry import output_size  # noqa: E402
from minigrad.models.records import LRN, Conv, Dense, Pool, ReLU  # noqa: E402
from minigrad.network import Network, shrunken  # noqa: E402

pytestmark = pytest.mark.usefixtures("forms")
torch.set_num_threads(1)

FLOAT64 = 1e-13  # of the largest number in PyTorch's answer
FLOAT64_STEPS = 1e-14  # the same, after ten steps of SGD
FLOAT32_STEPS = 1e-6
# After 20 steps of AlexNet: weights, relative to the largest in their array; losses, absolute.
TRAINING = {"float32": 5e-6, "float64": 1e-13}
STEPS = 20


# Layouts: minigrad's channels last to PyTorch's channels first and back.


def first(x):
    """(N, H, W, C) -> (N, C, H, W)."""
    return x.permute(0, 3, 1, 2)


def last(y):
    """(N, C, H, W) -> (N, H, W, C)."""
    return y.permute(0, 2, 3, 1)


def filters(w):
    """(KH, KW, C, O) -> (O, C, KH, KW)."""
    return w.permute(3, 2, 0, 1)


def across(f, x):
    """Apply f, which works on the second axis, to the last."""
    return f(x.movedim(-1, 1)).movedim(1, -1)


# PyTorch's forms of minigrad's functions, on channels-last tensors, with minigrad's options.


def padded(x, kernel, stride, padding, ceil_mode, value=0.0):
    """x with its padding, and as much more at the end as rounding the output up reaches."""
    (kh, kw), (sh, sw), (ph, pw) = (
        (v, v) if isinstance(v, int) else v for v in (kernel, stride, padding)
    )
    ends = []
    for side, k, s, p in ((x.shape[1], kh, sh, ph), (x.shape[2], kw, sw, pw)):
        last = output_size(side, k, s, p, ceil_mode) - 1
        ends.append(max(last * s + k - side - p, 0))
    return T.pad(first(x), (pw, max(pw, ends[1]), ph, max(ph, ends[0])), value=value)


def torch_conv2d(x, w, b=None, stride=1, padding=0, groups=1, ceil_mode=False, relu=False):
    x = padded(x, tuple(w.shape[:2]), stride, padding, ceil_mode)
    y = last(T.conv2d(x, filters(w), b, stride, groups=groups))
    return torch.relu(y) if relu else y


def torch_linear(x, w, b=None, relu=False):
    y = T.linear(x, w.T, b)
    return torch.relu(y) if relu else y


def torch_lrn(x, n=5, k=2.0, alpha=1e-4, beta=0.75, divide_by_n=False, groups=1):
    """PyTorch always divides alpha by n, and takes three axes at least."""
    if x.ndim < 3:
        return torch_lrn(x[None], n, k, alpha, beta, divide_by_n, groups)[0]
    alpha = alpha if divide_by_n else alpha * n
    columns = torch.chunk(x, groups, dim=-1)
    return torch.cat(
        [across(lambda c: T.local_response_norm(c, n, alpha, beta, k), c) for c in columns], dim=-1
    )


def torch_lrn_within_map(x, n=5, k=1.0, alpha=1e-3, beta=0.75):
    """The mean over n x n pixels, zeros around the image counted."""
    before, after = n // 2, (n - 1) // 2
    mean = last(T.avg_pool2d(T.pad(first(x * x), (before, after, before, after)), n, stride=1))
    return x / (k + alpha * mean) ** beta


def torch_max_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False):
    return last(T.max_pool2d(first(x), kernel_size, stride, padding, ceil_mode=ceil_mode))


def torch_avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False):
    x = first(x)
    y = T.avg_pool2d(x, kernel_size, stride, padding, ceil_mode, count_include_pad=False)
    return last(y)


def torch_dropout(x, p=0.5, training=True, inverted=True, rng=None):
    """The mask is ours; what is checked is the scale, and that backward has the same mask."""
    if not training:
        return x if inverted else x * (1 - p)
    kept = F.dropout(np.ones(x.shape), p, rng=rng()).data != 0
    return x * torch.from_numpy(kept) / (1 - p if inverted else 1.0)


def torch_cross_entropy(x, t, reduction="mean"):
    return T.cross_entropy(x, torch.from_numpy(t), reduction=reduction)


TWINS = {
    "conv2d": torch_conv2d,
    "linear": torch_linear,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "lrn": torch_lrn,
    "lrn_within_map": torch_lrn_within_map,
    "max_pool2d": torch_max_pool2d,
    "avg_pool2d": torch_avg_pool2d,
    "dropout": torch_dropout,
    "softmax": lambda x: torch.softmax(x, -1),
    "log_softmax": lambda x: torch.log_softmax(x, -1),
    "softmax_cross_entropy": torch_cross_entropy,
}
CASES = [case for case in F.cases() if case.function in TWINS]


@dataclass
class Difference:
    """Largest absolute differences from PyTorch, and the same over the largest number of each
    array."""

    forward: float
    backward: float
    relative: float


def differences(ours: list[np.ndarray], theirs: list[np.ndarray]) -> tuple[list[float], float]:
    """(largest absolute difference of each pair, largest relative to its array's largest
    number)."""
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    absolute = [float(np.abs(a - b).max()) for a, b in zip(ours, theirs)]
    return absolute, max(d / (np.abs(b).max() or 1.0) for d, b in zip(absolute, theirs))


def compare(case: Case) -> Difference:
    """Run a case forward and backward in both libraries, in float64."""
    arrays = case.draw()
    ours = [mg.Tensor(a, requires_grad=True) if a.dtype.kind == "f" else a for a in arrays]
    theirs = [
        torch.from_numpy(a.copy()).requires_grad_() if a.dtype.kind == "f" else a for a in arrays
    ]
    y, t = case(*ours), TWINS[case.function](*theirs, **case.options)
    gy = np.random.default_rng(1).standard_normal(y.shape)
    y.backward(gy)
    t.backward(torch.from_numpy(gy))
    absolute, relative = differences(
        [y.data, *[x.grad for x in ours if isinstance(x, mg.Tensor)]],
        [t.detach().numpy(), *[x.grad.numpy() for x in theirs if isinstance(x, torch.Tensor)]],
    )
    return Difference(absolute[0], max(absolute[1:]), relative)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_layer(case):
    assert compare(case).relative < FLOAT64


def test_arithmetic_with_broadcasting(monkeypatch):
    monkeypatch.setitem(
        TWINS, "expression", lambda a, b, c: (a @ b + c) / torch.exp(c) - torch.log(c * c)
    )
    case = Case(
        "expression",
        lambda a, b, c: (a @ b + c) / F.exp(c) - F.log(c * c),
        (3, 4), (4, 5), (5,),
    )  # fmt: skip
    assert compare(case).relative < FLOAT64


# SGD.


def sgd_paths(
    dtype: str,
    form: str,
    lr_of_step,
    momentum: float,
    weight_decay: float,
    steps: int = 10,
    transposed=False,
):
    """Relative difference from torch.optim.SGD after some steps along the same random gradients."""
    rng = np.random.default_rng(2)
    # Longer than a block of the kernel and than a chunk of the array form, and not a multiple of
    # either.
    start = [
        rng.standard_normal(shape).astype(dtype) for shape in ((70_001,), (5, 3), (2, 2, 3, 4))
    ]
    ours = [mg.Tensor(a.T.copy().T if transposed else a.copy(), requires_grad=True) for a in start]
    theirs = [torch.from_numpy(a.copy()).requires_grad_() for a in start]
    a = optim.SGD(ours, lr_of_step(0), momentum, weight_decay, form)
    b = torch.optim.SGD(theirs, lr_of_step(0), momentum, weight_decay=weight_decay)
    for step in range(steps):
        a.lr = b.param_groups[0]["lr"] = lr_of_step(step)
        for p, q in zip(ours, theirs):
            p.grad = rng.standard_normal(p.shape).astype(dtype)
            q.grad = torch.from_numpy(p.grad.copy())
        a.step()
        b.step()
    return differences([p.data for p in ours], [q.detach().numpy() for q in theirs])[1]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", FLOAT64_STEPS), ("float32", FLOAT32_STEPS)]
)
@pytest.mark.parametrize(
    ("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.1), (0.9, 0.1), (0.9, 0.0005)]
)
def test_sgd(dtype, tolerance, momentum, weight_decay):
    for form in ("torch", "paper"):  # at a constant rate they walk the same path
        assert sgd_paths(dtype, form, lambda step: 0.1, momentum, weight_decay) < tolerance


def test_sgd_when_the_rate_drops():
    def falling(step):
        return 0.1 if step < 4 else 0.01

    assert sgd_paths("float64", "torch", falling, 0.9, 0.1) < FLOAT64_STEPS
    assert (
        sgd_paths("float64", "paper", falling, 0.9, 0.1) > 1e-3
    )  # the paper's velocity keeps its old size


def test_sgd_of_transposed_parameters():
    assert (
        sgd_paths("float64", "torch", lambda step: 0.1, 0.9, 0.1, transposed=True) < FLOAT64_STEPS
    )


# AlexNet, small: 99 x 99 pictures, so that 2 x 2 x 16 numbers reach fc6 and their order matters.

PRESET = (
    shrunken(alexnet.PAPER)
    .with_each(LRN, alpha=1e-4)
    .changed(drop6=None, drop7=None)
    .with_preprocessing(size=99)
)


class TorchAlexNet(torch.nn.Module):
    """The same network in PyTorch, with a minigrad model's weights."""

    def __init__(self, model: Network, dtype: torch.dtype) -> None:
        super().__init__()
        self.preset, self.weights = model.preset, torch.nn.ParameterDict()
        relus = [name for name, layer in model.preset.layers.items() if isinstance(layer, ReLU)]
        self.relus = torch.nn.ModuleDict({name: torch.nn.ReLU() for name in relus})
        for name, array in model.state_dict().items():
            t = torch.from_numpy(array).to(dtype)
            t = filters(t) if t.ndim == 4 else t.T if t.ndim == 2 else t
            self.weights[name.replace(".", "_")] = torch.nn.Parameter(t.contiguous())

    def forward(self, x):
        w = self.weights
        x = first(x)
        for name, layer in self.preset.layers.items():
            match layer:
                case Conv():
                    weights, where = (w[f"{name}_w"], w[f"{name}_b"]), (layer.stride, layer.padding)
                    x = T.conv2d(x, *weights, *where, groups=layer.groups)
                case Dense():
                    x = last(x).flatten(1) if x.ndim == 4 else x
                    x = T.linear(x, w[f"{name}_w"], w[f"{name}_b"])
                case ReLU():
                    x = self.relus[name](x)
                case LRN():
                    constants = layer.n, layer.n * layer.alpha, layer.beta, layer.k
                    x = T.local_response_norm(x, *constants)
                case Pool():
                    x = T.max_pool2d(x, layer.size, layer.stride)
        return x

    def state(self) -> dict[str, np.ndarray]:
        """The weights in minigrad's layout."""
        tensors = {name.replace("_", "."): t.detach() for name, t in self.weights.items()}
        return {
            n: (t.permute(2, 3, 1, 0) if t.ndim == 4 else t.T if t.ndim == 2 else t).numpy()
            for n, t in tensors.items()
        }


def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.standard_normal((16, 99, 99, 3)), rng.integers(0, 5, 16)


def train(form: str, dtype: str = "float32") -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(losses, weights) of 20 steps of minigrad."""
    model, (x, labels) = Network(PRESET, classes=5, dtype=dtype), pictures()
    optimizer, losses = optim.SGD(model.parameters(), 0.01, 0.9, 0.0005, form), []
    for _ in range(STEPS):
        loss = F.softmax_cross_entropy(model(x.astype(dtype)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses), model.state_dict()


def train_torch(dtype: str = "float32") -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The same of PyTorch, from the same weights."""
    kind = getattr(torch, dtype)
    model, (x, labels) = (
        TorchAlexNet(Network(PRESET, classes=5, dtype=dtype), kind),
        pictures(),
    )
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=0.0005), []
    for _ in range(STEPS):
        loss = T.cross_entropy(model(torch.from_numpy(x).to(kind)), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses), model.state()


def apart(ours, theirs) -> tuple[float, float, float]:
    """Largest difference of two runs: of a loss, of a weight, and of a weight relative to the
    largest of its array."""
    absolute, relative = differences(list(ours[1].values()), [theirs[1][name] for name in ours[1]])
    return float(np.abs(ours[0] - theirs[0]).max()), max(absolute), relative


@pytest.mark.parametrize("dtype", TRAINING)
@pytest.mark.parametrize("form", ["torch", "paper"])
def test_training_a_small_alexnet(form, dtype):
    ours, theirs = train(form, dtype), train_torch(dtype)
    start = Network(PRESET, classes=5, dtype=dtype).state_dict()
    assert theirs[0][-1] < 0.5 * theirs[0][0]  # it does learn,
    assert all(
        np.abs(w - start[name]).max() > 1e-4 for name, w in theirs[1].items()
    )  # and every array has moved
    loss, _, weights = apart(ours, theirs)
    assert loss < TRAINING[dtype]
    assert weights < TRAINING[dtype]


def main() -> None:
    print(f"minigrad kernels: {kernels.state()}; PyTorch {torch.__version__}")
    print(f"{'largest absolute difference, float64':46}{'forward':>10}{'backward':>10}")
    for case in CASES:
        difference = compare(case)
        print(f"{case.name:46}{difference.forward:10.1e}{difference.backward:10.1e}")
    for dtype in ("float64", "float32"):
        print(
            f"SGD, 10 steps, {dtype}, relative:"
            f" {sgd_paths(dtype, 'torch', lambda step: 0.1, 0.9, 0.0005):.1e}"
        )
    exact = train_torch("float64")
    single = train_torch()
    print(f"\n{f'AlexNet, small, {STEPS} steps':46}{'loss':>10}{'weight':>10}{'relative':>10}")
    for name, one, other in [
        ("minigrad float32 from PyTorch float32", train("torch"), single),
        ("the same, the paper's form of SGD", train("paper"), single),
        ("minigrad float32 from PyTorch float64", train("torch"), exact),
        ("PyTorch float32 from PyTorch float64", single, exact),
        ("minigrad float64 from PyTorch float64", train("torch", "float64"), exact),
    ]:
        print(f"{name:46}" + "".join(f"{d:10.1e}" for d in apart(one, other)))
    print(f"loss: {single[0][0]:.4f} before, {single[0][-1]:.4f} after {STEPS} steps")


if __name__ == "__main__":
    main()
