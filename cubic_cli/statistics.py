"""The statistics of a tensor, as a monoid: `summarise` a piece, `merge` two, start from `EMPTY`.

Batches, blocks, epochs, devices and hosts all combine by `merge`. What is observed is returned, never called back. The
same text serves NumPy and JAX: a NumPy array is summed in float64, a traced one in its own float32.
"""

from typing import Any, NamedTuple

import numpy as np


class Statistics(NamedTuple):
    """What is known of some values; every field has the same shape, one entry a piece.

    `count` is of finite values, and `min`, `max`, `mean` and `std` (of the population) are over these alone.
    `zeros` counts exact zeros. On the device the counts are int32, on the host int64, and the rest float64 there.
    Always `min ≤ mean ≤ max`, and the `std` of a constant is 0. Where `count` is 0, `min` is ∞ and `max` −∞.
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


def summarise(values: Any, mask: Any = True, axis: int | tuple[int, ...] | None = None, about: Any = 0.0) -> Statistics:
    """Return the statistics of `values` over `axis` (all for None) where `mask`, of a shape that broadcasts, is true.

    Each field has the shape of `values` without `axis`: of `[pieces, S, H]` over (1, 2) it is `[pieces]`.

    The corrected two-pass algorithm (Chan, Golub and LeVeque, 1983): what the rounding of the mean leaves is taken from
    mean and variance both, so that neither is spoilt however far the values lie from zero. Very large and very small
    values are scaled by powers of two, which is exact, so that no square leaves the range.

    The `mean` is that of the differences from `about`, a scalar. A float32 mean far from zero is off by 2⁻²⁴ of itself,
    which would look like a variance between the pieces that are merged; about a number near all of them it is not.
    """
    xp = values.__array_namespace__()
    if xp is np:
        values = values.astype(np.float64, copy=False)
    integer = np.int64 if xp is np else np.int32

    def total(condition: Any) -> Any:
        return xp.sum(condition & mask, axis=axis, dtype=integer)

    def expand(reduced: Any) -> Any:
        return reduced if axis is None else xp.expand_dims(reduced, axis)

    used = xp.isfinite(values) & mask
    count = xp.sum(used, axis=axis, dtype=integer)
    low = xp.min(xp.where(used, values, np.inf), axis=axis, initial=np.inf)
    high = xp.max(xp.where(used, values, -np.inf), axis=axis, initial=-np.inf)
    largest = xp.where(count > 0, xp.maximum(xp.maximum(xp.abs(low), xp.abs(high)), abs(about)), 1.0)
    scale = xp.where(largest > 2.0**40, 2.0**-80, xp.where(largest < 2.0**-40, 2.0**80, 1.0)).astype(values.dtype)
    scaled = xp.where(used, values * expand(scale) - expand(about * scale), 0.0)
    n = xp.maximum(count, 1).astype(values.dtype)
    rough = xp.sum(scaled, axis=axis) / n
    deviation = xp.where(used, scaled - expand(rough), 0.0)
    correction = xp.sum(deviation, axis=axis) / n
    variance = xp.sum(deviation * deviation, axis=axis) / n - correction * correction
    mean = xp.clip((rough + correction) / scale, low - about, high - about)
    return Statistics(
        count=count,
        nan=total(xp.isnan(values)),
        posinf=total(values == np.inf),
        neginf=total(values == -np.inf),
        zeros=total(values == 0),
        min=low,
        max=high,
        mean=xp.where(count > 0, mean, 0.0),
        std=xp.where(low < high, xp.sqrt(xp.maximum(variance, 0.0)) / scale, 0.0),
    )


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Return the statistics of the values of `a` and `b` together, field by field of one shape, on the host in float64.

    Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983), with variances for sums of
    squares, which cannot overflow.
    """
    count = np.asarray(a.count) + b.count
    n = np.maximum(count, 1).astype(np.float64)
    weight_a, weight_b = a.count / n, b.count / n
    delta = np.asarray(b.mean, np.float64) - a.mean
    variance = weight_a * np.square(a.std) + weight_b * np.square(b.std) + weight_a * weight_b * np.square(delta)
    low, high = np.minimum(a.min, b.min), np.maximum(a.max, b.max)
    mean = np.where(weight_a == 0, b.mean, a.mean + weight_b * delta)
    return Statistics(
        count=count,
        nan=np.asarray(a.nan) + b.nan,
        posinf=np.asarray(a.posinf) + b.posinf,
        neginf=np.asarray(a.neginf) + b.neginf,
        zeros=np.asarray(a.zeros) + b.zeros,
        min=low,
        max=high,
        mean=np.where(count > 0, np.clip(mean, low, high), 0.0),
        std=np.where(low < high, np.sqrt(variance), 0.0),
    )


def merge_all(parts: Statistics) -> Statistics:
    """Merge the pieces along the last axis, `[…, pieces]` to `[…]`, pairwise: rounding grows with the logarithm."""
    while (n := parts.count.shape[-1]) > 1:
        half = n // 2
        left = Statistics(*(field[..., :half] for field in parts))
        right = Statistics(*(field[..., half : 2 * half] for field in parts))
        rest = Statistics(*(field[..., 2 * half :] for field in parts))
        parts = Statistics(*(np.concatenate(pair, axis=-1) for pair in zip(merge(left, right), rest, strict=True)))
    return Statistics(*(field[..., 0] for field in parts))
