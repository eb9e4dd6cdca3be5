"""How the values of a tensor are distributed: quantiles, a histogram, exponents; from an even spread of samples.

The record's minimum, maximum, mean and standard deviation are exact, over every value. What stands here comes from at
most `LIMIT` values, those of samples (and of units, where even one sample has too many) that are evenly spread: it
costs the same for a thousand samples as for a billion.
"""

from typing import NamedTuple

import numpy as np

from cubic_cli.config import Activation
from cubic_cli.float32 import SMALLEST_NORMAL, TENSORS, Float32, shortest
from cubic_cli.parameters import Parameters
from cubic_cli.reference.network import forward32
from cubic_cli.runs.record import Exponents, Histogram

LIMIT = 1 << 20  # values looked at
QUANTILES = (0.01, 0.5, 0.99)
BINS = 64


class Distribution(NamedTuple):
    """What the record says of the finite values of a spread; None where there is none.

    `smallest` is the least non-zero magnitude. Zeros are apart from the histogram and the exponents.
    """

    quantiles: dict[str, float] | None = None
    histogram: Histogram | None = None
    exponents: Exponents | None = None
    smallest: float | None = None


def describe(values: Float32, low: float | None = None, high: float | None = None) -> Distribution:
    """Return the distribution of the finite `values`, of any shape.

    A quantile is a value that occurs: the smallest that at least so large a share of the values does not exceed
    (Hyndman and Fan, "Sample quantiles in statistical packages", 1996, definition 1).

    Args:
        values: an even spread.
        low: the exact minimum of all values, where `values` are a part of them.
        high: the exact maximum.
    """
    ordered = np.sort(values[np.isfinite(values)], axis=None)
    if not ordered.size:
        return Distribution()
    ranks = [max(0, int(np.ceil(share * ordered.size)) - 1) for share in QUANTILES]
    quantiles = {str(share): shortest(ordered[rank]) for share, rank in zip(QUANTILES, ranks, strict=True)}
    nonzero = ordered[ordered != 0]
    if not nonzero.size:
        return Distribution(quantiles)
    ends = shortest(ordered[0]) if low is None else low, shortest(ordered[-1]) if high is None else high
    return Distribution(
        quantiles, describe_bins(nonzero, *ends), describe_exponents(nonzero), shortest(np.abs(nonzero).min())
    )


def describe_bins(ordered: Float32, low: float, high: float) -> Histogram:
    """Return how many of the rising values lie in each of `BINS` equal bins from `low` to `high`.

    A bin holds what is at least its lower edge and less than its upper one; what lies beyond an end, which rounding can
    do, counts in the bin there. Where all values are one number, there is one bin about it, be it a zero that the
    device made of numbers below 2⁻¹²⁶.
    """
    if low == high:
        half = abs(low) / 2 or SMALLEST_NORMAL
        return Histogram(edges=(low - half, low + half), counts=(ordered.size,))
    edges = np.linspace(low, high, BINS + 1)
    below = np.searchsorted(ordered.astype(np.float64), edges[1:-1], "left")
    counts = np.diff(np.concatenate([[0], below, [ordered.size]]))
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def describe_exponents(nonzero: Float32) -> Exponents:
    """Return how many non-zero values of either sign have each exponent, from the smallest to the largest there is."""
    exponents = np.frexp(nonzero)[1] - 1  # |v| = m · 2^e with m in [1/2, 1)
    first, length = int(exponents.min()), int(exponents.max() - exponents.min()) + 1
    negative, positive = (
        tuple(np.bincount(exponents[sign] - first, minlength=length).tolist()) for sign in (nonzero < 0, nonzero > 0)
    )
    return Exponents(first=first, negative=negative, positive=positive)


def take(values: Float32) -> Float32:
    """Return an even spread of `values`, of any shape: at most `LIMIT` of them."""
    return values.ravel()[:: -(-values.size // LIMIT)]


def take_tensors(parameters: Parameters, activation: Activation, x: Float32) -> dict[str, Float32]:
    """Return values of z1, a1 and z2, at most `LIMIT` each, over evenly spread samples `x [n]` as the network got them.

    They are computed on the host, in float32.
    """
    x = x[:: -(-x.size // max(1, LIMIT // parameters.hidden_size))]
    units = slice(None, None, -(-parameters.hidden_size // LIMIT))
    z1, a1, z2 = forward32(parameters, x, activation)
    return dict(zip(TENSORS, (z1[:, units], a1[:, units], z2), strict=True))
