"""The statistics of a tensor, as a monoid: `summarise` a piece, `merge` two, start from `EMPTY`.

Batches, blocks, epochs, devices and hosts all combine by `merge`. What is observed is returned, never called back.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray


class Statistics(NamedTuple):
    """What is known of some values; every field has the same shape, one entry a piece.

    `count` is of finite values, and `min`, `max`, `mean` and `std` (of the population) are over these alone.
    `zeros` counts exact zeros. On the device the counts are int32, on the host int64, and the rest float64 there.
    """

    count: Any
    nan: Any
    posinf: Any
    neginf: Any
    zeros: Any
    min: Any
    max: Any
    mean: Any
    std: Any

    @property
    def nonfinite(self) -> Any:
        """The count of NaN and both infinities."""
        return self.nan + self.posinf + self.neginf


EMPTY = Statistics(0, 0, 0, 0, 0, np.inf, -np.inf, 0.0, 0.0)


def summarise(values: jax.Array, mask: jax.Array, axis: tuple[int, ...]) -> Statistics:
    """Return the statistics of `values` over `axis` where `mask` (of a shape that broadcasts) is true.

    The deviations are taken about the mean, and very large or small values are scaled, so that neither cancellation nor
    overflow spoils them: `mean` and `std` are finite wherever the values are.
    """

    def total(condition: jax.Array) -> jax.Array:
        return jnp.sum(condition & mask, axis=axis, dtype=jnp.int32)

    def expand(reduced: jax.Array) -> jax.Array:
        return jnp.expand_dims(reduced, axis)

    finite = jnp.isfinite(values)
    used = finite & mask
    count = jnp.sum(used, axis=axis, dtype=jnp.int32)
    low = jnp.min(jnp.where(used, values, jnp.inf), axis=axis)
    high = jnp.max(jnp.where(used, values, -jnp.inf), axis=axis)
    largest = jnp.where(count > 0, jnp.maximum(jnp.abs(low), jnp.abs(high)), 1.0)
    # Powers of two are exact; with these, neither a square nor its sum leaves float32's range.
    scale = jnp.where(largest > 2.0**40, 2.0**-80, jnp.where(largest < 2.0**-40, 2.0**80, 1.0))
    scaled = jnp.where(used, values, 0.0) * expand(scale)
    n = jnp.maximum(count, 1).astype(values.dtype)
    mean = jnp.sum(scaled, axis=axis) / n
    deviation = jnp.where(used, scaled - expand(mean), 0.0)
    std = jnp.sqrt(jnp.sum(deviation * deviation, axis=axis) / n)
    return Statistics(
        count=count,
        nan=total(jnp.isnan(values)),
        posinf=total(values == jnp.inf),
        neginf=total(values == -jnp.inf),
        zeros=total(values == 0),
        min=low,
        max=high,
        mean=mean / scale,
        std=std / scale,
    )


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Return the statistics of the values of `a` and `b` together, on the host in float64.

    Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983), with variances for sums of
    squares, which cannot overflow.
    """
    count = np.asarray(a.count) + b.count
    n = np.maximum(count, 1).astype(np.float64)
    weight_a, weight_b = a.count / n, b.count / n
    delta = np.asarray(b.mean, np.float64) - a.mean
    variance = weight_a * np.square(a.std) + weight_b * np.square(b.std) + weight_a * weight_b * np.square(delta)
    return Statistics(
        count=count,
        nan=np.asarray(a.nan) + b.nan,
        posinf=np.asarray(a.posinf) + b.posinf,
        neginf=np.asarray(a.neginf) + b.neginf,
        zeros=np.asarray(a.zeros) + b.zeros,
        min=np.minimum(a.min, b.min),
        max=np.maximum(a.max, b.max),
        mean=np.where(weight_a == 0, b.mean, a.mean + weight_b * delta),
        std=np.sqrt(variance),
    )


def merge_by_name(a: dict[str, Statistics], b: dict[str, Statistics]) -> dict[str, Statistics]:
    """Return the statistics of the tensors of `b` together with those in `a`, which may not know them yet."""
    return {name: merge(a.get(name, EMPTY), statistics) for name, statistics in b.items()}


def to_host(statistics: Statistics) -> Statistics:
    """Return the same statistics as int64 and float64 NumPy arrays, which `merge` takes."""
    kinds = (np.int64,) * 5 + (np.float64,) * 4
    return Statistics(*(np.asarray(field, kind) for field, kind in zip(statistics, kinds, strict=True)))


def merge_all(statistics: Statistics) -> Statistics:
    """Merge the pieces along the last axis into one, pairwise, so that rounding grows with the logarithm."""
    parts = to_host(statistics)
    while (n := parts.count.shape[-1]) > 1:
        half = n // 2
        left = Statistics(*(field[..., :half] for field in parts))
        right = Statistics(*(field[..., half : 2 * half] for field in parts))
        rest = Statistics(*(field[..., 2 * half :] for field in parts))
        parts = Statistics(*(np.concatenate(pair, axis=-1) for pair in zip(merge(left, right), rest, strict=True)))
    return Statistics(*(field[..., 0] for field in parts))


# Raw moments cancel where the spread is small against the mean, and squares leave float32's range at either end.
_MIN_RELATIVE_VARIANCE = 1 / 64
_SQUARES = (2.0**-40, 2.0**50)


def from_moments(
    count: Any, low: Any, high: Any, zeros: Any, total: NDArray[np.float64], squares: NDArray[np.float64]
) -> Statistics | None:
    """Return the statistics of finite values from their raw moments, or None where these do not tell them.

    `total` and `squares` are the sums of the values and of their squares, in float64 of float32 parts.
    """
    largest = max(abs(float(low)), abs(float(high)))
    if largest > 0 and not _SQUARES[0] <= largest <= _SQUARES[1]:
        return None
    mean, square = float(total) / count, float(squares) / count
    variance = square - mean * mean
    if not variance >= _MIN_RELATIVE_VARIANCE * square:
        return None
    return Statistics(
        np.int64(count),
        *(np.int64(0),) * 3,
        np.int64(zeros),
        *(np.float64(value) for value in (low, high, mean, np.sqrt(variance))),
    )
