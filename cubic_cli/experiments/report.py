"""What `cubic check` found: one row a thing that was checked, and the report of all. No JAX here."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

STANDARD_ERRORS = 5.0  # beyond which a sample contradicts what is expected of it: one in two million by chance
Unit = Literal["relative", "standard errors", "values"]


@dataclass(frozen=True)
class Row:
    """One thing that was checked, and on which devices.

    `error` is None where it is no number, `limit` where nothing came out at all; in the unit "values" both count those
    that are wrong. `failure` says what was wrong, and where.
    """

    what: str
    device: str
    error: float | None
    limit: float | None
    unit: Unit
    failure: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the installation computed this right."""
        return self.failure is None


@dataclass(frozen=True)
class Report:
    """All that was checked, on which devices of how many processes, with which version of JAX, in how many seconds."""

    platform: str
    kind: str
    devices: int
    jax: str
    seconds: float
    rows: tuple[Row, ...]
    processes: int = 1

    @property
    def passed(self) -> bool:
        """Whether everything was right."""
        return all(row.passed for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Return the document that `cubic check --json` prints."""
        return {
            "device": {
                "platform": self.platform,
                "kind": self.kind,
                "devices": self.devices,
                "processes": self.processes,
            },
            "versions": {"jax": self.jax},
            "seconds": self.seconds,
            "rows": [asdict(row) | {"passed": row.passed} for row in self.rows],
            "passed": self.passed,
        }


def from_document(document: dict[str, Any]) -> Report:
    """Return the report that `dataclasses.asdict` took apart, as JSON carries it from one process to another."""
    return Report(**{**document, "rows": tuple(Row(**row) for row in document["rows"])})


def merge(reports: list[Report]) -> Report:
    """Return what all processes found as one report: of each check the worst row, which names its process if wrong."""
    worst: dict[tuple[str, str], Row] = {}
    for process, report in enumerate(reports):
        for row in report.rows:
            named = replace(row, failure=f"process {process}: {row.failure}") if row.failure else row
            before = worst.setdefault((row.what, row.device), named)
            if _rank(named) < _rank(before):
                worst[row.what, row.device] = named
    return replace(
        reports[0],
        devices=sum(report.devices for report in reports),
        seconds=max(report.seconds for report in reports),
        rows=tuple(worst.values()),
        processes=len(reports),
    )


def _rank(row: Row) -> tuple[bool, float]:
    """Return what is smaller the worse a row is; no number at all is the worst error."""
    return row.passed, -math.inf if row.error is None else -row.error


def name_devices(devices: list[Any]) -> str:
    """Return how the table calls the devices."""
    return f"{len(devices)} × {devices[0].platform}"


def guard(what: str, devices: list[Any], rows: Callable[[], Iterator[Row]]) -> list[Row]:
    """Return the rows, or one that says what was raised instead: whatever JAX raises, the device does not work."""
    try:
        return list(rows())
    except Exception as error:
        text = (str(error).strip().splitlines() or ["no message"])[0]
        return [Row(what, name_devices(devices), None, None, "values", f"{type(error).__name__}: {text}")]


def number(error: float) -> float | None:
    """Return an error that is a number, None for one that is none."""
    return float(error) if math.isfinite(error) else None


def count_differing(a: NDArray[Any], b: NDArray[Any]) -> int:
    """Return how many values of two arrays differ in any bit."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return max(a.size, b.size)
    rows = [np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8) for array in (a, b)]
    return int(np.not_equal(*rows).any(axis=1).sum())
