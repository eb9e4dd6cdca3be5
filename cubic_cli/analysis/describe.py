"""From what was seen to the record: each function describes one part of `run.json`. No JAX here."""

import datetime
import importlib.metadata
import platform
from typing import Any

import numpy as np

from cubic_cli import __version__
from cubic_cli.analysis import distribution
from cubic_cli.config import ForwardConfig
from cubic_cli.data.problem import Float32
from cubic_cli.data.source import Column, Source
from cubic_cli.float32 import FLOAT32_MAX
from cubic_cli.parameters import from_names
from cubic_cli.reference.network import forward32
from cubic_cli.runs.store import shortest

_PIECE_VALUES = 1 << 21  # of a1 held at a time

LABELS = {
    "z1": "Layer 1 pre-activation (z1)",
    "a1": "Layer 1 activation (a1)",
    "z2": "Layer 2 pre-activation (z2)",
    "loss": "Loss",
}


def now() -> str:
    """Return the time as the record writes it, in UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe_versions() -> dict[str, str]:
    """Return the versions of what computed the run."""
    return {
        "cubic": __version__,
        "python": platform.python_version(),
        "jax": importlib.metadata.version("jax"),
        "jaxlib": importlib.metadata.version("jaxlib"),
        "numpy": np.__version__,
    }


def describe_tensor(name: str, shape: list[int], seen: Any) -> dict[str, Any]:
    """Return the record's entry of one tensor from its statistics over an epoch."""
    count, nonfinite = int(seen.count), int(seen.nonfinite)
    some = count > 0
    return {
        "name": name,
        "label": LABELS[name],
        "shape": shape,
        "dtype": "float32",
        "min": shortest(seen.min) if some else None,
        "max": shortest(seen.max) if some else None,
        "mean": float(seen.mean) if some else None,
        "std": float(seen.std) if some else None,
        "zeros": int(seen.zeros) / (count + nonfinite),
        "nonfinite": nonfinite,
        "nan": int(seen.nan),
        "posinf": int(seen.posinf),
        "neginf": int(seen.neginf),
    }


class Losses:
    """The `loss` tensor: what is known of the batches' losses, chunk by chunk."""

    def __init__(self) -> None:
        self._finite = Column()
        self._nan = self._posinf = self._zeros = 0
        self._spread = distribution.Spread()

    def add(self, losses: Float32) -> None:
        """Merge the losses of some batches."""
        self._finite.add(losses)
        self._spread.add(losses)
        self._nan += int(np.count_nonzero(np.isnan(losses)))
        self._posinf += int(np.count_nonzero(np.isposinf(losses)))
        self._zeros += int(np.count_nonzero(losses == 0))

    def describe(self) -> dict[str, Any]:
        """Return the record's entry."""
        from cubic_cli.statistics import Statistics

        finite = self._finite
        spread = np.sqrt(finite.squares / max(finite.count, 1))
        seen = Statistics(
            finite.count, self._nan, self._posinf, 0, self._zeros, finite.low, finite.high, finite.mean, spread
        )
        return {**describe_tensor("loss", [1], seen), **distribution.describe(self._spread.values)}


def describe_parameter(name: str, array: Float32) -> dict[str, Any]:
    """Return the record's entry of one parameter."""
    column = Column()
    column.add(array)
    shape = list(array.shape)
    return {"name": name, "shape": shape, "dtype": str(array.dtype), "count": array.size, **column.summary()}


def find_first_nonfinite(
    batch: int, values: dict[str, Float32], source: Source, config: ForwardConfig
) -> dict[str, Any]:
    """Return where the first value that is not finite arose: tensor, epoch, batch, row of the samples, and the cause.

    Args:
        batch: the first batch, from 0, that holds one.
        values: the parameters by name.
        source: the samples, as the network got them.
    """
    start = batch * config.batch_size
    x, y = source.read(start, min(start + config.batch_size, source.count))
    first = _first_beyond(values, config, x, y, FLOAT32_MAX)
    if not first:  # the device rounded otherwise, just across the limit
        first = _first_beyond(values, config, x, y, FLOAT32_MAX * (1 - 1e-5))
    tensor, row = next(iter(first.items())) if first else ("loss", 0)
    of_layer = [array for name, array in values.items() if tensor in ("z2", "loss") or name.startswith("input")]
    if not np.isfinite(x[row]) or (tensor == "loss" and not np.isfinite(y[row])):
        cause = "data"
    elif not all(np.isfinite(array).all() for array in of_layer):
        cause = "parameters"
    else:
        cause = "overflow"
    return {"tensor": tensor, "epoch": 1, "batch": batch + 1, "row": start + row + 1, "cause": cause}


def _first_beyond(
    values: dict[str, Float32], config: ForwardConfig, x: Float32, y: Float32, limit: float
) -> dict[str, int]:
    """Return the first row, from 0, in which a tensor has a value beyond `limit`, by tensor in their order.

    The samples go through piece by piece, for a batch may be larger than the memory holds of `a1`.
    """
    parameters = from_names(values)
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


def describe_context(loss: float, target_variance: float, noise_floor: float) -> dict[str, float | None]:
    """Return what the loss is to be held against, all in its units: the variance of y, R², the loss of the cubic."""
    with np.errstate(all="ignore"):
        r_squared = 1.0 - loss / target_variance if target_variance > 0 else None
    return {"target_variance": target_variance, "r_squared": r_squared, "noise_floor": noise_floor}
