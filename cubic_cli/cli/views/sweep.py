"""The screen of `cubic sweep`: the runs, ranked, and how the tensors grow with the width."""

from dataclasses import replace
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from cubic_cli.analysis.growth import GROUP, group_of, tell_apart
from cubic_cli.analysis.limits import LIMITS
from cubic_cli.cli.views import page, plot, sweep_plot
from cubic_cli.cli.views.blocks import BAD, Column, Facts, Grid, Heading, Screen, fit, layout
from cubic_cli.cli.views.format import many, number, power_of_h, r_squared
from cubic_cli.errors import shorten
from cubic_cli.float32 import TENSORS

_COLUMNS = (
    Column("run", right=False),
    Column("loss"),
    Column("R²"),
    Column("range"),
    Column("dead"),
    Column("distinct"),
    Column("rank"),
    Column("gradient"),
    Column("rate"),
    Column("verdict", right=False),
)
# What is left out where the table does not fit, in this order; the run, its loss and the verdict always stay.
DROP = ("rank", "dead", "distinct", "range", "rate", "gradient", "R²")
_MEASURED = ("gradient", "rate")  # under --gradients alone
_FEWEST_LETTERS = 16  # of a run's name
_ALL_WORDS = 99  # of a verdict
_NOTES = {
    "loss": "loss: in the units of the data",
    "range": "range: largest |z2| over largest |z1|",
    "gradient": "gradient: its norm, of the loss as scaled",
    "rate": "rate: the largest learning rate at which one step does not raise that loss",
}


