"""The screen of `cubic check`."""

from rich.text import Text

from cubic_cli.cli.views.blocks import BAD, GOOD, Bullet, Bullets, Column, Grid, Heading, Screen
from cubic_cli.experiments.report import Report, Row


def screen(report: Report) -> Screen:
    """Return one row a check, what the failed ones found in full, and one closing line."""
    rows = [
        (row.what, row.device, _number(row.error, row), _number(row.limit, row), _verdict(row)) for row in report.rows
    ]
    names = ("check", "device", "error", "limit", "verdict")
    columns = [Column(name, right=name in ("error", "limit")) for name in names]
    blocks: Screen = [Grid("", columns, rows, drop=("limit", "error", "device"))]
    where = f"JAX {report.jax} on {report.devices} × {report.kind}"
    if report.processes > 1:
        where += f" of {report.processes} processes"
    failed = [row for row in report.rows if row.failure is not None]
    if not failed:
        text = f"all {len(rows)} checks passed: {where} computes right, in {report.seconds:.1f} s"
        return [*blocks, Heading("", Text(text, GOOD))]
    found = [Bullet(f"{row.what}, {row.device}", "", str(row.failure), "error") for row in failed]
    closing = Text(f"{len(failed)} of {len(rows)} checks failed: {where} does not compute right", BAD)
    return [*blocks, Bullets("what is wrong", found), Heading("", closing)]


def _verdict(row: Row) -> Text:
    return Text("right", GOOD) if row.passed else Text("WRONG", BAD)


def _number(value: float | None, row: Row) -> str:
    if value is None:
        return "–"
    if row.unit == "relative":
        return f"{value:.1e}" if value else "0"
    return f"{value:.1f} s.e." if row.unit == "standard errors" else f"{value:.0f}"
