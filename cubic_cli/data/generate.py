"""The dataset: a file of samples of the problem, written so that they read back exactly. No JAX here.

A CSV file has the header `x,y` and one row a sample; a Parquet file has two float32 columns of these names. Reading
them stands in `samples`.
"""

import errno
import functools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cubic_cli.atomic import Check, replacing_file, system_errors
from cubic_cli.config import GenerateConfig
from cubic_cli.data.problem import X_LIMIT, Float32, cubic, draw, draw_x
from cubic_cli.data.read import read_samples
from cubic_cli.errors import DatasetError


@dataclass(frozen=True)
class Generated:
    """What `generate` wrote: the rows, the ranges and means of both columns, the time in seconds."""

    path: str
    rows: int
    x_min: float
    x_max: float
    x_mean: float
    y_min: float
    y_max: float
    y_mean: float
    bytes: int
    seconds: float


def generate(
    config: GenerateConfig, force: bool = False, progress: Callable[[int], None] = lambda rows: None
) -> Generated:
    """Write the dataset, whole or not at all, and return its summary.

    Raises:
        DatasetError: the path holds a file that is not a generated dataset (and not `force`), or cannot be written.
    """
    started = time.perf_counter()
    path = Path(config.dataset)
    totals = np.zeros(2)
    low, high = np.full(2, np.inf), np.full(2, -np.inf)

    def chunks() -> Iterator[pl.DataFrame]:
        nonlocal totals, low, high
        for x, y in draw(config.num_dataset, config.noise_std, config.seed):
            with np.errstate(invalid="ignore"):  # infinities of both signs, under a huge noise
                totals = totals + [x.sum(dtype=np.float64), y.sum(dtype=np.float64)]
            low = np.minimum(low, [x.min(), y.min()])
            high = np.maximum(high, [x.max(), y.max()])
            yield pl.DataFrame({"x": x, "y": y})
            progress(len(x))

    check = refuse_what_is_no_file if force else functools.partial(refuse_strangers, seed=config.seed)
    size = write(path, chunks(), check)
    mean = totals / config.num_dataset
    seconds = time.perf_counter() - started
    return Generated(
        config.dataset, config.num_dataset, low[0], high[0], mean[0], low[1], high[1], mean[1], size, seconds
    )


def write(path: Path, chunks: Iterator[pl.DataFrame], check: Check = lambda path: None) -> int:
    """Write `chunks` to `path`, whole or not at all, and return the size in bytes.

    `check` raises if what stands in `path` must not be replaced; it is asked again when all is written.

    Raises:
        DatasetError: the folder is missing, cannot be written, or the disk is full; `path` is as it was.
    """
    check(path)
    try:
        with system_errors(), replacing_file(path, check) as stream:
            if path.suffix.lower() == ".parquet":
                _write_parquet(stream, chunks)
            else:
                stream.write(b"x,y\n")
                for chunk in chunks:
                    chunk.write_csv(stream, include_header=False)
            stream.flush()
            return os.fstat(stream.fileno()).st_size
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR) and not path.parent.is_dir():
            raise DatasetError(
                f"cannot write {path}: there is no folder {path.parent}; make it, or name another path with --dataset"
            ) from None
        raise DatasetError(f"cannot write {path}: {error.strerror or error}; an earlier file is untouched") from None


def _write_parquet(stream: IO[bytes], chunks: Iterator[pl.DataFrame]) -> None:
    from polars.io.plugins import register_io_source

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        yield from chunks

    register_io_source(source, schema=pl.Schema({"x": pl.Float32, "y": pl.Float32})).sink_parquet(stream)


def refuse_strangers(path: Path, seed: int = 0) -> None:
    """Raise `DatasetError` unless `path` is free or holds a dataset that `generate` wrote."""
    if not os.path.lexists(path):
        return
    refuse_what_is_no_file(path)
    if path.is_symlink():
        raise DatasetError(f"{path} is a link; give --force to replace the link, or name another path with --dataset")
    if not os.access(path, os.R_OK):
        raise DatasetError(f"cannot read {path} to see whose it is; give --force to replace it, or name another path")
    if path.stat().st_size and not is_own(path, seed):
        raise DatasetError(
            f"{path} is there and does not look like a dataset of cubic's; "
            "give --force to replace it, or name another path with --dataset"
        )


def refuse_what_is_no_file(path: Path) -> None:
    """Raise `DatasetError` if `path` holds a folder, a pipe or a device; a link to a file is none of these."""
    if path.exists() and not path.is_file():
        raise DatasetError(f"{path} is no regular file; move it away, or name another path with --dataset")


_ROWS_LOOKED_AT = 1000
_SEEDS_TRIED = 4096
_CHANCE = 1e-6  # of a verdict that is wrong by bad luck alone, in each test


def is_own(path: Path, seed: int = 0) -> bool:
    """Return whether `generate` wrote `path`, as far as the first rows can tell for an unknown seed and noise.

    x that are drawn from one of the first seeds, or from `seed`, are its own, whatever the noise. For other seeds the
    cubic must be seen: at least ten rows, x over all of ±100, and y near the cubic, or scattered about it without a
    trend. Larger noise, which hides the cubic, could be anything; so could fewer rows.
    """
    try:
        x, y = read_samples(path, _ROWS_LOOKED_AT)
    except DatasetError:
        return False
    if np.isnan(y).any() or not np.all((x >= -X_LIMIT) & (x < X_LIMIT)):
        return False
    if len(x) >= 10 and _spreads(x) and _follows_cubic(x, y):
        return True
    return any(np.array_equal(x, draw_x(len(x), s)) for s in (seed, *range(_SEEDS_TRIED)))


def _spreads(x: Float32) -> bool:
    """Return whether n draws from U[-100, 100) have so small a range by more than chance."""
    n, share = len(x), float(np.ptp(x)) / (2 * X_LIMIT)
    return n * share ** (n - 1) - (n - 1) * share**n >= _CHANCE


def _follows_cubic(x: Float32, y: Float32) -> bool:
    if np.isinf(y).any():
        return False
    residual = y - cubic(x.astype(np.float64))
    near = (np.abs(residual) <= 6 * GenerateConfig.noise_std).all()
    return bool(near or (_chance_of_trend(x, y) < _CHANCE <= _chance_of_trend(x, residual)))


def _chance_of_trend(x: Float32, values: NDArray[Any]) -> float:
    """Return how probable it is that 1, x, x² and x³ explain so much of `values`, were these normal noise of mean zero.

    The share of the sum of squares that a regression leaves is then Beta((n − 4) / 2, 2); its distribution function
    has the closed form below.
    """
    values = values / (float(np.abs(values).max()) or 1.0)  # whose squares do not overflow
    basis, _ = np.linalg.qr(np.vander(x.astype(np.float64) / X_LIMIT, 4))
    explained = basis.T @ values
    left = max(0.0, 1.0 - float(explained @ explained) / (float(values @ values) or 1.0))
    half = (len(x) - 4) / 2
    return float(left**half * (1 + half * (1 - left)))
