"""The history of a run: a row an iteration, written to Parquet by polars once all epochs have passed.

No parameter changes between the epochs, so each must give the rows of the first, bit for bit. Only the first epoch is
kept; a later one is compared with it byte for byte, which checks that the device is deterministic. What differs is kept
too, and written as it was.

K batches of an epoch
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cubic_cli.atomic import system_errors
from cubic_cli.data import parquet_file
from cubic_cli.float32 import EXTREMES, Float32

Columns = Mapping[str, NDArray[Any]]  # those of SCHEMA but for epoch and batch; extremes without values are infinite

_KINDS: dict[str, Any] = {
    "size": np.int64,
    "loss": np.float32,
    **dict.fromkeys(EXTREMES, np.float32),
    "nonfinite": np.int64,
}
SCHEMA = pl.Schema(
    {
        "epoch": pl.Int64,
        "batch": pl.Int64,
        **{name: pl.Int64 if kind is np.int64 else pl.Float32 for name, kind in _KINDS.items()},
    }
)
RESIDENT = 1 << 22  # rows kept in memory; more are kept in a file without a name
_GROUP = 1 << 18  # rows of a group of the file, at most, and so of what is made of them at a time


class _Kept(NamedTuple):
    """Rows in memory or, where there are no `columns`, in the file from `start` on."""

    rows: int
    columns: Columns | None
    start: int = 0


class History:
    """The rows of a run. Beyond `resident` of them they are kept in a file without a name in the folder `scratch`."""

    def __init__(self, scratch: Path, resident: int = RESIDENT) -> None:
        self.deterministic = True
        self._scratch, self._resident = scratch, resident
        self._spool: IO[bytes] | None = None
        self._first: list[_Kept] = []
        self._others: dict[tuple[int, int], _Kept] = {}  # by epoch and place in it
        self._epoch, self._place = 0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._spool is not None:
            self._spool.close()

    def add(self, epoch: int, columns: Columns) -> None:
        """Take the rows that follow in an epoch, from 1; each epoch comes in the same parts as the first.

        Raises:
            OSError: the file cannot be written.
        """
        self._place = self._place + 1 if epoch == self._epoch else 0
        self._epoch = epoch
        if epoch == 1:
            self._first.append(self._keep(columns))
            return
        first = self._load(self._first[self._place])
        if any(first[name].tobytes() != columns[name].tobytes() for name in _KINDS):
            self.deterministic = False
            self._others[epoch, self._place] = self._keep(columns)

    @property
    def batches(self) -> int:
        """K."""
        return sum(kept.rows for kept in self._first)

    @property
    def losses(self) -> Float32:
        """The losses of the first epoch, `[K]`."""
        return np.concatenate([self._load(kept)["loss"] for kept in self._first])

    def take(self, batches: NDArray[np.int64]) -> Columns:
        """Return the first epoch's rows of some batches, in rising order from 0."""
        found, start = [], 0
        for kept in self._first:
            here = batches[(batches >= start) & (batches < start + kept.rows)] - start
            if here.size:
                columns = self._load(kept)
                found.append({name: columns[name][here] for name in _KINDS})
            start += kept.rows
        return {name: np.concatenate([part[name] for part in found]) for name in _KINDS}

    def write(self, path: Path) -> None:
        """Write the rows of all epochs.

        Raises:
            OSError: the file cannot be written.
        """
        with system_errors(), path.open("wb") as stream:  # polars takes no path that is no text
            options = {"compression": "lz4", "row_group_size": _GROUP, "statistics": False}
            parquet_file.write(stream, self._frames(), SCHEMA, **options)

    def _frames(self) -> Iterator[pl.DataFrame]:
        """Yield all rows in their order; many short epochs that are alike are repeated at once."""
        different = {epoch for epoch, _ in self._others}
        together = max(1, _GROUP // max(1, self.batches))
        epoch = 1
        while epoch <= self._epoch:
            last = min(epoch + together, self._epoch + 1)
            if together > 1 and different.isdisjoint(range(epoch, last)):
                columns = {name: np.concatenate([self._load(k)[name] for k in self._first]) for name in _KINDS}
                yield _frame(np.arange(epoch, last), 0, columns)
                epoch = last
                continue
            batch = 0
            for place, first in enumerate(self._first):
                kept = self._others.get((epoch, place), first)
                columns = dict(self._load(kept))
                for start in range(0, kept.rows, _GROUP):
                    part = {name: values[start : start + _GROUP] for name, values in columns.items()}
                    yield _frame(np.array([epoch]), batch + start, part)
                batch += first.rows
            epoch += 1

    def _keep(self, columns: Columns) -> _Kept:
        rows = len(columns["loss"])
        self._resident -= rows
        if self._resident >= 0:
            return _Kept(rows, columns)
        if self._spool is None:
            self._spool = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115
        start = self._spool.seek(0, 2)
        for name, kind in _KINDS.items():
            self._spool.write(np.ascontiguousarray(columns[name], kind).data)
        return _Kept(rows, None, start)

    def _load(self, kept: _Kept) -> Columns:
        if kept.columns is not None:
            return kept.columns
        assert self._spool is not None
        self._spool.seek(kept.start)
        read = self._spool.read
        return {name: np.frombuffer(read(kept.rows * np.dtype(kind).itemsize), kind) for name, kind in _KINDS.items()}


def _frame(epochs: NDArray[np.int64], first_batch: int, columns: Columns) -> pl.DataFrame:
    """Return the rows of epochs that are alike; extremes without finite values become null."""
    rows = len(columns["loss"])
    batch = np.arange(first_batch + 1, first_batch + rows + 1)
    repeated = {name: np.tile(values, len(epochs)) for name, values in {"batch": batch, **columns}.items()}
    frame = pl.DataFrame({"epoch": np.repeat(epochs, rows), **repeated}, schema=SCHEMA)
    if not columns["nonfinite"].any():
        return frame
    return frame.with_columns(pl.when(pl.col(name).is_finite()).then(pl.col(name)) for name in EXTREMES)
