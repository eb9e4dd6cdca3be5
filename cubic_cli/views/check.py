"""The screen of `cubic check`."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cubic_cli.check import Report


def report(seen: Report, width: int) -> RenderableType:
    """Return one row a check, and one closing line; what a failed check found stands below its row."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("check")
    for name in ("device", "error", "limit", "verdict"):
        table.add_column(name, justify="right" if name in ("error", "limit") else "left", no_wrap=True)
    for row in seen.rows:
        verdict = Text("right", "green") if row.passed else Text("WRONG", "bold red")
        table.add_row(Text(row.what), row.device, _number(row.error), _number(row.limit), verdict)
        if row.failure:
            table.add_row(Text(f"  {row.failure}", "red"))
    wrong = sum(not row.passed for row in seen.rows)
    where = f"JAX {seen.jax} on {seen.devices} × {seen.kind}" if seen.devices > 1 else f"JAX {seen.jax} on {seen.kind}"
    closing = (
        Text(f"{wrong} of {len(seen.rows)} checks failed: {where} does not compute right", "bold red")
        if wrong
        else Text(f"all {len(seen.rows)} checks passed: {where} computes right", "bold green")
    )
    return Group(table, closing)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}" if value else "0"
