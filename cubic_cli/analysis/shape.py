"""The shape of a distribution: on which axis a histogram shows it, and how high each bin stands.

A linear axis shows magnitudes within three decades of each other. Beyond, all but the largest would fall into one bin;
there the axis is logarithmic, and a height is a density per decade: the share of the values in a bin over the decades
that it spans. (A density per unit, over the width of a bin, hides all but the small values on such an axis.)
"""

import math
from typing import NamedTuple

import numpy as np

from cubic_cli.float32 import Float64
from cubic_cli.runs.record import Exponents, Histogram, Tensor

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


def _linear(histogram: Histogram, zeros: float, holds_zeros: bool) -> Bins:
    """Return shares of the values in bins of one width, or, where the widths differ (schema 1), what they would be."""
    edges, counts = np.array(histogram.edges, np.float64), np.array(histogram.counts, np.float64)
    share = counts / counts.sum()
    if holds_zeros:
        at = min(max(int(np.searchsorted(edges, 0.0, "right")) - 1, 0), len(share) - 1)
        share[at] = max(share[at] - zeros, 0.0)
    else:
        share *= 1.0 - zeros
    widths = np.diff(edges)
    return Bins(edges, share * (widths.mean() / widths))


def spread(exponents: Exponents) -> float:
    """Return how many decades lie between the magnitudes at 1 % and at 99 %, interpolated within the bins."""
    counts = np.array(exponents.negative, np.float64) + np.array(exponents.positive, np.float64)
    below = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    low, high = np.interp([0.01, 0.99], below, np.exp2(np.arange(len(below), dtype=np.float64)))
    return float(np.log10(high / low))
