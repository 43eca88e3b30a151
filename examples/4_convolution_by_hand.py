"""A convolution by hand, as im2col and a matrix product; then edge detection in a picture.

    python examples/4_convolution_by_hand.py                       # in a picture that it draws
    python examples/4_convolution_by_hand.py --picture cat.jpg     # in yours

It writes edges.png. Cells begin with `# %%`; some editors can run them one by one.
"""

# %% A picture of 3 x 3 and a filter of 2 x 2
import argparse
import sys

import numpy as np
from PIL import Image

from minigrad import data, random
from minigrad import functions as F
from minigrad.data import synthetic

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--picture", metavar="FILE", help="the picture to find edges in")
parser.add_argument("--output", metavar="FILE.png", default="edges.png")
given = parser.parse_args()

x = np.arange(1.0, 10).reshape(3, 3)
w = np.array([[1.0, 2], [3, -1]])
print("picture", x, "filter", w, sep="\n")

# %% Every window as a row of a matrix: four windows of four numbers each
cols = np.array([x[i : i + 2, j : j + 2].ravel() for i in range(2) for j in range(2)])
print("columns: one row a window", cols, sep="\n")

# %% The convolution is a product of that matrix with the filter
y = (cols @ w.ravel()).reshape(2, 2)
print("output", y, sep="\n")
first = " + ".join(f"{a:g} * {b:g}" for a, b in zip(cols[0], w.ravel()))
print(f"its upper left number: {first} = {y[0, 0]:g}")

# %% The engine's convolution takes (N, H, W, C) and (KH, KW, C, O), and gives the same result
same = F.conv2d(x.reshape(1, 3, 3, 1), w.reshape(2, 2, 1, 1)).numpy()[0, :, :, 0]
assert np.array_equal(same, y)

# %% Filter gradient: a product with the same columns; picture gradient: back from columns to pixels
gy = np.array([1.0, 2, -1, 3])
print("gradient of the filter, cols^T gy:", cols.T @ gy)
gx = np.zeros((3, 3))
for row, (i, j) in zip(np.outer(gy, w.ravel()), [(0, 0), (0, 1), (1, 0), (1, 1)]):
    gx[i : i + 2, j : j + 2] += row.reshape(2, 2)  # overlapping windows add up
print("gradient of the picture", gx, sep="\n")

# %% Edges: filters whose outputs are large where the picture changes, to the right or downwards
try:
    raw = given.picture or synthetic.draw_picture("rings", random.Stream(4, "edges"))
    picture = data.read_image(raw, (256, 256, 1))[None].astype(np.float64)
except (OSError, data.ImageError) as error:
    sys.exit(f"error: {error}")
across = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])  # Sobel's
filters = np.stack([across, across.T], axis=-1)[:, :, None]  # (3, 3, 1, 2)
changes = F.conv2d(picture, filters, padding=1).numpy()[0]
strength = np.hypot(changes[..., 0], changes[..., 1])
share = (strength > strength.max() / 4).mean()
print(f"edges: {share:.1%} of the pixels change by more than a quarter of the largest change")


# %% Picture, changes along the rows, along the columns, and both
def grey(a):
    """Numbers as grey levels. If some are negative, 0 is the middle grey."""
    size = np.abs(a).max() or 1.0
    return np.uint8(255 * (a / size if a.min() >= 0 else (a / size + 1) / 2))


tiles = [picture[0, :, :, 0], *np.moveaxis(changes, -1, 0), strength]
sheet = np.hstack([grey(tile) for tile in tiles])
try:
    Image.fromarray(sheet).save(given.output, "PNG")
except OSError as error:
    sys.exit(f"error: {given.output} cannot be written ({error.strerror})")
print(f"written: {given.output}")
