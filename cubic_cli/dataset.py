"""The dataset: samples of a noisy cubic, drawn, written and read back exactly. No JAX here.

    x ~ U[-100, 100),  y = 0.01 x³ − 0.5 x + 20 + ε,  ε ~ N(0, noise_std²);  both float32.

A CSV file has the header `x,y` and one row a sample; a Parquet file has two float32 columns of these names. Reading
them stands in `samples`.
"""

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cubic_cli.config import GenerateConfig
from cubic_cli.errors import DatasetError
from cubic_cli.samples import SCHEMA, Float32, read_samples, sha256

__all__ = ["Float32", "Float64", "cubic", "draw", "generate", "read_samples", "sha256"]

Float64 = NDArray[np.float64]

X_LIMIT = 100.0
_CHUNK = 1 << 20  # rows drawn and written at a time: bounds the memory
_BELOW_LIMIT = np.nextafter(np.float32(X_LIMIT), np.float32(0))


def cubic(x: Float64) -> Float64:
    """Return the noise-free target `0.01 x³ − 0.5 x + 20`, in float64."""
    return 0.01 * x**3 - 0.5 * x + 20.0


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


def draw(rows: int, noise_std: float, seed: int) -> Iterator[tuple[Float32, Float32]]:
    """Yield the samples in chunks `(x [n], y [n])`, `rows` in all; the same seed gives the same samples.

    x and the noise come from two streams of the seed, so the values do not depend on the chunk size.
    """
    x_stream, noise_stream = (np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(seed).spawn(2))
    for start in range(0, rows, _CHUNK):
        n = min(_CHUNK, rows - start)
        # A float64 just below 100 can round to the float32 100.0, which the interval excludes.
        x = np.minimum(x_stream.uniform(-X_LIMIT, X_LIMIT, n).astype(np.float32), _BELOW_LIMIT)
        noise = noise_std * noise_stream.standard_normal(n)
        with np.errstate(over="ignore"):
            y = (cubic(x.astype(np.float64)) + noise).astype(np.float32)
        yield x, y


def generate(
    config: GenerateConfig, force: bool = False, progress: Callable[[int], None] = lambda rows: None
) -> Generated:
    """Write the dataset, whole or not at all, and return its summary.

    Raises:
        DatasetError: the path holds a file that is not a generated dataset (and not `force`), or cannot be written.
    """
    started = time.perf_counter()
    path = Path(config.dataset)
    if not force:
        refuse_strangers(path)
    totals = np.zeros(2)
    low, high = np.full(2, np.inf), np.full(2, -np.inf)

    def chunks() -> Iterator[pl.DataFrame]:
        nonlocal totals, low, high
        for x, y in draw(config.num_dataset, config.noise_std, config.seed):
            totals = totals + [x.sum(dtype=np.float64), y.sum(dtype=np.float64)]
            low = np.minimum(low, [x.min(), y.min()])
            high = np.maximum(high, [x.max(), y.max()])
            yield pl.DataFrame({"x": x, "y": y})
            progress(len(x))

    size = write(path, chunks())
    mean = totals / config.num_dataset
    seconds = time.perf_counter() - started
    return Generated(
        config.dataset, config.num_dataset, low[0], high[0], mean[0], low[1], high[1], mean[1], size, seconds
    )


def write(path: Path, chunks: Iterator[pl.DataFrame]) -> int:
    """Write `chunks` to `path` by way of a scratch file beside it, and return the size in bytes.

    Raises:
        DatasetError: the folder is missing, cannot be written, or the disk is full; `path` is as it was.
    """
    _clear_scratch(path)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.scratch")
    try:
        with scratch.open("xb") as stream:
            _lock(stream.fileno())
            if path.suffix.lower() == ".parquet":
                _write_parquet(stream, chunks)
            else:
                stream.write(b"x,y\n")
                for chunk in chunks:
                    chunk.write_csv(stream, include_header=False)
            stream.flush()
            os.fsync(stream.fileno())
            size = os.fstat(stream.fileno()).st_size
            os.replace(scratch, path)
    except OSError as error:
        raise DatasetError(f"cannot write {path}: {error.strerror or error}; the earlier file is untouched") from None
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
    return size


def _write_parquet(stream: IO[bytes], chunks: Iterator[pl.DataFrame]) -> None:
    from polars.io.plugins import register_io_source

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        yield from chunks

    register_io_source(source, schema=SCHEMA).sink_parquet(stream)


def _lock(descriptor: int) -> bool:
    """Take the file's lock without waiting: it says that a living process owns the scratch file."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _clear_scratch(path: Path) -> None:
    """Remove the scratch files of `path` that a killed process left behind."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.scratch")
    with contextlib.suppress(OSError):
        for left in path.parent.iterdir():
            if pattern.fullmatch(left.name) and left.is_file() and not left.is_symlink():
                with left.open("rb") as stream:
                    abandoned = _lock(stream.fileno())
                if abandoned:
                    left.unlink(missing_ok=True)


def refuse_strangers(path: Path) -> None:
    """Raise `DatasetError` unless `path` is free or holds a dataset that `generate` wrote."""
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_file():
        raise DatasetError(f"{path} is no regular file; move it away, or name another path with --dataset")
    try:
        x, y = read_samples(path, 100)
        residual = np.abs(y - cubic(x.astype(np.float64)))
        own = bool(np.all(np.abs(x) <= X_LIMIT) and np.median(residual) < max(1e3, np.ptp(y)))
    except DatasetError:
        own = path.stat().st_size == 0
    if not own:
        raise DatasetError(
            f"{path} is there and does not look like a dataset of cubic's; "
            "give --force to replace it, or name another path with --dataset"
        )
