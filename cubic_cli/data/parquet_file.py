"""Parquet files, by polars: two columns of numbers are read, and frames are written as they come."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import polars as pl

from cubic_cli.errors import DatasetError, list_names
from cubic_cli.float32 import Float32

_ROW = 8  # bytes of a sample, two float32


def read(
    path: Path,
    stream: IO[bytes],
    columns: tuple[str, str],
    num_samples: int | None,
    tell: Callable[[str], None],
    size: int,
) -> Iterator[tuple[Float32, Float32]]:
    """Yield the first `num_samples` samples (all for None) of `columns`, `(x [n], y [n])` of each `size` bytes.

    Raises:
        DatasetError: names the row, from 1, and what was found there.
    """
    try:
        table = pl.scan_parquet(stream, n_rows=num_samples)
        _check(path, table.collect_schema(), columns, tell)
        seen = 0
        for batch in table.select(columns).collect_batches(maintain_order=True, chunk_size=-(-size // _ROW)):
            x, y = (_to_float32(path, batch[name], seen) for name in columns)
            seen += batch.height
            yield x, y
    except pl.exceptions.PolarsError as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DatasetError(f"{path} is no Parquet file that can be read: {first}") from None


def _check(path: Path, schema: pl.Schema, columns: tuple[str, str], tell: Callable[[str], None]) -> None:
    for name in columns:
        if name not in schema:
            raise DatasetError(
                f"{path}: there is no column {name!r}, only {list_names(schema)}; name two of them with --x and --y"
            )
        kind = schema[name]
        if not kind.is_numeric():
            raise DatasetError(f"{path}: column {name!r} is {kind}; expected a type of number")
        if kind != pl.Float32:
            tell(f"{path}: column {name!r} is {kind}; each value is rounded to the nearest float32")


def _to_float32(path: Path, column: pl.Series, seen: int) -> Float32:
    """Return the values, each rounded once; `seen` rows came before them."""

    def refuse(where: pl.Series, what: str) -> None:
        if where.any():
            row = seen + int(where.arg_true()[0]) + 1
            raise DatasetError(f"{path}, row {row}: column {column.name!r} {what}")

    refuse(column.is_null(), "is null, as pandas writes NaN; leave such rows out, or write NaN as a number")
    if column.dtype.is_decimal():  # goes by its text, for its own cast would round to float64 first
        return column.cast(pl.String).cast(pl.Float32).to_numpy()
    values = column.cast(pl.Float32)
    refuse(values.is_infinite() & ~column.is_infinite(), "is outside the range of float32")
    return values.to_numpy()


def write(stream: IO[bytes], frames: Iterable[pl.DataFrame], schema: pl.Schema, **options: Any) -> None:
    """Write the rows of all `frames`, with what polars' `sink_parquet` takes; few of them are in memory at a time."""
    from polars.io.plugins import register_io_source

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        yield from frames

    register_io_source(source, schema=schema).sink_parquet(stream, **options)