def screen(document: dict[str, Any], run_name: str, width: int) -> Screen:
    """Return the ranked runs and, where there are several widths, the growth, for a terminal of `width` cells."""
    rows = document["runs"]
    done = [row for row in rows if "error" not in row]
    failed = [row for row in rows if "error" in row]
    verified = sum(row["verified"] is True for row in done)
    note = f"{many(len(rows), 'run')}, {verified:,} verified"
    blocks: Screen = [Heading(f"sweep {shorten(run_name, max(_FEWEST_LETTERS, width - 40))}", Text(note))]
    if done:
        blocks.append(_ranking(done, run_name, width))
    if failed:
        name = max(_FEWEST_LETTERS, width // 3)
        blocks.append(Facts([(shorten(row["run_name"], name), Text(f"failed: {row['error']}", BAD)) for row in failed]))
    if document["growth"] and len({row["hidden_size"] for row in done}) > 1:
        blocks.append(_growth(document["growth"]))
    return blocks


def as_page(document: dict[str, Any], run_name: str) -> str:
    """Return the page of a sweep: whether its runs are verified, how the tensors grow, drawn, and the tables."""
    rows = document["runs"]
    _, *blocks = screen(document, run_name, _PAGE)
    verified = sum(row.get("verified") is True for row in rows)
    wrong = sum("error" in row or row.get("verified") is False for row in rows)
    said = f": {many(len(rows), 'run')}, {verified:,} verified, {wrong:,} failed."
    kind, word = ("bad", "Failed") if wrong else ("good", "Verified") if verified == len(rows) else _UNVERIFIED
    head, verdict = page.from_screen([Heading(f"sweep {run_name}")]), page.verdict(kind, word, said)
    several = len({row["hidden_size"] for row in rows if "error" not in row}) > 1
    grown = [_picture(document["growth"])] if several else []
    return page.document(f"cubic sweep {run_name}", head, verdict, *grown, page.from_screen(blocks))


_PAGE = 200  # cells: the tables of a page have no width of their own
_UNVERIFIED = ("warning", "Not verified")


def _picture(growth: list[dict[str, Any]]) -> str:
    """Return the figure of the growth with its words, or why there is none."""
    if not plot.available():
        return page.NO_FIGURE
    svg = plot.render(sweep_plot.draw(growth), "svg").decode()
    words = (
        "The standard deviation of z1, a1 and z2 over the width H, both axes logarithmic. A line is the power of H "
        "that stands in the legend and in the table “Growth with H”."
    )
    return page.figure(svg, "growth", "Growth with the width", words, "wide")


def _ranking(rows: list[dict[str, Any]], run_name: str, width: int) -> Grid:
    """Return the table of the runs, with a note on the columns that are shown."""
    grid = _fullest(rows, run_name, width)
    shown = [column.name for column in fit(grid, width).columns]
    return replace(grid, note="; ".join(text for name, text in _NOTES.items() if name in shown) + ".")


def _fullest(rows: list[dict[str, Any]], run_name: str, width: int) -> Grid:
    """Return the table in its fullest form that fits: names and verdicts are shortened before a column is left out."""
    names = [row["run_name"] for row in rows]
    ends = ["…" + name.removeprefix(run_name) if len(rows) > 1 else name for name in names]
    # What was asked for and takes long is worth more than a second word of a verdict, and so is R².
    tries = [(shown, _ALL_WORDS, {column.name for column in _COLUMNS}) for shown in (names, ends)]
    tries += [(ends, words, kept) for kept in ({*_MEASURED, "R²"}, {"R²"}, set()) for words in (2, 1)]
    for shown, words, kept in tries:
        room = max(cell_len(_say(row["verdict"], words)) for row in rows)
        grid = _grid(rows, shown, room)
        spare = width - _width(grid, width)
        left_out = {*grid.columns} - {*fit(grid, width).columns}
        if spare >= 0 and not any(column.name in kept for column in left_out):
            return _grid(rows, shown, room + spare)
    name = max(_FEWEST_LETTERS, max(map(cell_len, ends)) + spare)
    return _grid(rows, [shorten(end, name) for end in ends], room)


def _width(grid: Grid, width: int) -> int:
    return max(cell_len(line) for line in layout([grid], width).plain.splitlines())


def _grid(rows: list[dict[str, Any]], names: list[str], room: int) -> Grid:
    """Return the table with these names of the runs, and what can be said in `room` cells as their verdicts."""
    measured = any(row["gradient_norm"] is not None for row in rows)
    columns = [column for column in _COLUMNS if measured or column.name not in _MEASURED]
    cells = [_cells(row, name, room) for row, name in zip(rows, names, strict=True)]
    return Grid("", columns, [[line[column.name] for column in columns] for line in cells], DROP)


def _say(verdict: list[str], words: int) -> str:
    return ", ".join(verdict[:words]) + (" …" if len(verdict) > words else "")


def _cells(row: dict[str, Any], name: str, room: int) -> dict[str, str | Text]:
    forms = [_say(row["verdict"], words) for words in range(len(row["verdict"]), 0, -1)]
    said = next((form for form in forms if cell_len(form) <= room), forms[-1] if forms else "")
    bad = any(id in LIMITS and LIMITS[id].level == "error" for id in row["findings"])
    return {
        "run": name,
        "loss": number(row["loss_in_data_units"]),
        "R²": r_squared(row["r_squared"]),
        "range": "–" if row["range_growth"] is None else f"×{number(row['range_growth'])}",
        "dead": f"{row['dead']:,}",
        "distinct": f"{row['distinct']:,}",
        "rank": f"{row['rank']:,}",
        "gradient": number(row["gradient_norm"]),
        "rate": number(row["largest_learning_rate"]),
        "verdict": Text(said, BAD if bad else ""),
    }


def _growth(entries: list[dict[str, Any]]) -> Grid:
    """Return the exponents, a row for each initialiser, activation and scaling; what all share stands in the title."""
    lines: dict[tuple[str, ...], dict[str, float | None]] = {}
    for entry in entries:
        lines.setdefault(group_of(entry), {})[entry["tensor"]] = entry["exponent"]
    varying, shared = tell_apart(list(lines))
    columns = [Column(GROUP[index], right=False) for index in varying] + [Column(tensor) for tensor in TENSORS]
    cells: list[list[str | Text]] = [
        [*(group[index] for index in varying), *(power_of_h(exponents[tensor], "–") for tensor in TENSORS)]
        for group, exponents in lines.items()
    ]
    widths = sorted({point["hidden_size"] for entry in entries for point in entry["points"]})
    note = "No tensor has a spread that could grow: it is constant, or not finite."
    if widths:
        note = f"The power of H by which the standard deviation grows: least squares in logarithms, H = {_list(widths)}"
        drawn = (entry for entry in entries if entry["initializer"] not in ("ones", "zeros"))
        if any(0 < len(entry["points"]) <= len(widths) for entry in drawn):
            note += "; one seed a width, so that chance is in it: --seed 0,1,2 shows how much"
        if any(entry["exponent"] is None for entry in entries):
            note += "; –: constant or not finite"
        note += "."
    title = "Growth with H" + (f" ({shared})" if shared else "")
    return Grid(title, columns, cells, (), note)


def _list(widths: list[int]) -> str:
    shown = [f"{width:,}" for width in widths]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:3], "…", *shown[-2:]])
