"""`--parameters` beside the settings that it takes the place of: what beats what, and what is told of it.

A file beats `INITIALIZER` and `HIDDEN_SIZE`, unless one of these comes from a stronger source; a width that is the
file's displaces nothing.
"""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cubic_cli.cli import settings as options
from cubic_cli.cli import terminal
from cubic_cli.config import ForwardConfig
from cubic_cli.errors import RunError, UsageError

if TYPE_CHECKING:
    from cubic_cli.data.parameters_file import NetworkFile

_STRENGTH = ("default", ".env", "environment", "flag")
ORIGINAL = "model.json"  # what the program that `cubic` follows keeps in the folder of a run


def choose(
    ctx: typer.Context, config: ForwardConfig, sources: dict[str, str]
) -> "tuple[ForwardConfig, dict[str, str], NetworkFile | None]":
    """Return the settings and their sources with the network of a file in them, and the network, None without a file.

    Raises:
        UsageError: flags name a file and what does not go with it.
        ParametersError: the file cannot be read, or holds no network that fits.
    """
    given = () if config.parameters is None else (config.parameters,)
    networks = read(ctx, given, sources, (config.initializer,), (config.hidden_size,))
    if not networks:
        return replace(config, parameters=None), sources | {"parameters": "default"}, None
    from cubic_cli.experiments.adopted import adopt

    return adopt(config, networks[0]), adopted_sources(sources), networks[0]


def adopted_sources(sources: dict[str, str]) -> dict[str, str]:
    """Return where the settings came from, where the file gives the width and takes the initialiser's place."""
    return sources | dict.fromkeys(("hidden_size", "initializer"), sources["parameters"])


def read(
    ctx: typer.Context,
    paths: Collection[str],
    sources: dict[str, str],
    initializers: Collection[Any],
    widths: Collection[int],
) -> "list[NetworkFile]":
    """Return the networks of the files at `paths`; none where a setting from a stronger source displaces them.

    Raises:
        UsageError: flags name a file and what does not go with it.
        ParametersError: a file cannot be read, or holds no network that fits.
    """
    if not paths:
        return []
    strength = {name: _STRENGTH.index(sources[name]) for name in ("parameters", "initializer", "hidden_size")}
    if sources["parameters"] == sources["initializer"] == "flag":
        raise UsageError("--parameters and --initializer both give the parameters; leave one of them out")
    if strength["initializer"] > strength["parameters"]:
        _tell_displaced(ctx, sources, "initializer", ", ".join(map(str, initializers)))
        return []
    from cubic_cli.data.parameters_file import read_parameters

    networks = [read_parameters(Path(path)) for path in paths]
    differing = {network.parameters.hidden_size for network in networks} ^ set(widths)
    if differing and sources["parameters"] == sources["hidden_size"] == "flag":
        first = networks[0]
        raise UsageError(
            f"--hidden-size: found {', '.join(map(str, widths))}; {first.name} has {first.parameters.hidden_size:,} "
            "hidden units: leave --hidden-size out"
        )
    if differing and strength["hidden_size"] > strength["parameters"]:
        _tell_displaced(ctx, sources, "hidden_size", ", ".join(map(str, widths)))
        return []
    return networks


def _tell_displaced(ctx: typer.Context, sources: dict[str, str], name: str, value: str) -> None:
    of = {"flag": f"--{name.replace('_', '-')} {value}", "environment": f"{name.upper()}={value} in the environment"}
    where = ctx.obj.path if sources["parameters"] == ".env" else "the environment"
    terminal.tell(f"note: {of[sources[name]]} takes the place of PARAMETERS in {where}")


def refuse_original(ctx: typer.Context, config: ForwardConfig) -> None:
    """Raise `RunError` if the run's folder is that of a network of the original's; names the command that runs it."""
    folder = Path(config.artifact_dir) / config.run_name
    try:
        if not (folder / ORIGINAL).is_file() or folder.is_symlink():
            return
    except OSError:  # a name that is too long, a folder that is closed: saving the run says so
        return
    names = (f"{folder.name[:90]}-cubic{number}" for number in ("", *range(2, 1000)))
    free = next(name for name in names if not (folder.parent / name).exists())
    from cubic_cli.cli.again import spell

    displaced = ("parameters", "initializer", "hidden_size", "run_name")
    given = {name: value for name, value in config.as_json().items() if options.source(ctx, name) == "flag"}
    given = {name: value for name, value in given.items() if name not in displaced}
    raise RunError(
        f"{folder} holds {ORIGINAL!r}, a network of the program that cubic follows, and no run is saved over it; "
        f"this command runs that network, and saves the run beside it:",
        spell({**given, "parameters": str(folder / ORIGINAL), "run_name": free}),
    )
