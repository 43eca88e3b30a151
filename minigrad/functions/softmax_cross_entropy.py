"""Softmax and cross-entropy in one function: minus the log-probability of the right class.

    L[n] = log sum over j of exp(x[n, j])  -  x[n, t[n]]
    gx[n, i] = gL[n] (p[n, i] - [i = t[n]])        p = softmax(x)

The difference p - onehot is exact, whereas two separate layers would lose digits. Reduction "mean"
averages over N (the paper's gradient is averaged over the batch), "sum" adds, "none" returns the N
losses. Saved: p. Kernels: softmax_cross_entropy_forward, softmax_cross_entropy_backward
(kernels/softmax_cross_entropy.cu). AlexNet: the training objective; Krizhevsky et al. (2012),
section 3.5.
"""

from __future__ import annotations

import numpy as np

from minigrad import backend, kernels
from minigrad.engine import Function, Tensor, as_tensor
from minigrad.functions.cases import Case, labels, scaled

REDUCTIONS = ("mean", "sum", "none")


class SoftmaxCrossEntropy(Function):
    def __init__(self, labels, reduction: str) -> None:
        self.labels, self.reduction = labels, reduction

    def forward(self, x):
        if kernels.ready(x):
            p, loss = np.empty_like(x, order="C"), np.empty_like(x, shape=(len(x),))
            arrays = kernels.contiguous(x), self.labels, p, loss
            kernels.launch(
                "softmax_cross_entropy_forward", len(x), *arrays, x.shape[1], shared=kernels.THREADS
            )
        else:
            shifted = x - x.max(axis=1, keepdims=True)
            log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            p = np.exp(shifted - log_sum)
            loss = log_sum[:, 0] - shifted[np.arange(len(x), like=x), self.labels]
        self.save(p)
        if self.reduction == "none":
            return loss
        return np.asarray(loss.sum() if self.reduction == "sum" else loss.mean(), like=x)

    def backward(self, gy):
        (p,) = self.saved
        if self.reduction == "mean":
            gy = gy / len(p)
        if kernels.ready(p):
            gx = np.empty_like(p)
            each = kernels.contiguous(np.broadcast_to(gy, (len(p),)))
            kernels.launch(
                "softmax_cross_entropy_backward", len(p), p, self.labels, each, gx, p.shape[1]
            )
            return gx
        gx = p.copy()
        gx[np.arange(len(p), like=p), self.labels] -= 1
        return gx * gy.reshape(-1, 1)


def softmax_cross_entropy(logits, labels, reduction: str = "mean") -> Tensor:
    """Cross-entropy between softmax(logits) and the right classes, in nats.

    Args:
        logits: (N, C).
        labels: (N,) whole numbers, 0 .. C - 1, an integer array on the device of logits.
        reduction: "mean" or "sum" (one number), or "none" (N numbers).
    """
    logits = as_tensor(logits)
    labels = (
        labels.data
        if isinstance(labels, Tensor)
        else labels
        if backend.is_array(labels)
        else np.asarray(labels)
    )
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"softmax_cross_entropy: reduction must be one of {', '.join(REDUCTIONS)}, not"
            f" {reduction!r}"
        )
    if logits.ndim != 2 or logits.shape[0] < 1 or logits.shape[1] < 1:
        raise ValueError(
            "softmax_cross_entropy: logits must be (N, C), at least 1x1, but have shape"
            f" {logits.shape}"
        )
    if labels.dtype.kind not in "iu" or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"softmax_cross_entropy: labels must be {logits.shape[0]} whole numbers, one for each"
            f" row of logits {logits.shape}; they are {labels.dtype} of shape {labels.shape}"
        )
    if backend.device_of(labels) != logits.device:
        raise ValueError(
            f"softmax_cross_entropy: labels are on {backend.device_of(labels)}, logits on"
            f" {logits.device}"
        )
    with backend.on_device(logits.device):
        low, high = int(labels.min()), int(labels.max())
        labels = labels.astype(np.int64, order="C")  # a copy, which backward reads
    if low < 0 or high >= logits.shape[1]:
        wrong = low if low < 0 else high
        raise ValueError(
            f"softmax_cross_entropy: label {wrong} is out of range; with {logits.shape[1]} classes"
            f" labels are 0 to {logits.shape[1] - 1}"
        )
    return SoftmaxCrossEntropy(labels, reduction)(logits)


CASES = [
    Case("softmax_cross_entropy", softmax_cross_entropy, scaled(3.0, 7, 5), labels(5, 7)),
    *[
        Case(
            f"softmax_cross_entropy: {how}",
            softmax_cross_entropy, scaled(3.0, 7, 5), labels(5, 7), reduction=how,
        )
        for how in ("sum", "none")
    ],
    Case("softmax_cross_entropy: one class", softmax_cross_entropy, (3, 1), labels(1, 3)),
]  # fmt: skip
ALEXNET = Case("softmax_cross_entropy", softmax_cross_entropy, (4, 1000), labels(1000, 4))
