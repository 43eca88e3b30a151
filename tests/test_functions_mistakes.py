"""Wrong calls of the functions: each is refused in a sentence with the name, the wrong value and
what would be right."""

import re

import numpy as np
import pytest

from minigrad import functions as F

IMAGES = np.ones((2, 5, 6, 4))
ROWS = np.ones((2, 3))
W = np.ones((3, 3, 4, 8))

# What is called: the sentence.
MISTAKES = [
    (
        lambda: F.matmul(ROWS, ROWS),
        "matmul: a is (2, 3) and b is (2, 3); they must be (M, K) and (K, N)",
    ),
    (lambda: F.mean(ROWS[:0]), "mean: there is nothing to average in shape (0, 3)"),
    (lambda: F.concat([ROWS, IMAGES]), "must agree in every axis but"),
    (lambda: F.concat([]), "there must be at least one"),
    (
        lambda: F.softmax(np.ones((2, 0))),
        "softmax: x must have at least one class on its last axis, but has shape (2, 0)",
    ),
    (
        lambda: F.log_softmax(np.array(1.0)),
        "log_softmax: x must have at least one class on its last axis, but has shape ()",
    ),
    (lambda: F.dropout(ROWS, float("nan")), "dropout: p must be at least 0 and below 1, not nan"),
    (
        lambda: F.linear(IMAGES, ROWS),
        "linear: x must be (N, in) but has shape (2, 5, 6, 4); flatten it first",
    ),
    (
        lambda: F.linear(ROWS, np.ones((5, 3))),
        "linear: w must be (in, out) with in = 3, but has shape (5, 3); it looks transposed",
    ),
    (
        lambda: F.linear(ROWS, np.ones((4, 5))),
        "linear: w must be (in, out) with in = 3, but has shape (4, 5)",
    ),
    (
        lambda: F.linear(ROWS, np.ones((3, 5)), np.ones(3)),
        "linear: b must have shape (5,), not (3,)",
    ),
    (
        lambda: F.conv2d(ROWS, W),
        "x must be (N, H, W, C) and w (KH, KW, C / groups, O), but they have shapes (2, 3) and "
        "(3, 3, 4, 8)",
    ),
    (
        lambda: F.conv2d(IMAGES.transpose(0, 3, 1, 2), W),
        "conv2d: x of shape (2, 4, 5, 6) looks channels first",
    ),
    (
        lambda: F.conv2d(IMAGES, W[:, :, :3]),
        "conv2d: x has 4 channels, but w of shape (3, 3, 3, 8) with groups=1 expects 3",
    ),
    (
        lambda: F.conv2d(IMAGES, W[:, :, :1, :6], groups=4),
        "conv2d: groups=4 must divide the 6 output channels of w, shape (3, 3, 1, 6)",
    ),
    (lambda: F.conv2d(IMAGES, W, np.ones(4)), "conv2d: b must have shape (8,), not (4,)"),
    (lambda: F.conv2d(IMAGES, W, groups=0), "conv2d: groups must be a whole number >= 1, not 0"),
    (lambda: F.conv2d(IMAGES, W, stride=0), "conv2d: stride must be a whole number >= 1, not 0"),
    (
        lambda: F.conv2d(IMAGES, W, padding=(1, -1)),
        "conv2d: padding must be a whole number >= 0, not -1",
    ),
    (
        lambda: F.conv2d(IMAGES, W, stride=1.5),
        "conv2d: stride must be a whole number >= 1, not 1.5",
    ),
    (
        lambda: F.conv2d(IMAGES, W, stride=(1, 2, 3)),
        "conv2d: stride must be a whole number >= 1, or a pair of them, not (1, 2, 3)",
    ),
    (
        lambda: F.conv2d(IMAGES[:, :2], W),
        "conv2d: a 3x3 window does not fit into 2x6 images with padding 0, 0",
    ),
    (lambda: F.conv2d(IMAGES[:, :0], W, padding=2), "conv2d: 0x6 images have no pixels"),
    (
        lambda: F.conv2d(np.zeros((1, 1, 2, 1)), np.zeros((1, 2, 1, 1)), padding=2**30),
        "none may be above 268435456",
    ),
    (
        lambda: F.max_pool2d(ROWS, 2),
        "max_pool2d: x must have four axes (N, H, W, C), channels last, but has shape (2, 3)",
    ),
    (
        lambda: F.max_pool2d(IMAGES, 2, padding=2),
        "max_pool2d: padding 2 must be smaller than the window 2x2",
    ),
    (
        lambda: F.max_pool2d(IMAGES, 3, 2**32, 1),
        "stride 4294967296, 4294967296, padding 1, 1: none may be above 268435456",
    ),
    (
        lambda: F.max_pool2d(np.zeros((1, 300, 1, 1)), (257, 1)),
        "max_pool2d: a 257x1 window has more than 256 taps",
    ),
    (
        lambda: F.max_pool2d(IMAGES, 17, padding=8),
        "max_pool2d: a 17x17 window has more than 256 taps",
    ),
    (lambda: F.avg_pool2d(IMAGES, 0), "avg_pool2d: kernel_size must be a whole number >= 1, not 0"),
    (
        lambda: F.avg_pool2d(IMAGES, 2, padding=2),
        "avg_pool2d: padding 2 must be smaller than the window 2x2",
    ),
    (
        lambda: F.avg_pool2d(np.zeros((1, 0, 4, 2)), 2, padding=1),
        "avg_pool2d: 0x4 images have no pixels",
    ),
    (
        lambda: F.lrn(IMAGES, groups=3),
        "lrn: groups=3 must divide the channels of x, shape (2, 5, 6, 4)",
    ),
    (lambda: F.lrn(IMAGES, n=0), "lrn: n must be a whole number >= 1, not 0"),
    (
        lambda: F.lrn(IMAGES, k=0),
        "lrn: k must be above 0, alpha at least 0, and all three finite, not k=0,",
    ),
    (
        lambda: F.lrn(ROWS, k=float("nan")),
        "lrn: k must be above 0, alpha at least 0, and all three finite, not k=nan",
    ),
    (lambda: F.lrn(ROWS, beta=float("inf")), "all three finite, not k=2.0, alpha=0.0001, beta=inf"),
    (
        lambda: F.lrn_within_map(ROWS),
        "lrn_within_map: x must have four axes (N, H, W, C), but has shape (2, 3)",
    ),
    (
        lambda: F.lrn_within_map(IMAGES, n=2.5),
        "lrn_within_map: n must be a whole number >= 1, not 2.5",
    ),
    (
        lambda: F.lrn_within_map(IMAGES, k=0),
        "lrn_within_map: k must be above 0, alpha at least 0, and all three finite, not k=0,",
    ),
    (lambda: F.lrn_within_map(IMAGES, alpha=float("nan")), "alpha=nan"),
    (
        lambda: F.softmax_cross_entropy(ROWS, [0, 1], "max"),
        "softmax_cross_entropy: reduction must be one of mean, sum, none, not 'max'",
    ),
    (
        lambda: F.softmax_cross_entropy(ROWS[0], [0]),
        "softmax_cross_entropy: logits must be (N, C), at least 1x1, but have shape (3,)",
    ),
    (
        lambda: F.softmax_cross_entropy(ROWS[:0], []),
        "softmax_cross_entropy: logits must be (N, C), at least 1x1, but have shape (0, 3)",
    ),
    (
        lambda: F.softmax_cross_entropy(ROWS, [0, 1, 2]),
        "labels must be 2 whole numbers, one for each row of logits (2, 3); they are",
    ),
    (lambda: F.softmax_cross_entropy(ROWS, [0.0, 1.0]), "they are float64 of shape (2,)"),
    (
        lambda: F.softmax_cross_entropy(ROWS, [0, 3]),
        "softmax_cross_entropy: label 3 is out of range; with 3 classes labels are 0 to 2",
    ),
    (lambda: F.softmax_cross_entropy(ROWS, [-1, 3]), "label -1 is out of range"),
    (
        lambda: F.softmax_cross_entropy(ROWS, np.array([0, 2**63], np.uint64)),
        "label 9223372036854775808 is out of range",
    ),
]


@pytest.mark.parametrize(("call", "sentence"), MISTAKES, ids=[sentence for _, sentence in MISTAKES])
def test_a_wrong_call_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        call()
