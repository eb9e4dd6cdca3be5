"""What a grid of runs says: the figures and the verdict of each, and how the tensors grow with the width."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cubic_cli.analysis import limits
from cubic_cli.float32 import TENSORS
from cubic_cli.runs.record import Record, Tensor

GROUP = ("initializer", "activation", "scaling")  # of runs that differ in their widths, seeds and batches
_ROUNDING = 4 * 2.0**-24  # of a tensor's largest magnitude: like samples come out so far apart, in other blocks


def figures(record: Record) -> dict[str, Any]:
    """Return what a sweep says of a run beyond its row in the list of runs.

    `range_growth` is the largest |z2| over the largest |z1|, None where z1 is 0; `gradient_norm` that of all parameters
    together and `largest_learning_rate` the record's, None where they were not measured.
    """
    largest = {tensor.name: max(abs(tensor.min or 0.0), abs(tensor.max or 0.0)) for tensor in record.tensors}
    units, gradients = record.units, record.gradients
    norms = [parameter.norm for parameter in gradients.parameters] if gradients else []
    measured = [norm for norm in norms if norm is not None]
    return {
        "loss_in_data_units": record.loss_in_data_units,
        "range_growth": largest["z2"] / largest["z1"] if largest["z1"] > 0 else None,
        "dead": units.dead,
        "distinct": units.distinct,
        "rank": units.rank,
        "gradient_norm": math.hypot(*measured) if norms and len(measured) == len(norms) else None,
        "largest_learning_rate": gradients.largest_learning_rate if gradients else None,
        "findings": list(dict.fromkeys(finding.id for finding in record.findings)),
        "verdict": verdict(record),
    }


def verdict(record: Record) -> list[str]:
    """Return what the findings of a run come to, in a few words each, most important first, and how well it fits."""
    said = limits.in_short(record)
    lesser = [said.pop(id) for id in _LESSER if id in said]
    fit = [said.pop("worse_than_mean")] if "worse_than_mean" in said else _fit(record.context.r_squared)
    return [*said.values(), *fit, *lesser]


_LESSER = ("linear", "saturated_units", "low_rank")  # why it fits no better, which is said first


def _fit(r_squared: float | None) -> list[str]:
    if r_squared is None or not math.isfinite(r_squared):
        return []
    if r_squared < 0.005:
        return ["no better than the mean"]
    return [f"fits: R² {r_squared:.2f}" if r_squared >= 0.9 else "better than the mean"]


def group_of(of: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the group of a run, by its settings, or of an entry of `growth`."""
    return tuple(of[name] for name in GROUP)


def tell_apart(groups: Sequence[tuple[str, ...]]) -> tuple[list[int], str]:
    """Return which of `GROUP` vary among groups of runs, and in words what they share."""
    varying = [index for index in range(len(GROUP)) if len({group[index] for group in groups}) > 1]
    return varying, in_words(groups[0], [i for i in range(len(GROUP)) if i not in varying]) if groups else ""


def in_words(group: tuple[str, ...], chosen: Iterable[int]) -> str:
    """Return the `chosen` values of a group of runs in words."""
    return ", ".join(f"scaling {group[i]}" if GROUP[i] == "scaling" else group[i] for i in chosen)


def growth(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return how the spread of each tensor grows with the width H, for each initialiser, activation and scaling.

    Each entry has the `points`, a run each, and the `exponent` p of `std ∝ H^p`: the slope of the least-squares line
    through (log H, log std), None where fewer than two widths have a spread. Seeds and batch sizes are taken together.
    A tensor that is constant but for rounding, or holds a value that is not finite, gives no point: its spread says
    nothing. Networks from files are no family, and left out.
    """
    entries = []
    records = [record for record in records if record.config.initializer is not None]
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(group_of(dict(record.config)), []).append(record)
    for values, members in groups.items():
        for tensor in TENSORS:
            seen = ((record.config.hidden_size, record.tensor(tensor)) for record in members)
            told = sorted((hidden, spread) for hidden, of in seen if (spread := _spread(of)) is not None)
            points = [{"hidden_size": hidden, "std": std} for hidden, std in told]
            slope = exponent(told)
            entry = dict(zip(GROUP, values, strict=True))
            entries.append({**entry, "tensor": tensor, "exponent": slope, "points": points})
    return entries


def _spread(tensor: Tensor) -> float | None:
    """Return the standard deviation, None where it says nothing: of values that are not finite, or of rounding."""
    if tensor.min is None or tensor.max is None or tensor.std is None or tensor.nonfinite:
        return None
    return tensor.std if tensor.std > _ROUNDING * max(abs(tensor.min), abs(tensor.max)) else None


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """Return the slope of the least-squares line through `(log h, log size)`, None for fewer than two different h."""
    if len({h for h, _ in points}) < 2:
        return None
    logs = [[math.log(number) for number in column] for column in zip(*points, strict=True)]
    return statistics.linear_regression(*logs).slope
