"""How x and y are rescaled before the pass, with statistics of the samples used."""

from dataclasses import dataclass

import numpy as np

from cubic_cli.config import Scaling
from cubic_cli.dataset import Float32


@dataclass(frozen=True)
class Scale:
    """An affine map of one column, `(v − shift) / factor`."""

    shift: float
    factor: float

    def apply(self, values: Float32) -> Float32:
        """Return the scaled column, computed in float64; a constant column becomes 0."""
        if self.factor == 0:
            return np.where(np.isfinite(values), np.float32(0), values)
        return ((values.astype(np.float64) - self.shift) / self.factor).astype(np.float32)


def choose_scale(kind: Scaling, summary: dict[str, float]) -> Scale:
    """Return the map that `kind` asks for, from a column's statistics."""
    if kind is Scaling.minmax:
        return Scale(summary["min"], summary["max"] - summary["min"])
    if kind is Scaling.standard:
        constant = summary["max"] == summary["min"]
        return Scale(summary["mean"], 0.0 if constant else summary["std"])
    return Scale(0.0, 1.0)
