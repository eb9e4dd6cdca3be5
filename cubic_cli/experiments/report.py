"""What `cubic check` found: a row for each thing that was checked, with one of three verdicts, and the report of all.

Rows form a monoid under `merge`: rounds, devices and processes that checked the same thing make one row of it.
"""

import functools
import math
import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from cubic_cli.errors import CubicError

STANDARD_ERRORS = 5.0  # beyond which a sample contradicts what is expected of it: one in two million by chance
Unit = Literal["relative", "standard errors", "values"]


class Verdict(StrEnum):
    """What is known of a row, a device, or an installation, from the best to the worst."""

    RIGHT = "right"
    NOT_CHECKED = "not_checked"
    WRONG = "wrong"


_rank = [*Verdict].index


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of the verdicts; where there is none, nothing was checked."""
    return max(verdicts, key=_rank, default=Verdict.NOT_CHECKED)


@dataclass(frozen=True)
class Row:
    """One thing that was checked, and the verdict on each device, by its id.

    `error` and `limit` are of the worst that was found; `error` is None where it is no number, both where nothing came
    out. In the unit "values" they count those that are wrong. `text` says what was wrong and where, or what kept it
    from a verdict and the way out. Where the culprit is not known, the devices `shared` what was wrong.
    """

    what: str
    verdicts: Mapping[int, Verdict]
    error: float | None = None
    limit: float | None = None
    unit: Unit = "values"
    text: str = ""
    shared: bool = False

    @property
    def verdict(self) -> Verdict:
        """The worst on any device; a row without devices could not be checked on any."""
        return worst(self.verdicts.values())

    def as_json(self) -> dict[str, Any]:
        """Return the row as `cubic check --json` prints it."""
        return {
            "what": self.what,
            "verdict": self.verdict,
            "devices": list(self.verdicts),
            "wrong_on": [number for number, verdict in self.verdicts.items() if verdict is Verdict.WRONG],
            "error": self.error,
            "limit": self.limit,
            "unit": self.unit,
            "text": self.text,
        }


class Check(NamedTuple):
    """A thing to check on some devices: `prepare` compiles, and gives what is run once a round."""

    what: str
    devices: Sequence[Any]
    prepare: Callable[[], Callable[[], Iterable[Row]]]


def judge(
    what: str,
    devices: Iterable[int],
    error: float,
    limit: float,
    unit: Unit,
    text: str | None,
    wrong: Iterable[int] = (),
) -> Row:
    """Return the row of what came out: right without a `text`, which says what is wrong, on the devices `wrong`.

    Where none is named, the culprit is not known.
    """
    blamed = set(wrong)
    verdicts = {
        number: Verdict.WRONG if text and (number in blamed or not blamed) else Verdict.RIGHT for number in devices
    }
    shared = text is not None and not blamed and len(verdicts) > 1
    return Row(what, verdicts, float(error) if math.isfinite(error) else None, limit, unit, text or "", shared)


def attempt(what: str, devices: Iterable[int], rows: Callable[[], Iterable[Row]]) -> list[Row]:
    """Return the rows, or one of "not checked" that says what was raised instead.

    An exception is no number that differs: another program may hold the memory, or a driver may be too old.
    """
    try:
        return list(rows())
    except Exception as error:
        return [not_checked(what, devices, error)]


def not_checked(what: str, devices: Iterable[int], error: Exception) -> Row:
    """Return the row of what could not be checked, with the whole reason and the way out."""
    if os.environ.get("CUBIC_DEBUG"):
        traceback.print_exception(error)
    verdicts = dict.fromkeys(devices, Verdict.NOT_CHECKED)
    return Row(what, verdicts, text=explain(error), shared=len(verdicts) > 1)


_MEMORY = (
    "there was not enough memory. Another program may hold it (`nvidia-smi` shows which on a GPU); JAX takes three "
    "quarters of a GPU at its start, and XLA_PYTHON_CLIENT_PREALLOCATE=false lets it take what it needs"
)
# What is in the message of an exception, and the way out; the first that fits is told.
REMEDIES = (
    ("RESOURCE_EXHAUSTED", _MEMORY),
    ("out of memory", _MEMORY),
    ("MemoryError", _MEMORY),
    ("OUT_OF_MEMORY", _MEMORY),
    ("ALLOC_FAILED", _MEMORY),
    ("busy or unavailable", "another program has the card for itself; wait for it, or choose by CUDA_VISIBLE_DEVICES"),
    ("DEVICES_UNAVAILABLE", "another program has the card for itself; wait for it, or choose by CUDA_VISIBLE_DEVICES"),
    ("already in use", "another program has the device for itself; end it, or wait for it"),
    ("NCCL", "the GPUs cannot reach each other; NCCL_DEBUG=INFO says why, and CUDA_VISIBLE_DEVICES=0 checks one alone"),
    ("DEADLINE_EXCEEDED", "a device or a process did not answer in time; each alone may: CUDA_VISIBLE_DEVICES=0"),
    ("No visible GPU", "CUDA_VISIBLE_DEVICES hides the GPUs, or the driver is not there: see `nvidia-smi`"),
    ("CUDA_ERROR_NO_DEVICE", "CUDA_VISIBLE_DEVICES hides the GPUs, or the driver is not there: see `nvidia-smi`"),
    ("PTX", "the driver is older than this JAX asks for; renew it, or install an older JAX"),
    ("cuDNN", "CUDA's libraries are not those that this JAX was built for; install `jax[cuda13]` anew, by itself"),
    ("transfer", "JAX_TRANSFER_GUARD forbids what a check does; unset it"),
)


def explain(error: Exception) -> str:
    """Return an exception's type, its whole message, and the way out where it is known."""
    message = str(error).strip()
    if isinstance(error, CubicError):
        return message
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    remedy = next((way for sign, way in REMEDIES if sign.lower() in text.lower()), None)
    return f"{text}; {remedy}" if remedy else f"{text}; CUBIC_DEBUG=1 shows where"


