"""What a screen is made of: facts, tables, findings and pictures, laid out for a width, or as Markdown.

A screen is a list of blocks. Lines end where words end; what `format.GLUE` joins, and so every number with its unit and
every shape, is parted only where it is wider than the screen; no number and no word ever is.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from rich.cells import cell_len
from rich.console import Group
from rich.text import Span, Text

from cubic_cli.cli.encoding import has_braille, legible
from cubic_cli.cli.views.format import GLUE

GOOD, BAD, WARNING, QUIET, HEAD = "green", "bold red", "bold dark_orange3", "dim", "bold"  # on light and on dark
LEVELS = {"error": BAD, "warning": WARNING}


@dataclass(frozen=True)
class Column:
    """A column of a grid: its name, whether it stands at the right, as numbers do, and whether it holds pictures."""

    name: str
    right: bool = True
    picture: bool = False


@dataclass(frozen=True)
class Heading:
    """The name of what is shown, and a note to it."""

    text: str
    note: Text = field(default_factory=Text)


@dataclass(frozen=True)
class Facts:
    """Labels, in at least `label` cells, and what is to be said of each."""

    rows: Sequence[tuple[str, Text]]
    label: int = 0


@dataclass(frozen=True)
class Grid:
    """A table. The columns named in `drop` are left out, in this order, until the rest fits the width."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str | Text]]
    drop: Sequence[str | tuple[str, ...]] = ()
    note: str = ""


@dataclass(frozen=True)
class Bullet:
    """A finding: its id, the sentence, and how bad it is."""

    head: str
    text: str
    level: str


@dataclass(frozen=True)
class Bullets:
    """Findings, most important first."""

    title: str
    items: Sequence[Bullet]


@dataclass(frozen=True)
class Lines:
    """Lines as they are: of one width in Markdown."""

    lines: Sequence[str]


@dataclass(frozen=True)
class Picture:
    """A picture of lines in braille, and the same in `letters` for where there is none."""

    title: str
    lines: Sequence[Text]
    letters: Sequence[Text]


Block = Heading | Facts | Grid | Bullets | Lines | Picture
Screen = list[Block]


def render(screen: Screen, width: int, encoding: str | None = None) -> Group:
    """Return the screen for Rich, which is to leave its lines as they are (it would rewrap a bare text)."""
    return Group(layout(screen, width, encoding))


def layout(screen: Screen, width: int, encoding: str | None = None) -> Text:
    """Return the screen as lines of at most `width` cells, but for what cannot be parted.

    Here text becomes a screen: foreign characters are escaped, and glyphs that the `encoding` lacks have stand-ins.
    """

    def spell(text: str) -> str:
        return GLUE.join(legible(part, encoding) for part in text.split(GLUE))

    lines: list[Text] = []
    for index, block in enumerate(screen):
        if index and not (isinstance(block, Facts | Lines) and isinstance(screen[index - 1], Heading)):
            lines.append(Text())
        if isinstance(block, Picture) and not has_braille(encoding):
            block = replace(block, lines=block.letters)
        lines += _lines(respell(block, spell), width)
    text = Text("\n", no_wrap=True, overflow="ignore").join(lines)
    text.plain = text.plain.replace(GLUE, " ").replace("•", spell("•"))
    return text


def respell(block: Block, change: Callable[[str], str]) -> Block:
    """Return a block with all its words changed."""

    def changed(part: Any) -> Any:
        if isinstance(part, str):
            return change(part)
        if isinstance(part, Text):
            return styled(part)
        if isinstance(part, list | tuple):
            return [changed(one) for one in part]
        if is_dataclass(part) and not isinstance(part, type):
            return replace(part, **{of.name: changed(getattr(part, of.name)) for of in fields(part)})
        return part

    def styled(text: Text) -> Text:
        """Change a text piece by piece, so that each keeps its style."""
        if change(text.plain) == text.plain:
            return text
        ends = sorted({end for span in text.spans for end in (span.start, span.end)})
        result = Text(style=text.style)
        for piece in text.divide(ends):
            plain = change(piece.plain)
            piece = Text(plain, piece.style, spans=[Span(0, len(plain), span.style) for span in piece.spans])
            result.append_text(piece)
        return result

    respelt: Block = changed(block)
    return respelt


def _lines(block: Block, width: int) -> list[Text]:
    if isinstance(block, Heading):
        return wrap(Text.assemble((block.text, "bold"), "  " if block.text and block.note else "", block.note), width)
    if isinstance(block, Facts):
        return _labelled([(name, QUIET, text) for name, text in block.rows], block.label, width)
    if isinstance(block, Bullets):
        rows = [(item.head, LEVELS.get(item.level, "bold"), Text(item.text)) for item in block.items]
        return [*wrap(Text(block.title, "bold"), width), *_labelled(rows, 0, width)]
    if isinstance(block, Lines):
        return [Text(line) for line in block.lines]
    if isinstance(block, Picture):
        lines = [*wrap(Text(block.title, HEAD), width), *(line.copy() for line in block.lines)]
        for line in lines:
            line.rstrip()
        return lines
    return _grid(block, width)


