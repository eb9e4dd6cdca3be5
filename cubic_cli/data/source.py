"""The samples of a run: read once, described, and kept where every epoch can read them again. No JAX here."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cubic_cli.data.problem import cubic
from cubic_cli.data.scaling import Scale
from cubic_cli.float32 import Float32, shortest

RESIDENT = 1 << 24  # samples kept in memory; more are kept in a file of raw float32


class Source(Protocol):
    """Samples that can be read again and again: how many there are, and any run of them as `(x [n], y [n])`."""

    @property
    def count(self) -> int:
        """N, the number of samples."""
        ...

    def read(self, start: int, stop: int) -> tuple[Float32, Float32]:
        """Return the samples from `start` up to `stop`."""
        ...

    def take(self, indices: NDArray[np.int64]) -> tuple[Float32, Float32]:
        """Return the samples at `indices`."""
        ...


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


class Sha256:
    """The SHA-256 of samples, chunk by chunk."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, x: Float32, y: Float32) -> None:
        """Take the samples that follow."""
        self._hash.update(in_turn(x, y).data)

    def hexdigest(self) -> str:
        """Return the hash of the samples so far."""
        return self._hash.hexdigest()


SPREAD = 4096  # samples that stand for all where looking at each would cost too much


def spread(source: Source) -> tuple[Float32, Float32]:
    """Return at most `SPREAD` samples, evenly spread."""
    return source.take(spread_indices(source.count))


def spread_indices(count: int, most: int = SPREAD) -> NDArray[np.int64]:
    """Return at most `most` indices below `count`, evenly spread, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


class Column:
    """The summary of one column, chunk by chunk: range, mean and population standard deviation of its finite values."""

    def __init__(self) -> None:
        self.low, self.high, self.count, self.mean, self.squares = np.inf, -np.inf, 0, 0.0, 0.0

    def add(self, values: Any) -> None:
        """Merge a chunk (Chan, Golub and LeVeque, 1983), in float64."""
        values = values if np.isfinite(values).all() else values[np.isfinite(values)]
        if values.size:
            mean = values.mean(dtype=np.float64)
            squares = float(np.square(values - mean).sum())
            self.merge(float(values.min()), float(values.max()), values.size, float(mean), squares)

    def merge(self, low: float, high: float, count: int, mean: float, squares: float) -> None:
        """Merge what is known of other values: their range, count, mean and sum of squared deviations."""
        if not count:
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        delta, total = mean - self.mean, self.count + count
        self.squares += squares + delta * delta * self.count / total * count
        self.mean += delta * count / total
        self.count = total

    def moments(self) -> tuple[float, float, int, float, float]:
        """Return what `merge` takes."""
        return self.low, self.high, self.count, self.mean, self.squares

    def summary(self) -> dict[str, float]:
        """Return `min`, `max`, `mean` and `std`; NaN where no value is finite."""
        if not self.count:
            return dict.fromkeys(("min", "max", "mean", "std"), np.nan)
        return {
            "min": shortest(self.low),
            "max": shortest(self.high),
            "mean": self.mean,
            "std": float(np.sqrt(self.squares / self.count)),
        }


@dataclass(frozen=True)
class Ingested:
    """The samples used, and what the record says of them."""

    source: Source
    x: dict[str, float]
    y: dict[str, float]
    sha256: str  # empty where no process has read all samples
    noise_floor: float  # the mean squared error of the true cubic, in the data's units squared
    columns: tuple[Column, Column]  # of x and of y, to be merged with those of other processes


def ingest(chunks: Iterator[tuple[Float32, Float32]], spill: Path) -> Ingested:
    """Read all `chunks` once: describe them, and keep them in memory or, beyond `RESIDENT` samples, in `spill`."""
    kept: list[tuple[Float32, Float32]] = []
    raw: RawFile | None = None
    x_column, y_column, noise = Column(), Column(), 0.0
    digest, count = Sha256(), 0
    for x, y in chunks:
        x_column.add(x)
        y_column.add(y)
        with np.errstate(all="ignore"):
            noise += float(np.square(y - cubic(x.astype(np.float64))).sum())
        digest.add(x, y)
        count += len(x)
        if raw is not None:
            raw.append(x, y)
            continue
        kept.append((x, y))
        if count > RESIDENT:
            raw = RawFile(spill)
            for block in kept:
                raw.append(*block)
            kept.clear()
    source: Source = raw or Arrays(*(np.concatenate([chunk[i] for chunk in kept]) for i in range(2)))
    columns = (x_column, y_column)
    return Ingested(source, x_column.summary(), y_column.summary(), digest.hexdigest(), noise / max(count, 1), columns)
