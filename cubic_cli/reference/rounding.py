"""How far a float32 may lie from what float64 says: a running error bound beside each value.

Higham, "Accuracy and Stability of Numerical Algorithms" (2002), section 3.3. With u = 2⁻²⁴, the rounding of one
operation,

    z1      2 u (|z1| + |b1| / 2)               a product and a sum
    a1      k u s,  s = |a1| + |b1| f′(z1) / k  k of the activation, which magnifies no relative error; in the tail of
                                                gelu, where 1 + tanh cancels, |z1| for |a1|
    z2      u (P + (k + 1) T)                   T: the errors of the terms s |W2| and |b2|;  P: of their sum

Errors of terms add up to the sum of their magnitudes at most; where they go either way, to three times their
Euclidean norm (Higham and Mary, "A new approach to probabilistic rounding error analysis", 2019); those of like
units are alike, and add up as the units do. So do those of the partial sums, each of which is rounded, for P: but a
device makes no more than a quarter of the additions one after the other.

To each comes what is lost where numbers below η = 2⁻¹²⁶ are taken for zero, as operands and as results.

    N samples, H hidden
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cubic_cli.config import Activation
from cubic_cli.float32 import FLOAT32_MAX, SMALLEST_NORMAL, Float64
from cubic_cli.parameters import Parameters
from cubic_cli.reference.network import forward

UNIT = 2.0**-24  # u
# k: two operations of z1, and of the activation one product, or what XLA's tanh is off by.
OPERATIONS = {
    Activation.relu: 2.0,
    Activation.identity: 2.0,
    Activation.leaky_relu: 3.0,
    Activation.tanh: 8.0,
    Activation.gelu: 8.0,
}
_PARTIAL_SUMS = 16  # looked at
SATURATED = 9.0  # beyond ±9 any float32 tanh is ±1; nearer to zero it may be the number before


def tolerance(hidden_size: int) -> float:
    """Return the largest relative error allowed: H u, that of a sum of H terms (Higham, section 4.2); 1e-5 at least."""
    return max(1e-5, hidden_size * UNIT)


class Bounded(NamedTuple):
    """A forward pass in float64, `z1` and `a1 [N, H]`, `z2 [N]`, and how far float32 may lie from it.

    `sizes [N, H]` are s, `largest_bias` is that of b1, `flushed` what a value of z1 may lose below η. `near [H]` is how
    near zero z1 must be that its sign is not certain; `reach [N]` as far as partial sums of z2 may come from zero.
    """

    z1: Float64
    a1: Float64
    z2: Float64
    of_z2: Float64
    sizes: Float64
    operations: float
    largest_bias: float
    flushed: float
    near: Float64
    reach: Float64

    @property
    def of_a1(self) -> Float64:
        """The bound of each value of a1, `[N, H]`."""
        return self.operations * UNIT * self.sizes + (self.flushed * (self.sizes > 0) + SMALLEST_NORMAL)


def bound(parameters: Parameters, x: Float64, activation: Activation) -> Bounded:
    """Return the forward pass over `x [N]` with its bounds; parameters and `x` in float64."""
    w1, b1, w2, b2 = (array.ravel() for array in parameters)
    z1, a1, z2 = forward(parameters, x, activation)
    k, hidden = OPERATIONS[activation], len(w1)
    # An operand below η is lost with its product; the other one tells how much that is.
    flushed = SMALLEST_NORMAL * (3 + (0.0 if is_normal(x) else largest(w1)) + (0.0 if is_normal(w1) else largest(x)))
    bias = finite(np.abs(b1))  # an infinite one is not rounded
    near = UNIT * bias + flushed
    if activation is Activation.relu:
        sizes = a1 + (z1 >= -near) * (bias / k) if bias.any() else a1
    elif activation is Activation.gelu:
        sizes = np.where(z1 < -SATURATED, 0.0, np.abs(z1) + bias * (1.2 / k))  # no slope is steeper than 1.13
        sizes = np.where(z1 > SATURATED, (2 * z1 + bias) / k, sizes)
    elif activation is Activation.tanh:
        sizes = np.abs(a1) + (1 - a1 * a1) * (bias / k)
    elif activation is Activation.leaky_relu:
        sizes = np.abs(a1) + np.where(z1 < -near, 0.01, 1.0) * (bias / k)
    else:
        sizes = np.abs(a1) + bias / k
    weight = np.abs(w2)
    most, signed = (sizes @ np.stack([weight, w2], axis=1)).T
    terms = np.minimum(most, 3 * np.sqrt((sizes * sizes) @ (w2 * w2)) + np.abs(signed)) + abs(b2[0])
    reach = np.full(len(x), largest(a1) * weight.sum() + abs(b2[0]))
    if not reach.max() < FLOAT32_MAX / 2:
        reach = np.abs(a1) @ weight + abs(b2[0])
    lost = SMALLEST_NORMAL * hidden * (1 + (0.0 if is_normal(w2) else largest(a1)))
    lost += (flushed + SMALLEST_NORMAL) * weight.sum()
    of_z2 = UNIT * (_of_sum(a1, w2, b2[0], z2) + (k + 1) * terms) + lost
    # A bias near float32's end is z1 itself, or leaves its range.
    largest_bias = float(bias[bias < FLOAT32_MAX / 4].max(initial=0.0))
    return Bounded(z1, a1, z2, of_z2, sizes, k, largest_bias, flushed, near, reach)


def _of_sum(a1: Float64, w2: Float64, b2: float, z2: Float64) -> Float64:
    """Return P over u, `[N]`, from the partial sums at some units in equal distances, all of few.

    A device may begin with the bias or end with it.
    """
    hidden = len(w2)
    ends = np.unique(np.linspace(1, hidden, min(hidden, _PARTIAL_SUMS)).astype(int))
    partial = np.abs(a1 @ np.where(np.arange(hidden)[:, None] < ends, w2[:, None], 0.0)) + abs(b2)
    each = hidden / len(ends)
    either_way = 2 * np.sqrt(each * (partial * partial).sum(axis=1)) + hidden / 8 * np.abs(z2)
    smaller: Float64 = np.minimum(each * partial.sum(axis=1) / 4, either_way)
    return smaller


def surely_zero(z1: Float64, parameters: Parameters, x: Float64) -> NDArray[np.bool_]:
    """Return which of `z1 [N, H]` are zero in any float32: where float64 finds it so, the product is exact."""
    zero: NDArray[np.bool_] = z1 == 0
    if not all(is_normal(values) for values in (x, parameters.w1, parameters.b1)):
        zero &= parameters.b1 == 0
    return zero


def finite(values: Float64) -> Float64:
    """Return the values, 0 where they are not finite."""
    return np.where(np.isfinite(values), values, 0.0)


def largest(values: Float64) -> float:
    """Return the largest finite magnitude, 0 where there is none."""
    magnitude = np.abs(values)
    most = float(magnitude.max(initial=0.0))
    return most if most < np.inf else float(finite(magnitude).max(initial=0.0))


def is_normal(values: Float64) -> bool:
    """Whether none is so small that a device may take it for zero."""
    return not ((values != 0) & (np.abs(values) < SMALLEST_NORMAL)).any()
