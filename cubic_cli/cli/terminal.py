"""The terminal: where screens, progress and errors go."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cubic_cli.cli.encoding import legible

if TYPE_CHECKING:
    from rich.console import Console

    from cubic_cli.cli.views.blocks import Screen


def console(stderr: bool = False) -> "Console":
    """Return the console of standard output or error: no control codes where it is no terminal, or under NO_COLOR."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    columns = os.environ.get("COLUMNS", "")
    width = None if stream.isatty() else 120
    if columns.isascii() and columns.isdigit():
        width = int(columns) or 80
    return Console(stderr=stderr, width=width, highlight=False, no_color=bool(os.environ.get("NO_COLOR")) or None)


def show(screen: "Callable[[int], Screen]") -> None:
    """Print the screen that is made for the width of the terminal."""
    from cubic_cli.cli.views import blocks

    out = console()
    out.print(blocks.render(screen(out.width), out.width, sys.stdout.encoding), crop=False)  # a number is never cut


def tell(text: str) -> None:
    """Print a line about what was done on standard error."""
    with contextlib.suppress(BrokenPipeError):
        print(legible(text, sys.stderr.encoding), file=sys.stderr, flush=True)


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


def discard_stdout() -> None:
    """Send what is left for standard output nowhere, so that Python's last flush does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def usage_message(error: Any, command: str) -> str:
    """Return Typer's message with the flag or the variable, the value that was found, what is accepted, and a command.

    `command` is whose help says more, where the error does not know its own.
    """
    parameter = getattr(error, "param", None)
    message = str(error.format_message() if parameter is None else _with_value(error.message)).rstrip(".")
    message = message or "expected a command"
    if parameter is not None:
        message = f"{_name_of(parameter, error.ctx)}: {message}"
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST // 2]} … {message[-_LONGEST // 2 :]}"
    return f"{message}; `{error.ctx.command_path if error.ctx else command} --help` says more"


_LONGEST = 1000  # letters of a message


def _with_value(message: str) -> str:
    """Return Typer's message about a choice or a boolean in the form of our parsers' messages; any other as it is."""
    value, is_choice, choices = message.rpartition(" is not one of ")
    if is_choice:
        return f"found {value}; expected one of {choices}"
    value, is_boolean, _ = message.rpartition(" is not a valid boolean")
    if is_boolean:
        return f"found {value}; expected a boolean word: true, false, yes, no, on, off, 1, 0"
    return message


def _name_of(parameter: Any, ctx: Any) -> str:
    """Return the name under which a setting was given: the variable and its file, or the flag."""
    flag = str(max(parameter.opts, key=len))
    if not parameter.envvar:
        return flag
    variable = str(parameter.envvar)
    source = ctx.get_parameter_source(parameter.name) if ctx is not None else None
    if source is None or source.name != "ENVIRONMENT":
        return f"{variable} / {flag}"
    dotenv = ctx.find_root().obj
    return f"{variable} in {dotenv.path}" if dotenv is not None and variable in dotenv.names else f"{variable} / {flag}"


def fail(message: str, status: int) -> int:
    """Print an error on standard error and return the exit status; lines after the first are set in."""
    from rich.text import Text

    lines = [legible(line, sys.stderr.encoding) for line in message.rstrip().split("\n") or [""]]
    with contextlib.suppress(BrokenPipeError):
        console(stderr=True).print(Text.assemble(("error: ", "bold red"), "\n  ".join(lines)), soft_wrap=True)
    return status
