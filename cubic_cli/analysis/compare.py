"""Runs set side by side: what differs in how they were made, then how far apart their numbers are."""

import math
from collections.abc import Iterator
from typing import Any

from cubic_cli.runs.record import Record

_ROUNDING = 2.0**-22  # of the largest magnitude: standard deviations differ by as much where sums are ordered otherwise
# Settings that change no figure; what files hold is compared by the digests in other parts of the record.
NOT_COMPARED = ("dataset", "run_name", "artifact_dir", "fail_on", "parameters")
_FEW_ZEROS = 1e-5  # of the values: so many may round to either side of zero


def compare(record: Record, other: Record, tolerance: float | None = None) -> dict[str, Any]:
    """Return how `record` compares with `other`, one entry of `others` in `inspect --compare OTHER --json`:

        run_name      the other's
        differences   what differs in how they were made: `part` (config, dataset, parameters_file, device or
                      versions), `name`, `this`, `other`; null stands for what a record does not have
        changes       the losses and the tensors' figures: `quantity` (as in `loss`, `z1.min`), `this`, `other`,
                      `change`
        beyond        the quantities whose change is larger than the tolerance; null without one

    A change is relative. For a loss it is `|this − other| / max(|this|, |other|)`; an end of a range and a mean are
    compared with the largest magnitude of their tensor in either run, so that a minimum near zero is not asked for more
    digits than its tensor has; a standard deviation against the larger of both, but for changes below 2⁻²² of that
    magnitude. Of the zeros of a1 it is the change of their share, but for 10⁻⁵. A count of NaN or infinities that
    differs is infinitely far. Two NaN, two equal infinities and two nulls are equal; one of them against a number is
    infinitely far. Shapes may differ: they stand among the differences, by the sizes that make them.
    """
    changes = list(_changes(record, other))
    beyond = None if tolerance is None else [c["quantity"] for c in changes if not c["change"] <= tolerance]
    return {
        "run_name": other.run_name,
        "differences": _differences(record, other),
        "changes": changes,
        "beyond": beyond,
    }


def document(record: Record, others: list[Record], tolerance: float | None) -> dict[str, Any]:
    """Return what `inspect --compare OTHER … --json` prints: `run_name`, `others`, `tolerance`, `within_tolerance`."""
    compared = [compare(record, other, tolerance) for other in others]
    within = None if tolerance is None else not any(one["beyond"] for one in compared)
    return {"run_name": record.run_name, "others": compared, "tolerance": tolerance, "within_tolerance": within}


def _differences(record: Record, other: Record) -> list[dict[str, Any]]:
    """What differs in how two runs were made. Paths do not count where the digests of what they name agree."""
    skipped = {*(("config", name) for name in NOT_COMPARED), ("dataset", "x"), ("dataset", "y")}
    if record.dataset.identity is not None and record.dataset.identity == other.dataset.identity:
        skipped.add(("dataset", "path"))
    this_file, that_file = record.parameters_file, other.parameters_file
    if this_file is not None and that_file is not None and this_file.sha256 == that_file.sha256:
        skipped.add(("parameters_file", "path"))
    found = []
    for part in ("config", "dataset", "parameters_file", "device", "versions"):
        this, that = (dict(getattr(each, part) or {}) for each in (record, other))
        found += [
            {"part": part, "name": name, "this": this.get(name), "other": that.get(name)}
            for name in dict.fromkeys([*this, *that])
            if (part, name) not in skipped and this.get(name) != that.get(name)
        ]
    return found


def _changes(record: Record, other: Record) -> Iterator[dict[str, Any]]:
    yield _change("loss", record.loss, other.loss, _relative(record.loss, other.loss))
    this, that = record.loss_in_data_units, other.loss_in_data_units
    if this != record.loss or that != other.loss:
        yield _change("loss_in_data_units", this, that, _relative(this, that))
    for one, two in zip(record.tensors, other.tensors, strict=True):
        ends = [abs(end) for end in (one.min, one.max, two.min, two.max) if end is not None]
        magnitude = max((end for end in ends if math.isfinite(end)), default=0.0)
        for name in ("min", "max", "mean"):
            this, that = getattr(one, name), getattr(two, name)
            yield _change(f"{one.name}.{name}", this, that, _relative(this, that, magnitude))
        yield _change(f"{one.name}.std", one.std, two.std, _relative(one.std, two.std, None, _ROUNDING * magnitude))
        if one.name == "a1":
            change = max(0.0, abs(one.zeros - two.zeros) - _FEW_ZEROS)
            yield _change("a1.zeros", one.zeros, two.zeros, change)
        for name in ("nan", "posinf", "neginf"):
            this, that = getattr(one, name), getattr(two, name)
            yield _change(f"{one.name}.{name}", this, that, 0.0 if this == that else math.inf)


def _change(quantity: str, this: float | None, that: float | None, change: float) -> dict[str, Any]:
    return {"quantity": quantity, "this": this, "other": that, "change": change}


def _relative(this: float | None, that: float | None, scale: float | None = None, ignored: float = 0.0) -> float:
    """Return the difference over `scale`, else over the larger of both; 0 where it is no more than `ignored`."""
    if this is None or that is None:
        return 0.0 if this is that else math.inf
    if this == that or (math.isnan(this) and math.isnan(that)):
        return 0.0
    if not (math.isfinite(this) and math.isfinite(that)):
        return math.inf
    difference = abs(this - that)
    return 0.0 if difference <= ignored else difference / (scale or max(abs(this), abs(that)))
