"""`cubic check`: prove the JAX installation."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from cubic_cli.cli import jax_variables, terminal
from cubic_cli.cli import settings as options
from cubic_cli.config import Device, Place
from cubic_cli.errors import CubicError

if TYPE_CHECKING:
    from cubic_cli.experiments.report import Report


def check(
    ctx: typer.Context,
    device: options.Device = Device.auto,
    distributed: options.Distributed = False,
    coordinator_address: options.CoordinatorAddress = None,
    num_processes: options.NumProcesses = None,
    process_id: options.ProcessId = None,
    json: options.Json = False,
) -> None:
    """Say whether this JAX installation computes right on this device. It reads and writes nothing.

    cubic check                                  the devices that JAX prefers
    cubic check --device gpu --json              for a script
    cubic check --distributed                    every device of a pod, started as `forward` is
    """
    where = options.place(ctx, distributed)
    if distributed:
        _share(ctx, device, where, json)
        return
    jax_variables.refuse_bad_flags()
    from cubic_cli.experiments import check as checking

    with terminal.status("checking"):
        report = checking.check(device)
    _show(report, json)
    if failure := _failure(report):
        raise CubicError(failure)


def _share(ctx: typer.Context, device: Device, where: Place | None, json: bool) -> None:
    """Check this process's devices, under a supervisor; process 0 shows what all found, and all end as it does."""
    from cubic_cli.cluster import supervisor

    if not supervisor.is_worker():
        raise typer.Exit(supervisor.supervise(ctx.obj.names, where))
    from cubic_cli.cluster import join as distributed
    from cubic_cli.experiments import check as checking
    from cubic_cli.experiments import report as verdict

    with distributed.joined(where) as group:
        with terminal.status("checking"):
            own = checking.check(device)
            told: list[Any] | None = group.gather("check", asdict(own))
        failure = None
        if told is not None:
            report = verdict.merge([verdict.from_document(document) for document in told])
            _show(report, json)
            failure = _failure(report)
        failure = group.finish(failure)
    if failure is not None:
        raise CubicError(failure)
    if group.process_id:
        terminal.tell(f"process {group.process_id} of {group.processes} is done; process 0 has the report")


def _show(report: "Report", json: bool) -> None:
    if json:
        from cubic_cli.runs.record import to_json

        print(to_json(report.as_json()))
    else:
        from cubic_cli.cli.views import check as view

        terminal.show(lambda width: view.screen(report))


def _failure(report: "Report") -> str | None:
    wrong = [row for row in report.rows if not row.passed]
    if not wrong:
        return None
    return (
        f"{len(wrong)} of {len(report.rows)} checks failed; the first: {wrong[0].what}: {wrong[0].failure}. "
        "Do not trust what this installation computes on this device"
    )
