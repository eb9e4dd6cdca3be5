"""Runs set side by side: what differs in how they were made, then how far apart their numbers are. No JAX here."""

import math
from typing import Any

from cubic_cli.runs.record import Record

_NAMES = {"run_name", "artifact_dir", "fail_on"}  # settings that say nothing of what was computed


_PATHS = {("config", "dataset"), ("config", "parameters")}


def compare(record: Record, other: Record, tolerance: float | None = None) -> dict[str, Any]:
    """Return how `record` compares with `other`, one entry of `others` in `inspect --compare OTHER --json`:

        run_name      the other's
        differences   what differs in how they were made: `part` (config, dataset, device or versions), `name`, `this`,
                      `other`; null stands for what a record does not have
        changes       the losses and the ranges: `quantity` (as in `loss`, `z1.min`), `this`, `other`, `change`
        beyond        the quantities whose change is larger than the tolerance; null without one

    A change is relative. For a loss it is `|this − other| / max(|this|, |other|)`; an end of a range is held against
    the largest magnitude of its tensor in either run, so that a minimum near zero is not asked for more digits than
    its tensor has. Two NaN, two equal infinities and two nulls are equal; one of them against a number is infinitely
    far. Shapes may differ: they stand among the differences, by the sizes that make them.
    """
    changes = _changes(record, other)
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
    """What differs in how two runs were made; paths of files stand in their own parts, where the digests differ."""
    parts = ("config", "dataset", "parameters_file", "device", "versions")
    pairs = [(part, dict(getattr(record, part) or {}), dict(getattr(other, part) or {})) for part in parts]
    found = []
    for part, this, that in pairs:
        if part == "parameters_file" and this.get("sha256") == that.get("sha256"):
            continue
        names = ("path", "rows", "sha256") if part == "dataset" else dict.fromkeys([*this, *that])
        found += [
            {"part": part, "name": name, "this": this.get(name), "other": that.get(name)}
            for name in names
            if name not in _NAMES and (part, name) not in _PATHS and this.get(name) != that.get(name)
        ]
    return found


def _changes(record: Record, other: Record) -> list[dict[str, Any]]:
    changes = [_change("loss", record.loss, other.loss, None)]
    if record.loss_in_data_units != record.loss or other.loss_in_data_units != other.loss:
        changes.append(_change("loss_in_data_units", record.loss_in_data_units, other.loss_in_data_units, None))
    for this, that in zip(record.tensors, other.tensors, strict=True):
        ends = [end for tensor in (this, that) for end in (tensor.min, tensor.max)]
        scale = max((abs(end) for end in ends if end is not None and math.isfinite(end)), default=0.0)
        changes.append(_change(f"{this.name}.min", this.min, that.min, scale))
        changes.append(_change(f"{this.name}.max", this.max, that.max, scale))
    return changes


def _change(quantity: str, this: float | None, that: float | None, scale: float | None) -> dict[str, Any]:
    return {"quantity": quantity, "this": this, "other": that, "change": _relative(this, that, scale)}


def _relative(this: float | None, that: float | None, scale: float | None) -> float:
    if this is None or that is None:
        return 0.0 if this is that else math.inf
    if this == that or (math.isnan(this) and math.isnan(that)):
        return 0.0
    if not (math.isfinite(this) and math.isfinite(that)):
        return math.inf
    return abs(this - that) / (scale or max(abs(this), abs(that)))
