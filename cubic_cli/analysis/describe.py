"""From what was seen to the record: each function describes one part of `run.json`."""

import dataclasses
import datetime
import functools
import importlib.metadata
import math
import platform
from typing import Any

import numpy as np

from cubic_cli import __version__
from cubic_cli.analysis.distribution import describe, take
from cubic_cli.config import Activation, ForwardConfig
from cubic_cli.data.scaling import Scale
from cubic_cli.data.source import Source, spread_indices
from cubic_cli.float32 import FLOAT32_MAX, Float32, shortest
from cubic_cli.parameters import Parameters
from cubic_cli.reference.network import forward32
from cubic_cli.reference.verify import Verdict
from cubic_cli.runs.record import (
    Column,
    Context,
    FirstNonfinite,
    Parameter,
    Sample,
    Tensor,
    Verification,
)
from cubic_cli.statistics import Statistics, merge, summarise

_PIECE_VALUES = 1 << 21  # of a1 held at a time
_PIECE = 1 << 17  # losses summarised at a time

LABELS = {
    "z1": "Layer 1 pre-activation (z1)",
    "a1": "Layer 1 activation (a1)",
    "z2": "Layer 2 pre-activation (z2)",
    "loss": "Loss",
}


def now() -> str:
    """Return the time as the record writes it, in UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def describe_versions() -> dict[str, str]:
    """Return the versions of what computed the run."""
    return {
        "cubic": __version__,
        "python": platform.python_version(),
        "jax": importlib.metadata.version("jax"),
        "jaxlib": importlib.metadata.version("jaxlib"),
        "numpy": np.__version__,
    }


def _summarise(seen: Statistics, nothing: float | None) -> dict[str, Any]:
    """Return the ends in their shortest text, the mean no lower and no higher, and the std; `nothing` without values.

    0.3 is the shortest text of 0.30000001192, of which the mean would be beyond it.
    """
    if not seen.count:
        return dict.fromkeys(("min", "max", "mean", "std"), nothing)
    low, high = shortest(seen.min), shortest(seen.max)
    return {"min": low, "max": high, "mean": min(max(float(seen.mean), low), high), "std": float(seen.std)}


def _count_kinds(seen: Statistics) -> dict[str, Any]:
    return {kind: int(getattr(seen, kind)) for kind in ("nan", "posinf", "neginf")}


def describe_tensor(name: str, shape: tuple[int, ...], flops: int, seen: Statistics, spread: Float32) -> Tensor:
    """Return the record's entry of one tensor.

    Args:
        name: of the tensor.
        shape: in the first batch.
        flops: operations that make it of this shape, where an activation counts as one.
        seen: the statistics over an epoch.
        spread: an even spread of its values.
    """
    nonfinite, summary = int(seen.nonfinite), _summarise(seen, None)
    return Tensor(
        name=name,
        label=LABELS[name],
        shape=shape,
        **summary,
        zeros=int(seen.zeros) / (int(seen.count) + nonfinite),
        nonfinite=nonfinite,
        **_count_kinds(seen),
        bytes=4 * math.prod(shape),
        flops=flops,
        **describe(spread, summary["min"], summary["max"])._asdict(),
    )


def count_flops(batch: int, hidden: int) -> dict[str, int]:
    """Return the operations that make z1, a1, z2 and the loss of one batch: a product, a sum, an activation is one."""
    products = 2 * batch * hidden
    return {"z1": products, "a1": batch * hidden, "z2": products, "loss": 3 * batch}


def describe_parameter(name: str, array: Float32, spread: Float32) -> Parameter:
    """Return the record's entry of one parameter, with the distribution of an even spread of its values."""
    summary = _summarise(summarise(array), math.nan)
    distribution = describe(spread, summary["min"], summary["max"])
    return Parameter(
        name=name,
        shape=array.shape,
        dtype=str(array.dtype),
        count=array.size,
        **summary,
        smallest=smallest_magnitude(array),
        bytes=array.nbytes,
        histogram=distribution.histogram,
        exponents=distribution.exponents,
    )


def smallest_magnitude(values: Float32) -> float | None:
    """Return the least non-zero magnitude of finite values, None where there is none."""
    magnitudes = np.abs(values[np.isfinite(values) & (values != 0)])
    return shortest(magnitudes.min()) if magnitudes.size else None


def describe_losses(losses: Float32, flops: int) -> Tensor:
    """Return the record's entry of the batches' losses, `[K]`."""
    pieces = [losses[start : start + _PIECE] for start in range(0, losses.size, _PIECE)]
    seen = functools.reduce(merge, map(summarise, pieces))
    least = [one for one in map(smallest_magnitude, pieces) if one is not None]
    described = describe_tensor("loss", (1,), flops, seen, take(losses))
    return described.model_copy(update={"smallest": min(least, default=None)})


