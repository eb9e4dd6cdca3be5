"""A screen kept in a file: a picture (.svg), a page that stands alone (.html), text (.txt), Markdown (.md)."""

import html
import inspect
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from cubic_cli.cli.views import blocks
from cubic_cli.cli.views.blocks import Screen
from cubic_cli.cli.views.files import write_whole
from cubic_cli.errors import UsageError, printable

if TYPE_CHECKING:
    from cubic_cli.runs.run import Run

ENDINGS = (".svg", ".html", ".txt", ".md")

# Rich's own picture, its default here, without its fonts, which a viewer would fetch from elsewhere.
_DEFAULT = inspect.signature(Console.export_svg).parameters["code_format"].default
_SVG = re.sub(r"@font-face \{\{.*?\}\}", "", _DEFAULT, flags=re.DOTALL).replace(
    "Fira Code", "DejaVu Sans Mono, Menlo, Consolas"
)

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ margin: 2rem auto; max-width: max-content; padding: 0 1rem; background: #fff; color: #222; }}
pre {{ font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 14px; line-height: 1.3; }}
svg {{ max-width: 100%; height: auto; }}
</style>
</head>
<body>
<pre>{screen}</pre>
{figure}</body>
</html>
"""


def check_path(path: str, also: tuple[str, ...] = ()) -> str:
    """Return `path` if a screen can be kept in it; `also` are endings that this screen has beside the usual ones.

    Raises:
        UsageError: it has another ending; names those that are accepted.
    """
    endings = (*ENDINGS, *also)
    if Path(path).suffix.lower() not in endings or "\0" in path:
        raise UsageError(f"--save: found {path!r}; expected a path that ends in {', '.join(endings)}")
    return path


def save(path: Path, screen: Callable[[int], Screen], width: int, title: str, run: "Run | None" = None) -> None:
    """Write the screen to `path`, whole or not at all; a run's page has its figure too, if matplotlib is there.

    Raises:
        CubicError: the path is a link or a folder, or cannot be written.
    """
    ending = path.suffix.lower()
    if ending == ".md":
        content = blocks.markdown(screen(width))
    elif ending == ".txt":
        content = blocks.layout(screen(width), width).plain + "\n"
    else:
        console = Console(
            file=io.StringIO(), record=True, width=width, force_terminal=True, color_system="truecolor", no_color=False
        )
        console.print(blocks.render(screen(width), width), crop=False)
        if ending == ".svg":
            content = console.export_svg(title=printable(title), code_format=_SVG)
        else:
            text = console.export_html(code_format="{code}", inline_styles=True)
            content = _PAGE.format(title=html.escape(printable(title)), screen=text, figure=_figure(run))
    write_whole(path, content.encode(), "--save")


def _figure(run: "Run | None") -> str:
    """Return the run's figure as an SVG element, nothing where there is none to be had."""
    from cubic_cli.cli.views import plot

    if run is None or not plot.available():
        return ""
    return plot.svg(run)
