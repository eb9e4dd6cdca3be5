"""The samples of a saved run, read once more: from its dataset, or from the record of a run from arrays."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cubic_cli.data.read import read_chunks
from cubic_cli.data.scaling import choose_scale
from cubic_cli.data.source import in_turn
from cubic_cli.errors import DatasetError, RunError
from cubic_cli.float32 import Float32
from cubic_cli.runs.files import near
from cubic_cli.runs.record import Record


class NoSamplesError(RunError):
    """A run came from arrays, and its record keeps none of these samples: nothing is damaged or gone."""


class Samples(NamedTuple):
    """Samples `[R]` as they were read, and as the network got them, scaled; `rows` are from 1 among the run's."""

    rows: NDArray[np.int64]
    x: Float32
    y: Float32
    scaled_x: Float32
    scaled_y: Float32


def read(folder: Path, record: Record, start: int, stop: int) -> Samples:
    """Return the samples from `start` up to `stop` of the run in `folder`; of a run from arrays those that it keeps.

    Raises:
        NoSamplesError: the run came from arrays, and its record keeps none of these.
        DatasetError: the dataset is missing, cannot be read, or has changed since the run.
    """
    data, kind = record.dataset, record.config.scaling
    if data.path is None:
        rows, x, y = _from_record(record, start, stop)
    else:
        x, y = _from_dataset(folder, record, near(data.path), start, stop)
        rows = np.arange(start + 1, stop + 1)
    return Samples(rows, x, y, choose_scale(kind, data.x).apply(x), choose_scale(kind, data.y).apply(y))


def _from_record(record: Record, start: int, stop: int) -> tuple[NDArray[np.int64], Float32, Float32]:
    there = record.samples or ()
    kept = [sample for sample in there if start < sample.row <= stop]
    if not kept:
        nearest = sorted(sorted(sample.row for sample in there), key=lambda row: abs(row - start - 1))[:3]
        others = f"; the nearest are {', '.join(f'{row:,}' for row in sorted(nearest))}" if nearest else ""
        wanted = f"not row {stop:,}" if stop == start + 1 else f"none of {start + 1:,} to {stop:,}"
        raise NoSamplesError(
            f"run {record.run_name} came from arrays, and its record keeps {len(there):,} of their rows, "
            f"{wanted}{others}"
        )
    rows, *columns = zip(*((sample.row, sample.x, sample.y) for sample in kept), strict=True)
    with np.errstate(over="ignore"):
        x, y = (np.array(column, np.float64).astype(np.float32) for column in columns)
    return np.array(rows), x, y


def _from_dataset(folder: Path, record: Record, path: Path, start: int, stop: int) -> tuple[Float32, Float32]:
    data, digest, seen = record.dataset, hashlib.sha256(), 0
    kept: list[tuple[Float32, Float32]] = []
    try:
        for x, y in read_chunks(path, data.rows, (record.config.x_column, record.config.y_column)):
            digest.update(in_turn(x, y).data)
            if start < seen + len(x) and seen < stop:
                part = slice(max(0, start - seen), stop - seen)
                kept.append((x[part], y[part]))
            seen += len(x)
        if seen < data.rows:
            raise DatasetError(f"{path} has {seen:,} rows and the run had {data.rows:,}")
    except DatasetError as error:
        since = " has changed since" if seen else ""
        raise DatasetError(f"the dataset of run {folder.name}{since}: {error}") from None
    if data.identity not in (None, digest.hexdigest()):
        raise DatasetError(f"the dataset of run {folder.name} has changed since, by the SHA-256 of its samples")
    x, y = (np.concatenate(column) for column in zip(*kept, strict=True))
    return x, y
