"""A multilayer perceptron learns which of two interleaved spirals a point belongs to: the engine in
thirty lines.

    python examples/2_multilayer_perceptron.py

Cells begin with `# %%`; some editors can run them one by one.
"""

# %% Imports
import numpy as np

from minigrad import functions as F
from minigrad import nn, optim, random

# %% Two spirals of 300 points each, the second rotated by half a turn
rng = random.Stream(0, "spirals")
label = rng.integers(2, 600)
radius = 0.1 + rng.uniform(600)
angle = 3 * np.pi * radius + np.pi * label
points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1) + 0.02 * rng.normal(
    (600, 2)
)
train, test = slice(0, 500), slice(500, 600)
points = points.astype(np.float32)

# %% Two hidden layers of 64 units
model = nn.Sequential(
    fc1=nn.Linear(2, 64, rng=rng),
    relu1=nn.ReLU(),
    fc2=nn.Linear(64, 64, rng=rng),
    relu2=nn.ReLU(),
    fc3=nn.Linear(64, 2, rng=rng),
)
optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.0)

# %% Training: forward, loss, backward, and a step against the gradient
for step in range(601):
    batch = rng.integers(500, 64)
    loss = F.softmax_cross_entropy(model(points[batch]), label[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 0:
        right = (model(points[test]).numpy().argmax(axis=1) == label[test]).mean()
        print(f"step {step:3}  loss {loss.item():.3f}  held-out points right {right:.0%}")
