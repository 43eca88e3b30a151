"""LeNet-5 from top to bottom: digits in, a network of seven layers, an accuracy out.

    python examples/5_lenet.py                       # digits drawn from the fonts of matplotlib
    python examples/5_lenet.py --data FOLDER         # MNIST's four files, plain or gzipped

LeCun, Bottou, Bengio, Haffner: "Gradient-based learning applied to document recognition" (1998), in
the form that is taught today. Cells begin with `# %%`; some editors can run them one by one.
"""

# %% Imports
import sys
import time

import numpy as np

from minigrad import Tensor, data, machine, no_grad, optim, random
from minigrad import functions as F
from minigrad.data.fonts import draw_digits
from minigrad.models.lenet import LENET5
from minigrad.network import Network, summary

machine.set_up()
EPOCHS = 12


# %% The digits: pictures (N, 28, 28, 1) of 0 .. 255, labels (N,) of 0 .. 9
def read(images: data.ImageSet) -> tuple[np.ndarray, np.ndarray]:
    """All pictures of a set, in grey at 28 x 28, and their labels."""
    pictures = data.Pictures(images, shape=(28, 28, 1))
    return np.stack([pictures.read(i) for i in range(len(images))]), images.labels


if sys.argv[1:2] == ["--data"] and len(sys.argv) == 3:
    try:
        sets = data.open_sets(sys.argv[2])
    except data.DataError as error:
        sys.exit(f"error: {error}")
    (pixels, labels), (test_pixels, test_labels) = map(read, sets)
elif sys.argv[1:]:
    sys.exit(__doc__)
else:
    print("no --data given: drawing digits from matplotlib's fonts")
    (pixels, labels), (test_pixels, test_labels) = (
        draw_digits(n, seed=0, part=part) for n, part in ((12_000, "train"), (2_000, "test"))
    )
print(f"{len(pixels):,} digits to learn from, {len(test_pixels):,} to be asked about")

# %% Standardise the pixels: mean 0 and standard deviation 1 over the training set
mean, std = pixels.mean(), pixels.std()
x, x_test = (((p - mean) / std).astype(np.float32) for p in (pixels, test_pixels))

# %% The network, layer by layer (minigrad/models/lenet.py gives the reason for each value)
print(summary(LENET5, "lenet5"))
model = Network(LENET5, classes=10, seed=0)

# %% One picture on its way through the network, by the same loop that training uses
for name, _, y in model.walk(Tensor(x[:1])):
    print(f"{name:6} {y.shape[1:]!s:14} mean {y.data.mean():+.3f}, std {y.data.std():.3f}")

# %% Training: forward, loss, backward, a step against the gradient; the rate falls along a cosine
optimizer = optim.SGD(model.parameters(), lr=0.03, momentum=0.9, weight_decay=0.0005)
order = random.Stream(0, "order")
moves = random.Stream(0, "moves")
BATCH, STEPS = 64, EPOCHS * (len(x) // 64)


def moved(batch: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Each picture moved by up to one pixel down and right; its digit stays the same."""
    return np.stack([np.roll(p, shift, axis=(0, 1)) for p, shift in zip(batch, by)])


def accuracy() -> float:
    with no_grad():
        guesses = [
            model(x_test[i : i + 500]).numpy().argmax(axis=1) for i in range(0, len(x_test), 500)
        ]
    return float((np.concatenate(guesses) == test_labels).mean())


began, step = time.perf_counter(), 0
for epoch in range(EPOCHS):
    shuffled, losses = order.permutation(len(x)), []
    for i in range(0, len(x) - BATCH + 1, BATCH):
        chosen = shuffled[i : i + BATCH]
        optimizer.lr = 0.03 * (1 + np.cos(np.pi * step / STEPS)) / 2
        batch = moved(x[chosen], moves.integers(3, (BATCH, 2)) - 1)
        loss = F.softmax_cross_entropy(model(batch), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        step += 1
    print(
        f"epoch {epoch + 1:2}: loss {np.mean(losses):.4f}, test accuracy {accuracy():.2%}, "
        f"{time.perf_counter() - began:.0f} s",
        flush=True,
    )

# %% The digits that it gets wrong
with no_grad():
    logits = np.concatenate(
        [model(x_test[i : i + 500]).numpy() for i in range(0, len(x_test), 500)]
    )
wrong = np.flatnonzero(logits.argmax(axis=1) != test_labels)
print(f"wrong: {len(wrong)} of {len(x_test):,}")
for i in wrong[:10]:
    print(f"  picture {i}: a {test_labels[i]}, taken for a {logits[i].argmax()}")
