"""The number type: arrays of float32 and float64, the limits of float32, and the names of the tensors that hold it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

FLOAT32_MAX = float(np.finfo(np.float32).max)
SMALLEST_NORMAL = 2.0**-126  # XLA may put zero in the place of what is smaller
TENSORS = ("z1", "a1", "z2")
EXTREMES = tuple(f"{name}_{end}" for name in TENSORS for end in ("min", "max"))


def shortest(value: Any) -> float:
    """Return the float whose text is the shortest that reads back to the same float32."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))
