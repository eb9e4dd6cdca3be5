"""The screen of `cubic generate`."""

from rich.text import Text

from cubic_cli.cli.views.blocks import Column, Facts, Grid, Heading, Screen
from cubic_cli.cli.views.format import GLUE, duration, number, size
from cubic_cli.data.generate import Generated


def screen(summary: Generated) -> Screen:
    """Return what was written: where, how much, and the range and mean of both columns."""
    columns = (Column("", right=False), Column("min"), Column("max"), Column("mean"))
    rows = [
        ("x", number(summary.x_min), number(summary.x_max), number(summary.x_mean)),
        ("y", number(summary.y_min), number(summary.y_max), number(summary.y_mean)),
    ]
    text = f"{summary.rows:,}{GLUE}samples, {size(summary.bytes)}, in {duration(summary.seconds)}"
    return [Heading(summary.path), Facts([("wrote", Text(text))]), Grid("", columns, rows)]
