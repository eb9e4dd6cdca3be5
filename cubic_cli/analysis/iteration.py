"""One iteration of a saved run: what the history recorded of it, and its values, computed again.

The parameters never change, so a batch's tensors follow from the saved parameters and the dataset, if that is still the
one of the run. They are computed in float64 from the formulas, as `verify` does, and compared with the history.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cubic_cli.analysis import reread
from cubic_cli.config import Activation
from cubic_cli.data.source import spread_indices
from cubic_cli.errors import RunError
from cubic_cli.float32 import Float32, Float64, shortest
from cubic_cli.parameters import Parameters, by_name, from_names, shapes
from cubic_cli.reference import expected, verify
from cubic_cli.reference.network import forward
from cubic_cli.runs import saved, store
from cubic_cli.runs.files import HISTORY, PARAMETERS, RECORD, rerun_hint
from cubic_cli.runs.history import SCHEMA
from cubic_cli.runs.record import Record

MOST_SAMPLES = 1000  # in JSON: of a larger batch the first
SHOWN = 20  # samples on the screen: an even spread of more
_PIECE = 1 << 22  # values of z1 at a time


def recorded(folder: Path, record: Record, epoch: int, batch: int) -> dict[str, Any]:
    """Return what the history has of one iteration: its names, and the tensors' shapes and extremes; reads one row.

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
    found = saved.collect(folder, saved.scan_history(folder, record).slice((epoch - 1) * batches + batch - 1, 1))
    row = found.row(0, named=True) if found.height else {}
    largest = record.config.batch_size
    size = min(largest, record.dataset.rows - (batch - 1) * largest)
    if [row.get(name) for name in ("epoch", "batch", "size")] != [epoch, batch, size] or not set(SCHEMA) <= set(row):
        raise RunError(
            f"{folder / HISTORY} is damaged: epoch {epoch}, batch {batch} is not where it belongs; "
            + rerun_hint(folder)
        )
    return row


@dataclass(frozen=True)
class Check:
    """How far the history is from the values computed again, relative to each quantity's own scale.

    `error` is the largest of them, as in the verification, and `quantity` the one that it is of.
    """

    error: float
    quantity: str
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the history recorded what was computed again."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Values:
    """Samples of one batch and what the network makes of them, in float64 of the float32 samples and parameters.

    `rows [R]`, from 1 among the samples of the run, `x`, `y` and `z2 [R]` are of the first samples and an even spread,
    as the network got and gave them, scaled. The spread are those at `shown [S]`, with `z1` and `a1 [S, H]`. The batch
    has `size` samples; of a run from arrays there are those that the record keeps, and `check` is None where these are
    not all. They are `identified` where the record has the SHA-256 of the run's samples, and so theirs is the same.
    """

    rows: NDArray[np.int64]
    x: Float64
    y: Float64
    z2: Float64
    shown: NDArray[np.int64]
    z1: Float64
    a1: Float64
    activation: Activation
    size: int
    check: Check | None
    identified: bool
    from_arrays: bool = False

    def samples(self) -> list[dict[str, Any]]:
        """Return the first samples as JSON, with z2 and the error rounded to float32, as the network has them."""
        with np.errstate(all="ignore"):
            x, y, z2 = (values[:MOST_SAMPLES].astype(np.float32) for values in (self.x, self.y, self.z2))
            columns = (x, y, z2, z2 - y)
        names = ("row", "x", "y", "z2", "error")
        cells = zip(self.rows.tolist(), *([shortest(value) for value in column] for column in columns), strict=False)
        return [dict(zip(names, line, strict=True)) for line in cells]


def as_json(document: dict[str, Any], values: Values | None) -> dict[str, Any]:
    """Return what `inspect --epoch E --batch B --json` prints: what was `recorded`, the samples, and the check."""
    check = None if values is None else values.check
    return document | {
        "samples": None if values is None else values.samples(),
        "check": None
        if check is None
        else {
            "reference": "numpy float64",
            "max_relative_error": check.error,
            "quantity": check.quantity,
            "tolerance": check.tolerance,
            "passed": check.agrees,
        },
    }


def recompute(folder: Path, record: Record, epoch: int, batch: int, most: int = MOST_SAMPLES) -> Values:
    """Return the first `most` samples of one batch and a spread, computed from what is saved and the dataset.

    Raises:
        RunError: the history or the parameters are missing or damaged.
        NoSamplesError: the run came from arrays, and its record keeps no sample of this batch.
        DatasetError: the dataset is missing, cannot be read, or has changed since the run.
    """
    config, row = record.config, read_row(folder, record, epoch, batch)
    start, size = (batch - 1) * config.batch_size, row["size"]
    found = reread.read(folder, record, start, start + size)
    x, y = found.scaled_x, found.scaled_y
    parameters = load_parameters(folder, record)
    check = None
    if len(x) == size:
        reference = expected.compute(parameters, x, y, len(x), config.activation)
        check = Check(*_distance(row, reference), reference.tolerance)
    spread = spread_indices(len(x), SHOWN)
    kept = np.union1d(np.arange(min(len(x), most)), spread)
    with np.errstate(all="ignore"):
        z1, a1, _ = forward(parameters, x[spread], config.activation)
        some = x[kept].astype(float), y[kept].astype(float), _answers(parameters, x[kept], config.activation)
    hidden = np.searchsorted(kept, spread), z1, a1
    identified, from_arrays = record.dataset.identity is not None, record.dataset.path is None
    return Values(found.rows[kept], *some, *hidden, config.activation, size, check, identified, from_arrays)


def _answers(parameters: Parameters, x: Float32, activation: Activation) -> Float64:
    """Return z2 over `x`, some samples at a time: a wide layer over all of them may be larger than the memory."""
    rows = max(1, _PIECE // parameters.hidden_size)
    return np.concatenate([forward(parameters, x[i : i + rows], activation)[2] for i in range(0, len(x), rows)])


def load_parameters(folder: Path, record: Record) -> Parameters:
    """Return the parameters of a run.

    Raises:
        RunError: they are missing, or not those of its record: of other shapes or other ends.
    """
    values, hidden = store.load_parameters(folder, record), record.config.hidden_size
    if {name: array.shape for name, array in values.items()} != by_name(shapes(hidden)):
        raise RunError(
            f"{folder / PARAMETERS} is damaged: it does not hold the parameters of a network of {hidden} hidden "
            f"units; {rerun_hint(folder)}"
        )
    told = {entry.name: (entry.min, entry.max) for entry in record.parameters}
    for name, array in values.items():
        finite = array[np.isfinite(array)]
        if finite.size and told.get(name) != (shortest(finite.min()), shortest(finite.max())):
            raise RunError(
                f"{folder / PARAMETERS} is damaged: {name} is not what {RECORD} says of it; {rerun_hint(folder)}"
            )
    return from_names(values)


def _distance(row: dict[str, Any], reference: expected.Reference) -> tuple[float, str]:
    """Return the largest relative error of what the history recorded of a batch, and of which quantity it is."""
    columns = {name: np.array([np.nan if value is None else value], float) for name, value in row.items()}
    compared = verify.compare(reference, verify.Seen(columns, {}))
    return max(((float(one.error[0]), one.quantity) for one in compared), default=(0.0, "loss"))
