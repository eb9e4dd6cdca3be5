"""How x and y are rescaled before the pass, with statistics of the samples used."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cubic_cli.config import Scaling
from cubic_cli.float32 import Float32


@dataclass(frozen=True)
class Scale:
    """An affine map of one column, `(v − shift) / factor`; a factor of 0 stands for a constant column."""

    shift: float
    factor: float

    def apply(self, values: Float32) -> Float32:
        """Return the scaled column, computed in float64; a constant column becomes 0, and NaN and ±∞ stay.

        Values beyond float32 become infinite, as the statistics in a record that another program wrote may make them.
        """
        if self.factor == 0:
            return np.where(np.isfinite(values), np.float32(0), values)
        with np.errstate(over="ignore"):
            return ((values.astype(np.float64) - self.shift) / self.factor).astype(np.float32)


class Summary(Protocol):
    """What is known of a column's finite values; the ends are float32 numbers, or their shortest texts as floats."""

    @property
    def min(self) -> float: ...

    @property
    def max(self) -> float: ...

    @property
    def mean(self) -> float: ...

    @property
    def std(self) -> float: ...


def choose_scale(kind: Scaling, column: Summary) -> Scale:
    """Return the map that `kind` asks for, from a column's statistics.

    The ends are taken for the float32 numbers that they are, so that `minmax` ends at 0 and 1 exactly. Where no value
    is finite there is nothing to scale, and the shift is 0.
    """
    if kind is Scaling.none:
        return Scale(0.0, 1.0)
    low, high = float(np.float32(column.min)), float(np.float32(column.max))
    if not low < high:
        return Scale(low if low == high else 0.0, 0.0)
    if kind is Scaling.minmax:
        return Scale(low, high - low)
    return Scale(float(column.mean), float(column.std))
