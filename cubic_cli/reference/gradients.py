"""The reference of the gradients: derived by hand, in NumPy float64, with the bound of their float32 error.

r = 2 (z2 − y) / N     ∂L/∂b2 = Σ r          ∂L/∂W2 = a1ᵀ r
δ = r W2ᵀ · f′(z1)     ∂L/∂b1 = Σ δ          ∂L/∂W1 = xᵀ δ           (Rumelhart, Hinton and Williams, 1986)

The bound runs along with them as in `rounding`: a product's relative errors add up, a sum's magnitudes, and where z1
lies so near the bend of an activation that float32 may find it on the other side, the slope is off by all of it.
A device makes r smaller until no product with it leaves float32's range: what it loses below η is the larger for it.

A device adds up S samples at a time in float32. Each addition rounds the partial sum, and where terms are alike all of
them one way: a sum v of like terms is off by u |v| S/4. Of others a partial sum is as large as the norm of the terms,
and may stay so if one is much larger than the rest: S times u of that norm.

    N samples, S of a piece, H hidden
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cubic_cli.config import Activation
from cubic_cli.float32 import FLOAT32_MAX, SMALLEST_NORMAL, Float32, Float64
from cubic_cli.parameters import NAMES, Parameters
from cubic_cli.reference.network import differentiate, in_float64
from cubic_cli.reference.rounding import OPERATIONS, SATURATED, UNIT, bound, is_normal, surely_zero, tolerance
from cubic_cli.reference.verify import Failure

_PIECE = 64  # samples that the device adds up in float32, at most
_CHUNK_VALUES = 1 << 15  # of z1 held at a time
_WITHIN_A_SLOPE = 32.0  # gelu's r W2 becomes as much larger on the way to its slope
_SCALES = (1.0, 2.0**-32, 2.0**-96, 2.0**-192, 2.0**-252)  # of r, tried by the device one after the other


@dataclass(frozen=True)
class Gradients:
    """By parameter, in its shape: the gradient of the loss, and the bound of its float32 error.

    `told` is false where the forward pass or its errors may overflow in float32: then nothing is compared.
    """

    value: Parameters
    rounding: Parameters
    told: bool
    tolerance: float


class _Reach(NamedTuple):
    """Largest magnitudes: of what the forward pass comes across, of a1, of f′(z1) x, and of z2 − y."""

    forward: float
    a1: float
    of_w1: float
    error: float


def compute(parameters: Parameters, x: Float32, y: Float32, activation: Activation) -> Gradients:
    """Return the gradients over `x [N]` and `y [N]`."""
    wide = in_float64(parameters)
    value, partial, rounding = (Parameters(*(np.zeros(array.shape) for array in wide)) for _ in range(3))
    reach = _Reach(0.0, 0.0, 0.0, 0.0)
    piece = min(len(x), _PIECE)
    rows = 1 << (max(1, _CHUNK_VALUES // wide.hidden_size).bit_length() - 1)
    group = min(rows, piece)  # of a piece, whose norm is not beyond the sum of those of its groups
    with np.errstate(all="ignore"):
        for start in range(0, len(x), rows):
            xs, ys = (column[start : start + rows].astype(float) for column in (x, y))
            *found, reached = _of_samples(wide, xs, ys, group, activation)
            reach = _Reach(*map(np.maximum, reach, reached))  # NaN stays
            for totals, parts in zip((value, partial, rounding), found, strict=True):
                for total, part in zip(totals, parts, strict=True):
                    total += part.reshape(total.shape)
        rounding = Parameters(*((r + piece * UNIT * p) / len(x) for r, p in zip(rounding, partial, strict=True)))
        value = Parameters(*(total / len(x) for total in value))
        # Of products that are scaled more is lost below η: of r, times a1, or W2, times the slope, and times x.
        weight = np.abs(wide.w2)
        reached = reach.error * max(1.0, reach.a1, weight.max() * max(_WITHIN_A_SLOPE, reach.of_w1)) * 2 * piece
        scale = next((scale for scale in _SCALES if reached * scale < FLOAT32_MAX / 2), 0.0)
        below = SMALLEST_NORMAL * (1 / scale - 1) if scale else 0.0
        through = 3 + 5 * weight.ravel()
        losses = (1 + np.abs(x).max() * through, through, (1 + 3 * reach.a1) * np.ones_like(weight), np.full(1, 3.0))
        rounding = Parameters(*(r + below * one for r, one in zip(rounding, losses, strict=True)))
        allowed = tolerance(wide.hidden_size)
        told = max(reach.forward, reach.error) <= FLOAT32_MAX * (1 - allowed) and scale > 0
    return Gradients(value, rounding, bool(told), allowed)


def _of_samples(
    parameters: Parameters, x: Float64, y: Float64, group: int, activation: Activation
) -> tuple[Parameters, Parameters, Parameters, _Reach]:
    """Return sums over the samples `[n]`: of the terms of the gradients, of partial sums and bounds; and the reach."""
    w1, w2 = parameters.w1[0], parameters.w2[:, 0]
    bounded = bound(parameters, x, activation)
    z1, a1, near = bounded.z1, bounded.a1, bounded.near
    slope, k, tiny = differentiate(activation, z1), OPERATIONS[activation], SMALLEST_NORMAL
    if activation in (Activation.relu, Activation.leaky_relu):
        of_slope = ((np.abs(z1) <= near) & ~surely_zero(z1, parameters, x)).astype(float)
    elif activation is Activation.tanh:  # 1 − tanh²: its terms are 1 and tanh²
        # Squared, tanh is off by twice as many units; JAX 0.12 needs 1.6 times as many here as 0.10 did.
        of_slope = np.where(np.abs(z1) > SATURATED, slope, UNIT * 2 * k + 2 * near * slope)
    elif activation is Activation.gelu:  # 1 + tanh, and z/2 (1 − tanh²) times the derivative of what tanh is of
        inside = np.where(np.abs(z1) > SATURATED, 0.0, np.abs(z1))
        of_slope = (inside > 0) * (UNIT * k * (1 + inside * (1 + 0.134 * inside**2)) + near)
    else:
        of_slope = np.zeros_like(z1)

    r = 2.0 * (bounded.z2 - y)
    size = np.abs(r)
    of_r = 2 * bounded.of_z2 + UNIT * size + 3 * tiny
    # Columns: by sample 1, and x. δ, what it is off by, and how large r W2 becomes.
    ones_and_x = np.stack([np.ones_like(x), x], axis=1)
    both = np.abs(ones_and_x)
    delta, partial = (sums * w2[:, None] for sums in _add_up(slope, r[:, None] * ones_and_x, group))
    off = np.abs(slope).T @ ((of_r + 4 * UNIT * size)[:, None] * both) + of_slope.T @ (size[:, None] * both)
    off = off * np.abs(w2)[:, None] + tiny * ((3 + np.abs(w2))[:, None] * both.sum(axis=0) + (size @ both))
    off[:, 1] += tiny * len(x)
    if not is_normal(x):
        off[:, 1] += tiny * (np.abs(slope).T @ size) * np.abs(w2)
    forward = max(np.abs(z1).max(), both[:, 1].max() * np.abs(w1).max(), bounded.reach.max())
    by_w2, of_by_w2 = _add_up(a1, r[:, None], group)
    by_b2, of_by_b2 = _add_up(ones_and_x[:, :1], r[:, None], group)
    of_w2 = np.abs(a1).T @ (of_r + 2 * UNIT * size) + bounded.of_a1.T @ size + tiny * len(x)
    return (
        Parameters(delta[:, 1], delta[:, 0], by_w2, by_b2),
        Parameters(np.abs(partial[:, 1]), np.abs(partial[:, 0]), of_by_w2, of_by_b2),
        Parameters(off[:, 1], off[:, 0], of_w2, of_r.sum(keepdims=True)),
        _Reach(forward, np.abs(a1).max(), (np.abs(slope) * both[:, 1:]).max(), size.max() / 2),
    )


def _add_up(values: Float64, terms: Float64, group: int) -> tuple[Float64, Float64]:
    """Return `valuesᵀ terms` of `[n, H]` and `[n, C]`, and how large partial sums become, a `group` of n at a time."""
    if missing := -len(values) % group:
        values, terms = (np.pad(rows, ((0, missing), (0, 0))) for rows in (values, terms))
    values = values.reshape(-1, group, values.shape[1]).swapaxes(1, 2)
    terms = terms.reshape(-1, group, terms.shape[1])
    sums, norms = values @ terms, np.sqrt((values * values) @ (terms * terms))
    return sums.sum(axis=0), (np.abs(sums) / 4 + norms).sum(axis=0)


def verify(found: Parameters, expected: Gradients) -> tuple[float, Failure | None]:
    """Return the largest relative error, and the first parameter that differs by more than the tolerance.

    An error is relative to the largest entry of the parameter's gradient plus, over the tolerance, its own bound.
    """
    worst, failure = 0.0, None
    if not expected.told:
        return worst, failure
    for name, values, reference, rounding in zip(NAMES, found, expected.value, expected.rounding, strict=True):
        with np.errstate(all="ignore"):
            scale = np.abs(reference).max() + rounding / expected.tolerance
            error = np.where(values == reference, 0.0, np.abs(values - reference) / scale)
        error = np.where(np.isnan(error), np.inf, error)
        index = int(np.argmax(error))
        worst = max(worst, float(error.flat[index]))
        if failure is None and error.flat[index] > expected.tolerance:
            failure = Failure(
                f"gradient of {name}",
                None,
                float(values.flat[index]),
                float(reference.flat[index]),
                float(error.flat[index]),
            )
    return worst, failure
