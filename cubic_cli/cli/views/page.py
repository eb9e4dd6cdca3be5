"""A page that stands alone: HTML with its own style, without a script, and with nothing from elsewhere.

It follows the reader's light or dark mode, tables scroll on a narrow screen, and no verdict is told by colour alone.
Foreign text is escaped here, and the home folder is written `~`.
"""

import html
import itertools
import os
import re
from collections.abc import Iterable, Sequence
from string import Template

from rich.style import Style
from rich.text import Text

from cubic_cli.cli.views.blocks import (
    BAD,
    GOOD,
    QUIET,
    WARNING,
    Block,
    Bullets,
    Column,
    Facts,
    Grid,
    Heading,
    Picture,
    Screen,
)
from cubic_cli.cli.views.format import GLUE
from cubic_cli.errors import printable

# Hues after Okabe and Ito, "Color universal design" (2008), which all kinds of colour vision tell apart; here each can
# be read as text too, with a contrast of at least 4.5 (WCAG 2.2, 1.4.3).
LIGHT = {
    "paper": "#ffffff", "card": "#f6f8fa", "ink": "#1f2328", "quiet": "#59636e", "line": "#d1d9e0",
    "blue": "#0072b2", "green": "#005a38", "red": "#8f2400", "orange": "#8c6d00", "purple": "#8a3a72",
}  # fmt: skip
DARK = {
    "paper": "#0f1318", "card": "#191f27", "ink": "#e6edf3", "quiet": "#9aa4ae", "line": "#343c46",
    "blue": "#4aa3df", "green": "#3ddc97", "red": "#ff7b4a", "orange": "#e69f00", "purple": "#d58fb8",
}  # fmt: skip
_CLASSES = {GOOD: "good", BAD: "bad", WARNING: "warning", QUIET: "quiet", "bold": "strong"}
_LEVELS = {"error": "bad", "warning": "warning"}

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { color-scheme: light dark; $light }
@media (prefers-color-scheme: dark) { :root { $dark } }
html { background: var(--paper); -webkit-text-size-adjust: 100%; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1rem 1rem 3rem; }
$style
.cubic tbody th { position: sticky; left: 0; background: var(--paper); }
</style>
</head>
<body>
<main class="cubic">
$body
</main>
</body>
</html>
""")

STYLE = """.cubic { color: var(--ink); overflow-wrap: break-word; }
.cubic h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere; }
.cubic h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.cubic p { margin: .5rem 0; }
.cubic .verdict { background: var(--card); border-left: .35rem solid; padding: .6rem .9rem; border-radius: .25rem; }
.cubic .verdict, .cubic .strong { font-weight: 600; }
.cubic .verdict span { color: var(--ink); font-weight: 400; }
.cubic .good { color: var(--green); } .cubic .bad { color: var(--red); font-weight: 600; }
.cubic .warning { color: var(--orange); font-weight: 600; } .cubic .quiet { color: var(--quiet); }
.cubic .scroll { overflow-x: auto; margin: .5rem 0; }
.cubic table { border-collapse: separate; border-spacing: 0; color: inherit; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
.cubic caption { text-align: left; font-weight: 600; padding: .25rem 0; white-space: nowrap; }
.cubic th, .cubic td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; white-space: pre;
  border-bottom: 1px solid var(--line); background: none; }
.cubic thead th { color: var(--quiet); font-weight: 400; border-bottom-width: 2px; }
.cubic tbody th { font-weight: 600; }
.cubic tbody th.long { white-space: normal; overflow-wrap: anywhere; min-width: min(14rem, 45vw);
  max-width: min(14rem, 45vw); }
