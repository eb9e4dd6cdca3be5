"""The samples of a run: read once, described, and kept where every epoch can read them again."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cubic_cli.data.scaling import Scale
from cubic_cli.float32 import Float32, Float64
from cubic_cli.statistics import EMPTY, Statistics, merge, summarise

RESIDENT = 1 << 24  # samples kept in memory; more are kept in a file of raw float32
_PIECE = 1 << 15  # samples described at a time: their float64 stay in the cache


Source: TypeAlias = "Arrays | RawFile | Scaled"  # samples that can be read again and again


class Arrays:
    """Samples in memory, `x [N]` and `y [N]`."""

    def __init__(self, x: Float32, y: Float32) -> None:
        self.x, self.y, self.count = x, y, len(x)

    def read(self, start: int, stop: int) -> tuple[Float32, Float32]:
        """Return the samples from `start` up to `stop`, as views."""
        return self.x[start:stop], self.y[start:stop]

    def take(self, indices: NDArray[np.int64]) -> tuple[Float32, Float32]:
        """Return the samples at `indices`."""
        return self.x[indices], self.y[indices]


class RawFile:
    """Samples in a file of little-endian float32, x and y in turn."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0

    def append(self, x: Float32, y: Float32) -> None:
        """Add samples to the end of the file."""
        with self.path.open("ab") as stream:
            stream.write(in_turn(x, y).data)
        self.count += len(x)

    def read(self, start: int, stop: int) -> tuple[Float32, Float32]:
        """Return the samples from `start` up to `stop`. Reads rather than maps: a map's pages would count as memory."""
        pairs = np.fromfile(self.path, "<f4", 2 * (stop - start), offset=8 * start).reshape(-1, 2)
        x, y = np.ascontiguousarray(pairs.T, np.float32)
        return x, y

    def take(self, indices: NDArray[np.int64]) -> tuple[Float32, Float32]:
        """Return the samples at `indices`."""
        parts = [self.read(index, index + 1) for index in indices.tolist()]
        return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


@dataclass(frozen=True)
class Scaled:
    """Samples of another source, rescaled as they are read."""

    source: Source
    x: Scale
    y: Scale

    @property
    def count(self) -> int:
        """N, the number of samples."""
        return self.source.count

    def read(self, start: int, stop: int) -> tuple[Float32, Float32]:
        """Return the scaled samples from `start` up to `stop`."""
        x, y = self.source.read(start, stop)
        return self.x.apply(x), self.y.apply(y)

    def take(self, indices: NDArray[np.int64]) -> tuple[Float32, Float32]:
        """Return the scaled samples at `indices`."""
        x, y = self.source.take(indices)
        return self.x.apply(x), self.y.apply(y)


def in_turn(x: Float32, y: Float32) -> NDArray[np.float32]:
    """Return the samples as they are hashed and kept, `[n, 2]`: x and y in turn, as little-endian float32."""
    return np.stack([x, y], axis=1).astype("<f4", copy=False)


SPREAD = 4096  # samples that stand for all where looking at each would cost too much


def spread(source: Source) -> tuple[Float32, Float32]:
    """Return at most `SPREAD` samples, evenly spread."""
    return source.take(spread_indices(source.count))


def spread_indices(count: int, most: int = SPREAD) -> NDArray[np.int64]:
    """Return at most `most` indices below `count`, evenly spread, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


@dataclass(frozen=True)
class Ingested:
    """The samples used, and what the record says of them."""

    source: Source
    x: Statistics
    y: Statistics
    sha256: str
    noise_floor: float  # the mean squared error of the true cubic, in the data's units squared; NaN where it has none


def ingest(
    chunks: Iterator[tuple[Float32, Float32]],
    spill: Path,
    progress: Callable[[int], None] = lambda rows: None,
    resident: int = RESIDENT,
    piece: int = _PIECE,
) -> Ingested:
    """Read all `chunks` once: describe them, and keep them in memory or, beyond `resident` samples, in `spill`.

    `progress` is called with how many rows more were read; `piece` samples are described at a time.
    """
    kept: list[tuple[Float32, Float32]] = []
    raw: RawFile | None = None
    x_seen, y_seen, noise, count, digest = EMPTY, EMPTY, 0.0, 0, hashlib.sha256()
    for x, y in chunks:
        digest.update(in_turn(x, y).data)
        for start in range(0, len(x), piece):
            x_piece, y_piece = x[start : start + piece], y[start : start + piece]
            x_seen, y_seen = merge(x_seen, summarise(x_piece)), merge(y_seen, summarise(y_piece))
            noise += _squared_error_of_the_cubic(x_piece.astype(np.float64), y_piece)
        count += len(x)
        progress(len(x))
        kept.append((x, y))
        if raw is None and count > resident:
            raw = RawFile(spill)
        if raw is not None:
            for chunk in kept:
                raw.append(*chunk)
            kept.clear()
    source = raw or Arrays(*(np.concatenate(column) for column in zip(*kept, strict=True)))
    return Ingested(source, x_seen, y_seen, digest.hexdigest(), noise / max(count, 1))


def _squared_error_of_the_cubic(x: Float64, y: Float32) -> float:
    with np.errstate(all="ignore"):
        error = y - ((0.01 * x * x - 0.5) * x + 20.0)  # `cubic`, without its slow power
        return float(np.square(error).sum())  # no product of BLAS, whose threads wait for each other on busy cores
