"""From settings to a record: read, scale, run the epochs, verify, and say what was seen."""

import datetime
import importlib.metadata
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cubic_cli import dataset, findings, verify
from cubic_cli.config import ForwardConfig, Scaling
from cubic_cli.dataset import Float32
from cubic_cli.devices import pick_devices
from cubic_cli.runs import Record, shortest
from cubic_cli.scaling import Scale, choose_scale, summarise_column
from cubic_cli.units import describe_units, hidden_activations

LABELS = {
    "z1": "Layer 1 pre-activation (z1)",
    "a1": "Layer 1 activation (a1)",
    "z2": "Layer 2 pre-activation (z2)",
    "loss": "Loss",
}


@dataclass(frozen=True)
class Result:
    """A run, not yet saved."""

    record: Record
    history: pl.DataFrame
    parameters: dict[str, Float32]


def run(
    config: ForwardConfig,
    sources: dict[str, str],
    version: str,
    progress: Callable[[int, float], None] = lambda epoch, loss: None,
) -> Result:
    """Run the forward pass as `config` asks and return the run.

    Raises:
        DatasetError: the dataset cannot be read.
        DeviceError: the device is not there.
    """
    raw_x, raw_y = dataset.read_samples(Path(config.dataset), config.num_samples)
    summary = {"x": summarise_column(raw_x), "y": summarise_column(raw_y)}
    scale_x, scale_y = (choose_scale(config.scaling, summary[c]) for c in ("x", "y"))
    scaled = config.scaling is not Scaling.none
    x, y = (scale_x.apply(raw_x), scale_y.apply(raw_y)) if scaled else (raw_x, raw_y)

    devices = pick_devices(config.device)
    import jax

    from cubic_cli.forward import Pass
    from cubic_cli.network import initialise

    initial = initialise(config.initializer, config.hidden_size, config.seed)
    values: dict[str, Float32] = {
        f"{layer}.{name}": np.asarray(array)
        for layer, fields in initial._asdict().items()
        for name, array in fields._asdict().items()
    }
    forward = Pass(initial, x, y, config.batch_size, config.activation, devices)
    epochs, first = [], None
    for number in range(1, config.num_epochs + 1):
        epoch = forward.epoch()
        epochs.append({"epoch": number, "loss": shortest(epoch.loss), "seconds": epoch.seconds})
        first = first or epoch
        progress(number, epoch.loss)
    assert first is not None

    tensors = first.tensors()
    history: dict[str, NDArray[Any]] = {"size": first.sizes, "loss": first.batch_loss}
    nonfinite = np.zeros(len(first.sizes), np.int64)
    for name in ("z1", "a1", "z2"):
        seen = getattr(first, f"batch_{name}")
        history |= {f"{name}_min": seen.min.astype(np.float32), f"{name}_max": seen.max.astype(np.float32)}
        nonfinite += seen.nonfinite
    nonfinite += ~np.isfinite(first.batch_loss)

    verification = None
    if config.verify:
        reference = verify.compute(values, x, y, config.batch_size, config.activation)
        verification = verify.verify(reference, history, [e["loss"] for e in epochs], config.hidden_size)

    loss = shortest(first.loss)
    seconds = float(np.median([e["seconds"] for e in epochs]))
    record: Record = {
        "schema": 1,
        "run_name": config.run_name,
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "config": config.as_json(),
        "sources": sources,
        "dataset": {
            "path": config.dataset,
            "rows": len(x),
            "sha256": dataset.sha256(raw_x, raw_y),
            **summary,
        },
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "devices": len(forward.devices),
            "processes": 1,
            "matmul_precision": "highest",
        },
        "versions": {
            "cubic": version,
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jaxlib": importlib.metadata.version("jaxlib"),
            "numpy": np.__version__,
        },
        "iterations": config.num_epochs * len(first.sizes),
        "epochs": epochs,
        "loss": loss,
        "loss_in_data_units": shortest(loss * scale_y.factor**2) if scaled else loss,
        "tensors": [
            describe_tensor(name, [int(first.sizes[0]), width], tensors[name])
            for name, width in (("z1", config.hidden_size), ("a1", config.hidden_size), ("z2", 1))
        ]
        + [describe_losses(first.batch_loss)],
        "parameters": [describe_parameter(name, array) for name, array in values.items()],
        "units": describe_units(values, config.activation, x),
        "first_nonfinite": find_first_nonfinite(first, values, x, y, config),
        "gradients": None,
        "findings": [],
        "context": describe_context(raw_x, raw_y, y, loss, scale_y if scaled else None),
        "verification": verification,
        "timing": {
            "compile_seconds": forward.compile_seconds,
            "epoch_seconds": seconds,
            "samples_per_second": len(x) / seconds,
        },
    }
    record["findings"] = findings.find(record)
    return Result(record, history_frame(history, nonfinite, config.num_epochs), values)


