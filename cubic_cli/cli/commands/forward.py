"""`cubic forward`: run the pass, verify it, show it, save it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cubic_cli.cli import library_variables, own_network, terminal
from cubic_cli.cli import settings as options
from cubic_cli.cli.commands.generate import write_dataset
from cubic_cli.config import ForwardConfig, GenerateConfig, ProcessAddress, ProcessConfig
from cubic_cli.errors import CubicError, UsageError

if TYPE_CHECKING:
    from cubic_cli.cluster.join import Group
    from cubic_cli.float32 import Float32
    from cubic_cli.runs.record import Record


@options.takes(GenerateConfig, ForwardConfig, ProcessConfig)
def forward(
    ctx: typer.Context,
    generate: Annotated[bool, options.of("generate_dataset")] = False,
    distributed: options.Distributed = False,
    *,
    json: options.Json = False,
) -> None:
    """Run the forward pass over the dataset, verify it, show every tensor's statistics and save the run.

    cubic forward --generate                     a first run, with its dataset
    cubic forward --dataset mine.csv --x height --y weight --num-samples all
    cubic forward --parameters net.safetensors --activation tanh --run-name net
    """
    config = options.configure(ctx, ForwardConfig)
    origins = options.sources(ctx)
    data = options.configure(ctx, GenerateConfig) if generate else None
    if generate and (config.x_column, config.y_column) != ("x", "y"):
        raise UsageError("--generate writes the columns x and y; leave --x and --y out")
    where = options.process_address(ctx, distributed)
    library_variables.refuse_bad_flags()
    if distributed:
        _share(ctx, config, origins, data, where, json)
    else:
        own_network.refuse_original(ctx, config)
        refuse(_run(ctx, config, origins, data, json))


def _share(
    ctx: typer.Context,
    config: ForwardConfig,
    origins: dict[str, str],
    data: GenerateConfig | None,
    where: ProcessAddress | None,
    json: bool,
) -> None:
    """Take part in a distributed run, under a supervisor; process 0 saves and shows it, and all judge it."""
    from cubic_cli.cluster import supervisor

    if not supervisor.is_worker():
        from cubic_cli.runs import store as runs

        folder = Path(config.artifact_dir) / config.run_name
        raise typer.Exit(supervisor.supervise(ctx.obj.names, where, lambda: runs.recover(folder)))
    from cubic_cli.cluster import join
    from cubic_cli.engine import devices

    devices.keep_compiled()
    alike = join.settings_of_all(config, data)
    with join.joined(where, config.device, alike, lambda message: terminal.fail(message, 1)) as group:
        record = _run(ctx, config, origins, data, json, group)
        group.finish()
    if group.process_id:
        terminal.tell(f"process {group.process_id} of {group.processes} is done; process 0 saved the run")
    refuse(record)


def _run(
    ctx: typer.Context,
    config: ForwardConfig,
    origins: dict[str, str],
    data: GenerateConfig | None,
    json: bool,
    group: "Group | None" = None,
) -> "Record":
    """Generate the dataset if asked for, run the pass, save and show the run, and return its record.

    In a distributed run every process comes here, and process 0 alone saves and shows what all have computed.
    """
    config, origins, network = own_network.choose(ctx, config, origins)
    if data is not None:
        summary = write_dataset(data, force=False)
        terminal.tell(f"generated {summary.rows:,} rows in {summary.path}")
    from cubic_cli.experiments import run
    from cubic_cli.runs import names
    from cubic_cli.runs import store as runs

    folder = Path(config.artifact_dir) / config.run_name
    earlier = names.created(folder)
    saves = group is None or group.process_id == 0
    with (runs.replacing if saves else runs.scratch_beside)(folder) as scratch:
        with terminal.progress("reading", config.num_samples, "rows", "rows") as advance:
            samples = run.read(config, scratch, terminal.tell, lambda rows: advance(rows, rows))
        then = "verifying" if config.verify else "finishing"
        with terminal.progress("passing", config.num_epochs, then=then) as advance:
            record, losses = run.run(
                config,
                origins,
                scratch,
                samples,
                progress=lambda epoch, loss: advance(1, samples.source.count),
                group=group,
                tell=terminal.tell,
                network=network,
            )
    if saves:
        _show(record, losses, folder, json, earlier)
    return record


def _show(record: "Record", losses: "Float32", folder: Path, json: bool, earlier: datetime | None) -> None:
    from cubic_cli.cli.views import run as view

    terminal.give(record, lambda width: view.screen(record, losses, width), json)
    if not json:
        from cubic_cli.cli.views.format import clock

        replaced = f"; replaced the run of {clock(earlier, datetime.now(UTC))}" if earlier else ""
        terminal.tell(f"saved in {folder}{replaced}")


def refuse(record: "Record") -> None:
    """Raise `CubicError` if a run is not verified, or has a finding that `--fail-on` names."""
    from cubic_cli.analysis import findings

    unverified, named = findings.refused(record, record.config.fail_on)
    if record.verification is not None and not record.verification.passed:
        texts = "; ".join(finding.text for finding in unverified)
        raise CubicError(f"the run is saved, but it is not verified: {texts}")
    if named:
        texts = "; ".join(f"{finding.id}: {finding.text}" for finding in named)
        raise CubicError(f"the run is saved, but it has a finding that --fail-on names; {texts}")
