"""The arithmetic of one sample, written out: every product and sum of its forward pass, and its gradients.

Each number stands twice: as float32 arithmetic gives it, step by step, and in float64 from the same float32 parameters.
Units whose numbers are all alike are one group, and groups are in the order of what they add to z2, the largest first.

    z1 = x w1 + b1     a1 = f(z1)     z2 = Σ a1 w2 + b2     e = z2 − y

    ∂e²/∂b2 = 2e     ∂e²/∂w2 = 2e a1     ∂e²/∂b1 = 2e w2 f′(z1)     ∂e²/∂w1 = 2e w2 f′(z1) x

H hidden units, G groups of them
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cubic_cli.config import Activation
from cubic_cli.float32 import Float32, Float64
from cubic_cli.parameters import Parameters
from cubic_cli.reference.network import activate, differentiate


class Gradients(NamedTuple):
    """The gradients of one sample's squared error, float64: of `w1`, `b1` and `w2` by group, `[G]`, and of `b2`."""

    w1: Float64
    b1: Float64
    w2: Float64
    b2: float


@dataclass(frozen=True)
class Arithmetic:
    """One sample on its way through the network.

    `units` are the first unit of each group, from 1, and `sizes` how many are alike, `[G]`; so are `w1`, `b1`, `w2`,
    `z1` and `a1`. `group_of` is the group of each unit, `[H]`. `x` and `y` are what the network got.
    """

    x: float
    y: float
    units: NDArray[np.int64]
    sizes: NDArray[np.int64]
    group_of: NDArray[np.int64]
    w1: Float32
    b1: Float32
    w2: Float32
    b2: float
    z1: Float32
    a1: Float32
    z2: float
    exact_z1: Float64
    exact_a1: Float64
    exact_z2: float
    gradients: Gradients

    @property
    def error(self) -> float:
        """`z2 − y`, as float32 gives it."""
        with np.errstate(over="ignore", invalid="ignore"):
            return float(np.float32(self.z2) - np.float32(self.y))

    @property
    def square(self) -> float:
        """`(z2 − y)²`, in float64."""
        return self.error**2

    @property
    def terms(self) -> Float64:
        """What each group adds to z2, `[G]`."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self.sizes * (self.a1.astype(np.float64) * self.w2)

    @property
    def relative_error(self) -> float:
        """How far the float32 z2 is from the float64 one, relative to the magnitudes of the terms of its sum."""
        scale = float(np.abs(self.terms).sum()) + abs(self.b2)
        if not np.isfinite(scale) or scale == 0:
            return 0.0 if self.z2 == self.exact_z2 or not np.isfinite(self.exact_z2) else np.inf
        return abs(self.z2 - self.exact_z2) / scale


def write_out(parameters: Parameters, activation: Activation, x: float, y: float) -> Arithmetic:
    """Return the arithmetic of one sample; the parameters are float32 NumPy arrays, x and y float32 numbers, scaled."""
    w1, b1, w2 = parameters.w1[0], parameters.b1, parameters.w2[:, 0]
    # Alike in every bit, so that NaN is like NaN and -0 is not like 0.
    bits = np.stack([w1, b1, w2], axis=1).astype(np.float32).view(np.dtype((np.void, 12))).ravel()
    _, first, group_of, sizes = np.unique(bits, return_index=True, return_inverse=True, return_counts=True)
    w1, b1, w2 = w1[first], b1[first], w2[first]
    with np.errstate(all="ignore"):
        z1 = np.float32(x) * w1 + b1
        a1 = activate(activation, z1.astype(np.float64)).astype(np.float32)
        products = a1 * w2
        z2 = float(np.sum(products[group_of], dtype=np.float32) + parameters.b2[0])
        exact_z1 = float(x) * w1.astype(np.float64) + b1
        exact_a1 = activate(activation, exact_z1)
        exact_z2 = float(np.sum(sizes * (exact_a1 * w2)) + float(parameters.b2[0]))
        r = 2.0 * (exact_z2 - float(y))
        delta = r * w2 * differentiate(activation, exact_z1)
        gradients = Gradients(delta * float(x), delta, r * exact_a1, r)
        # What is not finite comes first, and of equal terms the one whose unit comes first.
        order = np.lexsort((first, -np.nan_to_num(np.abs(sizes * products.astype(np.float64)), nan=np.inf)))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return Arithmetic(
        float(x),
        float(y),
        first[order] + 1,
        sizes[order],
        place[group_of.reshape(-1)],
        w1[order],
        b1[order],
        w2[order],
        float(parameters.b2[0]),
        z1[order],
        a1[order],
        z2,
        exact_z1[order],
        exact_a1[order],
        exact_z2,
        gradients._replace(w1=gradients.w1[order], b1=gradients.b1[order], w2=gradients.w2[order]),
    )