def history_frame(history: dict[str, NDArray[Any]], nonfinite: NDArray[np.int64], num_epochs: int) -> pl.DataFrame:
    """Return the history, a row an iteration: the forward pass changes nothing, so every epoch repeats the first."""
    one = pl.DataFrame(
        {
            "batch": pl.Series(np.arange(1, len(nonfinite) + 1), dtype=pl.Int64),
            **{name: pl.Series(column) for name, column in history.items()},
            "nonfinite": pl.Series(nonfinite),
        }
    ).with_columns(pl.col("^[za][12]_(min|max)$").replace([np.inf, -np.inf], None))
    epochs = pl.DataFrame({"epoch": pl.Series(np.arange(1, num_epochs + 1), dtype=pl.Int64)})
    return epochs.join(one, how="cross", maintain_order="left_right")


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


def describe_losses(losses: Float32) -> dict[str, Any]:
    """Return the record's entry of the batches' losses."""
    from cubic_cli.statistics import Statistics

    finite = losses[np.isfinite(losses)].astype(np.float64)
    low, high, mean, std = (finite.min(), finite.max(), finite.mean(), finite.std()) if finite.size else (0, 0, 0, 0)
    nan, posinf = np.isnan(losses).sum(), (losses == np.inf).sum()
    seen = Statistics(finite.size, nan, posinf, 0, (losses == 0).sum(), low, high, mean, std)
    return describe_tensor("loss", [1], seen)


def describe_parameter(name: str, array: Float32) -> dict[str, Any]:
    """Return the record's entry of one parameter."""
    summary = summarise_column(array)
    return {
        "name": name,
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "count": array.size,
        **summary,
    }


def find_first_nonfinite(
    epoch: Any, values: dict[str, Float32], x: Float32, y: Float32, config: ForwardConfig
) -> dict[str, Any] | None:
    """Return where the first value that is not finite arose: tensor, epoch, batch, row of the file, and the cause."""
    counts = {name: getattr(epoch, f"batch_{name}").nonfinite > 0 for name in ("z1", "a1", "z2")}
    counts["loss"] = ~np.isfinite(epoch.batch_loss)
    any_batch = np.logical_or.reduce(list(counts.values()))
    if not any_batch.any():
        return None
    batch = int(np.argmax(any_batch))
    tensor = next(name for name, where in counts.items() if where[batch])
    rows = slice(batch * config.batch_size, min((batch + 1) * config.batch_size, len(x)))
    with np.errstate(all="ignore"):
        a1 = hidden_activations(values, config.activation, x[rows]).astype(np.float32)
        z1 = np.outer(x[rows], values["input_layer.weight"][0]) + values["input_layer.bias"]
        z2 = a1 @ values["output_layer.weight"] + values["output_layer.bias"]
        error = np.square(z2[:, 0] - y[rows])
        seen = {"z1": z1, "a1": a1, "z2": z2, "loss": error[:, None]}[tensor]
        bad = ~np.isfinite(seen).all(axis=1)
    row = rows.start + int(np.argmax(bad))
    data = not (np.isfinite(x[row]) and np.isfinite(y[row]))
    parameters = not all(np.isfinite(array).all() for array in values.values())
    cause = "data" if data else "parameters" if parameters else "overflow"
    return {"tensor": tensor, "epoch": 1, "batch": batch + 1, "row": row + 1, "cause": cause}


def describe_context(
    raw_x: Float32, raw_y: Float32, y: Float32, loss: float, scale_y: Scale | None
) -> dict[str, float | None]:
    """Return what the loss is to be held against: the target's variance, R², the loss of the true cubic itself."""
    with np.errstate(all="ignore"):
        variance = float(y.var(dtype=np.float64))
        noise = float(np.mean((raw_y.astype(np.float64) - dataset.cubic(raw_x.astype(np.float64))) ** 2))
        if scale_y is not None:
            noise = noise / scale_y.factor**2 if scale_y.factor else 0.0
        r_squared = 1.0 - loss / variance if variance > 0 else None
    return {"target_variance": variance, "r_squared": r_squared, "noise_floor": noise}
