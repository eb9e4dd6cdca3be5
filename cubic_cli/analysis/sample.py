"""One sample of a saved run with its arithmetic: read from the dataset, or from the record of a run from arrays."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cubic_cli.analysis import iteration, reread
from cubic_cli.analysis.row import Arithmetic, write_out
from cubic_cli.config import Activation
from cubic_cli.errors import RunError
from cubic_cli.float32 import shortest
from cubic_cli.parameters import NAMES
from cubic_cli.reference.rounding import tolerance
from cubic_cli.runs.record import Record


@dataclass(frozen=True)
class Sample:
    """A sample, `row` from 1 among those used, in `line` of a CSV file, and its arithmetic.

    `x` and `y` are as read; the arithmetic has them as the network got them. The shares are what its squared error is
    of the sum over its `batch`, from 1, and over the epoch; None where that sum is 0 or not finite.
    """

    run_name: str
    row: int
    line: int | None
    path: Path | None
    batch: int
    x: float
    y: float
    scaling: str
    activation: Activation
    arithmetic: Arithmetic
    tolerance: float
    of_batch: float | None
    of_epoch: float | None
    has_gradients: bool

    def as_json(self) -> dict[str, Any]:
        """Return the sample as `inspect --row --json` prints it; units in their own order."""
        found, back = self.arithmetic, self.arithmetic.group_of
        gradients = None
        if self.has_gradients:
            of = found.gradients
            gradients = dict(zip(NAMES, [of.w1[back], of.b1[back], of.w2[back], np.array([of.b2])], strict=True))
        return {
            "run_name": self.run_name,
            "row": self.row,
            "line": self.line,
            "batch": self.batch,
            "x": self.x,
            "y": self.y,
            "scaled": {"x": shortest(found.x), "y": shortest(found.y)},
            "z1": [shortest(value) for value in found.z1[back]],
            "a1": [shortest(value) for value in found.a1[back]],
            "z2": shortest(found.z2),
            "error": shortest(found.error),
            "squared_error": found.square,
            "shares": {"batch": self.of_batch, "epoch": self.of_epoch},
            "float64": {
                "z1": found.exact_z1[back].tolist(),
                "a1": found.exact_a1[back].tolist(),
                "z2": found.exact_z2,
            },
            "relative_error": found.relative_error,
            "agrees": self.agrees,
            "gradients": None if gradients is None else {name: array.tolist() for name, array in gradients.items()},
        }

    @property
    def agrees(self) -> bool:
        """Whether float32 and float64 agree in z2."""
        return self.arithmetic.relative_error <= self.tolerance


def read_sample(folder: Path, record: Record, row: int) -> Sample:
    """Return sample `row`, from 1 among the samples of the run.

    Raises:
        RunError: the run has no such row, or its files are damaged.
        DatasetError: the dataset is gone, or has changed since the run.
    """
    data, config = record.dataset, record.config
    if not 1 <= row <= data.rows:
        raise RunError(f"run {record.run_name} has the rows 1 to {data.rows:,}; there is no row {row:,}")
    found = reread.read(folder, record, row - 1, row)
    path = None if data.path is None else Path(data.path)
    parameters = iteration.load_parameters(folder, record)
    arithmetic = write_out(parameters, config.activation, float(found.scaled_x[0]), float(found.scaled_y[0]))
    batch = (row - 1) // config.batch_size + 1
    history = iteration.read_row(folder, record, 1, batch)
    return Sample(
        run_name=record.run_name,
        row=row,
        line=find_line(path, row) if path is not None and path.suffix.lower() == ".csv" else None,
        path=path,
        batch=batch,
        x=shortest(found.x[0]),
        y=shortest(found.y[0]),
        scaling=config.scaling,
        activation=config.activation,
        arithmetic=arithmetic,
        tolerance=tolerance(config.hidden_size),
        of_batch=_share(arithmetic.square, history["loss"], history["size"]),
        of_epoch=_share(arithmetic.square, record.loss, data.rows),
        has_gradients=record.gradients is not None,
    )


def _share(square: float, loss: float, count: int) -> float | None:
    total = loss * count
    return square / total if math.isfinite(total) and total > 0 and math.isfinite(square) else None


def find_line(path: Path, row: int) -> int:
    """Return the line of a CSV file in which sample `row` begins, both from 1; a quoted field may hold lines."""
    with path.open("rb") as stream:
        if not any(b'"' in block for block in iter(lambda: stream.read(1 << 20), b"")):
            return row + 1
    with path.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text)
        for _ in range(row):  # the header, and the rows before
            next(reader)
        return reader.line_num + 1
