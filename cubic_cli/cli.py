"""The command line: options, help, exit statuses. Heavy imports stand inside the command that needs them."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cubic_cli import config as cfg
from cubic_cli.config import Activation, Device, ForwardConfig, GenerateConfig, Initializer, Scaling
from cubic_cli.errors import CubicError, RunError, UsageError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

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

app = typer.Typer(
    name="cubic",
    help="Run a neural network's forward pass in JAX, and see, record and check every number in it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Settings come from flags, then the environment, then the nearest .env, then the defaults.",
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
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise ValueError("expected a finite number of at least 0")
    return value


POSITIVE = _parser(cfg.parse_integer(1))
SEED = _parser(cfg.parse_integer(0, 2**32 - 1))

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
        parser=_parser(_finite),
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
        metavar="INTEGER|all",
        help="Samples to read from the top of the dataset, or all.",
    ),
]
RunName = Annotated[
    str,
    typer.Option(envvar="RUN_NAME", parser=_parser(cfg.check_run_name), metavar="NAME", help="The run's folder."),
]
ArtifactDir = Annotated[str, typer.Option(envvar="ARTIFACT_DIR", metavar="FOLDER", help="The folder of all runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"cubic {version('cubic-cli')}")
        raise typer.Exit


_dotenv = cfg.DotEnv(None, frozenset())


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Lay the nearest .env underneath the environment, before a command's options are read."""
    global _dotenv
    _dotenv = cfg.load_dotenv(SETTINGS)


def _sources(ctx: typer.Context, names: list[str]) -> dict[str, str]:
    """Return where each setting came from: flag, environment, .env or default."""
    sources = {}
    for name in names:
        source = ctx.get_parameter_source(name)
        kind = source.name if source is not None else "DEFAULT"
        if kind == "ENVIRONMENT":
            sources[name] = ".env" if name.upper() in _dotenv.names else "environment"
        else:
            sources[name] = "flag" if kind == "COMMANDLINE" else "default"
    return sources


def _console(stderr: bool = False) -> "Console":
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else 120
    return Console(stderr=stderr, width=width, highlight=False, no_color=bool(os.environ.get("NO_COLOR")) or None)


def _show(screen: "Callable[[int], RenderableType]") -> None:
    console = _console()
    console.print(screen(console.width))


@contextlib.contextmanager
def _progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of long work on standard error, where that is a terminal."""
    if not sys.stderr.isatty() or os.environ.get("NO_COLOR"):
        yield lambda done: None
        return
    from rich.progress import Progress

    with Progress(console=_console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.advance(task, done)


@app.command()
def generate(
    num_dataset: NumDataset = GenerateConfig.num_dataset,
    dataset: Dataset = GenerateConfig.dataset,
    noise_std: NoiseStd = GenerateConfig.noise_std,
    seed: Seed = GenerateConfig.seed,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is not cubic's own.")] = False,
    json: Json = False,
) -> None:
    """Write the dataset: samples of a noisy cubic, the same bytes for the same seed."""
    summary = _generate(GenerateConfig(num_dataset, dataset, noise_std, seed), force)
    from cubic_cli import report, runs

    if json:
        print(runs.to_json(asdict(summary)))
    else:
        _show(lambda width: report.generated(summary))


def _generate(config: GenerateConfig, force: bool) -> Any:
    from cubic_cli import dataset

    with _progress("generating", config.num_dataset) as advance:
        return dataset.generate(config, force, advance)


@app.command()
def forward(
    ctx: typer.Context,
    generate: Annotated[
        bool,
        typer.Option("--generate/--no-generate", envvar="GENERATE_DATASET", help="Generate the dataset first."),
    ] = False,
    num_dataset: NumDataset = GenerateConfig.num_dataset,
    dataset: Dataset = ForwardConfig.dataset,
    noise_std: NoiseStd = GenerateConfig.noise_std,
    seed: Seed = ForwardConfig.seed,
    hidden_size: HiddenSize = ForwardConfig.hidden_size,
    batch_size: BatchSize = ForwardConfig.batch_size,
    num_epochs: NumEpochs = ForwardConfig.num_epochs,
    num_samples: NumSamples = str(ForwardConfig.num_samples),
    run_name: RunName = ForwardConfig.run_name,
    initializer: Annotated[
        Initializer, typer.Option(envvar="INITIALIZER", help="How the parameters get their first values.")
    ] = ForwardConfig.initializer,
    activation: Annotated[
        Activation, typer.Option(envvar="ACTIVATION", help="The function of the hidden layer.")
    ] = ForwardConfig.activation,
    scaling: Annotated[
        Scaling, typer.Option(envvar="SCALING", help="How x and y are rescaled.")
    ] = ForwardConfig.scaling,
    device: Annotated[Device, typer.Option(envvar="DEVICE", help="The JAX backend.")] = ForwardConfig.device,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", envvar="VERIFY", help="Recompute in NumPy float64 and compare."),
    ] = True,
    artifact_dir: ArtifactDir = ForwardConfig.artifact_dir,
    json: Json = False,
) -> None:
    """Run the forward pass over the dataset, verify it, show every tensor's statistics and save the run."""
    try:
        samples = cfg.parse_num_samples(num_samples)
    except ValueError as error:
        raise UsageError(f"NUM_SAMPLES / --num-samples: found {num_samples!r}; {error}") from None
    config = ForwardConfig(
        hidden_size,
        batch_size,
        num_epochs,
        samples,
        seed,
        initializer,
        activation,
        scaling,
        dataset,
        run_name,
        artifact_dir,
        device,
        verify,
    )
    if generate:
        summary = _generate(GenerateConfig(num_dataset, dataset, noise_std, seed), force=False)
        print(f"generated {summary.rows:,} rows in {summary.path}", file=sys.stderr)
    from cubic_cli import __version__, record, report, runs

    folder = Path(artifact_dir) / run_name
    runs.refuse_strangers(folder)
    names = [name for name in config.as_json() if name in ctx.params]
    with _progress("epochs", num_epochs) as advance:
        result = record.run(config, _sources(ctx, names), __version__, lambda epoch, loss: advance(1))
    runs.save(folder, result.record, result.history, result.parameters)
    if json:
        print(runs.to_json(result.record))
    else:
        _show(lambda width: report.run(result.record, width))
        print(f"saved in {folder}", file=sys.stderr)
    check = result.record["verification"]
    if check is not None and not check["passed"]:
        texts = [f["text"] for f in result.record["findings"] if f["id"] in ("unverified", "nondeterministic")]
        raise CubicError("the run is saved, but it is not verified: " + "; ".join(texts))


