"""The graph: fan-out, broadcasting, leaves, errors in sentences, and memory freed by reference
counts alone."""

import gc
import threading
import weakref

import numpy as np
import pytest

import minigrad as mg
from minigrad import functions as F
from minigrad.engine import Function, topological_order


def leaf(*shape, seed=0):
    return mg.Tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def test_four_node_graph_by_hand():
    x, w, b = (mg.Tensor(np.array([v]), requires_grad=True) for v in (2.0, -3.0, 0.5))
    y = (x * w + b) ** 2  # (2 * -3 + 0.5)^2 = 30.25
    y.backward()
    assert y.item() == 30.25
    assert (x.grad.item(), w.grad.item(), b.grad.item()) == (33.0, -22.0, -11.0)


def test_fan_out_adds():
    x = leaf(3)
    (x * x + x + 2 * x).backward(np.ones(3))
    np.testing.assert_allclose(x.grad, 2 * x.data + 3)


def test_diamond_is_walked_once_per_node():
    calls = []

    class Counted(Function):
        def forward(self, x):
            return x * 2

        def backward(self, gy):
            calls.append(1)
            return gy * 2

    x = leaf(2)
    y = Counted()(x)
    for _ in range(20):  # 2^20 paths, 20 + 1 nodes
        y = y + y
    y.backward(np.ones(2))
    assert len(calls) == 1
    np.testing.assert_allclose(x.grad, 2.0**21)


def test_backward_adds_to_grad_and_zeroing_starts_anew():
    x = leaf(3)
    F.sum(x * 3.0).backward()
    F.sum(x * 3.0).backward()
    np.testing.assert_allclose(x.grad, 6.0)


def test_broadcast_gradients_are_summed_back():
    a, b = leaf(3, 1, 4), leaf(2, 4, seed=1)
    (a * b).backward(np.ones((3, 2, 4)))
    assert a.grad.shape == a.shape
    assert b.grad.shape == b.shape
    np.testing.assert_allclose(a.grad[:, 0], np.tile(b.data.sum(axis=0), (3, 1)))


def test_gradients_of_two_leaves_do_not_share_memory():
    a, b = leaf(3), leaf(3, seed=1)
    gy = np.ones(3)
    (a + b).backward(gy)
    a.grad += 1
    assert not np.shares_memory(a.grad, b.grad)
    np.testing.assert_array_equal(b.grad, 1)
    np.testing.assert_array_equal(gy, 1)


def test_an_array_that_two_parents_share_is_not_written():
    """The backward of a + b passes one array to both; more then arrives at each of them."""
    x = leaf(3)
    a, b = x * 2.0, x * 3.0
    gy = np.ones(3)
    (b * a + (a + b)).backward(gy)
    np.testing.assert_allclose(x.grad, 12 * x.data + 5)
    y = x * 2.0
    (y + y).backward(gy)
    np.testing.assert_array_equal(gy, 1)


def test_a_gradient_that_was_read_stays():
    x = leaf(3)
    F.sum(x * 3.0).backward()
    read = x.grad
    F.sum(x * 3.0).backward()
    np.testing.assert_array_equal(read, 3)
    np.testing.assert_array_equal(x.grad, 6)


def test_view_gradient_is_copied():
    x = leaf(2, 3)
    gy = np.ones(6)
    F.reshape(x, 6).backward(gy)
    assert not np.shares_memory(x.grad, gy)


def test_no_grad_builds_no_graph():
    x = leaf(3)
    with mg.no_grad():
        y = x * 2.0
    assert y.creator is None
    assert not y.requires_grad


def test_no_grad_inside_no_grad():
    """Each restores what was before it, after an error too."""
    x = leaf(3)
    with mg.no_grad():
        with mg.no_grad():
            pass
        assert not (x * 2.0).requires_grad
        with pytest.raises(KeyError), mg.no_grad():
            raise KeyError
        assert not (x * 2.0).requires_grad
    assert (x * 2.0).requires_grad
    with pytest.raises(KeyError), mg.no_grad():
        raise KeyError
    assert (x * 2.0).requires_grad


def test_no_grad_is_of_its_thread():
    x, found = leaf(3), []
    with mg.no_grad():
        other = threading.Thread(target=lambda: found.append((x * 2.0).requires_grad))
        other.start()
        other.join()
    assert found == [True]


