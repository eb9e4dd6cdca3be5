"""The hidden layer, unit by unit: which differ, are dead, are always on, and the rank of what they put out."""

import numpy as np

from cubic_cli.config import Activation
from cubic_cli.float32 import Float32, Float64
from cubic_cli.parameters import Parameters
from cubic_cli.reference.network import forward32
from cubic_cli.runs.record import Units


def describe_units(parameters: Parameters, activation: Activation, ends: Float32, spread: Float32) -> Units:
    """Return how many hidden units there are, differ, are dead, are always on, switch, and the rank of `a1`.

    A unit is a function of the one number `w x + b`, so what it does over all samples shows at the `ends`, the smallest
    and the largest x; the rank is taken over the samples of `spread`. A unit switches if its z1 takes both signs.
    """
    spread = spread[np.isfinite(spread)]
    if spread.size == 0:
        return Units(count=parameters.hidden_size, distinct=0, dead=0, always_on=0, rank=0, switching=0)
    z1, a1, _ = forward32(parameters, np.concatenate([ends, spread]), activation)
    dead = (a1 == 0).all(axis=0)  # a unit of NaN is not dead
    a1[np.isnan(a1)] = 0.0
    columns = np.ascontiguousarray(a1.T)
    distinct = {column.tobytes(): column for column in columns}
    return Units(
        count=len(columns),
        distinct=len(distinct),
        dead=int(dead.sum()),
        always_on=int((columns > 0).all(axis=1).sum()),
        rank=numerical_rank(np.array(list(distinct.values()))[:, 2:]),
        switching=int(((z1[:2].min(axis=0) < 0) & (z1[:2].max(axis=0) > 0)).sum()),
    )


def numerical_rank(matrix: Float64) -> int:
    """Return the numerical rank, by projections on ever more random directions until the rank is below their number.

    Halko, Martinsson and Tropp, "Finding structure with randomness" (2011), section 4. A singular value counts if it is
    beyond the largest one times the longer side and the float32 epsilon: the convention of `numpy.linalg.matrix_rank`.
    """
    matrix = np.where(np.isfinite(matrix), matrix, 0.0)
    largest = np.abs(matrix).max(initial=0.0)
    if largest == 0:
        return 0
    matrix = matrix / largest
    full = min(matrix.shape)
    directions, rng = 32, np.random.default_rng(0)
    tolerance = max(matrix.shape) * float(np.finfo(np.float32).eps)
    while directions < full:
        sketch = rng.standard_normal((directions, matrix.shape[0])) @ matrix
        singular = np.linalg.svd(sketch, compute_uv=False)
        if (rank := int((singular > singular[0] * tolerance).sum())) < directions:
            return rank
        directions *= 4
    singular = np.linalg.svd(matrix, compute_uv=False)
    return int((singular > singular[0] * tolerance).sum())
