"""The screen of `inspect --formats`: the ranges of the tensors, and what each would lose in fewer bits."""

import math

from rich.text import Text

from cubic_cli.cli.views.blocks import BAD, Column, Grid, Heading, Screen
from cubic_cli.cli.views.format import number, percent
from cubic_cli.cli.views.tensors import SYMBOLS
from cubic_cli.runs.record import Parameter, Record, Tensor

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def screen(record: Record) -> Screen:
    """Return what the tensors and parameters of a run would lose in each format."""
    entries = record.formats or ()
    named: dict[str, Tensor | Parameter] = {tensor.name: tensor for tensor in record.tensors}
    named |= {parameter.name: parameter for parameter in record.parameters}
    names = list(dict.fromkeys(entry.tensor for entry in entries))
    ranges = [_range(name, named[name]) for name in names if name in named]
    rows: list[list[str | Text]] = [
        [
            SYMBOLS.get(entry.tensor, entry.tensor),
            entry.format,
            Text("no", BAD) if entry.scale is not None and entry.scale < 1 else "yes",
            percent(entry.overflow),
            percent(entry.underflow),
            number(entry.median_error),
            "–" if entry.scale is None else power(math.frexp(entry.scale)[1] - 1),
            "–" if entry.scaled_underflow is None else percent(entry.scaled_underflow),
        ]
        for entry in entries
    ]
    columns = [Column("tensor", right=False), Column("format", right=False), Column("fits", right=False)]
    columns += map(Column, ("overflow", "to 0", "error", "scale", "then to 0"))
    note = (
        "fits, scale: by the exact ends; overflow: the share of values that become infinite; to 0: of those that are "
        "not 0; error: relative, at the median; scale: the largest power of two at which nothing overflows, and what "
        "becomes 0 then."
    )
    ends = [Column("tensor", right=False), *map(Column, ("min", "max", "smallest", "powers of two"))]
    return [
        Heading(f"formats of run {record.run_name}"),
        Grid("ranges", ends, ranges, ("powers of two", "smallest"), "smallest: the smallest magnitude that is not 0."),
        Grid("in fewer bits", columns, rows, ("then to 0", "error", "scale", "overflow"), note),
    ]


def _range(name: str, part: Tensor | Parameter) -> list[str | Text]:
    ends = [end for end in (part.min, part.max) if end is not None and math.isfinite(end)]
    largest = max(map(abs, ends), default=0.0)
    span = "–"
    if largest and part.smallest:
        span = f"{power(math.frexp(part.smallest)[1] - 1)} to {power(math.frexp(largest)[1] - 1)}"
    return [SYMBOLS.get(name, name), number(part.min), number(part.max), number(part.smallest), span]


def power(exponent: int) -> str:
    """Return a power of two, as in 2⁻⁴."""
    return "2" + str(exponent).translate(_SUPERSCRIPTS)
