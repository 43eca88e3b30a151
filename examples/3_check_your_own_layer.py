"""Write a layer, and let the checker find what is wrong with its gradient.

    python examples/3_check_your_own_layer.py

The same two lines work in any test suite:

    from minigrad.gradcheck import check_grads
    check_grads(softplus, x)

Cells begin with `# %%`; some editors can run them one by one.
"""

# %% Imports
import numpy as np

import minigrad as mg
from minigrad.gradcheck import GradientMismatch, KinkError, check_grads


# %% Three layers: a correct one, one with a mistake, and one with a kink
class Softplus(mg.Function):
    """y = log(1 + exp(x));   gx = gy / (1 + exp(-x))."""

    def forward(self, x):
        self.save(x)
        return np.logaddexp(0, x)

    def backward(self, gy):
        (x,) = self.saved
        return gy / (1 + np.exp(-x))


class WrongSoftplus(Softplus):
    def backward(self, gy):
        (x,) = self.saved
        return gy / (1 + np.exp(x))  # the sign of x is wrong


class Hinge(mg.Function):
    """y = max(0, 1 - x): not differentiable at x = 1."""

    def forward(self, x):
        self.save(x)
        return np.maximum(0, 1 - x)

    def backward(self, gy):
        (x,) = self.saved
        return -gy * (x < 1)


# %% What the checker says about each
x = np.linspace(-2, 2, 9)
print(f"softplus, right:   largest relative error {check_grads(lambda x: Softplus()(x), x):.1e}")
try:
    check_grads(lambda x: WrongSoftplus()(x), x)
except GradientMismatch as error:
    print(f"softplus, wrong:   {error}")
try:
    check_grads(lambda x: Hinge()(x), x)
except KinkError as error:
    print(f"hinge at its kink: {error}")
