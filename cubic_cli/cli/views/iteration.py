"""The screen of one iteration: its four tensors in the original's words, then its values."""

from typing import Any

import numpy as np
from rich.text import Text

from cubic_cli.analysis.iteration import Values
from cubic_cli.cli.views.blocks import BAD, GOOD, QUIET, WARNING, Column, Facts, Grid, Heading, Lines, Screen
from cubic_cli.cli.views.format import GLUE, SHADES, number, shade, three_decimals
from cubic_cli.data.source import spread_indices

MAX_ROWS = 20  # samples shown: an even spread of more
MIN_UNITS = 8  # a heat map of fewer cells says nothing
_LABEL = 8


def screen(document: dict[str, Any], labels: dict[str, str], width: int, values: Values | str | None) -> Screen:
    """Return the screen of one iteration.

    Args:
        document: what `inspect --epoch E --batch B --json` prints.
        labels: the original's words for each tensor, by name.
        width: of the terminal.
        values: the iteration computed again, or why it could not be.
    """
    title = f"epoch {document['epoch']:,}, batch {document['batch']:,} of run {document['run_name']}"
    blocks: Screen = [Heading(title), Lines(_words(document, labels))]
    if isinstance(values, str):
        blocks.append(Facts([("values", Text(f"cannot be computed again: {values}", WARNING))]))
    elif values is not None:
        blocks += [_grid(values, width), Facts([("samples", _samples(values)), ("check", _check(values))])]
    return blocks


def _words(document: dict[str, Any], labels: dict[str, str]) -> list[str]:
    rows = [
        (labels[t["name"]], str(t["shape"]), three_decimals(t["min"]), three_decimals(t["max"]))
        for t in document["tensors"]
    ]
    # The loss, which the original prints apart, does not widen the columns of the tensors.
    widths = [max(len(row[i]) for row in rows[:3]) for i in range(3)]
    return [
        f"{label:<{widths[0]}}  shape={shape:<{widths[1]}}  min={low:<{widths[2]}}  max={high}"
        for label, shape, low, high in rows
    ]


def _grid(values: Values, width: int) -> Grid:
    """The samples, a row each, with the activations of their units as shades."""
    rows = spread_indices(len(values.x), MAX_ROWS)
    columns = [
        [f"{values.first_row + row:,}" for row in rows],
        *([number(column[row]) for row in rows] for column in (values.x, values.y, values.z2, values.z2 - values.y)),
    ]
    names = ["row", "x", "y", "z2", "z2 − y"]
    used = sum(max(len(name), *map(len, cells)) + 2 for name, cells in zip(names, columns, strict=True))
    units = spread_indices(values.a1.shape[1], max(MIN_UNITS, min(width - used, 128)))
    a1 = values.a1[np.ix_(rows, units)]
    largest = float(np.abs(a1[np.isfinite(a1)]).max(initial=0.0))
    columns.append(["".join(shade(value, largest) for value in row) for row in a1])
    count = values.a1.shape[1]
    title = "a1" if len(units) < 9 else "a1, all units" if len(units) == count else "a1, some units"
    notes = [f"a1: {_legend(a1, largest)}"]
    if len(units) < count:
        notes.append(f"{len(units)} of {count:,} units, evenly spread")
    if len(rows) < len(values.x):
        notes.append(f"{len(rows)} of {len(values.x):,} samples, evenly spread; the others are left out")
    return Grid(
        "values",
        [*(Column(name) for name in names), Column(title, right=False, picture=True)],
        list(zip(*columns, strict=True)),
        (title,),
        "; ".join(notes),
    )


def _legend(a1: np.ndarray[Any, Any], largest: float) -> str:
    parts = ["· is 0"]
    if (a1 > 0).any():
        parts.append(f"{SHADES} in quarters up to {number(largest)}")
    if (a1 < 0).any():
        parts.append(f"- and = below 0, in halves down to −{number(largest)}")
    if not np.isfinite(a1).all():
        parts.append("? is not finite")
    return ", ".join(part.replace(" ", GLUE) for part in parts)


def _samples(values: Values) -> Text:
    if values.unchanged is None:
        return Text("the run has no SHA-256 of its samples", QUIET)
    return Text("those of the run, by their SHA-256")


def _check(values: Values) -> Text:
    said = f"the history is within {values.error:.1e} of the values computed again in NumPy float64"
    if values.agrees:
        return Text.assemble(("yes", GOOD), f", {said} ({values.tolerance:.1e}{GLUE}allowed)")
    where = (
        f"{values.quantity} in the history differs by {values.error:.1e}, relatively, from the values computed again"
    )
    return Text.assemble(("NO", BAD), f": {where} ({values.tolerance:.1e}{GLUE}allowed)")
