"""The options of the commands: flags, variables, parsers, help; one setting is one type here, for all commands."""

import os
import re
from collections.abc import Callable
from typing import Annotated, Any

import typer

from cubic_cli import config as cfg
from cubic_cli.findings import LIMITS

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
FailOn = Annotated[
    list[str],
    typer.Option(
        envvar="FAIL_ON",
        callback=_fail_on,
        metavar="ID",
        help="Exit 1 where the run has this finding; repeatable, or a list with commas.",
    ),
]
