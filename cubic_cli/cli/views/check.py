"""The screen of `cubic check`."""

from typing import Any

from rich.text import Text

from cubic_cli.cli.views import page
from cubic_cli.cli.views.blocks import BAD, GOOD, WARNING, Bullet, Bullets, Column, Grid, Heading, Screen
from cubic_cli.cli.views.format import number
from cubic_cli.experiments.report import Report, Row, Verdict

_WORDS = {
    Verdict.RIGHT: Text("right", GOOD),
    Verdict.NOT_CHECKED: Text("not checked", WARNING),
    Verdict.WRONG: Text("WRONG", BAD),
}
_NOTE = "error and limit: relative, in standard errors (s.e.), or values that differ"
_MANY = 16  # devices: beyond, those that are right are only counted


def screen(report: Report) -> Screen:
    """Return a row a check, a row a device, what is wrong or could not be checked in full, and one closing line."""
    names = ("check", "error", "limit", "verdict")
    columns = [Column(name, right=name in ("error", "limit")) for name in names]
    rows = [
        (row.what, _number(row.error, row), _number(row.limit, row), _WORDS[row.verdict].copy()) for row in report.rows
    ]
    blocks: Screen = [Grid("", columns, rows, drop=("limit", "error"), note=_NOTE)]
    if devices := _devices(report):
        blocks.append(devices)
    for verdict, title, level in (
        (Verdict.WRONG, "what is wrong", "error"),
        (Verdict.NOT_CHECKED, "what was not checked", "warning"),
    ):
        if found := [row for row in report.rows if row.verdict is verdict]:
            items = [Bullet(row.what, " ".join(row.text.split()), level) for row in found]
            blocks.append(Bullets(title, items))
    return [*blocks, Heading("", _closing(report))]


def as_page(report: Report) -> str:
    """Return the page of the report: the verdict first."""
    *blocks, _ = screen(report)
    kind = {Verdict.RIGHT: "good", Verdict.WRONG: "bad"}.get(report.verdict, "warning")
    return page.document(
        "cubic check",
        "<h1>cubic check</h1>",
        page.verdict(kind, _WORDS[report.verdict].plain.capitalize(), f": {_closing(report).plain}."),
        page.from_screen(blocks),
        "<h2>Facts</h2>",
        page.facts((name.replace("_", " "), _say(value)) for name, value in report.facts.items()),
    )


def _say(fact: Any) -> str:
    if isinstance(fact, dict):
        return ", ".join(f"{name}: {_say(value)}" for name, value in fact.items())
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    return number(fact) if isinstance(fact, float) else str(fact)


def _devices(report: Report) -> Grid | None:
    """Return a row a device; of many only those that are not right."""
    verdicts = [(device, report.verdict_of(device)) for device in report.devices]
    right = [pair for pair in verdicts if pair[1] is Verdict.RIGHT]
    shown = verdicts if len(verdicts) <= _MANY else [pair for pair in verdicts if pair not in right]
    if len(verdicts) < 2 or not shown:
        return None
    columns = [Column("device"), Column("kind", right=False), Column("process"), Column("verdict", right=False)]
    rows = [(str(d.id), d.kind, str(d.process), _WORDS[verdict].copy()) for d, verdict in shown]
    note = f"{len(right)} other devices are right" if len(shown) < len(verdicts) else ""
    return Grid("", columns, rows, drop=("process", "kind"), note=note)


def _closing(report: Report) -> Text:
    facts, total = report.facts, len(report.rows)
    kinds = sorted({device.kind for device in report.devices})
    where = f"JAX {facts.get('jax', '')} on {len(report.devices)} × {', '.join(kinds)}" if kinds else "JAX"
    if facts.get("processes", 1) > 1:
        where += f" of {facts['processes']} processes"
    rounds = f" in {facts['rounds']} rounds" if facts.get("rounds", 1) > 1 else ""
    took = f", {facts['seconds']:.1f} s" if "seconds" in facts else ""
    count = sum(row.verdict is report.verdict for row in report.rows)
    if report.verdict is Verdict.RIGHT:
        return Text(f"{where} computes right: all {total} checks{rounds}{took}", GOOD)
    if report.verdict is Verdict.WRONG:
        return Text(f"{where} does not compute right: {count} of {total} checks{rounds}{took}", BAD)
    return Text(f"{where} was not checked: no verdict for {count} of {total} checks{rounds}{took}", WARNING)


def _number(value: float | None, row: Row) -> str:
    if value is None:
        return "–"
    if row.unit == "relative":
        return f"{value:.1e}" if value else "0"
    return f"{value:.1f} s.e." if row.unit == "standard errors" else f"{value:,.0f}"
