"""`cubic forward`: run the pass, verify it, show it, save it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cubic_cli.cli import jax_variables, terminal
from cubic_cli.cli import settings as options
from cubic_cli.cli.commands.generate import write_dataset
from cubic_cli.config import ForwardConfig, GenerateConfig, Place
from cubic_cli.errors import CubicError, UsageError

if TYPE_CHECKING:
    from cubic_cli.float32 import Float32
    from cubic_cli.runs.record import Record


def forward(
    ctx: typer.Context,
    generate: options.Generate = False,
    num_dataset: options.NumDataset = GenerateConfig.num_dataset,
    dataset: options.Dataset = ForwardConfig.dataset,
    noise_std: options.NoiseStd = GenerateConfig.noise_std,
    x_column: options.XColumn = ForwardConfig.x_column,
    y_column: options.YColumn = ForwardConfig.y_column,
    seed: options.Seed = ForwardConfig.seed,
    hidden_size: options.HiddenSize = ForwardConfig.hidden_size,
    batch_size: options.BatchSize = ForwardConfig.batch_size,
    num_epochs: options.NumEpochs = ForwardConfig.num_epochs,
    num_samples: options.NumSamples = ForwardConfig.num_samples,
    run_name: options.RunName = ForwardConfig.run_name,
    initializer: options.Initializer = ForwardConfig.initializer,
    activation: options.Activation = ForwardConfig.activation,
    scaling: options.Scaling = ForwardConfig.scaling,
    device: options.Device = ForwardConfig.device,
    verify: options.Verify = ForwardConfig.verify,
    gradients: options.Gradients = ForwardConfig.gradients,
    fail_on: options.FailOn = [],  # noqa: B006
    distributed: options.Distributed = False,
    coordinator_address: options.CoordinatorAddress = None,
    num_processes: options.NumProcesses = None,
    process_id: options.ProcessId = None,
    artifact_dir: options.ArtifactDir = ForwardConfig.artifact_dir,
    json: options.Json = False,
) -> None:
    """Run the forward pass over the dataset, verify it, show every tensor's statistics and save the run.

    cubic forward --generate                     a first run, with its dataset
    cubic forward --initializer he_normal --scaling standard --run-name he
    cubic forward --dataset mine.csv --x height --y weight --num-samples all
    """
    config = options.configure(ctx, ForwardConfig)
    origins = options.sources(ctx)
    data = options.configure(ctx, GenerateConfig) if generate else None
    if generate and (x_column, y_column) != ("x", "y"):
        raise UsageError("--generate writes the columns x and y; leave --x and --y out")
    where = options.place(ctx, distributed)
    if distributed:
        _share(ctx, config, origins, data, where, json)
        return
    jax_variables.refuse_bad_flags()
    _generate(data)
    from cubic_cli.experiments import run
    from cubic_cli.runs import names, saved
    from cubic_cli.runs import store as runs

    folder = Path(artifact_dir) / run_name
    earlier = names.created(folder)
    with runs.replacing(folder) as scratch:
        with terminal.progress("reading", num_samples, "rows", "rows") as advance:
            samples = run.read(config, scratch, terminal.tell, lambda rows: advance(rows, rows))
        with terminal.progress("passing", num_epochs) as advance:
            record = run.run(config, origins, scratch, lambda epoch, loss: advance(1, samples.source.count), samples)
        losses = None if json else saved.losses_of(scratch, record)
    _show(record, losses, folder, json, earlier)
    refuse(record)


def _share(
    ctx: typer.Context,
    config: ForwardConfig,
    origins: dict[str, str],
    data: GenerateConfig | None,
    where: Place | None,
    json: bool,
) -> None:
    """Take part in a distributed run, under a supervisor; process 0 saves and shows it, and all end as it does."""
    from cubic_cli.cluster import supervisor
    from cubic_cli.runs import saved
    from cubic_cli.runs import store as runs

    folder = Path(config.artifact_dir) / config.run_name
    if not supervisor.is_worker():
        raise typer.Exit(supervisor.supervise(ctx.obj.names, where, lambda: runs.recover(folder)))
    from cubic_cli.cluster import join as distributed
    from cubic_cli.engine import devices

    devices.keep_compiled()
    with distributed.joined(where) as group:
        _generate(data)
        from cubic_cli.experiments import shares

        own = runs.scratch_beside if group.process_id else runs.replacing
        with own(folder) as scratch, terminal.progress("epochs", config.num_epochs) as advance:
            record = shares.run(config, origins, scratch, group, lambda epoch, loss: advance(1))
            losses = None if json or record is None else saved.losses_of(scratch, record)
        error = None
        if record is not None:
            _show(record, losses, folder, json)
            try:
                refuse(record)
            except CubicError as refused:
                error = str(refused)
        error = group.finish(error)
    if error is not None:
        raise CubicError(error)
    if record is None:
        terminal.tell(f"process {group.process_id} of {group.processes} is done; process 0 saved the run")


def _generate(config: GenerateConfig | None) -> None:
    if config is not None:
        summary = write_dataset(config, force=False)
        terminal.tell(f"generated {summary.rows:,} rows in {summary.path}")


def _show(
    record: "Record", losses: "Float32 | None", folder: Path, json: bool, earlier: datetime | None = None
) -> None:
    from cubic_cli.cli.views import run as view
    from cubic_cli.runs.record import to_json

    if json:
        print(to_json(record))
    else:
        terminal.show(lambda width: view.screen(record, losses, width))
        from cubic_cli.cli.views.format import clock

        replaced = f"; it replaces the run of {clock(earlier, datetime.now(UTC))}" if earlier else ""
        terminal.tell(f"saved in {folder}{replaced}")


def refuse(record: "Record") -> None:
    """Raise `CubicError` if a run is not verified, or has a finding that `--fail-on` names."""
    if record.verification is not None and not record.verification.passed:
        texts = [finding.text for finding in record.findings if finding.id in ("unverified", "nondeterministic")]
        raise CubicError("the run is saved, but it is not verified: " + "; ".join(texts))
    found = [f"{finding.id}: {finding.text}" for finding in record.findings if finding.id in record.config.fail_on]
    if found:
        raise CubicError("the run is saved, but it has what --fail-on names; " + "; ".join(found))
