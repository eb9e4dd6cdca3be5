"""The dataset: a file of samples of the problem, written so that they read back exactly.

A CSV file has the header `x,y` and one row a sample; a Parquet file has two float32 columns of these names.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from cubic_cli.atomic import Check, replacing_file, system_errors
from cubic_cli.config import GenerateConfig
from cubic_cli.data import parquet_file
from cubic_cli.data.csv_file import generating
from cubic_cli.data.problem import X_LIMIT, cubic, draw, draw_x
from cubic_cli.data.read import panicked, read_samples
from cubic_cli.errors import DatasetError
from cubic_cli.float32 import shortest


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

    def check(path: Path) -> None:
        refuse_what_is_no_file(path)
        if not force:
            refuse_to_replace(path, config.noise_std, config.seed)

    size = write(path, chunks(), check)
    mean = totals / config.num_dataset
    seconds = time.perf_counter() - started
    (x_min, y_min), (x_max, y_max) = map(shortest, low), map(shortest, high)
    return Generated(config.dataset, config.num_dataset, x_min, x_max, mean[0], y_min, y_max, mean[1], size, seconds)


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
                parquet_file.write(stream, chunks, _SCHEMA)
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
    except pl.exceptions.PanicException as panic:
        raise panicked(path, panic) from None


def refuse_to_replace(path: Path, noise_std: float = 0.0, seed: int = 0) -> None:
    """Raise `DatasetError` unless `path` is free or holds what `is_own` says to be a dataset of cubic's."""
    if not os.path.lexists(path):
        return
    remedy = f"run {generating(path, force=True)} to replace it, or name another path with --dataset"
    if path.is_symlink():
        raise DatasetError(f"{path} is a link; {remedy}")
    if not os.access(path, os.R_OK):
        raise DatasetError(f"cannot read {path} to see whose it is; {remedy}")
    if not is_own(path, noise_std, seed):
        what = "does not look like a dataset of cubic's" if path.stat().st_size else "is empty"
        raise DatasetError(f"{path} is there and {what}; {remedy}")


def refuse_what_is_no_file(path: Path) -> None:
    """Raise `DatasetError` if `path` holds a folder, a pipe or a device; a link to a file is none of these."""
    if path.exists() and not path.is_file():
        raise DatasetError(f"{path} is no regular file; move it away, or name another path with --dataset")


_SCHEMA = pl.Schema({"x": pl.Float32, "y": pl.Float32})
_ROWS_LOOKED_AT = 1000


def is_own(path: Path, noise_std: float = 0.0, seed: int = 0) -> bool:
    """Return whether `path` looks like a dataset that `generate` wrote: its columns, and its first rows.

    Either x is what `seed` draws, or there are ten rows and more, x reaches over both halves of its range, and y lies
    about the cubic, as near as the noise allows: 6 standard deviations, of `noise_std` or the default if that is more,
    and no farther than a tenth of the range of y, where the cubic would no longer show.
    """
    try:
        if not _has_own_columns(path):
            return False
        x, y = read_samples(path, _ROWS_LOOKED_AT)
    except (DatasetError, OSError, pl.exceptions.PolarsError):
        return False
    if np.array_equal(x, draw_x(len(x), seed)):
        return True
    if len(x) < 10 or not np.isfinite(y).all() or not np.all((x >= -X_LIMIT) & (x < X_LIMIT)):
        return False
    if not (x.min() < -X_LIMIT / 2 and x.max() > X_LIMIT / 2):
        return False
    farthest = np.abs(y - cubic(x.astype(np.float64))).max()
    return bool(farthest <= min(6 * max(noise_std, GenerateConfig.noise_std), np.ptp(y.astype(np.float64)) / 10))


def _has_own_columns(path: Path) -> bool:
    if path.suffix.lower() == ".parquet":
        return pl.read_parquet_schema(path) == dict(_SCHEMA)
    with path.open("rb") as stream:
        return stream.readline(16).split() == [b"x,y"]