def ids(devices: Sequence[Any]) -> list[int]:
    """Return the ids of JAX's devices, which no two processes share."""
    return [device.id for device in devices]


def merge(a: Row, b: Row) -> Row:
    """Return one row of two that checked the same thing, on other devices, in other rounds, or in other processes.

    Each device has the worst of its verdicts; the figures and the text are those of the worse row. Where both are as
    bad and only one names its culprit, that one is believed.
    """
    verdicts = {
        number: worst(row.verdicts[number] for row in (a, b) if number in row.verdicts)
        for number in {**a.verdicts, **b.verdicts}
    }
    told = b if _badness(b) > _badness(a) else a
    if a.verdict is b.verdict and a.shared != b.shared:
        told, other = (b, a) if a.shared else (a, b)
        verdicts = {**other.verdicts, **told.verdicts}
    return replace(told, verdicts=verdicts)


def _badness(row: Row) -> tuple[int, float]:
    error = math.inf if row.error is None else row.error
    return _rank(row.verdict), error / (row.limit or 1.0)


def merge_alike(rows: Iterable[Row]) -> list[Row]:
    """Return the rows with those of one name merged, in the order in which the names first come."""
    alike: dict[str, list[Row]] = {}
    for row in rows:
        alike.setdefault(row.what, []).append(row)
    return [functools.reduce(merge, group) for group in alike.values()]


@dataclass(frozen=True)
class CheckedDevice:
    """A device of JAX: its id, unique among all processes, its kind, and its process."""

    id: int
    kind: str
    process: int


@dataclass(frozen=True)
class Report:
    """All that was checked, on which devices, and what else was seen, without a verdict.

    `facts` are the versions, the seconds, the rounds and the processes, and what `facts.find_facts` measures.
    """

    devices: tuple[CheckedDevice, ...]
    rows: tuple[Row, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Wrong where anything is, else not checked where anything is, else right."""
        return worst(row.verdict for row in self.rows)

    def verdict_of(self, device: CheckedDevice) -> Verdict:
        """Return the verdict on one device.

        What several devices shared counts against those that are as bad in a row of their own, or where none is,
        against all.
        """
        own = {each.id: Verdict.RIGHT for each in self.devices}
        for row in self.rows:
            if not row.shared:
                own |= {number: worst([own[number], verdict]) for number, verdict in row.verdicts.items()}
        shared = (row for row in self.rows if row.shared and device.id in row.verdicts)
        passed_on = [r.verdict for r in shared if all(_rank(own[n]) < _rank(r.verdict) for n in r.verdicts)]
        return worst([own[device.id], *passed_on])

    def as_json(self) -> dict[str, Any]:
        """Return the document that `cubic check --json` prints."""
        return {
            "verdict": self.verdict,
            "devices": [asdict(device) | {"verdict": self.verdict_of(device)} for device in self.devices],
            "rows": [row.as_json() for row in self.rows],
            "facts": self.facts,
        }


def to_document(report: Report) -> Any:
    """Return the report as JSON carries it from one process to another."""
    return TypeAdapter(Report).dump_python(report, mode="json")


def from_document(document: Any) -> Report:
    """Return the report that `to_document` took apart."""
    return TypeAdapter(Report).validate_python(document)


def merge_reports(reports: list[Report]) -> Report:
    """Return what all processes found as one report; the text of what was wrong names its process."""
    named = [
        replace(row, text=f"process {process}: {row.text}") if row.text else row
        for process, report in enumerate(reports)
        for row in report.rows
    ]
    return Report(
        tuple(device for report in reports for device in report.devices),
        tuple(merge_alike(named)),
        reports[0].facts | {"processes": len(reports), "seconds": max(r.facts["seconds"] for r in reports)},
    )


def count_differing(a: NDArray[Any], b: NDArray[Any]) -> int:
    """Return how many values of two arrays differ in any bit."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return max(a.size, b.size)
    rows = [np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8) for array in (a, b)]
    return int(np.not_equal(*rows).any(axis=1).sum())
