"""Softmax and cross-entropy in one: every check of functions/softmax_cross_entropy.py and its
kernels."""

import checks
import numpy as np
import scipy.special
from checks import (
    both_forms,
    change,
    check,
    gradient,
    ignore_gy,
    layouts,
    same,
    small,
    streams,
    torch,
)
from hypothesis import given
from hypothesis import strategies as st

from minigrad.engine import Tensor
from minigrad.functions.softmax_cross_entropy import (
    CASES,
    REDUCTIONS,
    SoftmaxCrossEntropy,
    softmax_cross_entropy,
)  # fmt: skip


def by_pytorch(x, labels, reduction="mean"):
    return torch.nn.functional.cross_entropy(x, torch.from_numpy(labels), reduction=reduction)


test_cases = checks.cases(CASES, pytorch=by_pytorch)
test_kernel = checks.kernel(CASES)


@both_forms
def test_by_hand():
    """Two classes with logits 0 and ln 3 have probabilities 1/4 and 3/4."""
    x, labels = np.array([[0.0, np.log(3)], [np.log(3), 0.0], [2.0, 2.0]]), np.array([0, 0, 1])
    losses = [np.log(4), np.log(4 / 3), np.log(2)]
    same(softmax_cross_entropy(x, labels, "none"), losses)
    same(softmax_cross_entropy(x, labels, "sum"), sum(losses))
    same(softmax_cross_entropy(x, labels), sum(losses) / 3)
    gx = gradient(lambda x: softmax_cross_entropy(x, labels), x, np.array(1.0))
    same(gx, np.array([[-3 / 4, 3 / 4], [-1 / 4, 1 / 4], [1 / 2, -1 / 2]]) / 3)


@both_forms
def test_by_scipy(rng):
    x, labels = 10 * rng.standard_normal((9, 6)), rng.integers(0, 6, 9)
    losses = -scipy.special.log_softmax(x, axis=1)[range(9), labels]
    same(softmax_cross_entropy(x, labels, "none"), losses)
    for kind in (np.int32, np.uint8, np.int64):
        same(softmax_cross_entropy(x, labels.astype(kind)), losses.mean())


@both_forms
def test_labels_may_lie_anywhere_in_memory(rng):
    x, labels = rng.standard_normal((4, 5)), np.arange(8) % 5
    for given_, same_labels in (
        (labels[::2], [0, 2, 4, 1]), (labels[3::-1], [3, 2, 1, 0]),
        (Tensor(labels[:4]), [0, 1, 2, 3]), ([4, 4, 0, 1], [4, 4, 0, 1]),
    ):  # fmt: skip
        expected = -scipy.special.log_softmax(x, axis=1)[range(4), same_labels]
        same(softmax_cross_entropy(x, given_, "none"), expected)


@both_forms
def test_huge_and_masked_logits_are_finite():
    x = np.array([[1e30, 0.0, -1e30], [-np.inf, 0.0, 0.0]])
    same(softmax_cross_entropy(x, np.array([2, 1]), "none"), [2e30, np.log(2)])
    gx = gradient(lambda x: softmax_cross_entropy(x, [2, 1], "sum"), x)
    same(gx, [[1, 0, -1], [0, -0.5, 0.5]])


@checks.built
def test_nan_and_infinity_in_kernel_and_array_form():
    checks.not_finite(CASES[0])


@both_forms
@given(small, st.integers(1, 7), st.sampled_from(REDUCTIONS), layouts, streams)
def test_gradients_of_any_shape(N, C, reduction, layout, rng):
    labels = rng.integers(C, N)
    check(lambda x: softmax_cross_entropy(x, labels, reduction), layout(3 * rng.normal((N, C))))


ROWS = np.ones((2, 3))
test_wrong_calls = checks.wrong_calls(
    (
        lambda: softmax_cross_entropy(ROWS, [0, 1], "max"),
        "softmax_cross_entropy: reduction must be one of mean, sum, none, not 'max'",
    ),
    (
        lambda: softmax_cross_entropy(ROWS[0], [0]),
        "softmax_cross_entropy: logits must be (N, C), at least 1x1, but have shape (3,)",
    ),
    (
        lambda: softmax_cross_entropy(ROWS[:0], []),
        "softmax_cross_entropy: logits must be (N, C), at least 1x1, but have shape (0, 3)",
    ),
    (
        lambda: softmax_cross_entropy(ROWS, [0, 1, 2]),
        "labels must be 2 whole numbers, one for each row of logits (2, 3); they are",
    ),
    (lambda: softmax_cross_entropy(ROWS, [0.0, 1.0]), "they are float64 of shape (2,)"),
    (
        lambda: softmax_cross_entropy(ROWS, [0, 3]),
        "softmax_cross_entropy: label 3 is out of range; with 3 classes labels are 0 to 2",
    ),
    (lambda: softmax_cross_entropy(ROWS, [-1, 3]), "label -1 is out of range"),
    (
        lambda: softmax_cross_entropy(ROWS, np.array([0, 2**63], np.uint64)),
        "label 9223372036854775808 is out of range",
    ),
)

SUMMED = change(0, lambda g: 7 * g)  # of seven rows
test_planted_faults = checks.planted_faults(
    CASES,
    ("softmax_cross_entropy", SoftmaxCrossEntropy, SUMMED, "not divided by N"),
    ("softmax_cross_entropy: none", SoftmaxCrossEntropy, ignore_gy, "gy ignored"),
)
