"""How x and y are rescaled before the pass, with statistics of the samples used."""

from dataclasses import dataclass

import numpy as np

from cubic_cli.config import Scaling
from cubic_cli.data.problem import Float32


@dataclass(frozen=True)
class Scale:
    """An affine map of one column, `(v − shift) / factor`; a factor of 0 stands for a constant column."""

    shift: float
    factor: float

    def apply(self, values: Float32) -> Float32:
        """Return the scaled column, computed in float64; a constant column becomes 0, and NaN and ±∞ stay.

        What no float32 holds becomes infinite: so may a summary be that someone else wrote.
        """
        if self.factor == 0:
            return np.where(np.isfinite(values), np.float32(0), values)
        with np.errstate(over="ignore"):
            return ((values.astype(np.float64) - self.shift) / self.factor).astype(np.float32)


def choose_scale(kind: Scaling, summary: dict[str, float]) -> Scale:
    """Return the map that `kind` asks for, from the statistics of a column's finite values.

    `min` and `max` may stand in their shortest text; the map takes the float32 numbers they are, so that `minmax` ends
    at 0 and 1 exactly. Where no value is finite there is nothing to scale, and the shift is 0.
    """
    if kind is Scaling.none:
        return Scale(0.0, 1.0)
    low, high = (float(np.float32(summary[end])) for end in ("min", "max"))
    if not low < high:
        return Scale(low if low == high else 0.0, 0.0)
    if kind is Scaling.minmax:
        return Scale(low, high - low)
    return Scale(summary["mean"], summary["std"])
