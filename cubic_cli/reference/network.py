"""The network once more, from the textbook's formulas in NumPy: in float64, and in float32 where values of the device
are wanted on the host.

    N samples, H hidden
"""

import math
from typing import Any

import numpy as np

from cubic_cli.config import Activation
from cubic_cli.float32 import Float32, Float64
from cubic_cli.parameters import Parameters

_GELU_END = 50.0  # beyond ±50 the slope of gelu is 1 or 0 to the last digit, and its formula may be 0 · ∞


def activate(kind: Activation, z: Float64) -> Float64:
    """Return `f(z)`, in float64."""
    with np.errstate(all="ignore"):
        if kind is Activation.relu:
            return np.maximum(z, 0.0)
        if kind is Activation.leaky_relu:
            return np.where(z < 0, z / 100.0, z)
        if kind is Activation.gelu:
            inner = math.sqrt(2.0 / math.pi) * (z + 0.044715 * (z * z * z))
            return np.where(z == -np.inf, 0.0, z / 2.0 * (1.0 + np.tanh(inner)))  # the limit, for −∞ · 0
        if kind is Activation.tanh:
            return np.tanh(z)
    return z


def differentiate(kind: Activation, z: Float64) -> Float64:
    """Return `f′(z)`, in float64; 0 on the left of a bend and at it."""
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


def in_float64(parameters: Parameters) -> Parameters:
    """Return the parameters as float64 arrays of NumPy."""
    return Parameters(*(np.asarray(array).astype(np.float64) for array in parameters))


def forward(parameters: Parameters, x: Any, activation: Activation) -> tuple[Float64, Float64, Float64]:
    """Return z1 and a1 `[N, H]` and z2 `[N]` over `x [N]`, in float64."""
    w1, b1, w2, b2 = in_float64(parameters)
    z1 = np.multiply.outer(np.asarray(x, np.float64), w1[0])
    z1 += b1
    a1 = activate(activation, z1)
    return z1, a1, np.einsum("nh,h->n", a1, w2[:, 0]) + b2


def forward32(parameters: Parameters, x: Float32, activation: Activation) -> tuple[Float32, Float32, Float32]:
    """Return z1 and a1 `[N, H]` and z2 `[N]` over `x [N]`, rounded to float32 one after the other, as a device does.

    The last digits may differ from a device's, which may fuse product and sum, and add up z2 in another order.
    """
    w1, b1, w2, b2 = (np.asarray(array) for array in parameters)
    with np.errstate(all="ignore"):
        z1 = np.multiply.outer(x, w1[0]) + b1
        a1 = activate(activation, z1.astype(np.float64)).astype(np.float32)
        return z1, a1, a1 @ w2[:, 0] + b2
