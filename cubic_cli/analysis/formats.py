"""What a tensor would lose in fewer bits: float16, bfloat16 and two formats of eight bits (Micikevicius et al., 2022).

Values are rounded to nearest, ties to even, and what lies beyond the largest finite number overflows: nothing
saturates. The shares come from an even spread of samples; what decides about overflow comes from the exact ends.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cubic_cli.float32 import Float32, Float64
from cubic_cli.runs.record import Format

# The largest finite number of each.
LARGEST = {"float16": 65504.0, "bfloat16": 2.0**128 - 2.0**120, "float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}
FORMATS = tuple(LARGEST)


def describe(tensor: str, values: Float32, low: float | None, high: float | None) -> Iterator[Format]:
    """Yield what each format would do to a tensor.

    Args:
        tensor: its name.
        values: of it, an even spread, of any shape; what is not finite is left out.
        low: the exact minimum over its finite values, None where there is none.
        high: the exact maximum.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    nonzero = finite[finite != 0]
    largest = max(abs(end) for end in (low or 0.0, high or 0.0))
    for name in FORMATS:
        cast = round_to(name, nonzero)
        stays = np.isfinite(cast) & (cast != 0)
        errors = np.abs(cast[stays] / nonzero[stays] - 1.0)
        scale = largest_scale(name, largest)
        yield Format(
            tensor=tensor,
            format=name,
            overflow=_share(~np.isfinite(cast), finite.size),
            underflow=_share(cast == 0, nonzero.size),
            median_error=float(np.median(errors)) if errors.size else None,
            scale=scale,
            scaled_underflow=None if scale is None else _share(round_to(name, nonzero * scale) == 0, nonzero.size),
        )


def round_to(name: str, values: Float64) -> Float64:
    """Return `values` as the format holds them: rounded to nearest even, not finite where they overflow."""
    import ml_dtypes

    kind = np.float16 if name == "float16" else getattr(ml_dtypes, name)
    with np.errstate(over="ignore"):
        return values.astype(kind).astype(np.float64)


def fits(name: str, largest: float) -> bool:
    """Return whether the format holds a number of this magnitude."""
    return bool(np.isfinite(round_to(name, np.array([largest]))).all())


def largest_scale(name: str, largest: float) -> float | None:
    """Return the largest power of two by which values up to `largest` can be multiplied; None where all is zero."""
    if not 0 < largest < math.inf:
        return None
    exponent = math.floor(math.log2(LARGEST[name]) - math.log2(largest))
    # The logarithms round, and a number just beyond the end may round to it.
    return max(
        scale for scale in (math.ldexp(1.0, exponent + step) for step in (-1, 0, 1)) if fits(name, largest * scale)
    )


def _share(condition: NDArray[np.bool_], of: int) -> float:
    return int(np.count_nonzero(condition)) / of if of else 0.0