MAX_SAMPLES = 200  # that the record holds


def take_samples(
    data: Source, source: Source, parameters: Parameters, activation: Activation, scale: Scale
) -> tuple[Sample, ...]:
    """Return some samples, evenly spread, with what the network answers, in the units of the data.

    Args:
        data: the samples as they were read.
        source: the same as the network gets them.
        parameters: the network's.
        activation: of the hidden layer.
        scale: of y.
    """
    indices = spread_indices(data.count, MAX_SAMPLES)
    x, y = data.take(indices)
    _, _, z2 = forward32(parameters, source.take(indices)[0], activation)
    with np.errstate(all="ignore"):
        answers = z2 if scale == Scale(0.0, 1.0) else z2 * np.float64(scale.factor) + scale.shift
    return tuple(
        Sample(row=row + 1, x=shortest(x[i]), y=shortest(y[i]), z2=shortest(answers[i]))
        for i, row in enumerate(indices.tolist())
    )


def describe_column(seen: Statistics) -> Column:
    """Return the record's entry of a column of the dataset; NaN where no value is finite."""
    return Column(**_summarise(seen, math.nan), **_count_kinds(seen))


def find_first_nonfinite(batch: int, parameters: Parameters, source: Source, config: ForwardConfig) -> FirstNonfinite:
    """Return where the first value that is not finite arose: tensor, epoch, batch, row of the samples, and the cause.

    Args:
        batch: the first batch, from 0, that holds one.
        parameters: the network's.
        source: the samples, as the network got them.
    """
    start = batch * config.batch_size
    x, y = source.read(start, min(start + config.batch_size, source.count))
    first = _first_beyond(parameters, config, x, y, FLOAT32_MAX)
    if not first:  # the device rounded otherwise, just across the limit
        first = _first_beyond(parameters, config, x, y, FLOAT32_MAX * (1 - 1e-5))
    tensor, row = next(iter(first.items())) if first else ("loss", 0)
    of_layer = parameters if tensor in ("z2", "loss") else (parameters.w1, parameters.b1)
    if not np.isfinite(x[row]) or (tensor == "loss" and not np.isfinite(y[row])):
        cause = "data"
    elif not all(np.isfinite(array).all() for array in of_layer):
        cause = "parameters"
    else:
        cause = "overflow"
    return FirstNonfinite(tensor=tensor, epoch=1, batch=batch + 1, row=start + row + 1, cause=cause)


def _first_beyond(
    parameters: Parameters, config: ForwardConfig, x: Float32, y: Float32, limit: float
) -> dict[str, int]:
    """Return the first row, from 0, in which a tensor has a value beyond `limit`, by tensor in their order.

    The samples go through piece by piece, for a batch may be larger than the memory holds of `a1`.
    """
    rows = max(1, _PIECE_VALUES // config.hidden_size)
    found: dict[str, int] = {}
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        z1, a1, z2 = forward32(parameters, x[part], config.activation)
        with np.errstate(all="ignore"):
            # A sum may pass the limit on its way, and come back in another order.
            terms = np.abs(a1) @ np.abs(parameters.w2) + np.abs(parameters.b2)
            reached = z2[:, None] if limit == FLOAT32_MAX else terms
            tensors = {"z1": z1, "a1": a1, "z2": reached, "loss": np.square(z2 - y[part])[:, None]}
            for name, tensor in tensors.items():
                beyond = ~(np.abs(tensor) <= limit).all(axis=1)
                if beyond.any():
                    found.setdefault(name, start + int(np.argmax(beyond)))
    return {name: found[name] for name in LABELS if name in found}


def describe_verdict(verdict: Verdict) -> Verification:
    """Return the record's `verification`."""
    return Verification.model_validate(dataclasses.asdict(verdict) | {"passed": verdict.passed})


_LEAST_VARIANCE = 2.0**-100  # smaller squares reach the end of float32


def describe_context(loss: float, target_variance: float | None, noise_floor: float) -> Context:
    """Return what the loss is to be compared with, all in its units: the variance of y, R², the loss of the cubic.

    The variance is None where no y is finite, and so are the others.

    Squares of float32 errors tell nothing where the variance is below `_LEAST_VARIANCE`; and data of which the cubic
    leaves a tenth of the variance or more do not follow it.
    """
    if target_variance is None:
        return Context(target_variance=None, r_squared=None, noise_floor=None)
    known = target_variance >= _LEAST_VARIANCE and math.isfinite(loss)
    return Context(
        target_variance=target_variance,
        r_squared=1.0 - loss / target_variance if known else None,
        noise_floor=noise_floor if noise_floor < target_variance / 10 else None,
    )
