"""Runs set side by side: what differs in how they were made, then how far apart their numbers are. No JAX here."""

import math
from typing import Any

from cubic_cli.runs.store import Record

_NAMES = {"run_name", "artifact_dir", "fail_on"}  # settings that say nothing of what was computed


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
        "run_name": other["run_name"],
        "differences": _differences(record, other),
        "changes": changes,
        "beyond": beyond,
    }


def document(record: Record, others: list[Record], tolerance: float | None) -> dict[str, Any]:
    """Return what `inspect --compare OTHER … --json` prints: `run_name`, `others`, `tolerance`, `within_tolerance`."""
    compared = [compare(record, other, tolerance) for other in others]
    within = None if tolerance is None else not any(one["beyond"] for one in compared)
    return {"run_name": record["run_name"], "others": compared, "tolerance": tolerance, "within_tolerance": within}


def _differences(record: Record, other: Record) -> list[dict[str, Any]]:
    parts = [
        *(("config", name, record["config"], other["config"]) for name in _keys(record, other, "config")),
        *(("dataset", name, record["dataset"], other["dataset"]) for name in ("path", "rows", "sha256")),
        *(("device", name, record["device"], other["device"]) for name in _keys(record, other, "device")),
        *(("versions", name, record["versions"], other["versions"]) for name in _keys(record, other, "versions")),
    ]
    return [
        {"part": part, "name": name, "this": this.get(name), "other": that.get(name)}
        for part, name, this, that in parts
        if name not in _NAMES and this.get(name) != that.get(name)
    ]


def _keys(record: Record, other: Record, part: str) -> list[str]:
    """The keys of both, in the order of the first; the dataset's path stands in its own part."""
    names = [*record[part], *(name for name in other[part] if name not in record[part])]
    return [name for name in names if (part, name) != ("config", "dataset")]


def _changes(record: Record, other: Record) -> list[dict[str, Any]]:
    changes = []
    for name in ("loss", "loss_in_data_units"):
        if name == "loss" or record[name] != record["loss"] or other[name] != other["loss"]:
            changes.append(_change(name, record[name], other[name], None))
    for this, that in zip(record["tensors"], other["tensors"], strict=True):
        ends = [tensor[end] for tensor in (this, that) for end in ("min", "max")]
        scale = max((abs(end) for end in ends if end is not None and math.isfinite(end)), default=0.0)
        for end in ("min", "max"):
            changes.append(_change(f"{this['name']}.{end}", this[end], that[end], scale))
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
