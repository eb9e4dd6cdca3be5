"""The shape of a distribution: on which axis a histogram shows it, and how high each bin stands.

A linear axis shows magnitudes within three decades of each other. Beyond, all but the largest would fall into one bin;
there the axis is logarithmic, and a height is a density per decade: the share of the values in a bin over the decades
that it spans. (A density per unit, over the width of a bin, hides all but the small values on such an axis.)

On an axis that several tensors share, a height is the `share` of the values in a cell: where the cells of such an axis
have one width in decades, it is that density again.
"""

import math
from typing import NamedTuple

import numpy as np

from cubic_cli.float32 import Float64
from cubic_cli.runs.record import Exponents, Histogram, Parameter, Tensor

DECADES = 3.0  # of the non-zero magnitudes from 1 % to 99 %: from here on the axis is logarithmic
_DECADES_OF_BIN = math.log10(2)


class Bins(NamedTuple):
    """Bins side by side: `edges [n + 1]`, rising, and `heights [n]`."""

    edges: Float64
    heights: Float64


class Shape(NamedTuple):
    """What is drawn of a tensor's values without its zeros.

    On a linear axis there is one set of bins, whose heights are shares of all the values. On a logarithmic one there is
    one for each sign that occurs, with densities per decade, and `smallest` is where its magnitudes begin.
    """

    logarithmic: bool
    bins: tuple[Bins, ...]
    smallest: float = 0.0


def shape(tensor: Tensor) -> Shape | None:
    """Return the shape of a tensor's distribution; None where no value is finite and not zero, or none is known."""
    histogram, exponents = tensor.histogram, tensor.exponents
    if histogram is None or not sum(histogram.counts):
        return None
    if exponents is None or spread(exponents) < DECADES:
        return Shape(False, (_linear(histogram, tensor.zeros, exponents is None),))
    total = (sum(exponents.negative) + sum(exponents.positive)) / max(1.0 - tensor.zeros, 1e-300)
    # Of halves of the axis: 2^(first + k) is where bin k begins.
    edges = np.exp2(np.arange(exponents.first, exponents.first + len(exponents.positive) + 1, dtype=np.float64))
    sides = []
    if any(exponents.negative):
        heights = np.array(exponents.negative[::-1], np.float64) / total / _DECADES_OF_BIN
        sides.append(Bins(-edges[::-1], heights))
    if any(exponents.positive):
        sides.append(Bins(edges, np.array(exponents.positive, np.float64) / total / _DECADES_OF_BIN))
    return Shape(True, tuple(sides), float(edges[0]))


def share(entry: Tensor | Parameter, edges: Float64) -> Float64 | None:
    """Return the share of the finite values without zeros that lies in each cell of an axis, `[n]`.

    Equal bins tell much of large values and nothing of small ones, exponents the reverse: each edge is read from the
    finer of the two. Within a bin of the first the values lie evenly, within one of the second their logarithms do.

    Args:
        entry: what the record says of a tensor; None comes back where it has no histogram.
        edges: of the cells, `[n + 1]`, rising.
    """
    histogram, exponents = entry.histogram, entry.exponents
    if histogram is None or entry.min is None or entry.max is None or not sum(histogram.counts):
        return None
    at, counts = np.array(histogram.edges, np.float64), np.array(histogram.counts, np.float64)
    if exponents is None and isinstance(entry, Tensor):
        counts = _without_zeros(at, counts / counts.sum(), entry.zeros)
    below = np.interp(edges, at, np.concatenate([[0.0], np.cumsum(counts)]))
    if exponents is not None:
        fine = np.abs(edges) < (at[-1] - at[0]) / len(counts)
        below[fine] = _below(exponents, edges[fine])
    total = counts.sum()
    below = np.where(edges <= entry.min, 0.0, np.where(edges > entry.max, total, below))
    return np.diff(np.maximum.accumulate(below)) / total if total else np.zeros(len(edges) - 1)


def _below(exponents: Exponents, edges: Float64) -> Float64:
    """Return how many values lie below each of `edges`."""
    negative, positive = (
        np.concatenate([[0], np.cumsum(side)]).astype(np.float64) for side in (exponents.negative, exponents.positive)
    )
    powers = np.arange(exponents.first, exponents.first + len(positive), dtype=np.float64)
    with np.errstate(divide="ignore"):
        logs = np.log2(np.abs(edges))
    smaller = np.where(edges < 0, np.interp(logs, powers, negative), np.interp(logs, powers, positive))
    below: Float64 = negative[-1] + np.where(edges < 0, -smaller, smaller)
    return below


def _linear(histogram: Histogram, zeros: float, holds_zeros: bool) -> Bins:
    """Return shares of the values in bins of one width, or, where the widths differ (schema 1), what they would be."""
    edges, counts = np.array(histogram.edges, np.float64), np.array(histogram.counts, np.float64)
    shares = counts / counts.sum()
    shares = _without_zeros(edges, shares, zeros) if holds_zeros else shares * (1.0 - zeros)
    widths = np.diff(edges)
    return Bins(edges, shares * (widths.mean() / widths))


def _without_zeros(edges: Float64, shares: Float64, zeros: float) -> Float64:
    """Return the shares of bins that hold the zeros, as those of schema 1 do, without these."""
    at = min(max(int(np.searchsorted(edges, 0.0, "right")) - 1, 0), len(shares) - 1)
    shares[at] = max(shares[at] - zeros, 0.0)
    return shares


def spread(exponents: Exponents) -> float:
    """Return how many decades lie between the magnitudes at 1 % and at 99 %, interpolated within the bins."""
    counts = np.array(exponents.negative, np.float64) + np.array(exponents.positive, np.float64)
    below = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    low, high = np.interp([0.01, 0.99], below, np.exp2(np.arange(len(below), dtype=np.float64)))
    return float(np.log10(high / low))
