"""Samples from a dataset's file, in chunks and in bounded memory, each read exactly or refused with its place.

How a CSV file is read stands in `csv_file`, a Parquet file in `parquet_file`.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl

from cubic_cli.data import csv_file, parquet_file
from cubic_cli.data.csv_file import generating
from cubic_cli.errors import DatasetError
from cubic_cli.float32 import Float32

Samples = tuple[Float32, Float32]  # x [n], y [n]
Columns = tuple[str, str]  # the names of the columns that hold x and y
Tell = Callable[[str], None]  # what takes a line for people

_BLOCK = 1 << 23  # bytes read at a time


def quietly(line: str) -> None:
    """Tell nobody."""


def read_samples(
    path: Path, num_samples: int | None, columns: Columns = ("x", "y"), tell: Tell = quietly, block: int = _BLOCK
) -> Samples:
    """Return the samples of `read_chunks` as `(x [N], y [N])`."""
    x, y = zip(*read_chunks(path, num_samples, columns, tell, block), strict=True)
    return np.concatenate(x), np.concatenate(y)


def read_chunks(
    path: Path, num_samples: int | None, columns: Columns = ("x", "y"), tell: Tell = quietly, block: int = _BLOCK
) -> Iterator[Samples]:
    """Yield the first samples in chunks `(x [n], y [n])` of various sizes, in the order of the file.

    A number is rounded once, to the nearest float32. The memory is bounded, but for Parquet files of huge row groups,
    which polars reads whole. A file that is replaced meanwhile is read to its end; one that is written to is refused,
    at the latest after the last chunk.

    Args:
        path: a CSV file, or a Parquet file where it ends in `.parquet`.
        num_samples: how many at most; None for all.
        columns: the names of the two columns, among any others and in any order.
        tell: takes what people should know: fewer samples than asked for, a last line without its end, other types.
        block: bytes to read at a time, of the text of a CSV file or of the samples of a Parquet file.

    Raises:
        DatasetError: the file is missing, lacks a column, has no samples, holds what is no pair of float32 numbers
            (names the line, or the row), or changes while it is read.
    """
    if columns[0] == columns[1]:
        raise DatasetError(f"x and y are both column {columns[0]!r}; name two columns, with --x and --y")
    with _opened(path, columns) as stream:
        read = parquet_file.read if path.suffix.lower() == ".parquet" else csv_file.read
        seen = 0
        for x, y in read(path, stream, columns, num_samples, tell, block):
            seen += len(x)
            yield x, y
        if seen == 0:
            raise DatasetError(f"{path} has columns but no samples; run {generating(path, force=True)} to replace it")
        if num_samples is not None and seen < num_samples:
            rows, used = ("row", "it is") if seen == 1 else ("rows", "all of them are")
            tell(f"{path} has {seen:,} {rows}, fewer than the {num_samples:,} asked for; {used} used")


def panicked(path: Path, panic: pl.exceptions.PanicException) -> DatasetError:
    """Return the error to raise for a panic of polars, which is a `BaseException` that nobody else would catch."""
    first = (str(panic).splitlines() or ["a panic"])[0]
    return DatasetError(f"polars failed on {path}: {first}; is a variable POLARS_… set to what it does not take?")


@contextlib.contextmanager
def _opened(path: Path, columns: Columns) -> Iterator[IO[bytes]]:
    """Open a regular file, and raise `DatasetError` if it is not one, cannot be read, or changes until it is closed."""
    try:
        if not path.exists() and path.is_symlink():
            raise DatasetError(
                f"{path} is a link to what is not there; mend it, or run {generating(path, force=True)} to replace it"
            )
        if not path.exists():
            own = f"run {generating(path)} to make one" if columns == ("x", "y") else "name one with --dataset"
            raise DatasetError(f"there is no dataset {path}; {own}")
        if not path.is_file():
            raise DatasetError(f"{path} is no regular file; name a .csv or .parquet file with --dataset")
        with path.open("rb", buffering=0) as stream:
            before = os.fstat(stream.fileno())
            if before.st_size == 0:
                raise DatasetError(csv_file.empty(path))
            error = None
            try:
                yield stream
            except (DatasetError, OSError) as caught:
                error = caught
            after = os.fstat(stream.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise DatasetError(f"{path} changed while it was read; run the command again when it is complete")
            if error is not None:
                raise error
    except pl.exceptions.PanicException as panic:
        raise panicked(path, panic) from None
    except OSError as error:
        raise DatasetError(f"cannot read {path}: {error.strerror or error}") from None
