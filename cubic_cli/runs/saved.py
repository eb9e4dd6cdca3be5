"""A saved run as a reader finds it: what is there, what is damaged and where. No more is read than is needed.

A run that `forward` saved is whole; disks, copies and editors can change that. What is damaged is a problem with the
file and the place in it, and what is not damaged is shown all the same.
"""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from cubic_cli.atomic import system_errors
from cubic_cli.errors import RunError, five_digits
from cubic_cli.float32 import Float32
from cubic_cli.runs import damage, store
from cubic_cli.runs.files import HISTORY, PARAMETERS, QUICK, RECORD, check_digest, find_file, held, rerun_hint
from cubic_cli.runs.record import Parameter, Record

_PARQUET = b"PAR1"  # the first and the last four bytes of a Parquet file
_POLARS = (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)


@dataclass(frozen=True)
class Saved:
    """A run's folder, its record and the losses of its first epoch, `[K]`; `problems` says what is damaged.

    The record lacks the parts that are damaged; `document` is the record as it stands in the file; `losses` is None
    where the history is damaged.
    """

    folder: Path
    record: Record
    document: dict[str, Any]
    losses: Float32 | None
    problems: list[str] = field(default_factory=list)


def inspect_run(folder: Path) -> Saved:
    """Return what can be read of the run in `folder`.

    Raises:
        RunError: there is no run, or nothing can be read of its record.
    """
    with held(folder):
        return _inspect(folder)


def _inspect(folder: Path) -> Saved:
    document = store.load_document(folder)
    record, places = damage.parse(document)
    problems = [f"{folder / RECORD} is damaged: {place}" for place in places]
    losses = None
    try:
        losses = damage.unless_damaged(first_epoch_losses, folder, record)
    except RunError as error:
        problems.append(str(error))
    try:
        check_parameters(folder, record)
    except RunError as error:
        problems.append(str(error))
    return Saved(folder, record, document, losses, problems)


def scan_history(folder: Path, record: Record | None = None, most: float = QUICK) -> pl.LazyFrame:
    """Return the history of a run to be read in part; up to `most` bytes it is held against the record's digest.

    Raises:
        RunError: the file is missing, cut off, or not the one that was written.
    """
    path = folder / HISTORY
    source = find_file(path)
    try:
        with source.open("rb") as stream:
            start = stream.read(4)
            stream.seek(-4, os.SEEK_END)
            whole = start == stream.read(4) == _PARQUET
    except OSError:
        whole = False
    if not whole:
        raise RunError(f"{path} is damaged: it is no whole Parquet file; {rerun_hint(folder)}")
    check_digest(path, record, most)
    return pl.scan_parquet(source, glob=False)


def first_epoch_losses(folder: Path, record: Record) -> Float32:
    """Return the losses of the batches of the first epoch, `[K]`; reads nothing else.

    Raises:
        RunError: the history is missing, damaged, or not that of this record.
    """
    history = scan_history(folder, record)  # whatever the record lacks: that the file is damaged is told
    batches = record.iterations // record.config.num_epochs
    frame = collect(folder, history.head(batches).select("epoch", "loss"))
    if frame.height != batches or (frame["epoch"] != 1).any() or frame["loss"].dtype != pl.Float32:
        raise RunError(
            f"{folder / HISTORY} does not hold the {batches:,} iterations an epoch that {RECORD} speaks of; "
            + rerun_hint(folder)
        )
    return frame["loss"].to_numpy()


def collect(folder: Path, frame: pl.LazyFrame) -> pl.DataFrame:
    """Read what was asked of the history.

    Raises:
        RunError: the file is damaged.
    """
    try:
        with system_errors():
            return frame.collect()
    except _POLARS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the system: the file may be whole
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"{folder / HISTORY} is damaged: {what}; {rerun_hint(folder)}") from None


def load_history(folder: Path, record: Record | None = None) -> pl.DataFrame:
    """Return the history of a run, a row an iteration; with its `record`, the one that was written.

    Raises:
        RunError: the file is missing or damaged.
    """
    return collect(folder, scan_history(folder, record, math.inf))


def salvage(folder: Path) -> list[tuple[str, str]]:
    """Return what the other files of a run say, whose record cannot be read: the file, and what stands in it."""
    found = []
    try:
        losses = pl.col("loss").filter(pl.col("loss").is_finite())
        frame = scan_history(folder).select(
            pl.len().alias("rows"), pl.col("epoch").max(), losses.min().alias("low"), losses.max().alias("high")
        )
        rows, epochs, low, high = collect(folder, frame).row(0)
        ends = f"losses from {five_digits(low)} to {five_digits(high)}"
        found.append((HISTORY, f"{rows:,} iterations in {epochs:,} epochs, {ends}"))
    except (RunError, TypeError, ValueError) as error:
        found.append((HISTORY, str(error) if isinstance(error, RunError) else "says nothing"))
    try:
        check_parameters(folder)
        shapes = (f"{name} {list(array.shape)}" for name, array in store.load_parameters(folder).items())
        found.append((PARAMETERS, ", ".join(shapes)))
    except RunError as error:
        found.append((PARAMETERS, str(error)))
    return found


def check_parameters(folder: Path, record: Record | None = None) -> None:
    """Raise `RunError` if the parameters' file is missing, cut, or not the record's; a large one is not read whole.

    The record may lack the parts that are damaged: the file is held against what is left of it.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / PARAMETERS
    source = find_file(path)
    try:
        with safe_open(source, "numpy") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        raise RunError(f"{path} is damaged: it is no whole safetensors file; {rerun_hint(folder)}") from None
    told: tuple[Parameter, ...] | None = getattr(record, "parameters", None)
    if told is not None and found != {entry.name: entry.shape for entry in told}:
        raise RunError(
            f"{path} is damaged: it does not hold the parameters that {RECORD} speaks of; {rerun_hint(folder)}"
        )
    check_digest(path, record, QUICK)