@app.command()
def inspect(
    run_name: RunName = ForwardConfig.run_name,
    artifact_dir: ArtifactDir = ForwardConfig.artifact_dir,
    list_: Annotated[bool, typer.Option("--list", help="List the runs.")] = False,
    epoch: Annotated[
        int | None, typer.Option(parser=POSITIVE, metavar="INTEGER", help="With --batch: show one iteration.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(parser=POSITIVE, metavar="INTEGER", help="With --epoch: show one iteration.")
    ] = None,
    json: Json = False,
) -> None:
    """Show a saved run, the list of runs, or one iteration. It starts no JAX."""
    from cubic_cli import report, runs

    if list_:
        records = runs.list_runs(Path(artifact_dir))
        if json:
            print(runs.to_json({"runs": [_list_row(record) for record in records]}))
        else:
            _show(lambda width: report.runs(records))
        return
    folder = Path(artifact_dir) / run_name
    runs.recover(folder)
    record = runs.load_record(folder)
    if (epoch is None) != (batch is None):
        raise UsageError("--epoch and --batch go together, as in --epoch 10 --batch 100")
    if epoch is not None and batch is not None:
        document = _iteration(folder, record, epoch, batch)
        if json:
            print(runs.to_json(document))
        else:
            labels = {tensor["name"]: tensor["label"] for tensor in record["tensors"]}
            _show(lambda width: report.iteration(document, labels))
    elif json:
        print(runs.to_json(record))
    else:
        _show(lambda width: report.run(record, width))


def _list_row(record: dict[str, Any]) -> dict[str, Any]:
    if "damaged" in record:
        return record
    keys = ("hidden_size", "batch_size", "num_epochs", "initializer", "activation", "scaling", "seed")
    return {
        "run_name": record["run_name"],
        "created": record["created"],
        "loss": record["loss"],
        **{key: record["config"][key] for key in keys},
    }


def _iteration(folder: Path, record: dict[str, Any], epoch: int, batch: int) -> dict[str, Any]:
    """Return the tensors' shapes and extremes in one iteration, as `inspect --json` prints them."""
    from cubic_cli import runs

    history = runs.load_history(folder)
    epochs = record["config"]["num_epochs"]
    batches = history.height // epochs
    if epoch > epochs or batch > batches:
        raise RunError(
            f"run {record['run_name']} has epochs 1 to {epochs} and batches 1 to {batches}; "
            f"there is no epoch {epoch}, batch {batch}"
        )
    row = history.row((epoch - 1) * batches + batch - 1, named=True)
    tensors = []
    for tensor in record["tensors"]:
        name = tensor["name"]
        low, high = (row["loss"],) * 2 if name == "loss" else (row[f"{name}_min"], row[f"{name}_max"])
        shape = tensor["shape"] if name == "loss" else [row["size"], *tensor["shape"][1:]]
        tensors.append(
            {
                "name": name,
                "shape": shape,
                "min": None if low is None else runs.shortest(low),
                "max": None if high is None else runs.shortest(high),
            }
        )
    return {"run_name": record["run_name"], "epoch": epoch, "batch": batch, "tensors": tensors}


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status; the one place where errors become messages."""
    try:
        with contextlib.suppress(AttributeError):
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        status = app(arguments, standalone_mode=False, prog_name="cubic")
        sys.stdout.flush()
        return int(status or 0)
    except CubicError as error:
        return _fail(str(error), error.exit_code)
    except typer.Abort:
        return 130
    except typer.Exit as error:
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        return _fail("there is not enough memory; give a smaller --num-samples or --hidden-size", 1)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}", 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's usage errors
            return _fail(_usage_message(error), getattr(error, "exit_code", 2))
        if os.environ.get("CUBIC_DEBUG"):
            raise
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        return _fail(f"{type(error).__name__}: {text}; CUBIC_DEBUG=1 shows where", 1)


def _usage_message(error: Any) -> str:
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


def _fail(message: str, status: int) -> int:
    from rich.text import Text

    with contextlib.suppress(BrokenPipeError):
        _console(stderr=True).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    return status
