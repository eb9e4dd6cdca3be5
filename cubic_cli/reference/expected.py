"""What the pass must have seen of some batches: figures in NumPy float64, each with the bound of its float32 error.

N samples, B batch, K batches, H hidden
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cubic_cli.config import Activation
from cubic_cli.float32 import FLOAT32_MAX, SMALLEST_NORMAL, TENSORS, Float32, Float64
from cubic_cli.parameters import Parameters
from cubic_cli.reference.network import in_float64
from cubic_cli.reference.rounding import (
    SATURATED,
    UNIT,
    Bounded,
    bound,
    finite,
    is_normal,
    largest,
    surely_zero,
    tolerance,
)

_CHUNK_VALUES = 1 << 15  # of z1 held at a time: stays in the cache


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
        bounded = bound(self.parameters, x, self.activation)
        self._see_overflow(x, bounded, edges, batches)
        self._see_zeros(x, bounded)
        tensors, k, bias = self.reference.tensors, bounded.operations, bounded.largest_bias
        sizes = bounded.sizes
        if not sizes.max() <= self.limit:
            sizes = np.where(sizes <= self.limit, sizes, 0.0)
        sizes = np.maximum.reduceat(sizes.max(axis=1), edges)
        for name, rounding in (
            ("z1", 2 * UNIT * (tensors["z1"].magnitude[batches] + bias / 2) + bounded.flushed),
            ("a1", k * UNIT * sizes + bounded.flushed * (sizes > 0) + SMALLEST_NORMAL),
            ("z2", np.maximum.reduceat(np.where(np.abs(bounded.z2) <= self.limit, bounded.of_z2, 0.0), edges)),
        ):
            known = tensors[name].rounding
            known[batches] = np.maximum(known[batches], rounding)
        error, rounding = bounded.z2 - y, bounded.of_z2 + SMALLEST_NORMAL  # of y, or of the difference
        self.reference.loss[batches] += np.add.reduceat(error**2, edges)
        self.reference.loss_rounding[batches] += np.add.reduceat(rounding * (2 * np.abs(error) + rounding), edges)

    def _see_overflow(self, x: Float64, bounded: Bounded, edges: NDArray[np.int64], batches: slice) -> None:
        """Add the values that are finite, and count those that are not, or may not be."""
        w1, b1 = self.parameters.w1[0], self.parameters.b1
        z1, a1, z2, reach = bounded.z1, bounded.a1, bounded.z2, bounded.reach
        over_z1 = over_a1 = over_z2 = None
        if not np.isfinite(z1).all() or largest(x) * largest(w1) + largest(b1) > FLOAT32_MAX / 2:
            # The product may overflow before the bias brings it back.
            product = np.multiply.outer(x, w1)
            over_product = ~(np.abs(product) <= self.limit)
            over_z1 = ~(np.abs(z1) <= self.limit) | over_product
            if not is_normal(w1) or (np.isinf(w1).any() and not is_normal(x)):
                over_a1 = over_z1  # ∞ times what is zero to the device is NaN
            elif self.activation is Activation.tanh:  # ±∞ saturate it, and ∞ − ∞ is NaN
                over_a1 = over_product & ((np.abs(z1) <= self.limit) | (z1 * product < 0))
            elif self.activation in (Activation.relu, Activation.gelu):
                over_a1 = over_z1 & ((z1 > 0) | (product > 0))
            else:
                over_a1 = over_z1
        if over_a1 is not None or not reach.max() <= self.limit:
            over_z2 = ~(reach <= self.limit)[:, None]
            if over_a1 is not None:
                over_z2 |= over_a1.any(axis=1, keepdims=True)
        tensors = self.reference.tensors
        self._see_tensor(tensors["z1"], z1, over_z1, edges, batches)
        self._see_tensor(tensors["a1"], a1, over_a1, edges, batches)
        self._see_tensor(tensors["z2"], z2[:, None], over_z2, edges, batches, bounded.of_z2[:, None])

    def _see_tensor(
        self,
        seen: TensorReference,
        values: Float64,
        over: NDArray[np.bool_] | None,
        edges: NDArray[np.int64],
        batches: slice,
        off: Float64 | float = 0.0,
    ) -> None:
        """Add `values [n, width]` of one tensor, of which `over` may overflow though they do not in float64.

        They may be `off` by more than the tolerance, where terms cancel or are taken for zero.
        """
        flat, starts = values.reshape(-1), edges * values.shape[1]
        low, high = np.minimum.reduceat(flat, starts), np.maximum.reduceat(flat, starts)
        if over is not None or not max(-low.min(), high.max()) <= self.limit:
            magnitude = np.abs(values)
            surely = ~(magnitude - off <= 2 * FLOAT32_MAX - self.limit)
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

    def _see_zeros(self, x: Float64, bounded: Bounded) -> None:
        """Count the zeros that there are at least and at most."""
        z1, a1, z2 = bounded.z1, bounded.a1, bounded.z2
        is_gelu = self.activation is Activation.gelu
        close, surely = np.abs(z1) <= bounded.near, np.zeros(1, bool)
        surely_a1 = a1 == 0
        possibly_a1 = np.abs(a1) <= (finite(bounded.of_a1) if is_gelu else SMALLEST_NORMAL)
        if is_gelu or close.any():
            surely = surely_zero(z1, self.parameters, x)
            surely_a1 &= (np.abs(z1) > (SATURATED if is_gelu else bounded.near)) | surely
            possibly_a1 |= close
        surely_z2 = 0
        if self.parameters.b2[0] == 0 and (rows := z2 == 0).any():
            surely_z2 = int((surely_a1[rows] | (self.parameters.w2[:, 0] == 0)).all(axis=1).sum())
        for name, least, most in (
            ("z1", np.count_nonzero(surely), np.count_nonzero(close)),
            ("a1", np.count_nonzero(surely_a1), np.count_nonzero(possibly_a1)),
            ("z2", surely_z2, np.count_nonzero(np.abs(z2) <= finite(bounded.of_z2))),
        ):
            tensor = self.reference.tensors[name]
            tensor.zeros = (tensor.zeros[0] + int(least), tensor.zeros[1] + int(most))


def _magnitude(low: Float64, high: Float64) -> Float64:
    ends = np.fmax(np.abs(low), np.abs(high))
    return finite(ends)
