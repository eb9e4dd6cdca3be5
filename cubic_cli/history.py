"""The history of a run: a row an iteration, streamed to Parquet while the epochs run. No JAX here."""

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cubic_cli.parquet import ParquetWriter

EXTREMES = ("z1_min", "z1_max", "a1_min", "a1_max", "z2_min", "z2_max")
SCHEMA = pl.Schema(
    {
        "epoch": pl.Int64,
        "batch": pl.Int64,
        "size": pl.Int64,
        "loss": pl.Float32,
        **dict.fromkeys(EXTREMES, pl.Float32),
        "nonfinite": pl.Int64,
    }
)
_GROUP = 1 << 16  # rows of a group of the file, at least
_AHEAD = 4  # frames that may wait to be written


def frame(epoch: int, first_batch: int, columns: dict[str, NDArray[Any]]) -> pl.DataFrame:
    """Return the rows of some batches of one epoch, numbered from 1; an extreme without finite values is null."""
    rows = len(columns["loss"])
    made = pl.DataFrame(
        {
            "epoch": np.full(rows, epoch, np.int64),
            "batch": _numbers(first_batch + 1, rows),
            **{name: pl.Series(name, columns[name]) for name in ("size", "loss", *EXTREMES, "nonfinite")},
        }
    )
    if not columns["nonfinite"].any():
        return made
    return made.with_columns(pl.col(EXTREMES).replace([np.inf, -np.inf], None))


@functools.lru_cache(1)
def _numbers(first: int, rows: int) -> pl.Series:
    return pl.int_range(first, first + rows, dtype=pl.Int64, eager=True)  # the same in every epoch


Recorder = Callable[[int, int, dict[str, NDArray[Any]]], None]  # takes what `frame` does


@contextlib.contextmanager
def recording(append: Callable[[pl.DataFrame], None]) -> Iterator[Recorder]:
    """Yield what takes the batches of an epoch; their rows are made and appended in another thread, in their order.

    So the devices need not wait. What `append` raises is raised by a later call, or in the end.
    """
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as pool:

        def record(epoch: int, first_batch: int, columns: dict[str, NDArray[Any]]) -> None:
            waiting.append(pool.submit(lambda: append(frame(epoch, first_batch, columns))))
            if len(waiting) > _AHEAD:
                waiting.popleft().result()

        yield record
        for future in waiting:
            future.result()


class HistoryWriter:
    """Writes frames to a Parquet file as they come. It is whole once the `with` that it is used in ends well."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._writer = ParquetWriter(self._file, SCHEMA)
        self._kept: list[pl.DataFrame] = []
        self._rows = 0

    def append(self, rows: pl.DataFrame) -> None:
        """Add rows; few are kept until they are worth a group.

        Raises:
            OSError: the file cannot be written.
        """
        self._kept.append(rows)
        self._rows += rows.height
        if self._rows >= _GROUP:
            self._write()

    def _write(self) -> None:
        self._writer.write(pl.concat(self._kept))
        self._kept.clear()
        self._rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):  # of what is not whole the rest is not worth an error
                self._file.close()
            return
        with self._file:
            if self._kept:
                self._write()
            self._writer.finish()
