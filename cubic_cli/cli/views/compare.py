"""The screen of runs side by side: what differs first, then the losses and the ranges with their change."""

import math
from typing import Any

from rich.text import Text

from cubic_cli.cli.views.blocks import BAD, GOOD, Column, Facts, Grid, Heading, Screen
from cubic_cli.cli.views.format import GLUE, number


def screen(document: dict[str, Any]) -> Screen:
    """Return the screen of what `compare.document` says."""
    this, tolerance = document["run_name"], document["tolerance"]
    blocks: Screen = []
    for other in document["others"]:
        blocks.append(Heading(f"{this} against {other['run_name']}"))
        if not other["differences"]:
            blocks.append(Facts([("made", Text("alike: settings, dataset, device and versions"))]))
        rows = [(d["part"], d["name"], _setting(d["this"]), _setting(d["other"])) for d in other["differences"]]
        if rows:
            columns = [Column(name, False) for name in ("what differs", "", "this", "other")]
            blocks.append(Grid("", columns, rows, ("what differs",)))
        blocks.append(_changes(other))
        if tolerance is not None:
            blocks.append(Facts([("within", _verdict(other["beyond"], tolerance))]))
    return blocks


def _changes(other: dict[str, Any]) -> Grid:
    beyond = set(other["beyond"] or [])
    rows = []
    for change in other["changes"]:
        if change["quantity"].endswith(("nan", "inf")) and change["change"] == 0:
            continue  # counts that are equal, none as a rule
        style = BAD if change["quantity"] in beyond else ""
        rows.append(
            (
                Text(change["quantity"].replace("_", " "), style),
                number(change["this"]),
                number(change["other"]),
                Text(_change(change), style),
            )
        )
    columns = [Column("", False), Column("this"), Column("other"), Column("change")]
    return Grid(
        "", columns, rows, note="a change of an end or a mean is relative to the largest magnitude of its tensor"
    )


def _change(change: dict[str, Any]) -> str:
    """Return the change in words: none, times or per cent, and a small one as what is held against a tolerance."""
    relative, this, other = change["change"], change["this"], change["other"]
    if relative == 0:
        return "none"
    if not math.isfinite(relative):
        return "not comparable"
    if relative < 1e-3:
        return f"{relative:.1e}"
    if this and other and this * other > 0 and not 0.5 <= other / this <= 2:
        ratio = other / this
        return f"×{GLUE}{number(ratio)}"
    return f"{relative:.1%}"


def _verdict(beyond: list[str], tolerance: float) -> Text:
    if not beyond:
        return Text.assemble(("yes", GOOD), f", every figure is within {tolerance:g}, relatively")
    return Text.assemble(("NO", BAD), f", beyond {tolerance:g}, relatively: {', '.join(beyond)}")


def _setting(value: Any) -> str:
    if value is None:
        return "–"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text[:12] if len(text) == 64 and value == text else text
