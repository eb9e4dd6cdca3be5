"""`cubic check`: prove the JAX installation."""

from cubic_cli import options, terminal
from cubic_cli.config import Device
from cubic_cli.errors import CubicError


def check(device: options.Device = Device.auto, json: options.Json = False) -> None:
    """Say whether this JAX installation computes right on this device. It reads and writes nothing."""
    from cubic_cli import check as checking

    with terminal.status("checking"):
        report = checking.check(device)
    if json:
        from cubic_cli import runs

        print(runs.to_json(report.as_json()))
    else:
        from cubic_cli.views import check as view

        terminal.show(lambda width: view.report(report, width))
    if not report.passed:
        wrong = [row for row in report.rows if not row.passed]
        raise CubicError(
            f"{len(wrong)} of {len(report.rows)} checks failed; the first: {wrong[0].what}: {wrong[0].failure}. "
            "Do not trust what this installation computes on this device"
        )
