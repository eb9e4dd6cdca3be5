"""The table of a run's tensors and parameters, in the order of the data flow, with a histogram of each on one axis."""

from dataclasses import replace
from typing import NamedTuple

from rich.text import Text

from cubic_cli.analysis.scaled import as_scaled
from cubic_cli.analysis.shape import share
from cubic_cli.cli.views.blocks import BAD, Column, Grid, fit
from cubic_cli.cli.views.format import Axis, bar, common_axis, mean, number, percent, shape
from cubic_cli.runs.record import Parameter, Record, Summary, Tensor

EQUATIONS = {"z1": "x·W1 + b1", "a1": "{activation}(z1)", "z2": "a1·W2 + b2", "loss": "mean((z2 − y)²)"}
SYMBOLS = {
    "input_layer.weight": "W1",
    "input_layer.bias": "b1",
    "output_layer.weight": "W2",
    "output_layer.bias": "b2",
}
QUANTILES = {"0.01": "1 %", "0.5": "50 %", "0.99": "99 %"}
FLOW = ("x", "W1", "b1", "z1", "a1", "W2", "b2", "z2", "y", "loss")
# Columns that are left out where they do not fit, in this order. What is not finite goes first only where all is
# finite; the tensor, its minimum and its maximum always stay.
DROP = ("equation", "50 %", ("1 %", "99 %"), ("bytes", "FLOPs"), "std", "shape", "zeros", "mean")
_NOT_FINITE = "not finite"
_WORDS = ("tensor", "equation", "shape")
_NUMBERS = ("bytes", "FLOPs", "min", "max", "mean", "std", *QUANTILES.values(), "zeros", _NOT_FINITE)


class _Row(NamedTuple):
    """What the table says of one tensor; an empty text where the record does not tell."""

    entry: Summary | Tensor | Parameter
    shape: tuple[int, ...]
    nonfinite: int | None = None


def table(record: Record, width: int) -> Grid:
    """Return the table for a terminal of `width` cells; a column that no row fills is left out."""
    rows = _rows(record)
    axis = _axis(rows, width)
    cells = [_cells(name, row, record.config.activation, axis) for name, row in rows.items()]
    names = [name for name in (*_WORDS, *_NUMBERS) if any(row.get(name) for row in cells)]
    columns = [*(Column(name, name in _NUMBERS) for name in names), Column(axis.header(), False, True)]
    lines = [[row.get(name, "") for name in (*names, "")] for row in cells]
    drop = DROP if any(row.nonfinite for row in rows.values()) else (_NOT_FINITE, *DROP)
    grid = Grid("", columns, lines, (*drop, axis.header()))
    return replace(grid, note=_note(record, axis, {column.name for column in fit(grid, width).columns}))


def _note(record: Record, axis: Axis, shown: set[str]) -> str:
    """Return what there is to know of the columns that are shown."""
    notes = ["over one epoch"]
    spread = ["quantiles"] if shown & set(QUANTILES.values()) else []
    if axis.header() in shown:
        notes.append(f"the axis is logarithmic beyond ±{number(axis.linear)}")
        notes.append("a height is the share of the values in its cell, zeros left out; ━ is the range alone")
        spread.append("histograms")
    if spread and any(tensor.quantiles for tensor in record.tensors):
        notes.append(f"{' and '.join(spread)} are of an even spread of samples")
    if record.config.scaling != "none":
        notes.append("x and y as scaled")
    return "; ".join(notes)


def _rows(record: Record) -> dict[str, _Row]:
    scaled, data, rows = as_scaled(record), record.dataset, {}
    for name, summary, seen in (("x", scaled.x, data.x), ("y", scaled.y, data.y)):  # as the network got them
        counted = record.version > 1
        rows[name] = _Row(summary, (data.rows,), seen.nan + seen.posinf + seen.neginf if counted else None)
    rows |= {tensor.name: _Row(tensor, tensor.shape, tensor.nonfinite) for tensor in record.tensors}
    parameters = getattr(record, "parameters", ())  # damaged, they are left out
    rows |= {SYMBOLS.get(entry.name, entry.name): _Row(entry, entry.shape) for entry in parameters}
    return {name: rows[name] for name in (*FLOW, *rows) if name in rows}


def _axis(rows: dict[str, _Row], width: int) -> Axis:
    ends = [row.entry for name, row in rows.items() if name != "loss"]
    magnitudes = [abs(end) for entry in ends for end in (entry.min, entry.max) if end is not None]
    return common_axis(magnitudes, 21 if width < 100 else 27 if width < 140 else 41)


def _cells(name: str, row: _Row, activation: str, axis: Axis) -> dict[str, str | Text]:
    """Return the cells of one row; the loss, which has other units, has no histogram."""
    entry, lost = row.entry, row.nonfinite
    quantiles = getattr(entry, "quantiles", None) or {}
    counts = {"bytes": getattr(entry, "bytes", None), "FLOPs": getattr(entry, "flops", None)}
    heights = None if isinstance(entry, Summary) else share(entry, axis.edges)
    return {
        "tensor": name,
        "equation": EQUATIONS.get(name, "").format(activation=activation),
        "shape": shape(row.shape),
        **{unit: f"{count:,}" for unit, count in counts.items() if count is not None},
        **{end: number(getattr(entry, end)) for end in ("min", "max", "std")},
        "mean": mean(entry.mean, entry.min, entry.max),
        **{title: number(quantiles[key]) for key, title in QUANTILES.items() if key in quantiles},
        "zeros": percent(entry.zeros) if isinstance(entry, Tensor) else "",
        _NOT_FINITE: "" if lost is None else Text(f"{lost:,}", BAD) if lost else "0",
        "": bar(axis, entry.min, entry.max, heights) if name != "loss" else "",
    }
