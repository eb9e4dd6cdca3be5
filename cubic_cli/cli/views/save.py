"""A screen kept in a file: a picture (.svg), a page that stands alone (.html), text (.txt), Markdown (.md)."""

import inspect
import io
import re
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group
from rich.text import Span

from cubic_cli.cli.views import blocks, page
from cubic_cli.cli.views.blocks import Screen
from cubic_cli.cli.views.files import check_ending, write_whole
from cubic_cli.errors import printable

ENDINGS = (".svg", ".html", ".txt", ".md")
_WIDEST = 160  # cells: of pages, whose tables have no width of their own

# Rich's own picture, its default here, without its fonts, which a viewer would fetch from elsewhere, and with its
# spaces kept: some viewers would make one of several, and part the columns.
_DEFAULT = inspect.signature(Console.export_svg).parameters["code_format"].default
_SVG = (
    re.sub(r"@font-face \{\{.*?\}\}", "", _DEFAULT, flags=re.DOTALL)
    .replace("Fira Code", "DejaVu Sans Mono, Menlo, Consolas")
    .replace("<svg ", '<svg xml:space="preserve" ', 1)
)
_ASPECT_RATIO = 0.602  # of DejaVu Sans Mono and Menlo


def check_path(path: str, also: tuple[str, ...] = ()) -> None:
    """Refuse a path in which a screen cannot be kept; `also` are endings that this screen has beside the usual ones.

    Raises:
        UsageError: it has another ending.
    """
    check_ending(path, (*ENDINGS, *also), "--save")


def save(
    path: Path, screen: Callable[[int], Screen], width: int, title: str, made: Callable[[], str] | None = None
) -> None:
    """Write the screen to `path`, whole or not at all; `made` makes its page where that is more than the screen.

    Raises:
        CubicError: the path is a link or a folder, or cannot be written.
    """
    ending = path.suffix.lower()
    if ending == ".html":
        content = page.document(title, page.from_screen(screen(_WIDEST), title)) if made is None else made()
    elif ending == ".md":
        content = blocks.markdown(_at_home(screen(_WIDEST)))
    elif ending == ".txt":
        content = blocks.layout(_at_home(screen(width)), width).plain + "\n"
    else:
        console = Console(
            file=io.StringIO(), record=True, width=width, force_terminal=True, color_system="truecolor", no_color=False
        )
        lines = blocks.layout(_at_home(screen(width)), width)
        # Braille may come from a wider font: each cell has its place.
        braille = (place for place, letter in enumerate(lines.plain) if "\u2800" < letter <= "\u28ff")
        lines.spans += [Span(place, place + 1, "") for place in braille]
        console.print(Group(lines), crop=False)  # which leaves the lines as they are
        content = console.export_svg(
            title=printable(page.tilde(title)), code_format=_SVG, font_aspect_ratio=_ASPECT_RATIO
        )
    write_whole(path, content.encode(), "--save")


def _at_home(screen: Screen) -> Screen:
    """Return the screen with the home folder written `~`: it is made to be shown to others."""
    return [blocks.respell(block, page.tilde) for block in screen]