def _labelled(rows: Sequence[tuple[str, str, Text]], least: int, width: int) -> list[Text]:
    """Return labels, each in its style, in columns of `least` cells or more, with the texts beside them.

    Where the labels would take more than half of the width, the texts stand below them.
    """
    label = max([least, *(cell_len(name) + 2 for name, _, _ in rows)])
    below = 2 * label > width
    indent = " " * (2 if below else label)
    lines = []
    for name, style, text in rows:
        said = wrap(text, width - len(indent)) or [Text()]
        padded = name + " " * (label - cell_len(name))
        lines += wrap(Text(name, style), width) if below else [Text.assemble((padded, style), said.pop(0))]
        lines += [Text.assemble(indent, line) for line in said]
    return lines


def wrap(text: Text, width: int) -> list[Text]:
    """Return the lines of `text`, parted at spaces, and at `GLUE` in what is wider than `width`; no word is parted."""
    lines: list[Text] = []
    length = 0
    words = [
        word for glued in text.split(" ") for word in (glued.split(GLUE) if cell_len(glued.plain) > width else [glued])
    ]
    for word in words:
        needed = cell_len(word.plain)
        if lines and length + 1 + needed <= width:
            lines[-1].append(" ").append_text(word)
            length += 1 + needed
        else:
            lines.append(word.copy())
            length = needed
    return lines


def fit(grid: Grid, width: int) -> Grid:
    """Return the grid with the columns for which a screen of `width` cells has room."""
    widths = _widths(grid)
    shown = list(range(len(grid.columns)))
    for names in grid.drop:
        if sum(widths[i] for i in shown) + 2 * (len(shown) - 1) <= width:
            break
        names = (names,) if isinstance(names, str) else names
        shown = [i for i in shown if grid.columns[i].name not in names]
    rows = [[row[i] for i in shown] for row in grid.rows]
    return replace(grid, columns=[grid.columns[i] for i in shown], rows=rows)


def _widths(grid: Grid) -> list[int]:
    columns = zip([column.name for column in grid.columns], *grid.rows, strict=True)
    return [max(cell_len(str(cell)) for cell in column) for column in columns]


def _grid(grid: Grid, width: int) -> list[Text]:
    grid = fit(grid, width)
    widths = _widths(grid)
    lines = wrap(Text(grid.title, HEAD), width) if grid.title else []
    for row in ([Text(column.name, HEAD) for column in grid.columns], *grid.rows):
        line = Text()
        for position, (column, room, cell) in enumerate(zip(grid.columns, widths, row, strict=True)):
            text = cell if isinstance(cell, Text) else Text(cell)
            padding = Text(" " * (room - cell_len(text.plain)))
            line.append("  " if position else "")
            for part in (padding, text) if column.right else (text, padding):
                line.append_text(part)
        line.rstrip()
        lines.append(line)
    if grid.note:
        lines += [Text.assemble(("", QUIET), line) for line in wrap(Text(grid.note, QUIET), width)]
    return lines


def markdown(screen: Screen) -> str:
    """Return the screen as Markdown with all its columns, for a pull request."""
    parts = []
    for block in (respell(block, legible) for block in screen):
        if isinstance(block, Heading):
            parts.append(f"### {_escape(block.text)}\n\n{_escape(block.note.plain)}".strip())
        elif isinstance(block, Facts):
            parts.append("\n".join(f"- **{_escape(name)}**: {_escape(text.plain)}" for name, text in block.rows))
        elif isinstance(block, Bullets):
            items = [f"- **{_escape(b.head)}**: {_escape(b.text)}" for b in block.items]
            parts.append("\n".join([f"**{_escape(block.title)}**", "", *items]))
        elif isinstance(block, Lines):
            parts.append("\n".join(["```", *block.lines, "```"]))
        elif isinstance(block, Picture):
            lines = [line.plain.rstrip() for line in block.lines]
            parts.append("\n".join([f"**{_escape(block.title)}**", "", "```", *lines, "```"]))
        else:
            parts.append(_markdown_table(block))
    return "\n\n".join(parts).replace(GLUE, " ") + "\n"


def _markdown_table(grid: Grid) -> str:
    names = [_cell(column, column.name) for column in grid.columns]
    rules = ["---:" if column.right else "---" for column in grid.columns]
    rows = [[_cell(column, str(cell)) for column, cell in zip(grid.columns, row, strict=True)] for row in grid.rows]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [names, rules, *rows])
    parts = [f"**{_escape(grid.title)}**" if grid.title else "", table, _escape(grid.note)]
    return "\n\n".join(part for part in parts if part)


def _cell(column: Column, text: str) -> str:
    """Return a cell of a table; a picture is code, where every space counts."""
    return f"`{text}`" if (column.picture or _PICTURE.search(text)) and text.strip() else _escape(text)


_PICTURE = re.compile("[▁-█━]")


def _escape(text: str) -> str:
    """Return `text` with what Markdown would take for marks escaped; code, as in `ones`, is meant."""
    text = re.sub(r"([\\*|]|(?<!\w)_|_(?!\w))", r"\\\1", text)
    return re.sub(r"<(?=[\w/!?])", "&lt;", text).strip()
