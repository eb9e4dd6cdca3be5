"""The screen of `cubic check`."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cubic_cli.verdict import Report, Row

_UNITS = {"relative": "", "standard errors": " s.e.", "values": ""}


def report(seen: Report, width: int) -> RenderableType:
    """Return one row a check, what the failed ones found in full, and one closing line."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("check", no_wrap=True)
    for name in ("device", "error", "limit", "verdict"):
        table.add_column(name, justify="right" if name in ("error", "limit") else "left", no_wrap=True)
    for row in seen.rows:
        verdict = Text("right", "green") if row.passed else Text("WRONG", "bold red")
        table.add_row(row.what, row.device, _number(row.error, row), _number(row.limit, row), verdict)
    failures = [Text(f"{row.what}, {row.device}: {row.failure}", "red") for row in seen.rows if row.failure]
    where = f"JAX {seen.jax} on {seen.devices} × {seen.kind}"
    if seen.processes > 1:
        where += f" of {seen.processes} processes"
    if failures:
        closing = Text(f"{len(failures)} of {len(seen.rows)} checks failed: {where} does not compute right", "bold red")
        return Group(table, *failures, Text(""), closing)
    took = f", in {seen.seconds:.1f} s"
    return Group(table, Text(f"all {len(seen.rows)} checks passed: {where} computes right{took}", "bold green"))


def _number(value: float | None, row: Row) -> str:
    if value is None:
        return "–"
    if row.unit == "relative":
        return f"{value:.1e}" if value else "0"
    return f"{value:.1f} s.e." if row.unit == "standard errors" else f"{value:.0f}"
