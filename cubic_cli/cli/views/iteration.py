"""The screen of one iteration: its four tensors in the original's words, then its samples and a heat map of its units.

A cell of the heat map is a glyph in the colour of its ground: where there is colour it is a block, and elsewhere, on a
terminal without it as in a file of text, the glyph is what is seen.
"""

import math
from typing import Any

import numpy as np
from rich.text import Text

from cubic_cli.analysis.iteration import Values
from cubic_cli.cli.views.blocks import BAD, GOOD, QUIET, WARNING, Column, Facts, Grid, Heading, Lines, Screen
from cubic_cli.cli.views.format import GLUE, SHADES, glued, number, shade, three_decimals
from cubic_cli.config import Activation
from cubic_cli.data.source import spread_indices
from cubic_cli.float32 import Float64

_MOST_UNITS = 128  # cells of a heat map
# The ends and the middle of ColorBrewer's RdBu, which all kinds of colour vision can tell apart.
_BLUE, _WHITE, _RED = (33, 102, 172), (247, 247, 247), (178, 24, 43)
_ZERO, _NO_NUMBER = "#999999 on #f7f7f7", "bold #ffff00 on #000000"  # whose glyphs are seen


def screen(document: dict[str, Any], labels: dict[str, str], width: int, values: Values | None, why: str) -> Screen:
    """Return the screen of one iteration.

    Args:
        document: what was `iteration.recorded` of it.
        labels: the original's words for each tensor, by name.
        width: of the terminal.
        values: the iteration computed again, or None.
        why: what kept it from being computed again.
    """
    title = f"epoch {document['epoch']:,}, batch {document['batch']:,} of run {document['run_name']}"
    blocks: Screen = [Heading(title), Lines(_words(document, labels))]
    if values is None:
        return [*blocks, Facts([("values", Text(f"cannot be computed again: {why}", WARNING))])]
    grids, legend = _grids(values, width)
    facts = [("colours", legend), ("samples", _samples(values)), ("check", _check(values))]
    return [*blocks, *grids, Facts(facts)]


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


def _grids(values: Values, width: int) -> tuple[list[Grid], Text]:
    """Return the samples, a row each, with a heat map of their units beside them or, if it is too wide, below."""
    rows = values.shown
    with np.errstate(all="ignore"):
        errors = values.z2 - values.y
    names = ["row", "x", "y", "z2", "z2 − y"]
    cells = [
        [f"{row:,}" for row in values.rows[rows]],
        *([number(column[row]) for row in rows] for column in (values.x, values.y, values.z2, errors)),
    ]
    widths = [max(len(name), *map(len, column)) + 2 for name, column in zip(names, cells, strict=True)]
    # relu only takes the blue away from z1, so z1 shows more; what the others make of z1 has its sign.
    tensor = "z1" if values.activation is Activation.relu else "a1"
    units = getattr(values, tensor)
    count = units.shape[1]
    by_relu = ", below 0 made 0 by relu" if tensor == "z1" else ""
    beside = count <= _MOST_UNITS and max(count, len(f"{tensor} of all units{by_relu}")) <= width - sum(widths)
    shown = spread_indices(count, max(1, min(width - (sum(widths) if beside else widths[0]), _MOST_UNITS)))
    heat, legend = _heat_map(units[:, shown])
    what = "unit" if count == 1 else "all units" if len(shown) == count else f"{len(shown)} of {count:,} units"
    title = f"{tensor} of {what}{by_relu}"
    picture = Column(title, right=False, picture=True)
    note = f"{len(rows)} of {values.size:,} samples, evenly spread" if len(rows) < values.size else ""
    numbers = [Column(name) for name in names]
    if beside:
        return [Grid("values", [*numbers, picture], list(zip(*cells, heat, strict=True)), note=note)], legend
    return [
        Grid("values", numbers, list(zip(*cells, strict=True)), note=note),
        Grid("", [numbers[0], picture], list(zip(cells[0], heat, strict=True))),
    ], legend


def _heat_map(units: Float64) -> tuple[list[Text], Text]:
    """Return a line a sample, a cell a unit, and the legend in words."""
    finite = np.isfinite(units)
    largest = float(np.abs(units[finite]).max(initial=0.0))
    lines = []
    for row in units:
        line = Text()
        for value in row:
            line.append(shade(value, largest), _colour(value, largest))
        lines.append(line)

    def ramp(glyphs: str, *shares: float) -> Text:
        return Text.assemble(*((glyph, _colour(share, 1.0)) for glyph, share in zip(glyphs, shares, strict=True)))

    parts = [Text.assemble(("·", _ZERO), glued(" is 0"))]
    if (units[finite] < 0).any():
        below = ramp("=-", -0.75, -0.25)
        parts.insert(0, Text.assemble(glued("below 0 (blue) "), below, glued(f" from {number(-largest)}")))
    if (units[finite] > 0).any():
        above = ramp(SHADES, 0.125, 0.375, 0.625, 0.875)
        parts.append(Text.assemble(glued("above 0 (red) "), above, glued(f" to {number(largest)}")))
    if not finite.all():
        parts.append(Text.assemble(("?", _NO_NUMBER), glued(" is not finite")))
    return lines, Text(", ").join(parts)


def _colour(value: float, largest: float) -> str:
    """Return the style of a cell: its glyph has the colour of the ground, and so is not seen but without colour."""
    if not math.isfinite(value):
        return _NO_NUMBER
    if value == 0 or not largest:
        return _ZERO
    share = min(1.0, abs(value) / largest)
    end = _RED if value > 0 else _BLUE
    mixed = [round(white + share * (colour - white)) for white, colour in zip(_WHITE, end, strict=True)]
    colour = "#" + "".join(f"{part:02x}" for part in mixed)
    return f"{colour} on {colour}"


def _samples(values: Values) -> Text:
    if values.from_arrays:
        some = "all" if len(values.rows) == values.size else f"{len(values.rows)} of {values.size:,}"
        return Text(f"{some} of this batch, as the record keeps them; the run came from arrays")
    if not values.identified:
        return Text("the run has no SHA-256 of its samples", QUIET)
    return Text("those of the run, by their SHA-256")


def _check(values: Values) -> Text:
    check = values.check
    if check is None:
        return Text("none, for not all samples of this batch are there", QUIET)
    allowed = f"({check.tolerance:.1e}{GLUE}allowed)"
    if check.agrees:
        said = f", the history is within {check.error:.1e} of the values computed again in NumPy float64 {allowed}"
        return Text.assemble(("yes", GOOD), said)
    where = f"{check.quantity} in the history differs by {check.error:.1e}, relatively, from the values computed again"
    return Text.assemble(("NO", BAD), f": {where} {allowed}")
