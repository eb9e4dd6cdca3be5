"""A screen kept in a file: a picture (.svg), a page that stands alone (.html), text (.txt), Markdown (.md)."""

import html
import importlib.util
import io
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from cubic_cli.errors import CubicError, UsageError
from cubic_cli.views import blocks
from cubic_cli.views.blocks import Screen

if TYPE_CHECKING:
    from cubic_cli.runs import Run

ENDINGS = (".svg", ".html", ".txt", ".md")

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


def check_path(path: str) -> str:
    """Return `path` if a screen can be kept in it.

    Raises:
        UsageError: it has another ending; names those that are accepted.
    """
    if Path(path).suffix.lower() not in ENDINGS or "\0" in path:
        raise UsageError(f"--save: found {path!r}; expected a path that ends in {', '.join(ENDINGS)}")
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
            content = console.export_svg(title=title)
        else:
            text = console.export_html(code_format="{code}", inline_styles=True)
            content = _PAGE.format(title=html.escape(title), screen=text, figure=_figure(run))
    _write(path, content)


def _figure(run: "Run | None") -> str:
    """Return the run's figure as an SVG element, nothing where there is none to be had."""
    if run is None or importlib.util.find_spec("cubic_cli.views.plot") is None:
        return ""
    plot = importlib.import_module("cubic_cli.views.plot")
    if not plot.available():
        return ""
    figure: str = plot.svg(run)
    return figure[figure.index("<svg") :].rstrip() + "\n"


def _write(path: Path, content: str) -> None:
    if path.is_symlink() or path.is_dir():
        what = "a link" if path.is_symlink() else "a folder"
        raise CubicError(f"cannot save in {path}: it is {what}; name another file with --save")
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.scratch")
    try:
        try:
            with scratch.open("x", encoding="utf-8") as stream:
                stream.write(content)
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise CubicError(
            f"cannot save in {path}: {error.strerror or error}; name a file with --save in a folder that can be written"
        ) from None