def test_unneeded_gradients_are_not_computed():
    x, w = mg.Tensor(np.ones((2, 3))), leaf(3, 4)
    y = F.linear(x, w)
    assert y.creator.needs == (False, True, False)
    assert y.creator.parents[0] is None


def test_deep_graph_needs_no_recursion():
    x = leaf(1)
    y = x
    for _ in range(20_000):
        y = y + 1.0
    assert len(topological_order(y.creator)) == 20_000
    y.backward()
    assert x.grad.item() == 1


def test_memory_is_freed_by_reference_counts():
    gc.disable()
    try:
        x = mg.Tensor(np.ones((4, 9, 9, 3)), requires_grad=True)
        w = leaf(3, 3, 3, 8)
        y = F.lrn(F.relu(F.conv2d(x, w)))
        loss = F.sum(F.max_pool2d(y, 2))
        nodes = [weakref.ref(n) for n in topological_order(loss.creator)]
        middle = weakref.ref(y)
        del y
        assert middle() is None, "an activation that nobody saved should be gone"
        loss.backward()
        assert all(n().saved is None for n in nodes), (
            "saved arrays go as soon as a node's backward has run"
        )
        del loss
        assert all(n() is None for n in nodes)
    finally:
        gc.enable()


def test_intermediate_arrays_that_no_backward_needs_are_freed():
    x = mg.Tensor(np.zeros((8, 20, 20, 4)), requires_grad=True)
    pooled = F.max_pool2d(
        F.lrn(x), 2
    )  # pooling keeps one byte a window, LRN its input: LRN's output is nobody's
    kept = [a for node in topological_order(pooled.creator) for a in node.saved]
    assert sorted(a.dtype.name for a in kept) == ["float64", "uint8"]


def test_detach_and_leaf_backward():
    x = leaf(3)
    y = (x * 2.0).detach()
    assert not y.requires_grad
    named = mg.Tensor(np.ones(3), requires_grad=True, name="conv1.w")
    assert named.detach().name == "conv1.w"
    assert named.detach().data is named.data
    x.backward(np.full(3, 5.0))
    np.testing.assert_array_equal(x.grad, 5)


def test_numbers_never_promote():
    x = mg.Tensor(np.ones(3, np.float32), requires_grad=True)
    y = 2 * (x + 1.0) / 3.0 - 0.5
    assert y.dtype == np.float32
    (np.float32(2) * y).backward(np.ones(3, np.float32))
    assert x.grad.dtype == np.float32


def test_array_on_the_left_defers_to_the_tensor():
    x = leaf(3)
    y = np.ones(3) + x
    assert isinstance(y, mg.Tensor)
    np.testing.assert_allclose(y.data, x.data + 1)


X, W = np.array([[1.0, 2, 4], [-3, 5, 8]]), np.array([[2.0, -1], [3, 7]])


@pytest.mark.parametrize(
    "action",
    [
        lambda x: x + 2.0,
        lambda x: 2.0 + x,
        lambda x: x - 2.0,
        lambda x: 2.0 - x,
        lambda x: W[:, :1] - x,
        lambda x: x * 3.0,
        lambda x: 3.0 * x,
        lambda x: x / 4.0,
        lambda x: 4.0 / x,
        lambda x: W[:, 1:] / x,
        lambda x: x @ X.T,
        lambda x: W @ x,
        lambda x: x**2,
        lambda x: -x,
        lambda x: x[1, :2],
        lambda x: x.sum(),
        lambda x: x.sum(axis=0),
        lambda x: x.sum(axis=1, keepdims=True),
        lambda x: x.mean(),
        lambda x: x.mean(axis=0),
        lambda x: x.mean(axis=1, keepdims=True),
        lambda x: x.reshape(3, 2),
        lambda x: x.transpose(1, 0),
    ],
)
def test_operators_by_numpy(action):
    found = action(mg.Tensor(X))
    assert isinstance(found, mg.Tensor)
    assert found.shape == np.shape(action(X))
    np.testing.assert_allclose(found.data, action(X), rtol=1e-15)


def test_repr_says_what_one_wants_to_know():
    x = mg.Tensor(np.zeros((2, 3), np.float32), requires_grad=True, name="conv1.w")
    assert "shape=(2, 3), float32, cpu, name='conv1.w', requires_grad=True" in repr(x)
    assert "creator=Mul" in repr(x * 2.0)


