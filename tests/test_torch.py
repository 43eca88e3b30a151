"""PyTorch as an oracle of SGD and of a small AlexNet in training; layers: tests/layers.

How close, measured with PyTorch 2.13 on a CPU (`python tests/test_torch.py` prints the table): in
float64 the layers differ by at most 6e-14 (conv1, sums of 363 products), most by a rounding or not
at all; SGD by a rounding. After 20 steps of a small AlexNet, in which the loss falls from 4.34 to
0.80: in float32 losses differ by 5e-7 and weights by 2e-7 (5e-7 of the largest in their array), no
more than PyTorch's float32 differs from its own float64; in float64 losses and weights by 2e-15.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch, the oracle of these tests, is not installed")

import torch.nn.functional as T  # noqa: E402

import alexnet  # noqa: E402
import minigrad as mg  # noqa: E402
from minigrad import functions as F  # noqa: E402
from minigrad import kernels, optim  # noqa: E402
from minigrad.models.records import LRN, Conv, Dense, Pool, ReLU  # noqa: E402
from minigrad.network import Network, shrunken  # noqa: E402

pytestmark = pytest.mark.usefixtures("forms")
torch.set_num_threads(1)

# After ten steps of SGD, of the largest number in PyTorch's answer.
FLOAT64_STEPS = 1e-14
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


def differences(ours: list[np.ndarray], theirs: list[np.ndarray]) -> tuple[list[float], float]:
    """(largest absolute difference of each pair, largest relative to its array's largest
    number)."""
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    absolute = [float(np.abs(a - b).max()) for a, b in zip(ours, theirs)]
    return absolute, max(d / (np.abs(b).max() or 1.0) for d, b in zip(absolute, theirs))


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
