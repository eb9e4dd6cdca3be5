"""How the values of a tensor are distributed: quantiles and a histogram, from an even spread of samples. No JAX here.

The record's minimum, maximum, mean and standard deviation are exact, over every value. What stands here comes from at
most `LIMIT` values, those of samples (and of units, where even one sample has too many) that are evenly spread: it
costs the same for a thousand samples as for a billion. So a rare value may lie outside a histogram's edges.
"""

from typing import NamedTuple

import numpy as np

from cubic_cli.config import Activation
from cubic_cli.float32 import Float32, shortest
from cubic_cli.parameters import from_names
from cubic_cli.reference.network import forward32
from cubic_cli.runs.record import Histogram

LIMIT = 1 << 20  # values looked at
QUANTILES = (0.01, 0.5, 0.99)
BINS = 48
_LINEAR = 1e-3  # of the largest magnitude: the edges are evenly spaced below it, and by a common factor above


class Distribution(NamedTuple):
    """What the record says of the finite values of a spread; None where there is none."""

    quantiles: dict[str, float] | None
    histogram: Histogram | None


def describe(values: Float32) -> Distribution:
    """Return the distribution of the finite `values`, of any shape.

    A quantile is a value that occurs: the smallest that at least so large a share of the values does not exceed
    (Hyndman and Fan, "Sample quantiles in statistical packages", 1996, definition 1).
    """
    ordered = np.sort(values[np.isfinite(values)], axis=None)
    if not ordered.size:
        return Distribution(None, None)
    ranks = [max(0, int(np.ceil(share * ordered.size)) - 1) for share in QUANTILES]
    edges = choose_edges(float(ordered[0]), float(ordered[-1]))
    below = np.searchsorted(ordered, np.array(edges[1:-1], np.float32), "left")
    counts = np.diff(np.concatenate([[0], below, [ordered.size]]))
    return Distribution(
        {str(share): shortest(ordered[rank]) for share, rank in zip(QUANTILES, ranks, strict=True)},
        Histogram(edges=tuple(edges), counts=tuple(counts.tolist())),
    )


def choose_edges(low: float, high: float) -> list[float]:
    """Return the edges of the bins from `low` to `high`, `[BINS + 1]`: evenly spaced in asinh, a symmetric logarithm.

    A bin holds what is at least its lower edge and less than its upper one, the last bin its upper edge too. The edges
    are float32 numbers, as the values are, so that a count does not depend on rounding. Where all values are one
    number, there is one bin about it, `[2]`.
    """
    if low == high:
        half = abs(low) / 2 or 0.5
        return [low - half, low + half]
    linear = _LINEAR * max(abs(low), abs(high))
    edges = linear * np.sinh(np.linspace(np.arcsinh(low / linear), np.arcsinh(high / linear), BINS + 1))
    edges[0], edges[-1] = low, high
    return [shortest(edge) for edge in np.unique(edges.astype(np.float32))]


def of_tensors(values: dict[str, Float32], activation: Activation, x: Float32) -> dict[str, Distribution]:
    """Return the distributions of z1, a1 and z2 over evenly spread samples `x [n]`, as the network got them."""
    parameters = from_names(values)
    x = x[:: -(-x.size // max(1, LIMIT // parameters.hidden_size))]
    units = slice(None, None, -(-parameters.hidden_size // LIMIT))
    z1, a1, z2 = forward32(parameters, x, activation)
    return {"z1": describe(z1[:, units]), "a1": describe(a1[:, units]), "z2": describe(z2)}


class Spread:
    """Evenly spread values of a stream, at most `LIMIT`: every one, then every second, every fourth, and so on."""

    def __init__(self) -> None:
        self._kept = np.empty(0, np.float32)
        self._stride, self._seen = 1, 0

    def add(self, values: Float32) -> None:
        """Take the values of the stream that follow."""
        self._kept = np.concatenate([self._kept, values[-self._seen % self._stride :: self._stride]])
        self._seen += values.size
        while self._kept.size > LIMIT:
            self._kept, self._stride = self._kept[::2], self._stride * 2

    @property
    def values(self) -> Float32:
        """What was kept, in the order of the stream."""
        return self._kept