def test_to_the_same_device_is_the_tensor_itself():
    x = leaf(2)
    assert x.to("cpu") is x


class LeakyReLU(mg.Function):
    def __init__(self, slope):
        self.slope = slope

    def forward(self, x):
        self.save(x > 0)
        return np.where(x > 0, x, self.slope * x)

    def backward(self, gy):
        return np.where(self.saved[0], gy, self.slope * gy)


def called_twice():
    """As a PyTorch user writes it. The second call's arrays took the place of the first one's:
    wrong gradients."""
    act = LeakyReLU(0.1)
    return act(act(leaf(3)))


def test_the_same_function_object_is_refused_without_a_graph_too():
    act = LeakyReLU(0.1)
    with mg.no_grad():
        act(leaf(3))
        with pytest.raises(RuntimeError, match="called before"):
            act(leaf(3))


def test_a_leaf_is_ready_after_its_last_use():
    """Each leaf once, with its whole gradient, and while the leaves before it have none."""
    first, second = leaf(3), leaf(3)
    alone = leaf(1)
    seen = []

    def ready(p):
        before = None if first.grad is None else first.grad.copy()
        seen.append((p, p.grad.copy(), before))

    F.sum((first * 2.0 + second * second) * second).backward(None, ready)
    assert [p for p, *_ in seen] == [second, first]
    assert seen[0][2] is None
    for p, gradient, _ in seen:
        np.testing.assert_array_equal(gradient, p.grad)
    alone.backward(None, lambda p: seen.append((p, p.grad, None)))
    assert seen[-1][0] is alone
    np.testing.assert_array_equal(alone.grad, [1.0])


def test_numpy_takes_a_tensor_without_gradients():
    data = np.arange(6.0).reshape(2, 3)
    x = mg.Tensor(data)
    assert np.asarray(x) is data or np.shares_memory(np.asarray(x), data)
    assert np.asarray(x, np.float32).dtype == np.float32
    assert not np.shares_memory(np.array(x), data)
    assert np.stack([x, x]).shape == (2, 2, 3)
    with pytest.raises(ValueError, match="copy"):
        np.asarray(x, np.float32, copy=False)
    assert np.asarray((leaf(3) * 2.0).detach()).shape == (3,)


def backward_twice():
    y = F.sum(leaf(3) * 2.0)
    y.backward()
    y.backward()


@pytest.mark.parametrize(
    ("error", "words", "action"),
    [
        (RuntimeError, "run the forward pass again", backward_twice),
        (
            RuntimeError,
            r"LeakyReLU was called before: .* Make a new one each time, LeakyReLU\(...\)\(x\)",
            called_twice,
        ),
        (RuntimeError, r"lose its gradient: use tensor.numpy\(\)", lambda: np.asarray(leaf(3))),
        (RuntimeError, "lose its gradient", lambda: np.stack([leaf(3) * 2.0])),
        (RuntimeError, "lose its gradient", lambda: mg.Tensor([leaf(3), leaf(3)])),
        (ValueError, "needs gy", lambda: (leaf(3) * 2.0).backward()),
        (
            ValueError,
            r"gy is float64 \(2,\) on cpu, but the tensor is float64 \(3,\)",
            lambda: (leaf(3) * 2.0).backward(np.ones(2)),
        ),
        (ValueError, "gy is float32", lambda: (leaf(3) * 2.0).backward(np.ones(3, np.float32))),
        (TypeError, "plain array", lambda: (leaf(3) * 2.0).backward([1, 1, 1])),
        (
            RuntimeError,
            "nothing here requires a gradient",
            lambda: mg.Tensor(np.ones(1)).backward(),
        ),
        (TypeError, "mix float32, float64", lambda: mg.Tensor(np.ones(3, np.float32)) + leaf(3)),
        (TypeError, "must be float32 or float64", lambda: F.relu(np.arange(3))),
        (TypeError, "would hide its history", lambda: mg.Tensor(leaf(3))),
        (TypeError, "holds real numbers", lambda: mg.Tensor(np.array(["a"]))),
        (TypeError, "holds real numbers.* not complex128", lambda: mg.Tensor(np.ones(2, complex))),
        (
            TypeError,
            "only float32 and float64",
            lambda: mg.Tensor(np.arange(3), requires_grad=True),
        ),
        (ValueError, "exactly one element", lambda: leaf(3).item()),
        (ValueError, "do not broadcast", lambda: leaf(3) + leaf(4)),
        (ValueError, "unknown device 'cuda:0'", lambda: leaf(3).to("cuda:0")),
        (ValueError, "does not fit", lambda: leaf(3).reshape(2, 2)),
        (ValueError, "are not an order of the axes", lambda: leaf(3, 2).transpose(0, 0)),
        (TypeError, "whole numbers, slices", lambda: leaf(3)[np.array([0, 0])]),
        (
            TypeError,
            "pow: the exponent must be a number, not ndarray",
            lambda: F.pow(leaf(3), np.ones(3)),
        ),
    ],
)
def test_errors_are_sentences(error, words, action):
    with pytest.raises(error, match=words):
        action()


