"""One iteration of a saved run: what the history recorded of it, and its values, computed again. No JAX here.

The parameters never change, so a batch's tensors follow from the saved parameters and the dataset, if that is still the
one of the run. They are computed in float64 from the formulas, as `verify` does, and held against the history.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cubic_cli.data.read import read_chunks
from cubic_cli.data.scaling import choose_scale
from cubic_cli.data.source import Sha256
from cubic_cli.errors import DatasetError, RunError
from cubic_cli.float32 import TENSORS, Float32, Float64, shortest
from cubic_cli.parameters import from_names
from cubic_cli.reference import expected, verify
from cubic_cli.reference.network import forward
from cubic_cli.runs import saved
from cubic_cli.runs import store as runs
from cubic_cli.runs.record import Record


def recorded(folder: Path, record: Record, epoch: int, batch: int) -> dict[str, Any]:
    """Return the tensors' shapes and extremes in one iteration, as `inspect --json` prints them; reads one row.

    Raises:
        RunError: there is no such iteration, or the history is damaged.
    """
    row = read_row(folder, record, epoch, batch)
    tensors = []
    for tensor in record.tensors:
        name = tensor.name
        low, high = (row["loss"],) * 2 if name == "loss" else (row[f"{name}_min"], row[f"{name}_max"])
        tensors.append(
            {
                "name": name,
                "shape": list(tensor.shape) if name == "loss" else [row["size"], *tensor.shape[1:]],
                "min": None if low is None else shortest(low),
                "max": None if high is None else shortest(high),
            }
        )
    return {"run_name": record.run_name, "epoch": epoch, "batch": batch, "tensors": tensors}


def read_row(folder: Path, record: Record, epoch: int, batch: int) -> dict[str, Any]:
    """Return the row of the history of one iteration.

    Raises:
        RunError: there is no such iteration, or the history is damaged.
    """
    epochs = record.config.num_epochs
    batches = record.iterations // epochs
    if epoch > epochs or batch > batches:
        raise RunError(
            f"run {record.run_name} has epochs 1 to {epochs} and batches 1 to {batches}; "
            f"there is no epoch {epoch}, batch {batch}"
        )
    found = saved.collect(folder, saved.scan_history(folder).slice((epoch - 1) * batches + batch - 1, 1))
    row = found.row(0, named=True) if found.height else {}
    whole = {"epoch", "batch", "size", "loss"} | {f"{t}_{end}" for t in TENSORS for end in ("min", "max")}
    largest = record.config.batch_size
    size = min(largest, record.dataset.rows - (batch - 1) * largest)
    if [row.get(name) for name in ("epoch", "batch", "size")] != [epoch, batch, size] or not whole <= set(row):
        raise RunError(
            f"{folder / runs.HISTORY} is damaged: epoch {epoch}, batch {batch} is not where it belongs; "
            + runs.again(folder)
        )
    return row


@dataclass(frozen=True)
class Values:
    """The values of one batch, in float64 of the float32 samples and parameters.

    `x`, `y`, `z2 [B]`, `a1 [B, H]`, as the network got and gave them, scaled; `first_row` is that of the batch's first
    sample, from 1. `error` is how far the history is from them, relative to each quantity's own scale (as in the
    verification), and `quantity` the one that is farthest; `unchanged` says whether the samples are those of the run,
    by their SHA-256, and is None where the run has none.
    """

    x: Float64
    y: Float64
    a1: Float64
    z2: Float64
    first_row: int
    error: float
    quantity: str
    tolerance: float
    unchanged: bool | None
    note: str

    @property
    def agrees(self) -> bool:
        """Whether the history recorded what was computed again."""
        return self.error <= self.tolerance


def recompute(folder: Path, record: Record, epoch: int, batch: int) -> Values:
    """Return the values of one batch, from the saved parameters and the dataset.

    Raises:
        RunError: the history or the parameters are missing or damaged.
        DatasetError: the dataset is missing, cannot be read, or ends before this batch.
    """
    config = record.config
    row = read_row(folder, record, epoch, batch)
    start = (batch - 1) * config.batch_size
    try:
        x, y, unchanged, note = read_samples(record, start, start + row["size"])
    except DatasetError as why:
        raise DatasetError(f"the dataset of run {folder.name}: {why}") from None
    x, y = (
        choose_scale(config.scaling, column).apply(values)
        for column, values in ((record.dataset.x, x), (record.dataset.y, y))
    )
    parameters = from_names(load_parameters(folder, config.hidden_size))
    reference = expected.compute(parameters, x, y, len(x), config.activation)
    error, quantity = _distance(row, reference)
    with np.errstate(all="ignore"):
        _, a1, z2 = forward(parameters, x, config.activation)
    wide = x.astype(float), y.astype(float)
    return Values(*wide, a1, z2, start + 1, error, quantity, reference.tolerance, unchanged, note)


def _path(record: Record) -> Path:
    if record.dataset.path is None:
        raise DatasetError("its samples came from arrays")
    return runs.near(record.dataset.path)


def load_parameters(folder: Path, hidden: int) -> dict[str, Float32]:
    """Return the parameters of a run by name.

    Raises:
        RunError: they are missing, or not those of a network of `hidden` units.
    """
    values = runs.load_parameters(folder)
    shapes = {name: array.shape for name, array in values.items()}
    expected = {
        "input_layer.weight": (1, hidden),
        "input_layer.bias": (hidden,),
        "output_layer.weight": (hidden, 1),
        "output_layer.bias": (1,),
    }
    if shapes != expected:
        raise RunError(
            f"{folder / runs.PARAMETERS} is damaged: it does not hold the parameters of a network of {hidden} hidden "
            f"units; {runs.again(folder)}"
        )
    return values


def read_samples(record: Record, start: int, stop: int) -> tuple[Float32, Float32, bool | None, str]:
    """Return the samples `start` to `stop`, whether all the run's samples are what they were, and what went wrong.

    Raises:
        DatasetError: the dataset is missing, cannot be read, or ends before `stop`.
    """
    data = record.dataset
    digest, seen, note = Sha256(), 0, ""
    kept: list[tuple[Float32, Float32]] = []
    try:
        columns = record.config.x_column, record.config.y_column
        for x, y in read_chunks(_path(record), data.rows, columns):
            digest.add(x, y)
            if start < seen + len(x) and seen < stop:
                part = slice(max(0, start - seen), stop - seen)
                kept.append((x[part], y[part]))
            seen += len(x)
        if seen < data.rows:
            raise DatasetError(f"{_path(record)} has {seen:,} rows and the run had {data.rows:,}")
    except DatasetError as error:
        if seen < stop:
            raise
        note = str(error)
    expected = data.sha256 or data.digest
    unchanged = None if expected is None else seen == data.rows and digest.hexdigest() == expected
    return np.concatenate([x for x, _ in kept]), np.concatenate([y for _, y in kept]), unchanged, note


def _distance(row: dict[str, Any], reference: expected.Reference) -> tuple[float, str]:
    """Return the largest relative error of what the history recorded of a batch, and of which quantity it is."""
    columns = {name: np.array([np.nan if value is None else value], float) for name, value in row.items()}
    compared = verify.compare(reference, verify.Seen(columns, {}))
    return max(((float(one.error[0]), one.quantity) for one in compared), default=(0.0, "loss"))
