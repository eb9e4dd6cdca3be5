"""The settings: each declared once, with its flag, variable, parser and help, for all commands.

A flag beats the environment, which beats `.env`, which beats the default; the defaults stand in `config`. To add a
setting, add its field to a dataclass of `config`, its declaration here, and its parameter to the commands that take it.
"""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeVar

import typer

from cubic_cli import config as cfg
from cubic_cli.analysis.limits import LIMITS
from cubic_cli.cli.help import CHECKS, DATA, MACHINES, NETWORK, RUN
from cubic_cli.errors import UsageError


def option(
    *flags: str,
    help: str,
    variable: str | None = None,
    parse: Callable[[str], Any] | None = None,
    metavar: str | None = None,
    panel: str | None = None,
    callback: Callable[..., Any] | None = None,
    complete: Callable[..., Any] | None = None,
) -> Any:
    """Return an option; without `flags` its flag is the name of the parameter.

    What `parse` refuses with a `ValueError` is told with the value that was found.
    """
    return typer.Option(
        *flags,
        envvar=variable,
        parser=None if parse is None else _parser(parse),
        metavar=metavar,
        help=help,
        rich_help_panel=panel,
        callback=callback,
        autocompletion=complete,
    )


def _parser(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    def parsed(value: Any) -> Any:
        if not isinstance(value, str):  # the default
            return value
        try:
            return parse(value)
        except ValueError as error:
            raise typer.BadParameter(f"found {value!r}; {error}") from None

    return parsed


def repeatable(
    *flags: str,
    parse: Callable[[str], Any],
    metavar: str,
    help: str,
    variable: str | None = None,
    panel: str | None = None,
) -> Any:
    """Return an option that may be repeated, or be given a list with commas."""
    one = _parser(parse)

    def parts(text: str) -> list[Any]:
        if "," not in text:
            return [one(text)]
        return [one(part.strip()) for part in text.split(",") if part.strip()]

    def flatten(ctx: typer.Context, parameter: typer.CallbackParam, values: list[Any]) -> list[Any]:
        found = os.environ.get(variable or "", "")
        source = ctx.get_parameter_source(str(parameter.name))
        # Typer parts a variable at its blanks.
        if source is not None and source.name == "ENVIRONMENT" and len(values) != 1 and "," not in found:
            raise typer.BadParameter(f"found {found!r}; expected one value, or several with commas between them")
        return [item for value in values for item in (value if isinstance(value, list) else [value])]

    return option(
        *flags, help=help, variable=variable, parse=parts, metavar=f"{metavar},...", panel=panel, callback=flatten
    )


@dataclass(frozen=True)
class Setting:
    """What is declared of a setting, which has a variable."""

    parse: Callable[[str], Any]
    metavar: str
    panel: str
    help: str
    is_path: bool  # in `.env` it is relative to that file's folder


SETTINGS: dict[str, Setting] = {}  # by variable


def _setting(
    variable: str,
    parse: Callable[[str], Any],
    metavar: str,
    panel: str,
    help: str,
    *flags: str,
    is_path: bool = False,
    several: bool = False,
) -> Any:
    SETTINGS[variable] = Setting(parse, metavar, panel, help, is_path)
    make = repeatable if several else option
    return make(*flags, variable=variable, parse=parse, metavar=metavar, panel=panel, help=help)


def _paths(ctx: typer.Context, parameter: typer.CallbackParam, values: list[str]) -> list[str]:
    """Return the paths of a repeatable option; a variable holds one, whatever blanks and commas are in it."""
    source = ctx.get_parameter_source(str(parameter.name))
    if source is not None and source.name == "ENVIRONMENT":
        values = [os.environ[str(parameter.envvar)]]
    one = _parser(SETTINGS[str(parameter.envvar)].parse)
    return [one(value) for value in values]


def _several(variable: str) -> Any:
    """Return the option of a setting that `sweep` takes several times."""
    known = SETTINGS[variable]
    return repeatable(variable=variable, parse=known.parse, metavar=known.metavar, panel=known.panel, help=known.help)


def _again(variable: str, *flags: str, complete: Callable[..., Any] | None = None) -> Any:
    """Return the option of a setting of which a command asks whether it is given at all."""
    known = SETTINGS[variable]
    return option(
        *flags,
        variable=variable,
        parse=known.parse,
        metavar=known.metavar,
        panel=known.panel,
        help=known.help,
        complete=complete,
    )


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the runs that a shell can complete a word to, the newest first."""
    from pathlib import Path

    from cubic_cli.runs import names

    folder = ctx.params.get("artifact_dir") or os.environ.get("ARTIFACT_DIR") or cfg.ForwardConfig.artifact_dir
    return [name for name in names.newest_first(Path(folder)) if name.startswith(incomplete)]


def _words(kind: type[cfg.Word]) -> str:
    *words, last = kind
    return f"{', '.join(words)} or {last}"


def _finding(name: str) -> str:
    if name not in LIMITS:
        raise ValueError(f"expected ids of findings: {', '.join(LIMITS)}{cfg.suggestion(name, LIMITS)}")
    return name


def check_parameters(path: str) -> str:
    """Return `path` if it names a file of parameters.

    Raises:
        ValueError: its ending is another; for a pickle of PyTorch's it says how to convert it.
    """
    from pathlib import Path

    ending = Path(path).suffix.lower()
    if ending in (".pt", ".pth", ".pkl", ".bin"):
        from cubic_cli.data.parameters_file import conversion

        raise ValueError(conversion(Path(path)))
    if ending not in (".safetensors", ".json") or "\0" in path:
        raise ValueError("expected a path that ends in .safetensors or .json")
    return path


positive = cfg.parse_integer(1)

Generate = Annotated[
    bool,
    _setting(
        "GENERATE_DATASET", cfg.parse_boolean, "", DATA, "Generate the dataset first.", "--generate/--no-generate"
    ),
]
NumDataset = Annotated[
    int, _setting("NUM_DATASET", positive, "INT", DATA, "Write this many rows.", "--n", "--num-dataset")
]
Dataset = Annotated[
    str,
    _setting("DATASET", cfg.check_dataset, "PATH", DATA, "Use this .csv or .parquet file.", is_path=True),
]
NoiseStd = Annotated[float, _setting("NOISE_STD", cfg.parse_size, "FLOAT", DATA, "Add noise of this std to y.")]
XColumn = Annotated[str, _setting("X_COLUMN", cfg.check_column, "NAME", DATA, "Read x from this column.", "--x")]
YColumn = Annotated[str, _setting("Y_COLUMN", cfg.check_column, "NAME", DATA, "Read y from this column.", "--y")]
NumSamples = Annotated[
    int | None,
    _setting("NUM_SAMPLES", cfg.parse_num_samples, "INT|all", DATA, "Use at most this many of the first rows, or all."),
]
Seed = Annotated[int, _setting("SEED", cfg.parse_integer(0, 2**32 - 1), "INT", DATA, "Draw with this seed.")]
Parameters = Annotated[
    str | None,
    _setting(
        "PARAMETERS",
        check_parameters,
        "FILE",
        NETWORK,
        "Take the parameters, and so H, from this .safetensors or .json file.",
        is_path=True,
    ),
]
HiddenSize = Annotated[int, _setting("HIDDEN_SIZE", positive, "INT", NETWORK, "Give the hidden layer H units.")]
Initializer = Annotated[
    cfg.Initializer | None,
    _setting(
        "INITIALIZER",
        cfg.parse_choice(cfg.Initializer),
        "NAME",
        NETWORK,
        f"Initialise the parameters by {_words(cfg.Initializer)}.",
    ),
]
Activation = Annotated[
    cfg.Activation,
    _setting(
        "ACTIVATION",
        cfg.parse_choice(cfg.Activation),
        "NAME",
        NETWORK,
        f"Activate the hidden layer by {_words(cfg.Activation)}.",
    ),
]
Scaling = Annotated[
    cfg.Scaling,
    _setting("SCALING", cfg.parse_choice(cfg.Scaling), "NAME", NETWORK, f"Scale x and y by {_words(cfg.Scaling)}."),
]
BatchSize = Annotated[int, _setting("BATCH_SIZE", positive, "INT", RUN, "Take B samples in a batch.")]
NumEpochs = Annotated[int, _setting("NUM_EPOCHS", positive, "INT", RUN, "Pass over the samples this often.")]
Device = Annotated[
    cfg.Device,
    _setting("DEVICE", cfg.parse_choice(cfg.Device), "NAME", RUN, f"Compute on {_words(cfg.Device)}."),
]
RunName = Annotated[str, _setting("RUN_NAME", cfg.check_run_name, "NAME", RUN, "The run has this name.")]
ArtifactDir = Annotated[
    str, _setting("ARTIFACT_DIR", cfg.check_folder, "FOLDER", RUN, "The runs are in this folder.", is_path=True)
]
Verify = Annotated[
    bool,
    _setting(
        "VERIFY",
        cfg.parse_boolean,
        "",
        CHECKS,
        "Compute it again in NumPy float64, and compare.",
        "--verify/--no-verify",
    ),
]
Gradients = Annotated[
    bool,
    _setting(
        "GRADIENTS",
        cfg.parse_boolean,
        "",
        CHECKS,
        "Measure the gradients and the largest learning rate.",
        "--gradients/--no-gradients",
    ),
]
FailOn = Annotated[
    list[str], _setting("FAIL_ON", _finding, "ID", CHECKS, "Exit 1 if the run has one of these findings.", several=True)
]
Distributed = Annotated[
    bool,
    option("--distributed", panel=MACHINES, help="Share the work with other processes."),
]
CoordinatorAddress = Annotated[
    str | None,
    _setting(
        "COORDINATOR_ADDRESS",
        cfg.check_address,
        "ADDR",
        MACHINES,
        "Meet process 0 at this host:port. On a cluster JAX finds this and the next two by itself.",
    ),
]
NumProcesses = Annotated[
    int | None, _setting("NUM_PROCESSES", positive, "INT", MACHINES, "Expect this many processes.")
]
ProcessId = Annotated[
    int | None, _setting("PROCESS_ID", cfg.parse_integer(0), "INT", MACHINES, "Be this process, from 0.")
]
SavedRunName = Annotated[str | None, _again("RUN_NAME", complete=complete_run)]
ParametersFiles = Annotated[
    list[str],
    option(
        variable="PARAMETERS",
        metavar="FILE",
        panel=NETWORK,
        help=f"{SETTINGS['PARAMETERS'].help} Repeatable.",
        callback=_paths,
    ),
]
HiddenSizes = Annotated[list[int], _several("HIDDEN_SIZE")]
BatchSizes = Annotated[list[int], _several("BATCH_SIZE")]
Initializers = Annotated[list[cfg.Initializer], _several("INITIALIZER")]
Activations = Annotated[list[cfg.Activation], _several("ACTIVATION")]
Scalings = Annotated[list[cfg.Scaling], _several("SCALING")]
Seeds = Annotated[list[int], _several("SEED")]
Json = Annotated[bool, option("--json", panel=RUN, help="Print one JSON document and nothing else.")]

Config = TypeVar("Config", cfg.ForwardConfig, cfg.GenerateConfig)


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


def flags(ctx: typer.Context, without: Collection[str]) -> list[str]:
    """Return the flags with which the command was called, but those of the parameters `without`."""
    words: list[str] = []
    for parameter in ctx.command.params:
        name = str(parameter.name)
        if name in without or source(ctx, name) != "flag":
            continue
        value = ctx.params[name]
        if isinstance(value, bool):
            words.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        else:
            values = value if isinstance(value, list) else ["all" if value is None else value]
            words += [word for one in values for word in (max(parameter.opts, key=len), str(one))]
    return words


def place(ctx: typer.Context, distributed: bool) -> cfg.Place | None:
    """Return the place of this process in a distributed run; None where there is none, or JAX is to detect it.

    Raises:
        UsageError: the three settings do not fit together, or are given by flag without `--distributed`.
    """
    names = ("coordinator_address", "num_processes", "process_id")
    if distributed:
        return cfg.choose_place(*(ctx.params[name] for name in names))
    for name in names:
        if source(ctx, name) == "flag":
            raise UsageError(f"--{name.replace('_', '-')} goes with --distributed")
    return None
