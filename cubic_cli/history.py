"""The history of a run: a row an iteration, streamed to Parquet while the epochs run. No JAX here."""

import contextlib
import functools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cubic_cli.scratch import system_errors

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
_STREAM_FROM = 1 << 19  # rows: fewer are kept and written at the end, which starts no engine
_AHEAD = 4  # frames that may wait to be written
# Random floats hardly compress, and trying takes longer than a good epoch.
_FORMAT: dict[str, Any] = {"compression": "uncompressed", "statistics": False}


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
    """Writes frames to a Parquet file, in another thread once they are many. Close it, or nothing is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: list[pl.DataFrame] = []
        self._rows = 0
        self._frames: queue.Queue[pl.DataFrame | None] = queue.Queue(_AHEAD)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def append(self, rows: pl.DataFrame) -> None:
        """Add rows; waits where writing is behind.

        Raises:
            OSError: the file cannot be written.
        """
        if self._thread is not None:
            self._put(rows)
            return
        self._kept.append(rows)
        self._rows += rows.height
        if self._rows >= _STREAM_FROM:
            self._thread = threading.Thread(target=self._stream, daemon=True, name="history")
            self._thread.start()
            for kept in self._kept:
                self._put(kept)
            self._kept.clear()

    def close(self) -> None:
        """Write what is left; the file is whole when this returns.

        Raises:
            OSError: the file cannot be written.
        """
        if self._thread is None:
            with system_errors(), self.path.open("wb") as stream:
                pl.concat(self._kept).write_parquet(stream, **_FORMAT)
            return
        self._put(None)
        self._thread.join()
        self._raise()

    def _put(self, rows: pl.DataFrame | None) -> None:
        while True:
            self._raise()
            try:
                self._frames.put(rows, timeout=0.5)
                return
            except queue.Full:
                continue

    def _raise(self) -> None:
        if self._error is not None:
            if isinstance(self._error, OSError):
                raise self._error
            if isinstance(self._error, KeyboardInterrupt):  # polars takes the signal while it writes
                raise KeyboardInterrupt
            raise OSError((str(self._error).splitlines() or [type(self._error).__name__])[0])

    def _stream(self) -> None:
        from polars.io.plugins import register_io_source

        def source(
            with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
        ) -> Iterator[pl.DataFrame]:
            while (rows := self._frames.get()) is not None:
                yield rows

        try:
            with system_errors(), self.path.open("wb") as stream:
                register_io_source(source, schema=SCHEMA).sink_parquet(stream, **_FORMAT)
        except BaseException as error:  # told by the next append, or by close
            self._error = error
