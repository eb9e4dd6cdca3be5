"""What follows from the data's formula and the parameters alone, for parameters of ones: an oracle without samples.

With x ~ U[-100, 100) and all weights and biases one, z1 = x + 1, z2 = H f(x + 1) + 1, and with y = cubic(x) + ε,
ε ~ N(0, σ²), the error is g(x) − ε where g = z2 − cubic:

    E[(g − ε)²] = E[g²] + σ²                          the loss
    E[(g − ε)⁴] = E[g⁴] + 6 σ² E[g²] + 3 σ⁴           which gives the spread of the loss over samples

The expectations over x are Gauss-Legendre quadratures, in float64.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cubic_cli.config import Activation, Initializer
from cubic_cli.data.problem import X_LIMIT, Float64, cubic
from cubic_cli.reference.network import activate

# Panels end where an activation bends: at z1 = 0, which is x = -1, and are short where it turns smoothly.
_EDGES = (-X_LIMIT, -31.0, *range(-11, 10), 29.0, X_LIMIT)
_NODES = 24


class Expected(NamedTuple):
    """The mean of a quantity of one sample, and its standard deviation: over N samples, s.e. = deviation / √N."""

    mean: float
    deviation: float


def average(function: Callable[[Float64], Float64]) -> float:
    """Return the mean of `function` over x ~ U[-100, 100)."""
    nodes, weights = _quadrature()
    return float(weights @ function(nodes))


@functools.cache
def _quadrature() -> tuple[Float64, Float64]:
    """Return the nodes of all panels, and their weights, which add up to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    low, half = np.array(_EDGES[:-1], float)[:, None], np.diff(_EDGES)[:, None] / 2
    return (low + half * (nodes + 1)).ravel(), (half * weights).ravel() / (2 * X_LIMIT)


def tensor(name: str, activation: Activation, hidden_size: int) -> Callable[[Float64], Float64]:
    """Return one of z1, a1 and z2 of the network of ones as a function of x; all hidden units are alike."""
    functions: dict[str, Callable[[Float64], Float64]] = {
        "z1": lambda x: x + 1.0,
        "a1": lambda x: activate(activation, x + 1.0),
        "z2": lambda x: hidden_size * activate(activation, x + 1.0) + 1.0,
    }
    return functions[name]


def values(name: str, activation: Activation, hidden_size: int) -> Expected:
    """Return the mean and the standard deviation of one tensor of the network of ones."""
    function = tensor(name, activation, hidden_size)
    mean = average(function)
    return Expected(mean, math.sqrt(average(lambda x: (function(x) - mean) ** 2)))


def loss(activation: Activation, hidden_size: int, noise_std: float) -> Expected:
    """Return the expected loss of the network of ones, and the standard deviation of one sample's squared error."""
    predict = tensor("z2", activation, hidden_size)
    variance = noise_std**2
    second = average(lambda x: (predict(x) - cubic(x)) ** 2)
    fourth = average(lambda x: (predict(x) - cubic(x)) ** 4)
    mean = second + variance
    return Expected(mean, math.sqrt(fourth + 6 * variance * second + 3 * variance**2 - mean**2))


def weights(initializer: Initializer, fan_in: int, fan_out: int) -> tuple[Expected, float]:
    """Return the mean and the deviation of the *squared* weights of an initialiser, and the largest magnitude.

    Glorot and Bengio (2010): variance 2 / (fan_in + fan_out); He et al. (2015): 2 / fan_in. The normals are truncated
    at two standard deviations and widened to the variance that is asked for.
    """
    if initializer in (Initializer.ones, Initializer.zeros):
        value = float(initializer is Initializer.ones)
        return Expected(value, 0.0), value
    variance = 2.0 / (fan_in + fan_out if initializer.value.startswith("glorot") else fan_in)
    if initializer.value.endswith("uniform"):
        limit = math.sqrt(3.0 * variance)
        return Expected(variance, math.sqrt(limit**4 / 5.0 - variance**2)), limit
    # Moments of the standard normal within ±2: E[t²] = 1 − 2·2 φ(2) / P, E[t⁴] = 3 E[t²] − 2·8 φ(2) / P.
    inside = math.erf(math.sqrt(2.0))
    density = math.exp(-2.0) / math.sqrt(2.0 * math.pi)
    second = 1.0 - 4.0 * density / inside
    fourth = 3.0 * second - 16.0 * density / inside
    widened = variance / second
    return Expected(variance, math.sqrt(fourth * widened**2 - variance**2)), 2.0 * math.sqrt(widened)


def distribution(initializer: Initializer, fan_in: int, fan_out: int, values: Float64) -> Float64:
    """Return the share of the weights that an initialiser draws below each of `values`."""
    largest = weights(initializer, fan_in, fan_out)[1]
    scaled = np.clip(values / largest, -1.0, 1.0)
    if initializer.value.endswith("uniform"):
        return (scaled + 1.0) / 2.0
    inside = math.erf(math.sqrt(2.0))  # the normal within two standard deviations, where `largest` stands
    return (np.array([math.erf(value * math.sqrt(2.0)) for value in scaled]) / inside + 1.0) / 2.0
