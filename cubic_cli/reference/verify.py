"""What a run saw, compared with the reference: every figure to its own scale.

    |found − expected| ≤ tolerance · scale + rounding

                    scale                               rounding
    min, max        the largest magnitude of the batch  the largest bound of its values
    mean            the standard deviation              the bound of the values, and u |mean|
    std             the standard deviation              the bound of the values, and u times the largest magnitude
    loss            the loss                            mean(2 |z2 − y| r + r²), r the bound of z2

The bounds are those of `rounding`. An error is told relative to `scale + rounding / tolerance`. Counts must lie in
their interval. And min ≤ mean ≤ max, where the standard deviation of a constant is 0.

    K batches
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cubic_cli.float32 import FLOAT32_MAX, Float64
from cubic_cli.reference.expected import Reference, TensorReference
from cubic_cli.reference.rounding import UNIT

MAX_SAMPLES = 100_000  # verified: every batch up to this many samples, an even spread of batches beyond
_SMALLEST = 2.0**-149  # the smallest float32


def choose_batches(samples: int, batch_size: int) -> NDArray[np.int64]:
    """Return which batches to verify, from 0: all up to `MAX_SAMPLES` samples, an even spread beyond."""
    batches = -(-samples // batch_size)
    wanted = batches if samples <= MAX_SAMPLES else max(1, min(batches, MAX_SAMPLES // batch_size))
    return np.unique(np.linspace(0, batches - 1, wanted).astype(np.int64))


class Statistics(Protocol):
    """What is compared of the statistics of a tensor, each a number; `count` is of finite values."""

    @property
    def count(self) -> Any: ...

    @property
    def nonfinite(self) -> Any: ...

    @property
    def zeros(self) -> Any: ...

    @property
    def min(self) -> Any: ...

    @property
    def max(self) -> Any: ...

    @property
    def mean(self) -> Any: ...

    @property
    def std(self) -> Any: ...


@dataclass(frozen=True)
class Seen:
    """What a run says of the batches that the reference computed.

    `columns` are those of the history, `[K]`; `tensors` the statistics over these batches, of those tensors for which
    they were asked; `loss` that over these very batches, where it is known; `deterministic` whether all epochs agreed.
    """

    columns: Mapping[str, NDArray[Any]]
    tensors: Mapping[str, Statistics]
    loss: float | None = None
    deterministic: bool = True


@dataclass(frozen=True)
class Failure:
    """A figure that differs from the reference; `batch` counts from 1, None where the figure is of all batches."""

    quantity: str
    batch: int | None
    found: float
    expected: float
    relative_error: float


@dataclass(frozen=True)
class Verdict:
    """What came of a verification; `failure` is the first in the order of the data flow, where the error began."""

    batches: int
    max_relative_error: float
    tolerance: float
    deterministic: bool
    failure: Failure | None
    reference: str = "numpy float64"

    @property
    def passed(self) -> bool:
        """Whether all figures are right, and the same in all epochs."""
        return self.failure is None and self.deterministic

    def joined(self, error: float, failure: Failure | None) -> "Verdict":
        """Return the verdict with what came of another comparison, later in the flow."""
        worst = max(self.max_relative_error, error)
        return replace(self, max_relative_error=worst, failure=self.failure or failure)


@dataclass(frozen=True)
class Comparison:
    """One figure of all batches, `[K]`, or one of all of them together, `[1]`; `error` is relative."""

    quantity: str
    found: Float64
    expected: Float64
    error: Float64
    by_batch: bool = True


def verify(reference: Reference, seen: Seen, batches: NDArray[np.int64]) -> Verdict:
    """Return what comes of comparing with the reference what a run saw of `batches`, numbers from 0."""
    worst, failure = 0.0, None
    for comparison in compare(reference, seen):
        index = int(np.argmax(comparison.error))
        error = float(comparison.error[index])
        worst = max(worst, error)
        if failure is None and not error <= reference.tolerance:
            failure = Failure(
                comparison.quantity,
                int(batches[index]) + 1 if comparison.by_batch else None,
                float(comparison.found[index]),
                float(comparison.expected[index]),
                error,
            )
    return Verdict(len(batches), worst, reference.tolerance, seen.deterministic, failure)


def compare(reference: Reference, seen: Seen) -> Iterator[Comparison]:
    """Yield every comparison, in the order of the data flow; the counts of the history after the tensors."""
    allowed = reference.tolerance
    tensors = reference.tensors
    for name, tensor in tensors.items():
        scale = tensor.magnitude + tensor.rounding / allowed
        for end, expected in (("min", tensor.low), ("max", tensor.high)):
            found = np.asarray(seen.columns[f"{name}_{end}"], float)
            error = np.where(tensor.determined, _relative_error(found, expected, scale, allowed), 0.0)
            yield Comparison(f"{name}_{end}", found, expected, error)
        if name in seen.tensors:
            yield from _statistics(name, tensor, seen.tensors[name], reference)
    found = np.asarray(seen.columns["loss"], float)
    surely, possibly = (
        sum(getattr(t, f"{kind}_infinite") for t in tensors.values()) for kind in ("surely", "possibly")
    )
    nonfinite = np.asarray(seen.columns["nonfinite"], float)
    yield _interval("nonfinite", nonfinite, surely, possibly + ~np.isfinite(found))

    determined = np.logical_and.reduce([tensor.determined for tensor in tensors.values()])
    rounding = (reference.loss_rounding + _SMALLEST) / allowed
    error = _relative_error(found, reference.loss, reference.loss + rounding, allowed)
    yield Comparison("loss", found, reference.loss, np.where(determined | np.isfinite(found), error, 0.0))
    if seen.loss is not None and determined.all():
        weights = reference.sizes / reference.sizes.sum()
        with np.errstate(all="ignore"):
            expected, rounding = np.array([np.sum(reference.loss * weights)]), np.array([np.sum(rounding * weights)])
        yield _whole("epoch_loss", seen.loss, expected, expected + rounding, allowed)


def _statistics(name: str, tensor: TensorReference, found: Statistics, reference: Reference) -> Iterator[Comparison]:
    """Compare the statistics of one tensor over all the batches."""
    width = 1 if name == "z2" else reference.hidden_size
    values = int(reference.sizes.sum()) * width
    least, most = int(tensor.surely_infinite.sum()), int(tensor.possibly_infinite.sum())
    yield _count(f"{name}_nonfinite", found.nonfinite, least, most)
    yield _count(f"{name}_count", found.count + found.nonfinite, values, values)
    if not tensor.determined.all():
        return
    yield _count(f"{name}_zeros", found.zeros, *tensor.zeros)
    if not tensor.count:
        return
    allowed = reference.tolerance
    mean, std, magnitude = tensor.mean, tensor.std, float(tensor.magnitude.max())
    # The bound of the values over all batches: of the mean of their errors, and of the spread of these.
    rounding = float(np.sqrt(np.average(np.square(tensor.rounding), weights=reference.sizes)))
    extremes = magnitude + tensor.rounding.max() / allowed
    yield _whole(f"{name}_min", found.min, tensor.low[np.isfinite(tensor.low)].min(), extremes, allowed)
    yield _whole(f"{name}_max", found.max, tensor.high[np.isfinite(tensor.high)].max(), extremes, allowed)
    ordered = found.min <= found.mean <= found.max
    yield _whole(f"{name}_mean", found.mean, mean, std + (rounding + UNIT * abs(mean)) / allowed, allowed, ordered)
    possible = found.std == 0 if found.min == found.max else found.std >= 0
    yield _whole(f"{name}_std", found.std, std, std + (rounding + UNIT * magnitude) / allowed, allowed, possible)


def _whole(quantity: str, found: Any, expected: Any, scale: Any, allowed: float, possible: bool = True) -> Comparison:
    """Compare a figure of all batches together; one that is not `possible` is wrong, however near."""
    one, other = (np.array([value], float).reshape(1) for value in (found, expected))
    error = _relative_error(one, other, np.array([scale]).reshape(1), allowed)
    return Comparison(quantity, one, other, error if possible else np.array([np.inf]), by_batch=False)


def _count(quantity: str, found: Any, low: int, high: int) -> Comparison:
    return _interval(quantity, np.array([found], float), low, high, by_batch=False)


def _interval(quantity: str, found: Float64, low: Any, high: Any, by_batch: bool = True) -> Comparison:
    """Compare counts with the interval they must lie in; the error is the distance from it."""
    nearest = np.clip(found, low, high).astype(float)
    error = np.abs(found - nearest)
    return Comparison(quantity, found, nearest, np.where(np.isnan(error), np.inf, error), by_batch)


def _relative_error(found: Float64, expected: Float64, scale: Float64, allowed: float) -> Float64:
    """Return `|found − expected| / scale`; 0 where both are beyond float32's range, infinity where only one is."""
    with np.errstate(all="ignore"):
        error = np.where(found == expected, 0.0, np.abs(found - expected) / scale)
        beyond = ~(np.abs(expected) <= FLOAT32_MAX * (1 - allowed))
        error = np.where(~np.isfinite(found) & beyond, 0.0, error)
        return np.where(np.isnan(error), np.inf, error)
