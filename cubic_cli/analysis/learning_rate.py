"""What the gradients say: how large they are, and how large a step down them may be.

L(θ) = mean((z2 − y)²) over the samples, θ = (W1, b1, W2, b2);  a step of plain gradient descent is θ − η ∂L/∂θ

N samples, H hidden
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cubic_cli.config import Activation
from cubic_cli.data.source import Arrays, Source, spread_indices
from cubic_cli.float32 import Float64
from cubic_cli.parameters import NAMES, Parameters
from cubic_cli.reference.network import forward, in_float64
from cubic_cli.runs.record import Gradient, Gradients

LEARNING_RATE = 0.01  # of the steps that are measured: what textbooks begin with
_CHUNK_VALUES = 1 << 16  # of z1 held at a time
_SEARCH_VALUES = 1 << 19  # of z1, of the samples among which the search begins
_ALL_VALUES = 1 << 26  # up to so many it ends among all samples, beyond among so many of an even spread
_MIN_SAMPLES = 256
_PRECISION = 1e-7  # relative: five digits are shown


def describe(gradients: Parameters, parameters: Parameters, source: Source, activation: Activation) -> Gradients:
    """Return the record's `gradients`.

    `norm` is Euclidean. `step_ratio` is the length of a step at `learning_rate` over that of the parameter it moves,
    null for a parameter of zeros. `largest_learning_rate` is explained at the function of that name.
    """
    rows = []
    for name, gradient, parameter in zip(NAMES, gradients, parameters, strict=True):
        norm, length = _norm(gradient), _norm(np.asarray(parameter, np.float64))
        rows.append(
            Gradient(
                name=name,
                shape=gradient.shape,
                norm=norm,
                min=float(gradient.min()),
                max=float(gradient.max()),
                step_ratio=LEARNING_RATE * norm / length if length > 0 else None,
            )
        )
    largest = largest_learning_rate(parameters, gradients, source, activation)
    return Gradients(parameters=tuple(rows), learning_rate=LEARNING_RATE, largest_learning_rate=largest)


def _norm(values: NDArray[Any]) -> float:
    largest = float(np.abs(values).max())
    if not 0.0 < largest < math.inf:
        return largest
    return largest * float(np.linalg.norm((values / largest).ravel()))  # squares may leave the range


def largest_learning_rate(
    parameters: Parameters,
    gradients: Parameters,
    source: Source,
    activation: Activation,
    search_values: int = _SEARCH_VALUES,
) -> float | None:
    """Return the largest η up to which no step `θ − η ∂L/∂θ` raises the loss over the samples, in float64.

    It is looked for upward from small steps, by doublings, among an even spread of samples, of about `search_values` of
    z1, and then to five digits and more among all of them. So it is the first η beyond which the loss rises, though it
    may fall again later. Infinite where no step raises the loss; None where there is no way down: the gradient is zero
    or all rounding, or the loss is not finite.
    """
    slope = sum(float(np.square(gradient).sum()) for gradient in gradients)
    if not 0 < slope < math.inf:
        return None
    hidden = parameters.hidden_size
    some = _spread(source, max(_MIN_SAMPLES, search_values // hidden))
    every = _spread(source, max(_MIN_SAMPLES, _ALL_VALUES // hidden))
    loss, change = _measure(parameters, gradients, some, activation)
    if not 0 < loss < math.inf:
        return None
    # On the straight line down, the loss would be gone at loss / slope; a loss that curves rises long before, and near
    # its bottom so long before that the search begins lower.
    gone = loss / slope
    low = next((rate for power in (-30, -60, -90) if change(rate := gone * 2.0**power) <= 0), None)
    if low is None:
        return None
    while change(high := 2 * low) <= 0:
        low = high
        if high > gone * 2.0**60:
            return math.inf
    if every.count == some.count:
        return _cross(change, low, high)
    near = _cross(change, low, high)
    _, change = _measure(parameters, gradients, every, activation)
    # All samples together rise elsewhere than some of them, but not far from there.
    low, high = near, near
    for width in (2.0**power for power in range(-6, 4)):
        low, high = near / (1 + width), near * (1 + width)
        if change(low) <= 0 < change(high):
            return _cross(change, low, high)
    return near


def _spread(source: Source, most: int) -> Source:
    return source if source.count <= most else Arrays(*source.take(spread_indices(source.count, most)))


def _measure(
    parameters: Parameters, gradients: Parameters, source: Source, activation: Activation
) -> tuple[float, Callable[[float], float]]:
    """Return the loss, and the function of η that says by how much a step changes it, over η; NaN counts as a rise."""
    wide = in_float64(parameters)
    rows = max(1, _CHUNK_VALUES // parameters.hidden_size)

    def total(of_samples: Callable[[Float64, Float64], Float64]) -> float:
        parts = []
        for start in range(0, source.count, rows):
            x, y = source.read(start, min(start + rows, source.count))
            with np.errstate(all="ignore"):
                parts.append(float(of_samples(x.astype(np.float64), y.astype(np.float64)).sum()))
        return math.fsum(parts) / source.count if all(map(math.isfinite, parts)) else math.inf

    def answer(rate: float, x: Float64) -> Float64:
        moved = Parameters(*(value - rate * gradient for value, gradient in zip(wide, gradients, strict=True)))
        return forward(moved, x, activation)[2]

    def change(rate: float) -> float:
        def of_samples(x: Float64, y: Float64) -> Float64:
            # (e + d)² − e² = d (d + 2e): near the bottom the two losses agree in all their digits.
            before = answer(0.0, x)
            moved = answer(rate, x) - before
            return moved * (moved + 2.0 * (before - y))

        return total(of_samples) / rate

    return total(lambda x, y: np.square(answer(0.0, x) - y)), change


def _cross(change: Callable[[float], float], low: float, high: float) -> float:
    """Return where `change` rises from below zero at `low` to above it at `high`: by secants, kept apart by bisection.

    The Illinois method (Dowell and Jarratt, "A modified regula falsi method", 1971).
    """
    at_low, at_high = change(low), change(high)
    side = 0
    for _ in range(200):
        if high - low <= _PRECISION * high:
            break
        share = at_low / (at_low - at_high)
        middle = low + (high - low) * (share if 0 < share < 1 else 0.5)
        # Near an end it is moved a little towards the other, so that both ends come near.
        middle = min(max(middle, low + 0.4 * _PRECISION * high), high - 0.4 * _PRECISION * high)
        found = change(middle)
        if found <= 0:
            low, at_low = middle, found
            at_high *= 0.5 if side == -1 else 1.0
            side = -1
        else:
            high, at_high = middle, found
            at_low *= 0.5 if side == 1 else 1.0
            side = 1
    return low
