"""`cubic check`: prove the JAX installation."""

from typing import TYPE_CHECKING, Annotated

import typer

from cubic_cli.cli import library_variables, terminal
from cubic_cli.cli import settings as options
from cubic_cli.config import Device, ProcessAddress, ProcessConfig
from cubic_cli.errors import CubicError, DeviceError, NotCheckedError, PeerError
from cubic_cli.parsers import parse_size

if TYPE_CHECKING:
    from cubic_cli.experiments.report import Report


@options.takes(ProcessConfig)
def check(
    ctx: typer.Context,
    device: options.Device = Device.auto,
    seconds: Annotated[
        float,
        typer.Option(parser=options.parser(parse_size), metavar="N", help="Repeat it until N seconds have passed."),
    ] = 0.0,
    distributed: options.Distributed = False,
    *,
    save: options.Save = None,
    json: options.Json = False,
) -> None:
    """Say whether this JAX installation computes right on these devices: exit 0 right, 1 wrong, 3 not checked.

    It reads and writes nothing but what --save names.

    cubic check                              the devices that JAX prefers
    cubic check --device gpu --seconds 600   a GPU, for ten minutes
    cubic check --distributed                all devices of a pod
    """
    where = options.process_address(ctx, distributed)
    library_variables.refuse_bad_flags()
    if save is not None:
        from cubic_cli.cli.views.save import check_path

        check_path(save)
    if distributed:
        _share(ctx, device, seconds, where, json, save)
        return
    from cubic_cli.experiments import check as checking

    report = checking.check(device, seconds, terminal.progress)
    _give(report, json, save)
    _conclude(report.verdict, _failure(report))


def _share(
    ctx: typer.Context, device: Device, seconds: float, where: ProcessAddress | None, json: bool, save: str | None
) -> None:
    """Check this process's devices, under a supervisor; process 0 shows what all found, and all end as it does."""
    from cubic_cli.cluster import supervisor

    if not supervisor.is_worker():
        try:
            raise typer.Exit(supervisor.supervise(ctx.obj.names, where))
        except PeerError as error:
            raise NotCheckedError(*str(error).splitlines()) from None
    from cubic_cli.cluster import join
    from cubic_cli.experiments import check as checking
    from cubic_cli.experiments import report as reports

    try:
        with join.joined(where, device, {}, lambda message: terminal.fail(message, NotCheckedError.exit_code)) as group:
            report = checking.check(device, seconds, terminal.progress)
            told = group.gather("check", reports.to_document(report))
            verdict = failure = None
            if told is not None:
                report = reports.merge_reports([reports.from_document(document) for document in told])
                _give(report, json, save)
                verdict, failure = report.verdict, _failure(report)
            verdict, failure = group.share("verdict", [verdict, failure])
            group.finish()
    except (DeviceError, PeerError) as error:
        report = reports.Report((), (reports.not_checked("processes", [], error),))
        if json:
            _give(report, json, save)
        raise NotCheckedError(*str(error).splitlines()) from None
    if group.process_id and failure is None:
        terminal.tell(f"process {group.process_id} of {group.processes} is done; process 0 has the report")
    _conclude(verdict, failure)


def _give(report: "Report", json: bool, save: str | None) -> None:
    from cubic_cli.cli.views import check as view

    terminal.give(
        report.as_json(), lambda width: view.screen(report), json, save, "cubic check", lambda: view.as_page(report)
    )


def _failure(report: "Report") -> str | None:
    """Return what to say on standard error of a report that is not right."""
    from cubic_cli.experiments.report import Verdict

    told = [row for row in report.rows if row.verdict is report.verdict]
    if report.verdict is Verdict.RIGHT:
        return None
    first = f"{told[0].what}: {told[0].text}" if told else "nothing was checked"
    if report.verdict is Verdict.NOT_CHECKED:
        return f"no verdict, for {len(told)} of {len(report.rows)} checks could not be made; the first: {first}"
    return (
        f"{len(told)} of {len(report.rows)} checks are wrong; the first: {first}. "
        "Do not trust what this installation computes on this device"
    )


def _conclude(verdict: str, failure: str | None) -> None:
    """End with the status of the verdict.

    Raises:
        NotCheckedError: there is none.
        CubicError: something is wrong.
    """
    if failure is not None:
        raise (NotCheckedError if verdict == "not_checked" else CubicError)(failure)
