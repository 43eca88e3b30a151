"""A backward pass by hand, step by step: what `y.backward()` does, in nine lines of your own.

    python examples/1_backward_by_hand.py

z = (u + b)^2 + u with u = x w, at x = 2, w = -3, b = 1/2: four nodes, one of which has two
children, as in docs/reading.md. Cells begin with `# %%`; some editors can run them one by one.
"""

# %% Three numbers whose gradients are wanted
import numpy as np

import minigrad as mg
from minigrad.engine import topological_order

x, w, b = (mg.Tensor(value, requires_grad=True, name=name)
           for name, value in (("x", 2.0), ("w", -3.0), ("b", 0.5)))  # fmt: skip

# %% The forward pass computes z, and remembers how
u = x * w
z = (u + b) ** 2 + u
print(f"u = x w = {u.item()},  z = (u + b)^2 + u = {z.item()}")

# %% What it remembers: each call, with the calls and leaves that its inputs came from
for node in topological_order(z.creator):
    parents = [str(p.name) if isinstance(p, mg.Tensor) else type(p).__name__ for p in node.parents]
    print(f"{type(node).__name__:4} was made of {', '.join(parents)}")

# %% The walk: from z backwards, each node after everything that used its output
gradients: dict = {z.creator: np.array(1.0)}  # dz/dz = 1
leaves: dict = {}
for node in topological_order(z.creator):
    gy = gradients.pop(node)
    for parent, gx in zip(node.parents, node.gradients(gy)):
        held = leaves if isinstance(parent, mg.Tensor) else gradients
        held[parent] = held.get(parent, 0.0) + gx  # at a fork, the gradients of all children add
    waiting = {type(n).__name__: float(g) for n, g in gradients.items()}
    done = {leaf.name: float(g) for leaf, g in leaves.items()}
    print(f"{type(node).__name__:4} gy = {float(gy):6.1f}   waiting {waiting}, leaves {done}")

# %% The engine's own walk, on a new graph, gives the same gradients
z = (x * w + b) ** 2 + x * w
z.backward()
for leaf in (x, w, b):
    print(f"dz/d{leaf.name}: by hand {float(leaves[leaf]):6.1f}, by the engine {leaf.grad:6.1f}")
assert all(float(leaves[leaf]) == leaf.grad for leaf in (x, w, b))
