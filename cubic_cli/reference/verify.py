"""The independent reference: batches again, in NumPy float64, from the formulas alone. No JAX here.

It shares no arithmetic with `network`, `schedule`, `statistics` and `forward`. What it must equal is compared relative
to each quantity's own scale, what its terms come to before they cancel, the largest of its batch:

    z1          |z1| + 2 |b1|, no less than |x W1| + |b1|
    a1          |a1| + 2 |b1|; of gelu as z1, for 1 + tanh cancels
    z2          s = |z2| + ‖a1 W2‖ + 2 ‖b1 W2‖ + |b2|, norms of terms that round to either side; of gelu ‖z1 W2‖
    the loss    loss + s √loss + 10⁻⁵ s², for (e + δ)² = e² + 2 e δ + δ²

Counts have the scale 1. A float32 may overflow where float64 does not: what *must* and what *may* be infinite differ.

    N samples, B batch, K batches, H hidden
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cubic_cli.config import Activation

Float64 = NDArray[np.float64]
FLOAT32_MAX = float(np.finfo(np.float32).max)
SMALLEST = 2.0**-126  # the smallest normal float32; XLA may put zero in the place of what is smaller
_SMALLEST_SCALE = 2.0**-102  # against which `SMALLEST` is the rounding of a float32, 2⁻²⁴
MAX_SAMPLES = 100_000  # verified: every batch up to this many samples, an even spread of batches beyond
TENSORS = ("z1", "a1", "z2")
_CHUNK_VALUES = 1 << 15  # of z1 held at a time: stays in the cache
_GELU_ZERO = 9.0  # below −9 its tanh is −1 in any float32; nearer to zero it may be the number after −1
_ROUNDING = 1e-5  # values this close, relatively, to a threshold may fall on either side of it in float32


def tolerance(hidden_size: int) -> float:
    """Return the largest relative error allowed: the rounding of a float32 sum of H terms, at least 1e-5."""
    return max(1e-5, hidden_size * 2.0**-24)


def choose_batches(samples: int, batch_size: int) -> NDArray[np.int64]:
    """Return which batches to verify, from 0: all up to `MAX_SAMPLES` samples, an even spread beyond."""
    batches = -(-samples // batch_size)
    wanted = batches if samples <= MAX_SAMPLES else max(1, min(batches, MAX_SAMPLES // batch_size))
    return np.unique(np.linspace(0, batches - 1, wanted).astype(np.int64))


def activate(kind: Activation, z: Float64) -> Float64:
    """Return the activation of `z`, in float64, from its textbook formula."""
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


def _never_zero(scale: Any) -> Float64:
    """Return a scale for relative errors: 1 where it is zero or not finite, else no smaller than float32 can tell."""
    return np.where((scale > 0) & (scale < np.inf), np.maximum(scale, _SMALLEST_SCALE), 1.0)


@dataclass
class TensorReference:
    """One tensor in float64: its finite extremes by batch, `[K]`, and the sums over all batches.

    `scale` is what errors are relative to, by batch. `must` and `may` count by batch the values that float32 cannot and
    might not hold; where they differ, the batch's extremes are not to be told. `zeros` is an interval, for what float64
    finds near zero may be zero in float32.
    """

    low: Float64
    high: Float64
    scale: Float64
    must: NDArray[np.int64]
    may: NDArray[np.int64]
    zeros: tuple[int, int] = (0, 0)
    values: int = 0
    total: float = 0.0
    squares: float = 0.0  # about `pivot`, which is near the mean
    pivot: float = 0.0

    def magnitude(self) -> Float64:
        """Return the largest finite magnitude of each batch, 0 where no value is finite."""
        ends = np.fmax(np.abs(self.low), np.abs(self.high))
        return np.where(np.isfinite(ends), ends, 0.0)


@dataclass
class Reference:
    """What the reference saw of some batches: their losses and the scale of these, `[K]`, and the tensors."""

    sizes: NDArray[np.int64]
    loss: Float64
    loss_scale: Float64
    tensors: dict[str, TensorReference]


class Weights(NamedTuple):
    """The parameters in float64: `w1`, `b1` and `w2` `[H]`, and the scalar `b2`."""

    w1: Float64
    b1: Float64
    w2: Float64
    b2: float


def unpack(parameters: Mapping[str, NDArray[Any]]) -> Weights:
    """Return the parameters, as they are named in files, in float64."""
    return Weights(
        parameters["input_layer.weight"][0].astype(float),
        parameters["input_layer.bias"].astype(float),
        parameters["output_layer.weight"][:, 0].astype(float),
        float(parameters["output_layer.bias"][0]),
    )


def forward(weights: Weights, x: Float64, activation: Activation) -> tuple[Float64, Float64, Float64]:
    """Return z1 and a1 `[N, H]` and z2 `[N]` over `x [N]`, in float64."""
    z1 = np.multiply.outer(x, weights.w1)
    z1 += weights.b1
    a1 = activate(activation, z1)
    return z1, a1, np.einsum("nh,h->n", a1, weights.w2) + weights.b2


def compute(
    parameters: dict[str, NDArray[np.float32]],
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    batch_size: int,
    activation: Activation,
) -> Reference:
    """Return the float64 reference over the batches of `x [N]` and `y [N]`."""
    weights = unpack(parameters)
    batches = -(-len(x) // batch_size)
    sizes = np.minimum(batch_size, len(x) - np.arange(batches) * batch_size)
    reference = Reference(
        sizes,
        np.zeros(batches),
        np.zeros(batches),
        {
            name: TensorReference(
                np.full(batches, np.inf),
                np.full(batches, -np.inf),
                np.zeros(batches),
                np.zeros(batches, np.int64),
                np.zeros(batches, np.int64),
            )
            for name in TENSORS
        },
    )
    rows = max(1, _CHUNK_VALUES // len(weights.w1))
    rows = rows - rows % batch_size if rows > batch_size else rows
    with np.errstate(all="ignore"):
        start = 0
        while start < len(x):
            # A chunk is whole batches, or a part of one batch.
            stop = min(start + rows, len(x))
            if rows < batch_size:
                stop = min(stop, (start // batch_size + 1) * batch_size)
            _see(reference, weights, x[start:stop], y[start:stop], start, batch_size, activation)
            start = stop
        reference.loss /= sizes
        _set_scales(reference, weights, activation)
    return reference


def _set_scales(reference: Reference, weights: Weights, activation: Activation) -> None:
    """Set what errors are relative to, by batch; that of z2 is there."""
    z1, a1, z2 = reference.tensors.values()
    cancelled = 2 * _largest(weights.b1)
    z1.scale = _never_zero(z1.magnitude() + cancelled)
    a1.scale = z1.scale if activation is Activation.gelu else _never_zero(a1.magnitude() + cancelled)
    z2.scale = _never_zero(z2.scale)
    reference.loss_scale = _never_zero(reference.loss + z2.scale * (np.sqrt(reference.loss) + _ROUNDING * z2.scale))


def _terms(weights: Weights, values: Float64, z2: Float64) -> Float64:
    """Return the scale of z2 of each sample, `[N]`, from `values [N, H]`; 0 where it is not finite."""
    _, b1, w2, b2 = weights
    lengths = np.sqrt(np.einsum("nh,h->n", values * values, w2 * w2))
    terms = np.abs(z2) + lengths + 2 * np.linalg.norm(b1 * w2) + abs(b2)
    return np.where(np.isfinite(terms), terms, 0.0)


def _see(
    reference: Reference,
    weights: Weights,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    start: int,
    batch_size: int,
    activation: Activation,
) -> None:
    """Add the samples from `start`, whole batches or a part of one, to the reference."""
    xs, ys = x.astype(float), y.astype(float)
    z1, a1, z2 = forward(weights, xs, activation)
    w1, b1, w2, b2 = weights
    edges = np.arange(start - start % batch_size, start + len(x), batch_size) - start
    edges[0] = 0
    batches = slice(start // batch_size, start // batch_size + len(edges))
    reference.loss[batches] += np.add.reduceat((z2 - ys) ** 2, edges)
    terms, scale = _terms(weights, z1 if activation is Activation.gelu else a1, z2), reference.tensors["z2"].scale
    scale[batches] = np.maximum(scale[batches], np.maximum.reduceat(terms, edges))
    largest_z1 = _largest(xs) * _largest(w1) + _largest(b1)
    near = max(SMALLEST, _ROUNDING * largest_z1)
    surely = max(near, _GELU_ZERO) if activation is Activation.gelu else near
    certain = int(np.count_nonzero((a1 == 0) & (np.abs(z1) > surely))) if (a1 == 0).any() else 0
    limit = FLOAT32_MAX * (1 - _ROUNDING)
    overflow_z1 = overflow_a1 = overflow_z2 = None
    if not np.isfinite(z1).all() or largest_z1 > FLOAT32_MAX / 2:
        # The product may overflow before the bias brings it back.
        overflow_z1 = ~(np.abs(z1) <= limit) | ~(np.abs(np.multiply.outer(xs, w1)) <= limit)
        overflow_a1 = _overflows_too(activation, z1, overflow_z1)
    if overflow_z1 is not None or not np.abs(a1).max() * np.abs(w2).max() * len(w2) + abs(b2) <= FLOAT32_MAX / 2:
        overflow_z2 = ~(np.abs(a1) @ np.abs(w2) + abs(b2) <= limit)[:, None]
        if overflow_a1 is not None:
            overflow_z2 |= overflow_a1.any(axis=1, keepdims=True)
    for name, values, surely, may in (
        ("z1", z1, 0, overflow_z1),
        ("a1", a1, certain, overflow_a1),
        ("z2", z2[:, None], 0, overflow_z2),
    ):
        _see_tensor(reference.tensors[name], values, surely, may, near, edges, batches)


def _overflows_too(activation: Activation, z1: Float64, overflow: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Return which of a1 may be infinite where z1 may be, though it is not in float64; ±∞ saturates tanh."""
    if activation is Activation.tanh:
        return None
    return overflow & (z1 > 0) if activation in (Activation.relu, Activation.gelu) else overflow


