"""The independent reference of the gradients: derived by hand, in NumPy float64. No JAX here.

r = 2 (z2 − y) / N     ∂L/∂b2 = Σ r          ∂L/∂W2 = a1ᵀ r
δ = r W2ᵀ · f′(z1)     ∂L/∂b1 = Σ δ          ∂L/∂W1 = xᵀ δ           (Rumelhart, Hinton and Williams, 1986)

N samples, H hidden
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cubic_cli.config import Activation
from cubic_cli.reference.verify import FLOAT32_MAX, Float64, forward, unpack

_CHUNK_VALUES = 1 << 20
_NEAR = 1e-5  # a z1 this close to zero, relatively, may lie on the other side of the bend in float32
_SMALLEST_SCALE = 2.0**-100  # of an error: devices may take what is below 2⁻¹²⁶ for zero
_GELU_END = 50.0  # beyond ±50 the slope of gelu is 1 or 0 to the last digit, and its formula may be 0 · ∞


def differentiate(kind: Activation, z: Float64) -> Float64:
    """Return f′(z), 0 on the left of a bend and at it."""
    if kind is Activation.relu:
        return (z > 0).astype(float)
    if kind is Activation.leaky_relu:
        return np.where(z > 0, 1.0, 0.01)
    if kind is Activation.tanh:
        return 1.0 - np.tanh(z) ** 2
    if kind is Activation.gelu:
        factor = math.sqrt(2.0 / math.pi)
        inner = np.tanh(factor * (z + 0.044715 * z**3))
        slope = (1.0 + inner) / 2.0 + z / 2.0 * (1.0 - inner**2) * factor * (1.0 + 3 * 0.044715 * z**2)
        return np.where(np.abs(z) > _GELU_END, (z > 0).astype(float), slope)
    return np.ones_like(z)


def compute(
    parameters: dict[str, NDArray[np.float32]], x: NDArray[np.float32], y: NDArray[np.float32], activation: Activation
) -> dict[str, tuple[Float64, Float64]]:
    """Return each parameter's gradient over `x [N]` and `y [N]`, and the scale that its float32 error is relative to.

    The scale is the sum of the magnitudes of what is added up, the largest of the parameter's entries.
    """
    weights = unpack(parameters)
    w1, b1, w2, b2 = weights
    totals = {name: np.zeros(array.shape) for name, array in parameters.items()}
    scales = {name: np.zeros(array.shape) for name, array in parameters.items()}
    rows = max(1, _CHUNK_VALUES // len(w1))
    with np.errstate(all="ignore"):
        for start in range(0, len(x), rows):
            xs, ys = (column[start : start + rows].astype(float)[:, None] for column in (x, y))
            z1, a1, z2 = forward(weights, xs[:, 0], activation)
            r = 2.0 * (z2[:, None] - ys) / len(x)
            rough = 2.0 * (np.abs(a1) @ np.abs(w2)[:, None] + abs(b2) + np.abs(ys)) / len(x)
            near = _NEAR * (np.abs(xs) * np.abs(w1) + np.abs(b1))
            slope = differentiate(activation, z1)
            steepest = np.maximum(np.abs(slope), np.abs(z1) <= near)
            delta, rough_delta = r * w2 * slope, rough * np.abs(w2) * steepest
            for name, terms, sizes in (
                ("output_layer.bias", r.sum(axis=0), rough.sum(axis=0)),
                ("output_layer.weight", a1.T @ r, np.abs(a1).T @ rough),
                ("input_layer.bias", delta.sum(axis=0), rough_delta.sum(axis=0)),
                ("input_layer.weight", xs.T @ delta, np.abs(xs).T @ rough_delta),
            ):
                totals[name] += terms
                scales[name] += sizes
    return {name: (totals[name], scales[name]) for name in totals}


def verify(
    found: dict[str, Float64], expected: dict[str, tuple[Float64, Float64]], tolerance: float
) -> tuple[float, dict[str, Any] | None]:
    """Return the largest relative error, and what differs most if that is beyond the tolerance.

    Where float32 is near its end, nothing can be told, and nothing is compared.
    """
    worst, failure = 0.0, None
    for name, (reference, scale) in expected.items():
        told = scale <= FLOAT32_MAX * 1e-3
        if not told.any():
            continue
        error = np.abs(found[name] - reference) / max(float(scale[told].max()), _SMALLEST_SCALE)
        error = np.where(told, np.where(np.isnan(error), np.inf, error), 0.0)
        index = int(np.argmax(error))
        if failure is None and error.flat[index] > tolerance:
            failure = {
                "quantity": f"gradient of {name}",
                "batch": None,
                "found": float(found[name].flat[index]),
                "expected": float(reference.flat[index]),
                "relative_error": float(error.flat[index]),
            }
        worst = max(worst, float(error.flat[index]))
    return worst, failure