.cubic .right { text-align: right; }
.cubic td.picture { color: var(--blue); }
.cubic .picture, .cubic pre { font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; white-space: pre; }
.cubic pre { background: var(--card); padding: .75rem; border-radius: .25rem; font-size: .9rem; line-height: 1.4; }
.cubic pre.command { white-space: pre-wrap; }
.cubic code { white-space: nowrap; }
.cubic ul { margin: .5rem 0; padding-left: 1.2rem; } .cubic li { margin: .3rem 0; }
.cubic dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .2rem 1rem; margin: .5rem 0; }
.cubic dt { color: var(--quiet); } .cubic dd { margin: 0; overflow-wrap: anywhere; }
.cubic figure { margin: 0; } .cubic figcaption { color: var(--quiet); font-size: .85rem; }
.cubic figure svg { display: block; width: 100%; height: auto; }
.cubic svg text { fill: var(--ink); }
.cubic .panels { display: grid; gap: 1.5rem 1rem; grid-template-columns: minmax(0, 1fr); margin: 1rem 0; }
.cubic .wide svg { min-width: 44rem; }
.cubic summary { cursor: pointer; font-size: 1.15rem; font-weight: 600; margin: 2rem 0 .5rem; }
@media (min-width: 40rem) { .cubic .panels { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media (min-width: 60rem) {
  .cubic .panels { grid-template-columns: repeat(6, minmax(0, 1fr)); }
  .cubic .panels figure { grid-column: span 2; } .cubic .panels .half { grid-column: span 3; }
}"""


Cell = str | Text


def document(title: str, *parts: str) -> str:
    """Return a page with this title, of parts that are HTML."""
    light, dark = (" ".join(f"--{name}: {code};" for name, code in colours.items()) for colours in (LIGHT, DARK))
    return _PAGE.substitute(title=escape(title), light=light, dark=dark, style=STYLE, body="\n".join(parts))


def from_screen(screen: Screen, title: str = "") -> str:
    """Return the blocks of a screen as HTML, with all the columns of their tables; `title` heads one without a name."""
    named = bool(screen) and isinstance(screen[0], Heading) and bool(screen[0].text)
    head = [f"<h1>{escape(title)}</h1>"] if title and not named else []
    return "\n".join([*head, *(_block(block, 1 if named and not place else 2) for place, block in enumerate(screen))])


def tilde(text: str) -> str:
    """Return text with the user's home folder written `~` wherever a path begins with it."""
    home = os.path.expanduser("~").rstrip("/")
    if not home.startswith("/"):  # of a user without one, or whose home is the root
        return text
    return re.sub(rf"(?<![\w/.~-]){re.escape(home)}(?![\w.-])", "~", text)


def escape(text: str) -> str:
    """Return text as HTML; what controls or reverses it is spelt out, and the home folder is `~`."""
    return html.escape(printable(tilde(text))).replace(GLUE, "&nbsp;")


def sentence(text: str) -> str:
    """Return a sentence as HTML, in which code and flags look so, and no line parts them."""
    return _CODE.sub(lambda code: f"<code>{code[1] or code[2]}</code>", escape(text))


_CODE = re.compile(r"`([^`]+)`|(?<![\w-])(--[a-z][a-z-]*)")


def paragraph(text: str, kind: str = "") -> str:
    """Return sentences, of a class."""
    return f'<p class="{kind}">{sentence(text)}</p>' if kind else f"<p>{sentence(text)}</p>"


def render(cell: Cell) -> str:
    """Return a cell as HTML, each piece with its style."""
    if isinstance(cell, str):
        return escape(cell)
    ends = sorted({0, len(cell), *(end for span in cell.spans for end in (span.start, span.end))})
    base = _attribute(cell.style)
    pieces = []
    for start, end in itertools.pairwise(ends):
        style = next((span.style for span in reversed(cell.spans) if span.start <= start and end <= span.end), "")
        text, attribute = escape(cell.plain[start:end]), _attribute(style)
        pieces.append(f"<span {attribute}>{text}</span>" if attribute else text)
    inner = "".join(pieces)
    return f"<span {base}>{inner}</span>" if base and inner else inner


def _attribute(style: str | Style) -> str:
    """Return what a piece of this style has as an attribute; colours that are no words are kept."""
    if str(style) in _CLASSES:
        return f'class="{_CLASSES[str(style)]}"'
    css = (style if isinstance(style, Style) else Style.parse(style)).get_html_style() if style else ""
    return f'style="{html.escape(css)}"' if css else ""


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], title: str = "", note: str = "") -> str:
    """Return a table that scrolls where it is too wide; the first cell of a row is its head.

    Args:
        columns: as of a grid.
        rows: a cell a column.
        title: its caption.
        note: a line below it.
    """
    kinds = ["picture" if c.picture else "right" if c.right else "" for c in columns]
    marks = [f' class="{kind}"' if kind else "" for kind in kinds]
    head = "".join(f'<th scope="col"{mark}>{escape(c.name)}</th>' for c, mark in zip(columns, marks, strict=True))
    lines = []
    for row in rows:
        first, *rest = (render(cell) for cell in row)
        cells = "".join(f"<td{mark}>{cell}</td>" for mark, cell in zip(marks[1:], rest, strict=True))
        mark = ' class="long"' if len(row[0]) > _HEAD else marks[0]
        lines.append(f'<tr><th scope="row"{mark}>{first}</th>{cells}</tr>')
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    body = f"<table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>" + "\n".join(lines) + "</tbody></table>"
    label = escape(title or "table")
    below = "\n" + paragraph(note, "quiet") if note else ""
    return f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">{body}</div>{below}'


