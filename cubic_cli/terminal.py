"""The terminal: where screens, progress and errors go."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def console(stderr: bool = False) -> "Console":
    """Return the console of standard output or error: no control codes where it is no terminal, or under NO_COLOR."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else 120
    return Console(stderr=stderr, width=width, highlight=False, no_color=bool(os.environ.get("NO_COLOR")) or None)


def show(screen: "Callable[[int], RenderableType]") -> None:
    """Print what `screen` makes for the width of the terminal."""
    out = console()
    out.print(screen(out.width), crop=False)  # a number is never cut


@contextlib.contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of long work on standard error, where that is a terminal."""
    if not sys.stderr.isatty() or os.environ.get("NO_COLOR"):
        yield lambda done: None
        return
    from rich.progress import Progress

    with Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.advance(task, done)


@contextlib.contextmanager
def status(description: str) -> Iterator[None]:
    """Show on standard error, where that is a terminal, that work of unknown length is under way."""
    if not sys.stderr.isatty() or os.environ.get("NO_COLOR"):
        yield
        return
    with console(stderr=True).status(description):
        yield


def usage_message(error: Any) -> str:
    """Return Typer's message with the name of the flag or the variable, and the value that was found."""
    parameter = getattr(error, "param", None)
    message = str(error.format_message() if parameter is None else error.message).rstrip(".")
    cause = error.__cause__
    if cause is not None and hasattr(cause, "errors"):
        detail = cause.errors()[0]
        message = detail["msg"].removeprefix("Value error, ")
        if "found " not in message:
            message = f"found {detail['input']!r}; {message[0].lower() + message[1:]}"
    if parameter is not None:
        names = [max(parameter.opts, key=len)]
        if parameter.envvar:
            names.insert(0, str(parameter.envvar))
        message = f"{' / '.join(names)}: {message}"
    return f"{message}; `{error.ctx.command_path if error.ctx else 'cubic'} --help` says more"


def fail(message: str, status: int) -> int:
    """Print an error on standard error and return the exit status."""
    from rich.text import Text

    with contextlib.suppress(BrokenPipeError):
        console(stderr=True).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    return status