def test_wrong_number_of_gradients_is_named():
    class Bad(Function):
        def forward(self, a, b):
            return a + b

        def backward(self, gy):
            return gy

    with pytest.raises(RuntimeError, match="Bad.backward returned 1 gradients for 2 inputs"):
        Bad()(leaf(2), leaf(2)).backward(np.ones(2))


def test_a_missing_gradient_is_named():
    class Bad(Function):
        def forward(self, a, b):
            return a + b

        def backward(self, gy):
            return gy, None

    Bad()(leaf(2), mg.Tensor(np.ones(2))).backward(np.ones(2))
    words = "Bad.backward returned no gradient for input 1, which needs one"
    with pytest.raises(RuntimeError, match=words):
        Bad()(leaf(2), leaf(2)).backward(np.ones(2))


class Returns(Function):
    """x, and what is given as its gradient; an exception is raised."""

    def __init__(self, gradient):
        self.gradient = gradient

    def forward(self, x):
        return x + 0.0

    def backward(self, gy):
        if isinstance(self.gradient, Exception):
            raise self.gradient
        return self.gradient


def test_an_error_in_backward_names_the_function():
    with pytest.raises(KeyError) as caught:
        Returns(KeyError("x"))(leaf(3)).backward(np.ones(3))
    assert caught.value.__notes__ == ["in the backward pass of a Returns"]


@pytest.mark.parametrize("shape", [(3, 1), (1,), (4,)])
def test_a_gradient_of_another_shape_is_refused(shape):
    with pytest.raises(RuntimeError, match=r"a gradient of shape .* for a leaf of shape \(3,\)"):
        Returns(np.ones(shape))(leaf(3)).backward(np.ones(3))


def test_another_machines_byte_order_is_refused():
    with pytest.raises(TypeError, match="byte order, not >f8"):
        mg.Tensor(np.arange(3.0).astype(">f8"))


def test_leaves_never_share_the_array_that_a_backward_returns():
    """Neither with each other nor with what was saved."""

    class Same(Function):
        def forward(self, a, b):
            self.save(a * 3.0)
            return a + b

        def backward(self, gy):
            self.kept = self.saved[0]
            g = gy * 2
            return (g, g) if gy[0] > 0 else (self.kept, self.kept * 1.0)

    for sign in (1.0, -1.0):
        a, b, function = leaf(2), leaf(2), Same()
        function(a, b).backward(sign * np.ones(2))
        assert not np.shares_memory(a.grad, b.grad)
        assert not np.shares_memory(a.grad, function.kept)


@pytest.mark.parametrize("f", [F.exp, F.relu, lambda x: F.lrn(x, alpha=1.0), lambda x: x * x])
def test_a_saved_array_that_was_written_to_is_named_in_debugging(monkeypatch, f):
    monkeypatch.setenv("MINIGRAD_DEBUG", "1")
    x = mg.Tensor(np.arange(1.0, 7).reshape(2, 3), requires_grad=True)
    f(x).backward(np.ones((2, 3)))  # nothing was written to: silent
    y = f(x)
    y.creator.saved[0][0, 1] += 1
    words = r"the array that it saved as number 0, of shape \(2, 3\), was written to between"
    with pytest.raises(RuntimeError, match=words):
        y.backward(np.ones((2, 3)))


def test_labels_may_be_written_to_between_forward_and_backward():
    x, labels = mg.Tensor(np.zeros((2, 3)), requires_grad=True), np.array([0, 2])
    loss = F.softmax_cross_entropy(x, labels, "sum")
    labels[:] = 1
    loss.backward()
    third = 1 / 3
    np.testing.assert_allclose(x.grad, [[third - 1, third, third], [third, third, third - 1]])