_HEAD = 24  # letters of a row's head: the lines of a longer one may break


def facts(rows: Iterable[tuple[str, Cell]]) -> str:
    """Return labels and what is to be said of each."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{render(said)}</dd>" for name, said in rows) + "</dl>"


def findings(found: Iterable[tuple[str, str, str]]) -> str:
    """Return findings: the level of each in words, its id, and its sentence."""
    items = []
    for level, name, said in found:
        head = f'<span class="{_LEVELS.get(level, "strong")}">{escape(level)}: {escape(name)}</span>'
        items.append(f"<li>{head}: {sentence(said)}</li>")
    return f"<ul>{''.join(items)}</ul>"


def verdict(kind: str, word: str, said: str) -> str:
    """Return the line that says how it is: a sign, a word, and a colour.

    Args:
        kind: `good`, `bad` or `warning`.
        word: the verdict.
        said: the rest of the sentence.
    """
    sign = {"good": "✓", "bad": "✗"}.get(kind, "–")
    return f'<p class="verdict {kind}">{sign} {escape(word)}<span>{sentence(said)}</span></p>'


def figure(svg: str, name: str, title: str, words: str, kind: str = "") -> str:
    """Return a picture with its words below it; a reader of screens hears its title in its place.

    Args:
        svg: of matplotlib.
        name: of the picture, no other's on the page.
        title: what it shows.
        words: what can be seen in it.
        kind: `half` of the page's width, or `wide`, which scrolls; else a third.
    """
    picture = _themed(svg, name).replace("<svg ", f'<svg role="img" aria-label="{escape(title)}: {escape(words)}" ', 1)
    if kind == "wide":
        picture = f'<div class="scroll" tabindex="0">{picture}</div>'
    mark = f' class="{kind}"' if kind else ""
    return f"<figure{mark}>{picture}<figcaption>{escape(words)}</figcaption></figure>"


NO_FIGURE = paragraph("There is no figure, for matplotlib is missing: `pip install matplotlib`.", "quiet")

# Matplotlib's own colours, beside those of `LIGHT`, which `plot` draws with.
_DRAWN = {code: name for name, code in LIGHT.items()} | {"#000000": "ink", "#b0b0b0": "line", "#cccccc": "line"}


def _themed(svg: str, name: str) -> str:
    """Return a picture of matplotlib's as an element of a page, in the page's colours and with ids of its own."""
    head, _, rest = svg[svg.index("<svg") :].partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    rest = re.sub(r"\s*<metadata>.*?</metadata>|\s*<style.*?</style>", "", rest, flags=re.DOTALL)
    rest = re.sub(r' id="(?!m|p)[^"]*"', "", rest)  # markers and clips are used
    rest = re.sub(r'( id="|(?:xlink:)?href="#|url\(#)', rf"\g<1>{name}-", rest).replace("xlink:href", "href")
    rest = re.sub("#[0-9a-f]{6}", lambda found: f"var(--{_DRAWN[found[0]]})" if found[0] in _DRAWN else found[0], rest)
    return f"<svg {box[0] if box else ''}>{rest}"


def _block(block: Block, level: int) -> str:
    if isinstance(block, Heading):
        note = f"<p>{render(block.note)}</p>" if block.note else ""
        return f"<h{level}>{escape(block.text)}</h{level}>\n{note}" if block.text else note
    if isinstance(block, Facts):
        return facts(block.rows)
    if isinstance(block, Bullets):
        return f"<h2>{escape(block.title)}</h2>\n{findings((item.level, item.head, item.text) for item in block.items)}"
    if isinstance(block, Picture):
        lines = "\n".join(map(render, block.lines))
        return f'<pre class="scroll" role="img" aria-label="{escape(block.title)}">{lines}</pre>'
    if isinstance(block, Grid):
        names = [column.name for column in block.columns]
        # What a narrow terminal leaves out stands last, where a narrow page scrolls
        last = [name for names in block.drop for name in ([names] if isinstance(names, str) else names)][::-1]
        order = sorted(range(len(names)), key=lambda i: 1 + last.index(names[i]) if names[i] in last else 0)
        rows = [[row[index] for index in order] for row in block.rows]
        return table([block.columns[index] for index in order], rows, block.title, block.note)
    return '<pre class="scroll" tabindex="0">' + "\n".join(map(escape, block.lines)) + "</pre>"
