"""What was seen of a chunk of samples: one pytree from the devices, and on the host the history's own columns.

K batches, D devices, H hidden; the tensors are z1, a1 and z2, in this order
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cubic_cli.engine.layout import Layout
from cubic_cli.float32 import EXTREMES, TENSORS
from cubic_cli.statistics import Statistics, merge, merge_all

# Moments about a pivot cancel where the spread is small against the distance of the mean from it. The variance has lost
# two bits of a float32 where it is a quarter of the mean square. Squares leave its range at either end.
_MIN_RELATIVE_VARIANCE = 1 / 4
_SQUARES = (2.0**-40, 2.0**50)


class Moments(NamedTuple):
    """Sums over parts of the samples of a device, `[D, 3, parts]`: of the differences from `about`, and their squares.

    `zeros` counts the values that are 0, and `about [D, 3]` is near the mean of each tensor.
    """

    total: Any
    squares: Any
    zeros: Any
    about: Any


class Observed(NamedTuple):
    """What the devices saw of a chunk, by piece (`[blocks, pieces]`) where nothing else is said.

    `loss` is the mean squared error of a piece, times the square of `scale` where there is one, a power of two. `sure`,
    `[D]`, says whether the figures tell all there is: no value was lost for not being finite, no square for being too
    small. `nonfinite` counts the values of z1, a1 and z2 that are not finite; where it is None there are none.

    Of `moments` and `statistics` (`[blocks, 3, pieces]`, their means about `about [blocks, 3]`) one is there where the
    statistics were asked for. `extremes` of the whole tensors (`[D, 2, 3]`) may be beside `moments`.
    """

    loss: Any
    z1_min: Any
    z1_max: Any
    a1_min: Any
    a1_max: Any
    z2_min: Any
    z2_max: Any
    sure: Any
    scale: Any = None
    nonfinite: Any = None
    moments: Moments | None = None
    extremes: Any = None
    statistics: Statistics | None = None
    about: Any = None


@dataclass(frozen=True)
class Chunk:
    """What was seen of K batches that follow each other in one epoch.

    `epoch` counts from 1, `first_batch` from 0. The `columns` are the history's: `size`, `loss`, the six extremes over
    finite values (infinite where there are none), and `nonfinite`, which counts the loss too. `squared_error` is the
    sum over all of them, in float64. `tensors` are the statistics of z1, a1 and z2 over the chunk, None where they
    were not asked for. `seconds` is what the chunk took, from when the devices could begin with it until this was on
    the host, without compiling; an epoch takes the sum of its chunks.
    """

    epoch: int
    first_batch: int
    columns: dict[str, NDArray[Any]]
    squared_error: float
    tensors: dict[str, Statistics] | None
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.columns["size"])


def join(a: Chunk, b: Chunk) -> Chunk:
    """Return two parts of one batch as one chunk."""
    one, other = a.columns, b.columns
    squared_error = a.squared_error + b.squared_error
    size = one["size"] + other["size"]
    loss = _mean(squared_error, size)
    # The loss of the whole may leave the range where those of its parts did not.
    nonfinite = sum(part["nonfinite"] - ~np.isfinite(part["loss"]) for part in (one, other)) + ~np.isfinite(loss)
    ends = {name: _widest(name)(one[name], other[name]) for name in EXTREMES}
    tensors = None
    if a.tensors is not None and b.tensors is not None:
        tensors = {name: merge(a.tensors[name], b.tensors[name]) for name in TENSORS}
    columns = {"size": size, "loss": loss, **ends, "nonfinite": nonfinite}
    return replace(a, columns=columns, squared_error=squared_error, tensors=tensors, seconds=a.seconds + b.seconds)


def collect(
    seen: Observed, layout: Layout, hidden: int, samples: int, epoch: int, first_batch: int, statistics: bool
) -> Chunk | None:
    """Return the figures of a chunk of `samples` by batch, or None if only the plain schedule can tell them.

    Args:
        seen: on the host, NumPy arrays.
        layout: of the samples.
        hidden: H.
        samples: of the chunk.
        epoch: from 1.
        first_batch: from 0.
        statistics: whether those of the tensors are wanted.
    """
    if not np.all(seen.sure):
        return None
    sizes = layout.sizes(samples)

    def by_batch(values: Any, merged: np.ufunc) -> Any:
        of_pieces = values.reshape(-1)[: len(sizes) * layout.pieces_per_batch]
        if layout.pieces_per_batch == 1:
            return of_pieces
        return merged.reduce(of_pieces.reshape(len(sizes), -1), axis=1)

    if seen.scale is None and layout.pieces_per_batch == 1:
        loss = by_batch(seen.loss, np.add)
        squared_error = float(sizes[0] * loss[:-1].sum(dtype=np.float64) + sizes[-1] * np.float64(loss[-1]))
    else:
        scale = 1.0 if seen.scale is None else np.where(seen.scale == 0, 1.0, seen.scale).astype(np.float64)
        of_pieces = seen.loss.astype(np.float64) / np.square(scale) * layout.piece_sizes(samples)
        of_batches = by_batch(of_pieces, np.add)
        loss, squared_error = _mean(of_batches, sizes), float(of_batches.sum())
    ends = {name: by_batch(getattr(seen, name), _widest(name)) for name in EXTREMES}
    nonfinite = layout.nothing()[: len(sizes)]
    if seen.nonfinite is not None:
        nonfinite = by_batch(seen.nonfinite.astype(np.int64), np.add) + ~np.isfinite(loss)
    tensors = None
    if statistics and seen.moments is not None:
        extremes = seen.extremes
        if extremes is None:
            of_all = [_widest(name).reduce(ends[name]) for name in EXTREMES]
            extremes = np.reshape(of_all, (1, 3, 2)).swapaxes(1, 2)
        tensors = _of_moments(seen.moments, extremes, layout, hidden, samples)
        if tensors is None:
            return None
    elif statistics and seen.statistics is not None:
        tensors = _of_pieces(seen.statistics, seen.about)
    columns = {"size": sizes, "loss": loss, **ends, "nonfinite": nonfinite}
    return Chunk(epoch, first_batch, columns, squared_error, tensors)


def _mean(squared_error: NDArray[np.float64] | float, sizes: NDArray[np.int64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore", under="ignore"):
        return (squared_error / sizes).astype(np.float32)


def _widest(name: str) -> np.ufunc:
    return np.minimum if name.endswith("min") else np.maximum


def _of_pieces(seen: Statistics, about: NDArray[np.float32]) -> dict[str, Statistics]:
    """Return the statistics of each tensor from those of all pieces, `[blocks, 3, pieces]`."""
    integer, real = np.int64, np.float64
    kinds = (integer,) * 5 + (real,) * 4
    fields = [np.asarray(field, kind) for field, kind in zip(seen, kinds, strict=True)]
    parts = Statistics(*fields)
    pivots = about.astype(real)[:, :, None]
    parts = parts._replace(mean=np.where(parts.count > 0, np.clip(parts.mean + pivots, parts.min, parts.max), 0.0))
    whole = merge_all(Statistics(*(np.moveaxis(field, 1, 0).reshape(3, -1) for field in parts)))
    return _by_name(whole)


def _of_moments(
    moments: Moments, extremes: NDArray[np.float32], layout: Layout, hidden: int, samples: int
) -> dict[str, Statistics] | None:
    """Return the statistics of finite tensors from their moments, or None where these cancel or have left the range."""
    devices = len(moments.about)
    of_device = layout.piece_sizes(samples).reshape(devices, -1).sum(axis=1)
    count = of_device[:, None] * np.array([hidden, hidden, 1])
    n, nothing = np.maximum(count, 1), np.zeros_like(count)
    low, high = extremes[:, 0].min(axis=0).astype(np.float64), extremes[:, 1].max(axis=0).astype(np.float64)
    about = moments.about.astype(np.float64)
    with np.errstate(invalid="ignore"):  # sums that overflowed, to both sides
        shift = moments.total.sum(axis=2, dtype=np.float64) / n
        square = moments.squares.sum(axis=2, dtype=np.float64) / n
        variance = square - shift * shift
        parts = Statistics(
            count=count,
            nan=nothing,
            posinf=nothing,
            neginf=nothing,
            zeros=moments.zeros.sum(axis=2, dtype=np.int64),
            min=np.broadcast_to(low, count.shape),
            max=np.broadcast_to(high, count.shape),
            mean=np.clip(about + np.where(np.isnan(shift), 0.0, shift), low, high),
            std=np.where(low < high, np.sqrt(np.maximum(variance, 0.0)), 0.0),
        )
        whole = merge_all(Statistics(*(field.T for field in parts)))
        least = _MIN_RELATIVE_VARIANCE * (count * square).sum(axis=0) / whole.count
        largest = np.maximum(abs(low - about), abs(high - about)).max(axis=0)
        told = (np.square(whole.std) >= least) & (largest >= _SQUARES[0]) & (largest <= _SQUARES[1])
    return _by_name(whole) if np.all(told | (low == high)) else None


def _by_name(seen: Statistics) -> dict[str, Statistics]:
    """Return the statistics `[3]` of the tensors by name."""
    return {name: Statistics(*(field[i] for field in seen)) for i, name in enumerate(TENSORS)}
