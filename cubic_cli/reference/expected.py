"""What the pass must have seen of some batches: figures in NumPy float64, each with the bound of its float32 error.

One rule, a running error bound (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 3.3): beside a
value stands how far its float32 may lie from it. With u = 2⁻²⁴, the rounding of one operation,

    z1      u (2 |z1| + |b1|)                                  a product and a sum
    a1      u (k |s| + |b1|)                                   k of the activation, which magnifies no relative error
    z2      u (√H S + k S + H/8 |z2|) + u |b1| |W2|            S = |s| |W2| + |b2|, the magnitudes of the terms

where s is a1; of gelu it is z1, for 1 + tanh cancels, and 0 where tanh is −1 in any float32. A sum of H terms is off by
u H S at most, and by u √H S where its roundings go either way (Higham and Mary, "A new approach to probabilistic
rounding error analysis", 2019); those of equal terms do not, and H/8 is what vectorised loops then reach. To each comes
what a device loses that takes numbers below η = 2⁻¹²⁶ for zero, as operands and as results.

    N samples, B batch, K batches, H hidden
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cubic_cli.config import Activation
from cubic_cli.float32 import FLOAT32_MAX, SMALLEST_NORMAL, TENSORS, Float32, Float64
from cubic_cli.parameters import Parameters
from cubic_cli.reference.network import forward, in_float64

ROUNDING = 2.0**-24  # u, of one float32 operation
ACTIVATION_ROUNDING = {kind: 8.0 if kind in (Activation.tanh, Activation.gelu) else 3.0 for kind in Activation}  # k
GELU_ZERO = 9.0  # below −9 the tanh of gelu is −1 in any float32; nearer to zero it may be the number after −1
_CHUNK_VALUES = 1 << 15  # of z1 held at a time: stays in the cache


def tolerance(hidden_size: int) -> float:
    """Return the largest relative error allowed: the rounding of a float32 sum of H terms, at least 1e-5."""
    return max(1e-5, hidden_size * ROUNDING)


@dataclass
class TensorReference:
    """One tensor in float64.

    By batch, `[K]`: the finite extremes; `rounding`, the largest bound of a value's float32 error; and the counts of
    values that overflow float32 for certain, and at most. Where these two differ the extremes are undetermined and not
    compared. Over all batches: `zeros`, how many values are zero in float32 at least and at most; of what is finite the
    count, mean and standard deviation.
    """

    low: Float64
    high: Float64
    rounding: Float64
    surely_infinite: NDArray[np.int64]
    possibly_infinite: NDArray[np.int64]
    zeros: tuple[int, int] = (0, 0)
    count: int = 0
    _pivot: float = 0.0  # near the mean; sums are of the distances from it
    _total: float = 0.0
    _squares: float = 0.0

    @property
    def magnitude(self) -> Float64:
        """The largest finite magnitude of each batch, 0 where no value is finite."""
        return _magnitude(self.low, self.high)

    @property
    def determined(self) -> NDArray[np.bool_]:
        """Whether it is certain which values of each batch are finite."""
        same: NDArray[np.bool_] = self.surely_infinite == self.possibly_infinite
        return same

    @property
    def mean(self) -> float:
        """The mean of the finite values."""
        return self._pivot + self._total / max(self.count, 1)

    @property
    def std(self) -> float:
        """The population standard deviation of the finite values."""
        count = max(self.count, 1)
        return math.sqrt(max(self._squares / count - (self._total / count) ** 2, 0.0))

    def add(self, values: Float64) -> None:
        """Take finite values `[n]` into mean and deviation."""
        if not values.size:
            return
        if not self.count:
            self._pivot = float(values.mean())
        distance = values - self._pivot
        self._total += float(distance.sum())
        self._squares += float(np.einsum("i,i->", distance, distance))
        self.count += values.size


@dataclass
class Reference:
    """What the reference saw of some batches: sizes, losses and the bounds of these, `[K]`, and the tensors."""

    sizes: NDArray[np.int64]
    loss: Float64
    loss_rounding: Float64
    tensors: dict[str, TensorReference]
    hidden_size: int

    @property
    def tolerance(self) -> float:
        """The largest relative error allowed."""
        return tolerance(self.hidden_size)


def compute(parameters: Parameters, x: Float32, y: Float32, batch_size: int, activation: Activation) -> Reference:
    """Return the float64 reference over the batches of `x [N]` and `y [N]`."""
    batches = -(-len(x) // batch_size)
    sizes = np.minimum(batch_size, len(x) - np.arange(batches) * batch_size)

    def tensor() -> TensorReference:
        zeros = np.zeros(batches)
        counts = np.zeros(batches, np.int64)
        return TensorReference(zeros + np.inf, zeros - np.inf, zeros, counts, counts.copy())

    hidden = parameters.hidden_size
    reference = Reference(sizes, np.zeros(batches), np.zeros(batches), {name: tensor() for name in TENSORS}, hidden)
    look = _Look(in_float64(parameters), activation, batch_size, reference)
    rows = max(1, _CHUNK_VALUES // hidden)
    rows = rows - rows % batch_size if rows > batch_size else rows
    with np.errstate(all="ignore"):
        start = 0
        while start < len(x):
            # A chunk is whole batches, or a part of one batch.
            stop = min(start + rows, len(x))
            if rows < batch_size:
                stop = min(stop, (start // batch_size + 1) * batch_size)
            look.at(x[start:stop].astype(float), y[start:stop].astype(float), start)
            start = stop
        reference.loss /= sizes
        reference.loss_rounding /= sizes
    return reference


@dataclass
class _Look:
    """Adds chunks of samples, whole batches or a part of one, to a reference."""

    parameters: Parameters  # float64
    activation: Activation
    batch_size: int
    reference: Reference
    limit: float = field(init=False)  # beyond it a float32 may be infinite

    def __post_init__(self) -> None:
        self.limit = FLOAT32_MAX * (1 - self.reference.tolerance)

    def at(self, x: Float64, y: Float64, start: int) -> None:
        """Add the samples `x` and `y [n]`, which begin at `start`."""
        edges = np.arange(start - start % self.batch_size, start + len(x), self.batch_size) - start
        edges[0] = 0
        batches = slice(start // self.batch_size, start // self.batch_size + len(edges))
        w1, b1, w2, b2 = (array.ravel() for array in self.parameters)
        z1, a1, z2 = forward(self.parameters, x, self.activation)
        is_gelu = self.activation is Activation.gelu
        sizes = np.where(z1 < -GELU_ZERO, 0.0, np.abs(z1)) if is_gelu else np.abs(a1)
        terms = np.einsum("nh,h->n", sizes, np.abs(w2)) + abs(b2[0])

        k, hidden = ACTIVATION_ROUNDING[self.activation], len(w1)
        biases = ROUNDING * _largest(b1)
        flushed_z1 = SMALLEST_NORMAL * (3 + _largest(w1) + _largest(x))
        flushed_a1 = flushed_z1 + SMALLEST_NORMAL
        flushed_z2 = np.abs(w2).sum() * flushed_a1 + hidden * SMALLEST_NORMAL * (1 + _largest(sizes))
        rounding = ROUNDING * ((math.sqrt(hidden) + k) * terms + hidden / 8 * np.abs(z2) + np.abs(b1) @ np.abs(w2))
        rounding += flushed_z2

        self._see_overflow(x, z1, a1, z2, terms, edges, batches)
        tensors = self.reference.tensors
        largest = (
            np.maximum.reduceat(_finite(sizes).max(axis=1), edges) if is_gelu else tensors["a1"].magnitude[batches]
        )
        for name, bound in (
            ("z1", 2 * ROUNDING * tensors["z1"].magnitude[batches] + biases + flushed_z1),
            ("a1", k * ROUNDING * largest + biases + flushed_a1),
            ("z2", np.maximum.reduceat(_finite(rounding), edges)),
        ):
            known = tensors[name].rounding
            known[batches] = np.maximum(known[batches], bound)
        self._see_zeros(x, z1, a1, z2, k * ROUNDING * sizes if is_gelu else 0.0, flushed_z1, rounding)
        error, rounding = z2 - y, rounding + SMALLEST_NORMAL  # of y, or of the difference
        self.reference.loss[batches] += np.add.reduceat(error**2, edges)
        self.reference.loss_rounding[batches] += np.add.reduceat(rounding * (2 * np.abs(error) + rounding), edges)

    def _see_overflow(
        self,
        x: Float64,
        z1: Float64,
        a1: Float64,
        z2: Float64,
        terms: Float64,
        edges: NDArray[np.int64],
        batches: slice,
    ) -> None:
        """Add the values that are finite, and count those that are not, or may not be."""
        w1, b1 = self.parameters.w1[0], self.parameters.b1
        over_z1 = over_a1 = over_z2 = None
        if not np.isfinite(z1).all() or _largest(x) * _largest(w1) + _largest(b1) > FLOAT32_MAX / 2:
            # The product may overflow before the bias brings it back.
            product = np.multiply.outer(x, w1)
            over_product = ~(np.abs(product) <= self.limit)
            over_z1 = ~(np.abs(z1) <= self.limit) | over_product
            if self.activation is Activation.tanh:  # ±∞ saturate it
                over_a1 = over_product & (np.abs(z1) <= self.limit)
            elif self.activation in (Activation.relu, Activation.gelu):
                over_a1 = over_z1 & ((z1 > 0) | (product > 0))
            else:
                over_a1 = over_z1
        if over_a1 is not None or not terms.max() <= self.limit:
            over_z2 = ~(terms <= self.limit)[:, None]
            if over_a1 is not None:
                over_z2 |= over_a1.any(axis=1, keepdims=True)
        for name, values, over in (("z1", z1, over_z1), ("a1", a1, over_a1), ("z2", z2[:, None], over_z2)):
            self._see_tensor(self.reference.tensors[name], values, over, edges, batches)

    def _see_tensor(
        self,
        seen: TensorReference,
        values: Float64,
        over: NDArray[np.bool_] | None,
        edges: NDArray[np.int64],
        batches: slice,
    ) -> None:
        """Add `values [n, width]` of one tensor, of which `over` may overflow though they do not in float64."""
        flat, starts = values.reshape(-1), edges * values.shape[1]
        low, high = np.minimum.reduceat(flat, starts), np.maximum.reduceat(flat, starts)
        if over is not None or not max(-low.min(), high.max()) <= self.limit:
            magnitude = np.abs(values)
            surely = ~(magnitude <= 2 * FLOAT32_MAX - self.limit)
            possibly = ~(magnitude <= self.limit)
            if over is not None:
                possibly |= over
            seen.surely_infinite[batches] += np.add.reduceat(surely.sum(axis=1), edges)
            seen.possibly_infinite[batches] += np.add.reduceat(possibly.sum(axis=1), edges)
            low = np.minimum.reduceat(np.where(possibly, np.inf, values).reshape(-1), starts)
            high = np.maximum.reduceat(np.where(possibly, -np.inf, values).reshape(-1), starts)
            flat = values[~possibly]
        seen.low[batches] = np.minimum(seen.low[batches], low)
        seen.high[batches] = np.maximum(seen.high[batches], high)
        seen.add(flat)

    def _see_zeros(
        self,
        x: Float64,
        z1: Float64,
        a1: Float64,
        z2: Float64,
        rounding_a1: Float64 | float,  # where a1 may be zero though z1 is not near it
        flushed: float,
        rounding_z2: Float64,
    ) -> None:
        """Count the zeros that there are at least and at most. Where float64 finds z1 zero, the product is exact."""
        w1, b1, w2, b2 = (array.ravel() for array in self.parameters)
        near = ROUNDING * np.abs(b1) + flushed  # of z1
        close = np.abs(z1) <= near
        surely = z1 == 0
        if not all(_is_normal(values) for values in (x, w1, b1)):
            surely &= b1 == 0
        surely_a1 = a1 == 0
        certain = GELU_ZERO if self.activation is Activation.gelu else near
        surely_a1 &= (np.abs(z1) > certain) | surely
        possibly_a1 = close | (np.abs(a1) <= rounding_a1 + SMALLEST_NORMAL)
        surely_z2 = 0
        if b2[0] == 0 and (rows := z2 == 0).any():
            surely_z2 = int((surely_a1[rows] | (w2 == 0)).all(axis=1).sum())
        for name, least, most in (
            ("z1", np.count_nonzero(surely), np.count_nonzero(close)),
            ("a1", np.count_nonzero(surely_a1), np.count_nonzero(possibly_a1)),
            ("z2", surely_z2, np.count_nonzero(np.abs(z2) <= rounding_z2)),
        ):
            tensor = self.reference.tensors[name]
            tensor.zeros = (tensor.zeros[0] + int(least), tensor.zeros[1] + int(most))


def _magnitude(low: Float64, high: Float64) -> Float64:
    ends = np.fmax(np.abs(low), np.abs(high))
    return _finite(ends)


def _finite(values: Float64) -> Float64:
    return np.where(np.isfinite(values), values, 0.0)


def _largest(values: Float64) -> float:
    """Return the largest finite magnitude, 0 where there is none."""
    magnitude = np.abs(values)
    largest = float(magnitude.max(initial=0.0))
    return largest if math.isfinite(largest) else float(magnitude[np.isfinite(magnitude)].max(initial=0.0))


def _is_normal(values: Float64) -> bool:
    """Whether none is so small that a device may take it for zero."""
    return not ((values != 0) & (np.abs(values) < SMALLEST_NORMAL)).any()
