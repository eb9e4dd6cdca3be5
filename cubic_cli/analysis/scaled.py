"""The columns as the network got them: what scaling makes of their summaries."""

import math

import numpy as np

from cubic_cli.config import Scaling
from cubic_cli.data.scaling import choose_scale
from cubic_cli.float32 import shortest
from cubic_cli.runs.record import Record, Scaled, Summary


def as_scaled(record: Record) -> Scaled:
    """Return both columns as the network got them, which records of schema 1 do not say."""
    scaled: Scaled | None = getattr(record, "scaled", None)  # damaged, it is computed again
    if scaled is not None:
        return scaled
    kind, data = record.config.scaling, record.dataset
    return Scaled(x=scale_summary(kind, data.x), y=scale_summary(kind, data.y))


def scale_summary(kind: Scaling, column: Summary) -> Summary:
    """Return the summary of a column after scaling; the ends are the float32 numbers that its ends become."""
    if kind is Scaling.none or not math.isfinite(column.min):
        return Summary(min=column.min, max=column.max, mean=column.mean, std=column.std)
    scale = choose_scale(kind, column)
    if scale.factor == 0:
        return Summary(min=0.0, max=0.0, mean=0.0, std=0.0)
    low, high = scale.apply(np.array([column.min, column.max], np.float32))
    mean = (column.mean - scale.shift) / scale.factor
    return Summary(min=shortest(low), max=shortest(high), mean=mean, std=column.std / scale.factor)