def _largest(values: Float64) -> float:
    """Return the largest finite magnitude, 0 where there is none."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _see_tensor(
    seen: TensorReference,
    values: Float64,
    surely_zero: int,
    may_overflow: NDArray[np.bool_] | None,
    near: float,
    edges: NDArray[np.int64],
    batches: slice,
) -> None:
    """Add `values [n, width]` of one tensor, batches beginning at the rows `edges`; so has `may_overflow`."""
    flat, starts = values.reshape(-1), edges * values.shape[1]
    low, high = np.minimum.reduceat(flat, starts), np.maximum.reduceat(flat, starts)
    largest = max(-low.min(), high.max())
    if not largest <= FLOAT32_MAX * (1 - _ROUNDING) or may_overflow is not None:
        magnitude = np.abs(values)
        must = ~(magnitude <= FLOAT32_MAX * (1 + _ROUNDING))
        may = ~(magnitude <= FLOAT32_MAX * (1 - _ROUNDING))
        if may_overflow is not None:
            may |= may_overflow
        seen.must[batches] += np.add.reduceat(must.sum(axis=1), edges)
        seen.may[batches] += np.add.reduceat(may.sum(axis=1), edges)
        low = np.minimum.reduceat(np.where(may, np.inf, values).reshape(-1), starts)
        high = np.maximum.reduceat(np.where(may, -np.inf, values).reshape(-1), starts)
        flat = values[~may]
        largest = float(np.abs(flat).max(initial=0.0))
    seen.low[batches] = np.minimum(seen.low[batches], low)
    seen.high[batches] = np.maximum(seen.high[batches], high)
    if not flat.size:
        return
    if not seen.values:
        seen.pivot = float(flat.mean())
    deviation = flat - seen.pivot
    seen.total += float(deviation.sum())
    seen.squares += float(np.einsum("i,i->", deviation, deviation))
    threshold = max(near, _ROUNDING * largest)
    possibly = int(np.count_nonzero(np.abs(flat) <= threshold)) if (low.min() <= threshold) else 0
    seen.zeros = (seen.zeros[0] + surely_zero, seen.zeros[1] + possibly)
    seen.values += flat.size


@dataclass(frozen=True)
class Seen:
    """What a run says of the batches that the reference computed, by the names of the history and of the record.

    `history` has `loss`, `nonfinite` and the extremes, `[K]`; `tensors` has the statistics of each tensor over these
    batches, as the record writes them, where they were asked for; `epoch_losses` and `digests` have one entry an epoch.
    """

    history: dict[str, NDArray[Any]]
    tensors: dict[str, dict[str, Any]]
    epoch_losses: list[float]
    digests: list[int]
    loss: float | None = None  # over these very batches


@dataclass(frozen=True)
class _Comparison:
    quantity: str
    found: Float64
    expected: Float64
    error: Float64
    by_batch: bool = True


def verify(reference: Reference, seen: Seen, batches: NDArray[np.int64], hidden_size: int) -> dict[str, Any]:
    """Compare what a run saw of `batches` with the reference, and the epochs with each other.

    Returns the record's `verification`; where it failed, `failure` names the quantity that differs most, where and by
    how much.
    """
    allowed = tolerance(hidden_size)
    deterministic = len({np.float32(loss).tobytes() for loss in seen.epoch_losses}) == 1 and len(set(seen.digests)) <= 1
    worst, failure = 0.0, None
    for comparison in _comparisons(reference, seen):
        index = int(np.argmax(comparison.error))
        error = float(comparison.error[index])
        worst = max(worst, error)
        # The first in the order of the data flow is where it began.
        if not error <= allowed and failure is None:
            failure = {
                "quantity": comparison.quantity,
                "batch": int(batches[index]) + 1 if comparison.by_batch else None,
                "found": float(comparison.found[index]),
                "expected": float(comparison.expected[index]),
                "relative_error": error,
            }
    result = {
        "reference": "numpy float64",
        "batches": len(batches),
        "max_relative_error": worst,
        "tolerance": allowed,
        "deterministic": deterministic,
        "passed": failure is None and deterministic,
    }
    if failure is not None:
        result["failure"] = failure
    return result


def _comparisons(reference: Reference, seen: Seen) -> list[_Comparison]:
    """Return every comparison, in the order of the data flow."""
    compared = []
    told = np.ones(len(reference.sizes), bool)
    for name, tensor in reference.tensors.items():
        clear = tensor.must == tensor.may
        for end, expected in (("min", tensor.low), ("max", tensor.high)):
            found = np.asarray(seen.history[f"{name}_{end}"], float)
            error = np.where(clear, _relative_error(found, expected, tensor.scale), 0.0)
            compared.append(_Comparison(f"{name}_{end}", found, expected, error))
        told &= clear
        if name in seen.tensors:
            compared += _statistics(name, tensor, seen.tensors[name], bool(clear.all()))
    must, may = (sum(getattr(t, kind) for t in reference.tensors.values()) for kind in ("must", "may"))
    found = np.asarray(seen.history["nonfinite"], float)
    infinite_loss = ~np.isfinite(np.asarray(seen.history["loss"], float))
    compared.append(_interval("nonfinite", found, must, may + infinite_loss))

    found = np.asarray(seen.history["loss"], float)
    error = _relative_error(found, reference.loss, reference.loss_scale)
    compared.append(_Comparison("loss", found, reference.loss, np.where(told | np.isfinite(found), error, 0.0)))
    if seen.loss is not None and told.all():
        with np.errstate(all="ignore"):
            weights = reference.sizes / reference.sizes.sum()
            expected, scale = (np.array([np.sum(v * weights)]) for v in (reference.loss, reference.loss_scale))
        found = np.array([seen.loss], float)
        error = _relative_error(found, expected, scale)
        compared.append(_Comparison("epoch_loss", found, expected, error, by_batch=False))
    return compared


def _statistics(name: str, tensor: TensorReference, found: dict[str, Any], clear: bool) -> list[_Comparison]:
    """Compare the statistics of one tensor over all the batches."""

    def one(value: Any) -> Float64:
        return np.array([np.nan if value is None else value], float)

    bounds = [int(kind.sum()) for kind in (tensor.must, tensor.may)]
    compared = [_interval(f"{name}_nonfinite", one(found["nonfinite"]), one(bounds[0]), one(bounds[1]), False)]
    kinds = found["nan"] + found["posinf"] + found["neginf"]
    compared.append(_interval(f"{name}_kinds", one(kinds), one(found["nonfinite"]), one(found["nonfinite"]), False))
    if not clear or not tensor.values:
        return compared
    mean = tensor.pivot + tensor.total / tensor.values
    variance = tensor.squares / tensor.values - (tensor.total / tensor.values) ** 2
    scale = np.array([tensor.scale.max()])
    for quantity, expected in (
        ("min", tensor.low[np.isfinite(tensor.low)].min()),
        ("max", tensor.high[np.isfinite(tensor.high)].max()),
        ("mean", mean),
        ("std", math.sqrt(max(variance, 0.0))),
    ):
        error = _relative_error(one(found[quantity]), one(expected), scale)
        compared.append(_Comparison(f"{name}_{quantity}", one(found[quantity]), one(expected), error, by_batch=False))
    zeros = one(round(found["zeros"] * (tensor.values + bounds[0])))
    compared.append(_interval(f"{name}_zeros", zeros, one(tensor.zeros[0]), one(tensor.zeros[1]), False))
    return compared


def _interval(quantity: str, found: Float64, low: Any, high: Any, by_batch: bool = True) -> _Comparison:
    """Compare counts with the interval they must lie in; the error is the distance from it."""
    nearest = np.clip(found, low, high)
    error = np.abs(found - nearest)
    return _Comparison(quantity, found, nearest, np.where(np.isnan(error), np.inf, error), by_batch)


def _relative_error(found: Float64, expected: Float64, scale: Float64) -> Float64:
    """Return `|found − expected| / scale`; 0 where both are beyond float32's range, infinity where only one is."""
    with np.errstate(all="ignore"):
        error = np.abs(found - expected) / scale
        beyond = ~(np.abs(expected) <= FLOAT32_MAX * (1 - _ROUNDING))
        error = np.where(~np.isfinite(found) & beyond, 0.0, error)
        return np.where(np.isnan(error), np.inf, error)
