"""The screen of runs side by side: one table, a column a run, what differs in how they were made first."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.text import Text

from cubic_cli.analysis.compare import NOT_COMPARED
from cubic_cli.analysis.shape import share
from cubic_cli.cli.encoding import legible
from cubic_cli.cli.views import page
from cubic_cli.cli.views.blocks import BAD, GOOD, QUIET, Column, Facts, Grid, Heading, Screen
from cubic_cli.cli.views.format import GLUE, bar, common_axis, glued, mean, number, percent, r_squared
from cubic_cli.errors import shorten
from cubic_cli.float32 import TENSORS
from cubic_cli.runs.files import near
from cubic_cli.runs.record import Record

_NAME = 24  # cells: values of settings, and names where there is no room for more
_BARS = (9, 43)  # cells of a histogram, an odd number: at least, and fewer than
_DRAWN = 31  # cells of a histogram on a page
_COUNTS = {"nan": "NaN", "posinf": "+∞", "neginf": "−∞"}
_NOTE = (
    "A change is against the first run: of a loss or a std relative to it, of another figure of a tensor relative to "
    "the tensor's largest magnitude there, of R², a share or a count the difference."
)


_Say = Callable[[float, float], str]  # the change from one value to another, in words


class _Row(NamedTuple):
    """A row of the table: what it is, and of each run its value, its change and whether that is beyond the tolerance.

    The first run has no change, and a setting none at all. `equal` says whether all runs are alike in it; its name is
    then what `equal` calls it, under `group`.
    """

    name: str
    values: list[str]
    changes: list[str] | None = None
    beyond: list[bool] | None = None
    equal: bool = False
    group: str = ""

    def style(self, run: int) -> str:
        return BAD if self.beyond and self.beyond[run] else ""


def screen(document: dict[str, Any], records: Sequence[Record], width: int) -> Screen:
    """Return the screen of what `compare.document` says of the `records`, the first against each other."""
    names = [document["run_name"], *(other["run_name"] for other in document["others"])]
    room = max(15, width // 2 - 10)
    title = f"{shorten(names[0], room)} against {', '.join(shorten(name, room) for name in names[1:])}"
    settings = list(_settings(document["others"]))
    figures = list(_figures(document["others"], records))
    rows = [*settings, *(row for row in figures if not row.equal)]
    blocks: Screen = [Heading(title)]
    if rows:
        blocks += _tables(names, rows, records, figures, width)
    blocks.append(Facts([("equal", Text(_equal(document["others"], records, figures)))]))
    if (tolerance := document["tolerance"]) is not None:
        said = [
            (shorten(other["run_name"], min(_NAME, width - 2)), _verdict(other["beyond"], tolerance))
            for other in document["others"]
        ]
        blocks.append(Facts(said))
    return blocks


def as_page(document: dict[str, Any], records: Sequence[Record]) -> str:
    """Return the page of the same: the verdict first, where a tolerance was given, and a table for each kind of row."""
    names = [document["run_name"], *(other["run_name"] for other in document["others"])]
    figures = list(_figures(document["others"], records))
    title = f"{names[0]} against {', '.join(names[1:])}"
    parts = [page.from_screen([Heading(title)])]
    if (tolerance := document["tolerance"]) is not None:
        for name, other in zip(names[1:], document["others"], strict=True):
            kind, word = ("bad", "is not") if other["beyond"] else ("good", "is")
            said = f": {', '.join(other['beyond'])} differ by more." if other["beyond"] else ": every figure."
            parts.append(page.verdict(kind, f"{name} {word} within {tolerance:g}", said))
    shown = [shorten(name, _NAME) for name in names]
    if settings := list(_settings(document["others"])):
        columns = [Column(name, right=False) for name in ("setting", *shown)]
        parts.append(page.table(columns, [[row.name, *row.values] for row in settings], "Settings that differ"))
    if different := [row for row in figures if not row.equal]:
        columns = [Column("figure", right=False), Column(shown[0])]
        columns += [column for name in shown[1:] for column in (Column(name), Column("change"))]
        cells: list[list[page.Cell]] = [[row.name, row.values[0], *_pairs(row)] for row in different]
        parts.append(page.table(columns, cells, "Figures that differ", _NOTE))
        tensors = [tensor for tensor in TENSORS if tensor in {row.group for row in different}]
        if pictures := [row for tensor in tensors for row in _histograms(tensor, records, range(len(names)), _DRAWN)]:
            columns = [Column("histogram", right=False), *(Column(name, right=False, picture=True) for name in shown)]
            parts.append(page.table(columns, pictures, "Histograms"))
    parts.append(page.facts([("equal", _equal(document["others"], records, figures))]))
    return page.document(f"cubic: {title}", *parts)


def _pairs(row: _Row) -> Iterator[Text]:
    """Yield the value and the change of each run but the first."""
    for run, pair in enumerate(zip(row.values, row.changes or (), strict=True)):
        yield from (Text(said, row.style(run)) for said in pair if run)


def _settings(others: list[dict[str, Any]]) -> Iterator[_Row]:
    """Yield a row for each thing that differs between the first run and any other."""
    differ = {(d["part"], d["name"]): d["this"] for other in others for d in other["differences"]}
    for (part, name), this in differ.items():
        values = [this]
        for other in others:
            found = [d["other"] for d in other["differences"] if (d["part"], d["name"]) == (part, name)]
            values.append(found[0] if found else this)
        label = name if part in ("config", "versions") else f"{part.replace('_', ' ')} {name}"
        yield _Row(label.replace("_", " ") if part != "config" else label, [_setting(name, v) for v in values])


def _setting(name: str, value: Any) -> str:
    if value is None:
        return "–"
    text = str(value).lower() if isinstance(value, bool) else f"{value:,}" if name == "rows" else str(value)
    if name == "path":
        text = str(near(text))
    return text[:12] if len(text) == 64 and value == text else shorten(text, _NAME)


def _figures(others: list[dict[str, Any]], records: Sequence[Record]) -> Iterator[_Row]:
    """Yield a row for each figure: the losses, R², and what is known of each tensor."""
    changes = [{change["quantity"]: change["change"] for change in other["changes"]} for other in others]
    beyond = [set(other["beyond"] or ()) for other in others]

    def row(name: str, quantity: str, values: list[Any], said: list[str], say: _Say, group: str = "") -> _Row:
        equal = all(each.get(quantity, 0.0) == 0 for each in changes)
        return _Row(name, said, _changes(values, say), [False, *(quantity in each for each in beyond)], equal, group)

    losses = [record.loss for record in records]
    scaling = records[0].config.scaling
    comparable = [record.loss if record.config.scaling == scaling else None for record in records]
    yield row("loss", "loss", comparable, [number(loss) for loss in losses], _relatively)
    if any("loss_in_data_units" in each for each in changes):
        losses = [record.loss_in_data_units for record in records]
        yield row("loss in data units", "loss_in_data_units", losses, [number(loss) for loss in losses], _relatively)
    fits = [record.context.r_squared for record in records]
    told = _changes(fits, lambda this, that: f"{that - this:+,.3f}")
    yield _Row("R²", [r_squared(fit) for fit in fits], told, equal=len({*map(repr, fits)}) == 1)
    for name in (*TENSORS, "loss"):
        tensors = [record.tensor(name) for record in records]
        label = "batch loss" if name == "loss" else name
        ends = [abs(end) for end in (tensors[0].min, tensors[0].max) if end is not None and math.isfinite(end)]
        of_largest = functools.partial(_relatively, scale=max(ends, default=0.0))
        for figure in ("min", "max", "mean", "std"):
            values = [getattr(tensor, figure) for tensor in tensors]
            said = [mean(t.mean, t.min, t.max) if figure == "mean" else number(getattr(t, figure)) for t in tensors]
            say = _relatively if figure == "std" else of_largest
            yield row(f"{label} {figure}", f"{name}.{figure}", values, said, say, label)
        if name == "a1":
            shares = [tensor.zeros for tensor in tensors]
            said = [percent(share) for share in shares]
            yield row("a1 zeros", "a1.zeros", shares, said, lambda this, that: _share(that - this), label)
        for count, glyph in _COUNTS.items():
            counts = [getattr(tensor, count) for tensor in tensors]
            if any(counts):
                said = [f"{found:,}" for found in counts]
                yield row(f"{label} {glyph}", f"{name}.{count}", counts, said, lambda a, b: f"{b - a:+,}", label)


def _changes(values: Sequence[float | None], say: _Say) -> list[str]:
    """Return what there is to `say` of the change from the first to each: nothing where one of the two is no number."""
    first, told = values[0], [""]
    for value in values[1:]:
        if value == first or repr(value) == repr(first):
            told.append("=")
        elif first is None or value is None or not (math.isfinite(first) and math.isfinite(value)):
            told.append("")
        else:
            told.append(say(first, value))
    return told


def _relatively(this: float, that: float, scale: float | None = None) -> str:
    """Return the change from `this` to `that`, relative to `scale` or, without one, to `this` itself."""
    scale = abs(this) if scale is None else scale
    change = (that - this) / scale if scale else math.inf
    if not math.isfinite(change):
        return ""
    if abs(change) >= 10 and this * that > 0:
        return f"×{GLUE}{number(float(f'{that / this:.3g}'))}"
    return f"{change:+,.0%}" if 10 <= abs(change) < 1e4 else _share(change)


def _share(change: float) -> str:
    """Return a relative change, or that of a share; per cent would hide it where it is small."""
    if not 1e-5 <= abs(change) < 1e4:
        return f"{change:+.1e}"
    return f"{change:+.1%}" if abs(change) >= 1e-3 else f"{change:+.3%}"


def _tables(names: list[str], rows: list[_Row], records: Sequence[Record], figures: list[_Row], width: int) -> Screen:
    """Return the table; of more runs than fit there are several, each with the first run; sentences where none does."""
    different = {row.group for row in figures if not row.equal}
    pictures = [row for tensor in TENSORS if tensor in different for row in _histograms(tensor, records, (), _BARS[0])]
    label = max(_room(name) for name in (*(row.name for row in rows), *(str(row[0]) for row in pictures))) + 2
    most = max(_BARS[0], min(_NAME, (width - label) // 2 - 2))
    columns = [_column(rows, run, most) for run in range(len(names))]
    natural = [max(_BARS[0], *(_room(cell.plain) for cell in column)) for column in columns]
    if label + natural[0] + 2 + max(natural[1:]) > width:
        room = width - label if 2 * label <= width else width - 2
        return [Facts([*((row.name, _sentence(row, room - 1)) for row in rows), ("changes", Text(_NOTE, QUIET))])]
    groups: list[list[int]] = []
    for run in range(1, len(names)):
        used = label + natural[0] + sum(natural[i] + 2 for i in groups[-1]) if groups else width
        if not groups or used + natural[run] + 2 > width:
            groups.append([])
        groups[-1].append(run)
    grids: Screen = []
    for group in groups:
        shown = [0, *group]
        room = width - label - 2 * len(group)
        fitting = [n for n in range(*_BARS, 2) if sum(max(n, natural[i]) for i in shown) <= room]
        widest = max(fitting, default=_BARS[0])
        cells: list[list[str | Text]] = [[row.name, *(columns[i][n] for i in shown)] for n, row in enumerate(rows)]
        for tensor in TENSORS:
            if tensor in different:
                cells += _histograms(tensor, records, shown, widest)
        # "…" may have to be three letters.
        fitted = [shorten(names[i], max(natural[i], widest) - 2) for i in shown]
        heads = [Column(name, right=False) for name in ("", *fitted)]
        grids.append(Grid("", heads, cells, note=_NOTE if group is groups[-1] else ""))
    return grids


def _room(text: str) -> int:
    """Return how many cells a text takes in any encoding."""
    return max(cell_len(text), cell_len(legible(text, "ascii")))


def _sentence(row: _Row, most: int) -> Text:
    """Return the values of a row, each of at most `most` cells, as the title names the runs; and the changes."""
    said = Text()
    for run, value in enumerate(row.values):
        change = f"{GLUE}({row.changes[run]})" if row.changes and row.changes[run] else ""
        said.append(("", " against ", ", ")[min(run, 2)])
        said.append(_ends(value, most) + change, row.style(run))
    return said


def _column(rows: list[_Row], run: int, most: int) -> list[Text]:
    """Return the cells of a run: of a figure the value and its change, each at the right of its half of the column.

    Of a setting's value stand there the ends where it takes more than `most` cells.
    """
    figures = [(row.values[run], row.changes[run]) for row in rows if row.changes is not None]
    left, right = (max(map(cell_len, texts)) for texts in zip(*figures, strict=True)) if figures else (0, 0)
    cells = []
    for row in rows:
        if row.changes is None or run == 0:
            cells.append(Text(f"{row.values[run]:>{left}}" if row.changes else _ends(row.values[run], most)))
        else:
            cells.append(Text(f"{row.values[run]:>{left}}  {row.changes[run]:>{right}}", row.style(run)))
    return cells


def _ends(text: str, most: int) -> str:
    return text if _room(text) <= most else shorten(text, most - 2)  # "…" may have to be three letters


def _histograms(tensor: str, records: Sequence[Record], shown: Sequence[int], width: int) -> list[list[str | Text]]:
    """Return the row of a tensor's histograms, on one axis for all runs; none where no record has one."""
    found = [record.tensor(tensor) for record in records]
    if not any(one.histogram for one in found):
        return []
    axis = common_axis([abs(end) for one in found for end in (one.min, one.max) if end is not None], width)
    pictures: list[str | Text] = [f"{tensor} on ±{number(axis.limit)}"]
    for one in (found[i] for i in shown):
        pictures.append(bar(axis, one.min, one.max, share(one, axis.edges)))
    return [pictures]


