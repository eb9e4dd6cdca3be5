"""The table of a run's tensors and parameters, in the order of the data flow, with a histogram of each on one axis."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from rich.text import Text

from cubic_cli.analysis.scaled import as_scaled
from cubic_cli.analysis.shape import share
from cubic_cli.cli.views.blocks import BAD, Column, Grid, fit
from cubic_cli.cli.views.format import Axis, bar, common_axis, mean, number, percent, shape
from cubic_cli.runs.record import Dataset, Parameter, Record, Summary, Tensor

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


class _Row(NamedTuple):
    """What the table says of one tensor; an empty text where the record does not tell."""

    entry: Summary | Tensor | Parameter
    shape: tuple[int, ...]
    nonfinite: int | None = None


def table(record: Record, width: int) -> Grid:
    """Return the table for a terminal of `width` cells; the loss, which has other units, has no histogram."""
    rows = _rows(record)
    axis = _axis(rows, width)
    title = axis.header()
    quantiles = [name for key, name in QUANTILES.items() if any(key in _quantiles(row) for row in rows.values())]
    measured = [name for name, key in (("bytes", "bytes"), ("FLOPs", "flops")) if _any(rows, key)]
    names = ["tensor", "equation", "shape", *measured, "min", "max", "mean", "std", *quantiles, "zeros", _NOT_FINITE]
    left = ("tensor", "equation", "shape")
    columns = [*(Column(name, name not in left) for name in names), Column(title, False, True)]
    cells = [_cells(name, row, record.config.activation, axis) for name, row in rows.items()]
    drop = DROP if any(row.nonfinite for row in rows.values()) else (_NOT_FINITE, *DROP)
    lines = [[row.get(name, "") for name in (*names, "")] for row in cells]
    grid = Grid("", columns, lines, (*drop, title))
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
    scaled, data = as_scaled(record), record.dataset
    rows = {"x": _column(scaled.x, data, "x", record), "y": _column(scaled.y, data, "y", record)}
    rows |= {tensor.name: _Row(tensor, tensor.shape, tensor.nonfinite) for tensor in record.tensors}
    parameters = getattr(record, "parameters", ())  # damaged, they are left out
    rows |= {SYMBOLS.get(entry.name, entry.name): _Row(entry, entry.shape) for entry in parameters}
    return {name: rows[name] for name in (*FLOW, *rows) if name in rows}


def _column(summary: Summary, data: Dataset, name: str, record: Record) -> _Row:
    """A column of the dataset as the network got it; a record of schema 1 does not count what is not finite there."""
    seen = data.x if name == "x" else data.y
    return _Row(summary, (data.rows,), seen.nan + seen.posinf + seen.neginf if record.version > 1 else None)


def _quantiles(row: _Row) -> Mapping[str, float]:
    return (row.entry.quantiles if isinstance(row.entry, Tensor) else None) or {}


def _any(rows: dict[str, _Row], name: str) -> bool:
    return any(getattr(row.entry, name, None) is not None for row in rows.values())


def _axis(rows: dict[str, _Row], width: int) -> Axis:
    ends = [row.entry for name, row in rows.items() if name != "loss"]
    magnitudes = [abs(end) for entry in ends for end in (entry.min, entry.max) if end is not None]
    return common_axis(magnitudes, 21 if width < 100 else 27 if width < 140 else 41)


def _cells(name: str, row: _Row, activation: str, axis: Axis) -> dict[str, str | Text]:
    entry, quantiles = row.entry, _quantiles(row)
    counts = {"bytes": getattr(entry, "bytes", None), "FLOPs": getattr(entry, "flops", None)}
    heights = None if isinstance(entry, Summary) else share(entry, axis.edges)
    lost = row.nonfinite
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
