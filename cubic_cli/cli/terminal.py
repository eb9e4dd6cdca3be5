"""The terminal: where screens, progress and errors go."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cubic_cli.cli.encoding import legible
from cubic_cli.errors import printable, shorten
from cubic_cli.experiments.watch import Advance

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


def encoding() -> str:
    """Return the encoding of standard output; a dumb terminal gets ASCII."""
    return "ascii" if _is_dumb() else sys.stdout.encoding


def show(screen: "Callable[[int], Screen]") -> None:
    """Print the screen that is made for the width of the terminal."""
    from cubic_cli.cli.views import blocks

    out = console()
    out.print(blocks.render(screen(out.width), out.width, encoding()), crop=False)  # a number is never cut


def give(
    document: Any,
    screen: "Callable[[int], Screen]",
    json: bool,
    save: str | None = None,
    title: str = "",
    page: "Callable[[], str] | None" = None,
) -> None:
    """Print a document as JSON, or its screen, and keep the screen, or its `page`, where that is asked for."""
    from cubic_cli.runs.record import to_json

    if json:
        print(to_json(document))
    else:
        show(screen)
    if save is not None:
        from cubic_cli.cli.views.save import save as keep

        keep(Path(save), screen, console().width, title, page)
        tell(f"kept in {save}")


def tell(text: str) -> None:
    """Print a line about what was done on standard error; where that is closed or full, what is done goes on."""
    with contextlib.suppress(OSError):
        text = legible(text.replace("\u00a0", " "), sys.stderr.encoding)  # which joins a number and its unit
        print(text, file=sys.stderr, flush=True)


def moves() -> bool:
    """Return whether a progress bar can be shown on standard error."""
    return sys.stderr.isatty() and not _is_dumb()


def _is_dumb() -> bool:
    return os.environ.get("TERM", "") in ("dumb", "unknown")


@contextlib.contextmanager
def progress(
    description: str,
    total: int | None,
    unit: str = "epochs",
    per: str = "samples",
    then: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Advance]:
    """Show a bar of long work on standard error, where that is a terminal, with its count and its rate.

    What is yielded takes how much was done, in `unit`, and how much work that was, in `per`: `64/200 epochs, 1.2 M
    samples/s`. Without a `total` there is a count alone. The rate is of what came after the first report, which had to
    wait for the compiler. When all is done the bar says what comes `then`, as verifying does.
    """
    if not moves():
        yield lambda more, effort: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[said]}"),
        TimeRemainingColumn(),
    )
    name = legible(shorten(description, 24), sys.stderr.encoding)
    shown = since = last = clock()  # when the bar was drawn, and the first and the last report came
    done = work = first = 0

    def said() -> str:
        count = f"{done:,}" if total is None else f"{done:,}/{total:,}"
        seconds = last - since
        rate = f", {_short((work - first) / seconds)} {per}/s" if work > first and seconds > 0 else ""
        return f"{count} {unit}{rate}" if unit else ""

    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total, said=said())

        def advance(more: int, effort: int) -> None:
            nonlocal done, work, shown, since, last, first, task
            last = clock()
            if not done:
                since, first = last, work + effort
            done, work = done + more, work + effort
            if then and done == total:
                bar.remove_task(task)
                task = bar.add_task(then, total=None, said=said())
            elif last - shown > 0.05:  # thousands of epochs a second need not all be shown
                shown = last
                bar.update(task, completed=done, said=said())

        try:
            yield advance
        finally:
            bar.update(task, completed=done, said=said())


def _short(rate: float) -> str:
    """Return a rate as in `1.2 M`."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if rate >= size:
            return f"{rate / size:.3g}{letter}"
    return f"{rate:.3g}"


def discard_stdout() -> None:
    """Send what is left for standard output nowhere, so that Python's last flush does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def usage_message(error: Any, command: str) -> str:
    """Return Typer's message with the flag or the variable, the value that was found, what is accepted, and a command.

    One line, but for the code to copy that is noted on the error.
    `command` is whose help says more, where the error does not know its own.
    """
    parameter = getattr(error, "param", None)
    message = str(error.format_message() if parameter is None else error.message).rstrip(".")
    message = message or "expected a command"
    if parameter is not None:
        message = f"{_name_of(parameter, error.ctx)}: {message}"
    message = shorten(message, _LONGEST)
    help_ = f"`{error.ctx.command_path if error.ctx else command} --help` says more"
    code = getattr(error, "__notes__", [])
    if code:
        return "\n".join([printable(message), *code, help_])
    return printable(f"{message}{'' if message.endswith('?') else ';'} {help_}")


_LONGEST = 1000  # letters of a message


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
    if dotenv is None or variable not in dotenv.names:
        return f"{variable} / {flag}"
    return f"{variable} in {dotenv.path}, line {dotenv.lines[variable]}"


def fail(message: str, status: int) -> int:
    """Print an error on standard error and return the exit status; lines after the first are set in."""
    from rich.text import Text

    lines = [legible(line, sys.stderr.encoding) for line in message.rstrip("\n").split("\n") or [""]]
    with contextlib.suppress(BrokenPipeError):
        console(stderr=True).print(Text.assemble(("error: ", "bold red"), "\n  ".join(lines)), soft_wrap=True)
    return status
