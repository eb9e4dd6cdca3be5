"""The command line: options, help, exit statuses. Heavy imports stand inside the command that needs them."""

import contextlib
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cubic_cli import config as cfg
from cubic_cli import options, terminal
from cubic_cli.config import ForwardConfig, GenerateConfig
from cubic_cli.errors import CubicError, RunError, UsageError

app = typer.Typer(
    name="cubic",
    help="Run a neural network's forward pass in JAX, and see, record and check every number in it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Settings come from flags, then the environment, then the nearest .env, then the defaults.",
)


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
    _dotenv = cfg.load_dotenv(options.SETTINGS)


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


@app.command()
def generate(
    num_dataset: options.NumDataset = GenerateConfig.num_dataset,
    dataset: options.Dataset = GenerateConfig.dataset,
    noise_std: options.NoiseStd = GenerateConfig.noise_std,
    seed: options.Seed = GenerateConfig.seed,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is not cubic's own.")] = False,
    json: options.Json = False,
) -> None:
    """Write the dataset: samples of a noisy cubic, the same bytes for the same seed."""
    summary = _generate(GenerateConfig(num_dataset, dataset, noise_std, seed), force)
    from cubic_cli import report, runs

    if json:
        print(runs.to_json(asdict(summary)))
    else:
        terminal.show(lambda width: report.generated(summary))


def _generate(config: GenerateConfig, force: bool) -> Any:
    from cubic_cli import dataset

    with terminal.progress("generating", config.num_dataset) as advance:
        return dataset.generate(config, force, advance)


@app.command()
def forward(
    ctx: typer.Context,
    generate: Annotated[
        bool,
        typer.Option("--generate/--no-generate", envvar="GENERATE_DATASET", help="Generate the dataset first."),
    ] = False,
    num_dataset: options.NumDataset = GenerateConfig.num_dataset,
    dataset: options.Dataset = ForwardConfig.dataset,
    noise_std: options.NoiseStd = GenerateConfig.noise_std,
    seed: options.Seed = ForwardConfig.seed,
    hidden_size: options.HiddenSize = ForwardConfig.hidden_size,
    batch_size: options.BatchSize = ForwardConfig.batch_size,
    num_epochs: options.NumEpochs = ForwardConfig.num_epochs,
    num_samples: options.NumSamples = str(ForwardConfig.num_samples),
    run_name: options.RunName = ForwardConfig.run_name,
    initializer: options.Initializer = ForwardConfig.initializer,
    activation: options.Activation = ForwardConfig.activation,
    scaling: options.Scaling = ForwardConfig.scaling,
    device: options.Device = ForwardConfig.device,
    verify: options.Verify = ForwardConfig.verify,
    artifact_dir: options.ArtifactDir = ForwardConfig.artifact_dir,
    json: options.Json = False,
) -> None:
    """Run the forward pass over the dataset, verify it, show every tensor's statistics and save the run."""
    samples = None if num_samples == "all" else int(num_samples)
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
    from cubic_cli import report, run, runs

    folder = Path(artifact_dir) / run_name
    names = [name for name in config.as_json() if name in ctx.params]
    with runs.replacing(folder) as scratch, terminal.progress("epochs", num_epochs) as advance:
        record = run.run(config, _sources(ctx, names), scratch, lambda epoch, loss: advance(1))
    if json:
        print(runs.to_json(record))
    else:
        terminal.show(lambda width: report.run(record, width))
        print(f"saved in {folder}", file=sys.stderr)
    check = record["verification"]
    if check is not None and not check["passed"]:
        texts = [f["text"] for f in record["findings"] if f["id"] in ("unverified", "nondeterministic")]
        raise CubicError("the run is saved, but it is not verified: " + "; ".join(texts))


@app.command()
def inspect(
    run_name: options.RunName = ForwardConfig.run_name,
    artifact_dir: options.ArtifactDir = ForwardConfig.artifact_dir,
    list_: Annotated[bool, typer.Option("--list", help="List the runs.")] = False,
    epoch: Annotated[
        int | None, typer.Option(parser=options.POSITIVE, metavar="INTEGER", help="With --batch: show one iteration.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(parser=options.POSITIVE, metavar="INTEGER", help="With --epoch: show one iteration.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Show a saved run, the list of runs, or one iteration. It starts no JAX."""
    from cubic_cli import report, runs

    if list_:
        records = runs.list_runs(Path(artifact_dir))
        if json:
            print(runs.to_json({"runs": [_list_row(record) for record in records]}))
        else:
            terminal.show(lambda width: report.runs(records))
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
            terminal.show(lambda width: report.iteration(document, labels))
    elif json:
        print(runs.to_json(record))
    else:
        terminal.show(lambda width: report.run(record, width))


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
        return terminal.fail(str(error), error.exit_code)
    except typer.Abort:
        return 130
    except typer.Exit as error:
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        return terminal.fail("there is not enough memory; give a smaller --num-samples or --hidden-size", 1)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return terminal.fail(f"{error.strerror or error}{where}", 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's usage errors
            return terminal.fail(terminal.usage_message(error), getattr(error, "exit_code", 2))
        if os.environ.get("CUBIC_DEBUG"):
            raise
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        return terminal.fail(f"{type(error).__name__}: {text}; CUBIC_DEBUG=1 shows where", 1)
