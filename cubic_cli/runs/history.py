"""The history of a run: a row an iteration, streamed to Parquet while the epochs run. No JAX here."""

import contextlib
import functools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cubic_cli.runs.parquet import ParquetWriter

EXTREMES = ("z1_min", "z1_max", "a1_min", "a1_max", "z2_min", "z2_max")
_WHOLE, _REAL = np.dtype(np.int64), np.dtype(np.float32)
SCHEMA: dict[str, np.dtype[Any]] = {
    "epoch": _WHOLE,
    "batch": _WHOLE,
    "size": _WHOLE,
    "loss": _REAL,
    **dict.fromkeys(EXTREMES, _REAL),
    "nonfinite": _WHOLE,
}
_GROUP = 1 << 16  # rows of a group of the file, at least, but for the last
_AHEAD = 4  # epochs that may wait to be written


@dataclass(frozen=True)
class Batches:
    """What is recorded of some batches that follow each other in one epoch.

    `epoch` counts from 1, `first_batch` from 0. `columns` are the rest of `SCHEMA`, `[K]`; an extreme without finite
    values is infinite there, and null in the file.
    """

    epoch: int
    first_batch: int
    columns: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.columns["loss"])


@contextlib.contextmanager
def recording(append: Callable[[Batches], None]) -> Iterator[Callable[[Batches], None]]:
    """Yield what takes the batches of an epoch; they are appended in another thread, in their order.

    So the devices need not wait. What `append` raises is raised by a later call, or in the end.
    """
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as pool:

        def record(batches: Batches) -> None:
            waiting.append(pool.submit(append, batches))
            if len(waiting) > _AHEAD:
                waiting.popleft().result()

        yield record
        for future in waiting:
            future.result()


class HistoryWriter:
    """Writes batches to a Parquet file as they come. It is whole once the `with` that it is used in ends well."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._writer = ParquetWriter(self._file, SCHEMA)
        self._kept: list[Batches] = []
        self._rows = 0

    def append(self, batches: Batches) -> None:
        """Add a row for each batch; rows are kept until there are enough for a group.

        Raises:
            OSError: the file cannot be written.
        """
        self._kept.append(batches)
        self._rows += len(batches)
        if self._rows >= _GROUP:
            self._write()

    def _write(self) -> None:
        kept = self._kept
        columns = {name: _join([batches.columns[name] for batches in kept]) for name in kept[0].columns}
        if columns["nonfinite"].any():
            columns |= {name: np.ma.masked_where(np.isinf(columns[name]), columns[name]) for name in EXTREMES}
        columns["epoch"] = _join([np.broadcast_to(batches.epoch, len(batches)) for batches in kept])
        columns["batch"] = _join([_numbers(batches.first_batch + 1, len(batches)) for batches in kept])
        self._writer.write(columns)
        self._kept, self._rows = [], 0

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


def _join(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


@functools.lru_cache(1)
def _numbers(first: int, count: int) -> NDArray[np.int64]:
    return np.arange(first, first + count)  # the same in every epoch
