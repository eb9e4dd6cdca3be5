"""From the settings, which `config` declares, to the options of the commands, and back to what was asked for.

A flag beats the environment, which beats `.env`, which beats the default.
"""

import contextlib
import functools
import inspect
import os
import warnings
from collections.abc import Callable, Collection
from dataclasses import fields
from types import GenericAlias
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer

from cubic_cli import config as cfg
from cubic_cli.analysis.limits import LIMITS
from cubic_cli.config import SETTINGS
from cubic_cli.errors import RunError, UsageError
from cubic_cli.parsers import suggestion


def parser(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """Return a parser for Typer; what `parse` refuses with a `ValueError` is told with the value that was found."""

    def parsed(value: Any) -> Any:
        if not isinstance(value, str):  # the default
            return value
        try:
            return parse(value)
        except ValueError as error:
            refused = typer.BadParameter(f"found {value!r}; {error}")
            for note in getattr(error, "__notes__", ()):  # code to copy
                refused.add_note(note)
            raise refused from None

    return parsed


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the runs that a shell can complete a word to, the newest first."""
    from pathlib import Path

    from cubic_cli.cli import dotenv
    from cubic_cli.runs import names

    folder = ctx.params["artifact_dir"]
    given = ctx.get_parameter_source("artifact_dir")
    if given is None or given.name == "DEFAULT":  # nobody has read .env yet
        dotenv.load()
        folder = os.environ.get("ARTIFACT_DIR") or folder
    if folder is None:  # a value that is refused
        return []
    with contextlib.suppress(RunError), warnings.catch_warnings():  # a shell would show them between what is typed
        warnings.simplefilter("ignore")
        return [name for name in names.newest_first(Path(folder)) if name.startswith(incomplete)]
    return []


def _finding(name: str) -> str:
    if name not in LIMITS:
        raise ValueError(f"expected ids of findings: {', '.join(LIMITS)}{suggestion(name, LIMITS)}")
    return name


def _paths(ctx: typer.Context, parameter: typer.CallbackParam, values: list[str]) -> list[str]:
    """Return the paths of a repeatable option; a variable holds one, whatever blanks and commas are in it."""
    source = ctx.get_parameter_source(str(parameter.name))
    if source is not None and source.name == "ENVIRONMENT":
        values = [os.environ[str(parameter.envvar)]]
    one = parser(SETTINGS[str(parameter.envvar)].parse)
    return [one(value) for value in values]


def _parts(parse: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Return a parser of one value, or of several with commas between them."""
    one = parser(parse)

    def parts(text: str) -> list[Any]:
        words = [part.strip() for part in text.split(",") if part.strip()] if "," in text else []
        return [one(word) for word in words or [text]]

    return parts


def _flatten(ctx: typer.Context, parameter: typer.CallbackParam, values: list[Any]) -> list[Any]:
    found = os.environ.get(str(parameter.envvar), "")
    source = ctx.get_parameter_source(str(parameter.name))
    # Typer parts a variable at its blanks.
    if source is not None and source.name == "ENVIRONMENT" and len(values) != 1 and "," not in found:
        raise typer.BadParameter(f"found {found!r}; expected one value, or several with commas between them")
    return [item for value in values for item in (value if isinstance(value, list) else [value])]


def _complete(words: Collection[str]) -> Callable[[str], list[str]]:
    """Return what a shell completes the last word of a list to."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{word}" for word in words if word.startswith(last)]

    return complete


def of(name: str, several: bool = False, help: str = "") -> Any:
    """Return the option of a setting, or one that takes it several times: repeated, or, but for paths, with commas.

    `help` takes the place of the setting's own.
    """
    known = SETTINGS[name.upper()]
    parse: Callable[[str], Any] | None = known.parse
    words, metavar, help, callback = known.words, known.metavar, help or known.help, None
    if name == "fail_on":
        parse, words = _finding, tuple(LIMITS)
    if several and known.is_path:
        parse, help, callback = None, f"{help} Repeatable.", _paths
    elif several and parse is not None:
        parse, metavar, callback = _parts(parse), f"{metavar},...", _flatten
    return typer.Option(
        *known.flags,
        envvar=name.upper(),
        parser=None if parse is None else parser(parse),
        metavar=metavar,
        rich_help_panel=known.panel,
        help=help,
        callback=callback,
        autocompletion=complete_run if name == "run_name" else _complete(words) if words else None,
    )


def takes(*kinds: type[Any], several: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of all settings in these dataclasses, those of `several` as lists.

    They stand between its own options, before those that are keywords alone. The command finds what was given in
    `ctx.params`; `configure` makes a dataclass of it.
    """
    added: dict[str, inspect.Parameter] = {}
    for kind in kinds:
        hints = get_type_hints(kind)
        for each in fields(kind):
            listed = each.name in several or each.name == "fail_on"
            default, annotation = each.default, hints[each.name]
            if listed:
                default = [] if default in (None, ()) else [default]
                annotation = GenericAlias(list, next(iter(get_args(annotation)), annotation))
            added[each.name] = inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[annotation, of(each.name, listed)],
            )

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command).parameters.values()
        before = [parameter for parameter in own if parameter.kind is not parameter.KEYWORD_ONLY]
        after = [parameter for parameter in own if parameter.kind is parameter.KEYWORD_ONLY]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            command(**{name: value for name, value in given.items() if name not in added})

        run.__signature__ = inspect.Signature([*before, *added.values(), *after])  # type: ignore[attr-defined]
        return run

    return decorate


ArtifactDir = Annotated[str, of("artifact_dir")]
Device = Annotated[cfg.Device, of("device")]
Distributed = Annotated[
    bool, typer.Option("--distributed", rich_help_panel=cfg.MACHINES, help="Share the work with other processes.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Save = Annotated[
    str | None,
    typer.Option(metavar="FILE", rich_help_panel=cfg.SHOW, help="Keep it: a page (.html), or .md, .svg, .txt."),
]

Config = TypeVar("Config", cfg.ForwardConfig, cfg.GenerateConfig, cfg.ProcessConfig)


def configure(ctx: typer.Context, kind: type[Config], without: Collection[str] = ()) -> Config:
    """Return what the command was asked for; the fields `without` keep their defaults."""
    values: dict[str, Any] = {}
    for name in (field.name for field in fields(kind)):
        if name in ctx.params and name not in without:
            value = ctx.params[name]
            values[name] = tuple(dict.fromkeys(value)) if isinstance(value, list) else value
    return kind(**values)


def sources(ctx: typer.Context) -> dict[str, str]:
    """Return where each setting of the run came from: flag, environment, .env or default."""
    return {field.name: source(ctx, field.name) for field in fields(cfg.ForwardConfig) if field.name in ctx.params}


def source(ctx: typer.Context, name: str) -> str:
    """Return where one setting came from."""
    found = ctx.get_parameter_source(name)
    if found is None or found.name not in ("COMMANDLINE", "ENVIRONMENT"):
        return "default"
    if found.name == "COMMANDLINE":
        return "flag"
    return ".env" if name.upper() in ctx.obj.names else "environment"


def process_address(ctx: typer.Context, distributed: bool) -> cfg.ProcessAddress | None:
    """Return the place of this process in a distributed run; None where there is none, or JAX is to detect it.

    Raises:
        UsageError: the three settings do not fit together, or are given by flag without `--distributed`.
    """
    if distributed:
        return configure(ctx, cfg.ProcessConfig).choose()
    for each in fields(cfg.ProcessConfig):
        if source(ctx, each.name) == "flag":
            raise UsageError(f"--{each.name.replace('_', '-')} goes with --distributed")
    return None
