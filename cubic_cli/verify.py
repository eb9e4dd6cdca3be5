"""The independent reference: every batch again, in NumPy float64, from the formulas alone. No JAX here.

It shares no arithmetic with `network`, `statistics` and `forward`. What it must equal is compared relative to each
quantity's own scale: its largest magnitude in the batch, and for the loss the mean of `(|z2| + |y|)²`.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cubic_cli.config import Activation

Float64 = NDArray[np.float64]
FLOAT32_MAX = float(np.finfo(np.float32).max)
MAX_SAMPLES = 100_000  # verified: all up to this many, an even spread of batches beyond
TENSORS = ("z1", "a1", "z2")
_CHUNK_VALUES = 1 << 18  # of z1 held at a time


@dataclass(frozen=True)
class Reference:
    """What the reference saw of each batch it computed, `[K']`, by tensor; the extremes are over finite values."""

    batches: NDArray[np.int64]
    loss: Float64
    loss_scale: Float64
    low: dict[str, Float64]
    high: dict[str, Float64]
    scale: dict[str, Float64]
    total: dict[str, Float64]
    squares: dict[str, Float64]
    zeros: dict[str, Float64]
    count: dict[str, Float64]


def activate(kind: Activation, z: Float64) -> Float64:
    """Return the activation of `z`, in float64, from its textbook formula."""
    with np.errstate(all="ignore"):
        if kind is Activation.relu:
            return np.maximum(z, 0.0)
        if kind is Activation.leaky_relu:
            return np.where(z < 0, z / 100.0, z)
        if kind is Activation.gelu:
            inner = math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3)
            return z / 2.0 * (1.0 + np.tanh(inner))
        if kind is Activation.tanh:
            return np.tanh(z)
    return z


def compute(
    parameters: dict[str, NDArray[np.float32]],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    batch_size: int,
    activation: Activation,
) -> Reference:
    """Return the float64 reference over the batches of `x [N]` and `y [N]`, or an even spread of them."""
    batches = -(-len(x) // batch_size)
    wanted = batches if len(x) <= MAX_SAMPLES else max(1, min(batches, MAX_SAMPLES // batch_size))
    chosen = np.unique(np.linspace(0, batches - 1, wanted).astype(np.int64))
    w1, b1 = parameters["input_layer.weight"][0].astype(float), parameters["input_layer.bias"].astype(float)
    w2, b2 = parameters["output_layer.weight"][:, 0].astype(float), float(parameters["output_layer.bias"][0])
    rows: list[list[float]] = []
    step = max(1, _CHUNK_VALUES // len(w1))
    with np.errstate(all="ignore"):
        for k in chosen:
            rows.append(_batch(w1, b1, w2, b2, x, y, int(k) * batch_size, batch_size, step, activation))
    table = np.array(rows)
    columns = iter(table.T)
    loss, loss_scale = next(columns), next(columns)
    figures: dict[str, dict[str, Float64]] = {name: {} for name in _FIGURES}
    for tensor in TENSORS:
        for name in _FIGURES:
            figures[name][tensor] = next(columns)
    return Reference(chosen, loss, loss_scale, **figures)


_FIGURES = ("low", "high", "scale", "total", "squares", "zeros", "count")


def _batch(
    w1: Float64,
    b1: Float64,
    w2: Float64,
    b2: float,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    start: int,
    size: int,
    step: int,
    activation: Activation,
) -> list[float]:
    """Return one batch's loss, its scale, and the figures of each tensor."""
    stop = min(start + size, len(x))
    squared_error = squared_scale = 0.0
    seen = {tensor: [math.inf, -math.inf, 0.0, 0.0, 0.0, 0.0, 0.0] for tensor in TENSORS}
    for at in range(start, stop, step):
        xs, ys = x[at : min(at + step, stop)].astype(float), y[at : min(at + step, stop)].astype(float)
        z1 = np.outer(xs, w1) + b1
        a1 = activate(activation, z1)
        z2 = np.einsum("nh,h->n", a1, w2) + b2
        squared_error += float(((z2 - ys) ** 2).sum())
        squared_scale += float(((np.abs(z2) + np.abs(ys)) ** 2).sum())
        for tensor, values in zip(TENSORS, (z1, a1, z2), strict=True):
            _accumulate(seen[tensor], values)
    n = stop - start
    return [squared_error / n, squared_scale / n, *(figure for tensor in TENSORS for figure in seen[tensor])]


def _accumulate(seen: list[float], values: Float64) -> None:
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)) or max(-low, high) > FLOAT32_MAX:
        values = values[np.abs(values) <= FLOAT32_MAX]
        if values.size == 0:
            return
        low, high = float(values.min()), float(values.max())
    flat = values.reshape(-1)
    seen[0], seen[1] = min(seen[0], low), max(seen[1], high)
    seen[2] = max(-seen[0], seen[1], 0.0)
    seen[3] += float(flat.sum())
    seen[4] += float(flat @ flat)
    seen[5] += flat.size - np.count_nonzero(flat)
    seen[6] += flat.size


def verify(
    reference: Reference,
    history: dict[str, NDArray[Any]],
    epoch_losses: list[float],
    hidden_size: int,
) -> dict[str, Any]:
    """Compare the first epoch's history, `[K]` by column, with the reference, and the epochs with each other.

    Returns the record's `verification`; a failure names the quantity, the batch and by how much it differs.
    """
    tolerance = max(1e-5, hidden_size * 2.0**-24)
    deterministic = len({np.float32(loss).tobytes() for loss in epoch_losses}) == 1
    worst, failure = 0.0, None
    compared = [("loss", reference.loss, reference.loss_scale)]
    for tensor in TENSORS:
        compared += [
            (f"{tensor}_min", reference.low[tensor], reference.scale[tensor]),
            (f"{tensor}_max", reference.high[tensor], reference.scale[tensor]),
        ]
    for name, expected, scale in compared:
        found = np.asarray(history[name], np.float64)[reference.batches]
        error = _relative_error(found, expected, scale)
        index = int(np.argmax(error))
        if error[index] > worst:
            worst = float(error[index])
        if not error[index] <= tolerance and failure is None:
            failure = {
                "quantity": name,
                "batch": int(reference.batches[index]) + 1,
                "found": float(found[index]),
                "expected": float(expected[index]),
                "relative_error": float(error[index]),
            }
    result = {
        "reference": "numpy float64",
        "batches": len(reference.batches),
        "max_relative_error": worst,
        "tolerance": tolerance,
        "deterministic": deterministic,
        "passed": failure is None and deterministic,
    }
    if failure is not None:
        result["failure"] = failure
    return result


def _relative_error(found: Float64, expected: Float64, scale: Float64) -> Float64:
    """Return `|found − expected| / scale`; 0 where both are beyond float32's range, infinity where only one is."""
    with np.errstate(all="ignore"):
        error = np.abs(found - expected) / np.where(scale > 0, scale, 1.0)
        beyond = ~(np.abs(expected) <= FLOAT32_MAX * (1 - 1e-6))
        error = np.where(~np.isfinite(found) & beyond, 0.0, error)
        return np.where(np.isnan(error), np.inf, error)
