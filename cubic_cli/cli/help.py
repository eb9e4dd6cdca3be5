"""The help of a command: a sentence an option, with its variable and default beside it, in panels."""

import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from typer import Exit, TyperException
from typer.core import TyperCommand, TyperGroup

from cubic_cli.cli import library_variables, terminal
from cubic_cli.cli.encoding import legible
from cubic_cli.config import CHECKS, DATA, MACHINES, NETWORK, RUN, SHOW

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

PANELS = (DATA, NETWORK, RUN, SHOW, CHECKS, MACHINES)
_WIDEST = 100  # cells: longer lines are hard to read
_LEAST = 12  # cells beside the flags: less than a word is no help
_LEGEND = (
    "NAME=value is the variable of an option, and its default. A flag beats the environment, "
    "which beats .env, which beats the default."
)


class Command(TyperCommand):
    """A command, whose help is ours. It begins by saying what there is to say of `.env`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        panels: dict[str, list[Any]] = {name: [] for name in PANELS}
        for parameter in self.get_params(ctx):
            if not getattr(parameter, "hidden", False):
                panels[getattr(parameter, "rich_help_panel", None) or RUN].append(parameter)
        rows = {name: [(_flags(p), _sentence(p)) for p in parameters] for name, parameters in panels.items()}
        legend = _LEGEND if any(p.envvar for p in self.params) else ""
        formatter.write(_page(self.get_usage(ctx), self.help or "", rows, legend))

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        found = ctx.find_root().obj
        for note in found.notes:
            terminal.tell(f"note: {note}")
        if found.error is not None:
            raise found.error
        library_variables.set_aside()
        variables = library_variables.snapshot()
        try:
            if self.name != "check":  # which reads no file
                library_variables.refuse_bad_threads()
            with library_variables.warnings_in_a_line():
                return super().invoke(ctx)
        except (Exit, TyperException):
            raise
        except Exception as error:
            library_variables.note(error, variables, found)
            raise


class Group(TyperGroup):
    """The commands together."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, flags with a default: to convert a None, Typer would load pydantic, for `--help` too."""
        parameters: list[Any] = super().get_params(ctx)
        for parameter in parameters:
            if getattr(parameter, "is_flag", False) and parameter.default is None:
                parameter.default = False
        return parameters

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help."""
        from rich.text import Text

        commands = [(Text(name, "bold cyan"), Text(_summary(command))) for name, command in self.commands.items()]
        options = [(_flags(p), _sentence(p)) for p in self.get_params(ctx)]
        rows = {"Commands": commands, "Options": options}
        formatter.write(_page(self.get_usage(ctx), self.help or "", rows, "`cubic COMMAND --help` has its options."))


def _summary(command: Any) -> str:
    return _spell(" ".join((command.help or "").split("\n\n")[0].split()))


def _flags(parameter: Any) -> "Text":
    """Return how an option is given, as in `--[no-]verify` or `--seed INT`."""
    from rich.text import Text

    if parameter.param_type_name == "argument":
        return Text(f"[{parameter.metavar}]", "bold cyan")
    flags = sorted(parameter.opts, key=len)
    if parameter.secondary_opts:
        flags = [flag.replace("--", "--[no-]") for flag in flags]
    text = Text(", ".join(flags), "bold cyan")
    return text.append(f" {parameter.metavar}", "not bold yellow") if parameter.metavar else text


def _sentence(parameter: Any) -> "Text":
    from rich.text import Text

    text = Text(_spell(parameter.help or ""))
    if not parameter.envvar:
        return text
    default = parameter.default
    if isinstance(default, list):
        default = default[0] if default else None
    if isinstance(default, bool | float):
        default = f"{default:g}" if isinstance(default, float) else str(default).lower()
    return text.append(f" {parameter.envvar}" + ("" if default is None else f"={default}"), "dim")


def _spell(text: str) -> str:
    """Return text in what the terminal can show."""
    return "\n".join(legible(line, terminal.encoding()) for line in text.split("\n"))


def _page(usage: str, description: str, panels: "dict[str, list[tuple[Text, Text]]]", legend: str) -> str:
    from rich import box
    from rich.panel import Panel
    from rich.table import Table

    console = terminal.console()
    # Where an encoding lacks the round corners, Rich draws others.
    edge = box.ASCII if terminal.encoding() == "ascii" else box.ROUNDED
    left = max(len(flags) for rows in panels.values() for flags, _ in rows)
    console.width = min(max(console.width, left + _LEAST), _WIDEST)

    def parts() -> "Iterator[RenderableType]":
        yield from (usage, "", *_paragraphs(_spell(description), console.width))
        for name, rows in panels.items():
            if rows:
                table = Table.grid(padding=(0, 2, 0, 0), expand=True)
                table.add_column(width=left, no_wrap=True)
                table.add_column(ratio=1, overflow="fold")
                for row in rows:
                    table.add_row(*row)
                yield Panel(table, edge, title=name, title_align="left", border_style="dim")
        yield legend

    with console.capture() as captured:
        for part in parts():
            console.print(part, markup=False)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _paragraphs(text: str, width: int) -> Iterable[str]:
    """Yield the paragraphs of a text, each followed by an empty line; examples keep their lines."""
    for paragraph in text.split("\n\n"):
        lines = [line.strip() for line in paragraph.splitlines()]
        yield _examples(lines, width) if lines[0].startswith("cubic ") else " ".join(lines)
        yield ""


def _examples(lines: list[str], width: int) -> str:
    """Return examples, each with what it shows beside it or, where that does not fit, below; a shell takes them."""
    shown = []
    for line in lines:
        command, _, remark = line.partition("   ")
        if len(line) + 2 <= width:
            shown.append(f"  {line}")
            continue
        glued = re.sub(" (?!--)", "\u00a0", command)  # no line parts an option from its value
        parts = textwrap.wrap(
            glued, width - 4, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
        shown.append(" \\\n".join(f"  {part}" for part in parts).replace("\u00a0", " "))
        if remark:
            shown.append(f"    # {remark.strip()}")
    return "\n".join(shown)