def _equal(others: list[dict[str, Any]], records: Sequence[Record], figures: list[_Row]) -> str:
    """Return what is equal in all runs, folded: how many settings and versions, whole parts, whole tensors."""
    differ = {(d["part"], d["name"]) for other in others for d in other["differences"]}
    parts = {part for part, _ in differ}
    count = sum(
        ("config", name) not in differ for name in type(records[0].config).model_fields if name not in NOT_COMPARED
    )
    said = [f"{count} settings" if "config" in parts else "all settings"]
    said += [part for part in ("dataset", "device", "versions") if part not in parts]
    said += [row.name for row in figures if row.equal and not row.group]
    for group in dict.fromkeys(row.group for row in figures if row.group):
        members = [row for row in figures if row.group == group]
        equal = [row.name.removeprefix(group).strip() for row in members if row.equal]
        if equal:
            said.append(group if len(equal) == len(members) else f"{group} ({', '.join(equal)})")
    return ", ".join(map(glued, said))


def _verdict(beyond: list[str], tolerance: float) -> Text:
    if not beyond:
        return Text.assemble(("yes", GOOD), f", every figure is within {tolerance:g}, relatively")
    return Text.assemble(("NO", BAD), f", beyond {tolerance:g}, relatively: {', '.join(beyond)}")
