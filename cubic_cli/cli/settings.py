"""The options of the commands: flags, variables, parsers, help; one setting is one type here, for all commands."""

import os
import re
from collections.abc import Callable
from typing import Annotated, Any

import typer

from cubic_cli import config as cfg
from cubic_cli.analysis.findings import LIMITS
from cubic_cli.errors import UsageError

SETTINGS = frozenset(
    [
        "NUM_DATASET",
        "GENERATE_DATASET",
        "DATASET",
        "NOISE_STD",
        "SEED",
        "HIDDEN_SIZE",
        "BATCH_SIZE",
        "NUM_EPOCHS",
        "NUM_SAMPLES",
        "RUN_NAME",
        "INITIALIZER",
        "ACTIVATION",
        "SCALING",
        "DEVICE",
        "VERIFY",
        "GRADIENTS",
        "FAIL_ON",
        "COORDINATOR_ADDRESS",
        "NUM_PROCESSES",
        "PROCESS_ID",
        "ARTIFACT_DIR",
    ]
)


def _parser(parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """Let Typer show a parser's message with the value that was found."""

    def parsed(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return parse(value)
        except ValueError as error:
            raise typer.BadParameter(f"found {value!r}; {error}") from None

    return parsed


def _finite(text: str) -> float:
    if not _DECIMAL.fullmatch(text) or not (value := float(text)) < float("inf"):
        raise ValueError("expected a finite number of at least 0")
    return value


_DECIMAL = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def boolean(ctx: typer.Context, parameter: typer.CallbackParam, value: bool) -> bool:
    """Return `value`; refuses a variable of nothing but blanks, which Typer takes for false."""
    text = os.environ.get(str(parameter.envvar), "")
    source = ctx.get_parameter_source(str(parameter.name))
    if text and not text.strip() and source is not None and source.name == "ENVIRONMENT":
        raise typer.BadParameter(f"found {text!r}; expected a boolean word")
    return value


def _num_samples(text: str) -> str:
    """Return `all` or the integer's text. A callback, for a parser's `None` would count as not given."""
    try:
        samples = cfg.parse_num_samples(text)
    except ValueError as error:
        raise typer.BadParameter(f"found {text!r}; {error}") from None
    return "all" if samples is None else str(samples)


def _fail_on(texts: list[str]) -> list[str]:
    """Return the ids of findings, each given alone or in a list with commas."""
    ids = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    for name in ids:
        if name not in LIMITS:
            raise typer.BadParameter(f"found {name!r}; expected ids of findings: {', '.join(LIMITS)}")
    return list(dict.fromkeys(ids))


def sources(ctx: typer.Context, names: list[str]) -> dict[str, str]:
    """Return where each setting came from: flag, environment, .env or default."""
    found = {}
    for name in names:
        source = ctx.get_parameter_source(name)
        kind = source.name if source is not None else "DEFAULT"
        if kind == "ENVIRONMENT":
            found[name] = ".env" if name.upper() in ctx.obj.names else "environment"
        else:
            found[name] = "flag" if kind == "COMMANDLINE" else "default"
    return found


def place(
    ctx: typer.Context, distributed: bool, address: str | None, processes: int | None, process_id: int | None
) -> cfg.Place | None:
    """Return the place of this process in a distributed run; None where there is none, or JAX is to detect it.

    Raises:
        UsageError: the three settings do not fit together, or are given by flag without `--distributed`.
    """
    if distributed:
        return cfg.choose_place(address, processes, process_id)
    for name in ("coordinator_address", "num_processes", "process_id"):
        if sources(ctx, [name])[name] == "flag":
            raise UsageError(f"--{name.replace('_', '-')} goes with --distributed")
    return None


POSITIVE = _parser(cfg.parse_integer(1))
SEED = _parser(cfg.parse_integer(0, 2**32 - 1))
FINITE = _parser(_finite)

NumDataset = Annotated[
    int,
    typer.Option(
        "--n",
        "--num-dataset",
        envvar="NUM_DATASET",
        parser=POSITIVE,
        metavar="INTEGER",
        help="Rows to write.",
    ),
]
Dataset = Annotated[
    str,
    typer.Option(
        envvar="DATASET",
        parser=_parser(cfg.check_dataset),
        metavar="PATH",
        help="The dataset, a path that ends in .csv or .parquet.",
    ),
]
NoiseStd = Annotated[
    float,
    typer.Option(
        envvar="NOISE_STD",
        parser=FINITE,
        metavar="FLOAT",
        help="Standard deviation of the noise on y.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(envvar="SEED", parser=SEED, metavar="INTEGER", help="Seed of what is drawn, from 0 to 4294967295."),
]
HiddenSize = Annotated[
    int,
    typer.Option(envvar="HIDDEN_SIZE", parser=POSITIVE, metavar="INTEGER", help="H, the units of the hidden layer."),
]
BatchSize = Annotated[
    int,
    typer.Option(envvar="BATCH_SIZE", parser=POSITIVE, metavar="INTEGER", help="B, the samples of one batch."),
]
NumEpochs = Annotated[
    int,
    typer.Option(envvar="NUM_EPOCHS", parser=POSITIVE, metavar="INTEGER", help="Passes over the samples."),
]
NumSamples = Annotated[
    str,
    typer.Option(
        envvar="NUM_SAMPLES",
        callback=_num_samples,
        metavar="INTEGER|all",
        help="Samples to read from the top of the dataset, or all.",
    ),
]
RunName = Annotated[
    str,
    typer.Option(envvar="RUN_NAME", parser=_parser(cfg.check_run_name), metavar="NAME", help="The run's folder."),
]
ArtifactDir = Annotated[
    str,
    typer.Option(
        envvar="ARTIFACT_DIR", parser=_parser(cfg.check_folder), metavar="FOLDER", help="The folder of all runs."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Initializer = Annotated[
    cfg.Initializer,
    typer.Option(
        envvar="INITIALIZER",
        metavar="NAME",
        help=f"How the parameters get their first values: {', '.join(cfg.Initializer)}.",
    ),
]
Activation = Annotated[
    cfg.Activation,
    typer.Option(
        envvar="ACTIVATION", metavar="NAME", help=f"The function of the hidden layer: {', '.join(cfg.Activation)}."
    ),
]
Scaling = Annotated[
    cfg.Scaling,
    typer.Option(envvar="SCALING", metavar="NAME", help=f"How x and y are rescaled: {', '.join(cfg.Scaling)}."),
]
Device = Annotated[
    cfg.Device, typer.Option(envvar="DEVICE", metavar="NAME", help=f"The JAX backend: {', '.join(cfg.Device)}.")
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify/--no-verify", envvar="VERIFY", callback=boolean, help="Recompute in NumPy float64 and compare."
    ),
]
Gradients = Annotated[
    bool,
    typer.Option(
        "--gradients/--no-gradients",
        envvar="GRADIENTS",
        callback=boolean,
        help="Measure the gradients of the loss, and the largest step.",
    ),
]
Distributed = Annotated[
    bool, typer.Option("--distributed", help="Share the work with the processes that JAX's distributed runtime joins.")
]
CoordinatorAddress = Annotated[
    str | None,
    typer.Option(
        envvar="COORDINATOR_ADDRESS",
        parser=_parser(cfg.check_address),
        metavar="HOST:PORT",
        help="With --distributed: the address of process 0. JAX detects this and the next two on a cluster.",
    ),
]
NumProcesses = Annotated[
    int | None,
    typer.Option(
        envvar="NUM_PROCESSES", parser=POSITIVE, metavar="INTEGER", help="With --distributed: how many processes."
    ),
]
ProcessId = Annotated[
    int | None,
    typer.Option(
        envvar="PROCESS_ID",
        parser=_parser(cfg.parse_integer(0)),
        metavar="INTEGER",
        help="With --distributed: which process this is, from 0.",
    ),
]
FailOn = Annotated[
    list[str],
    typer.Option(
        envvar="FAIL_ON",
        callback=_fail_on,
        metavar="ID",
        help="Exit 1 where the run has this finding; repeatable, or a list with commas.",
    ),
]
