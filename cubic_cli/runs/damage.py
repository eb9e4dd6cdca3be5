"""A saved run as a reader finds it: what is there, what is damaged and where. No JAX, and no more read than is needed.

A run that `forward` saved is whole; disks, copies and editors can change that. What is damaged is a problem with the
file and the place in it, and what is not damaged is shown all the same.
"""

import itertools
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from cubic_cli.config import Activation, Initializer, Scaling
from cubic_cli.data.problem import Float32
from cubic_cli.errors import RunError
from cubic_cli.runs import store as runs
from cubic_cli.runs.store import Record

_PARQUET = b"PAR1"  # the first and the last four bytes of a Parquet file
_POLARS = (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)


@dataclass(frozen=True)
class Saved:
    """A run's folder, its record and the losses of its first epoch, `[K]`; `problems` says what is damaged.

    `broken` names the parts of the record that cannot be shown, and `losses` is None where the history is damaged.
    """

    folder: Path
    record: Record
    losses: Float32 | None
    problems: list[str] = field(default_factory=list)
    broken: frozenset[str] = frozenset()


def look(folder: Path) -> Saved:
    """Return what can be read of the run in `folder`.

    Raises:
        RunError: there is no run, or nothing can be read of its record.
    """
    record = runs.load_record(folder)
    wrong = list(check_record(record))
    problems = [f"{folder / runs.RECORD} is damaged: {where} is {what}" for where, what in wrong]
    broken = frozenset(where.split(".")[0].split("[")[0] for where, _ in wrong)
    losses = None
    try:
        losses = first_epoch_losses(folder, record) if not broken & {"iterations", "config"} else None
    except RunError as error:
        problems.append(str(error))
    try:
        check_parameters(folder)
    except RunError as error:
        problems.append(str(error))
    return Saved(folder, record, losses, problems, broken)


def scan_history(folder: Path) -> pl.LazyFrame:
    """Return the history of a run to be read in part.

    Raises:
        RunError: the file is missing or cut off.
    """
    path = folder / runs.HISTORY
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
            stream.seek(-4, os.SEEK_END)
            whole = start == stream.read(4) == _PARQUET
    except FileNotFoundError:
        raise RunError(f"{path} is missing; {runs.again(folder)}") from None
    except OSError:
        whole = False
    if not whole:
        raise RunError(f"{path} is damaged: it is no whole Parquet file; {runs.again(folder)}")
    return pl.scan_parquet(path, glob=False)


def first_epoch_losses(folder: Path, record: Record) -> Float32:
    """Return the losses of the batches of the first epoch, `[K]`; reads nothing else.

    Raises:
        RunError: the history is missing, damaged, or not that of this record.
    """
    batches = record["iterations"] // max(1, record["config"]["num_epochs"])
    frame = collect(folder, scan_history(folder).head(batches).select("epoch", "loss"))
    if frame.height != batches or (frame["epoch"] != 1).any() or frame["loss"].dtype != pl.Float32:
        raise RunError(
            f"{folder / runs.HISTORY} does not hold the {batches:,} iterations an epoch that {runs.RECORD} speaks of; "
            + runs.again(folder)
        )
    return frame["loss"].to_numpy()


def collect(folder: Path, frame: pl.LazyFrame) -> pl.DataFrame:
    """Read what was asked of the history.

    Raises:
        RunError: the file is damaged.
    """
    try:
        return frame.collect()
    except _POLARS as error:
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"{folder / runs.HISTORY} is damaged: {what}; {runs.again(folder)}") from None


def remains(folder: Path) -> list[tuple[str, str]]:
    """Return what the other files of a run say, whose record cannot be read: the file, and what stands in it."""
    found = []
    try:
        losses = pl.col("loss").filter(pl.col("loss").is_finite())
        frame = scan_history(folder).select(
            pl.len().alias("rows"), pl.col("epoch").max(), losses.min().alias("low"), losses.max().alias("high")
        )
        rows, epochs, low, high = collect(folder, frame).row(0)
        found.append((runs.HISTORY, f"{rows:,} iterations in {epochs:,} epochs, losses from {low:.7g} to {high:.7g}"))
    except (RunError, TypeError, ValueError) as error:
        found.append((runs.HISTORY, str(error) if isinstance(error, RunError) else "says nothing"))
    try:
        check_parameters(folder)
        shapes = (f"{name} {list(array.shape)}" for name, array in runs.load_parameters(folder).items())
        found.append((runs.PARAMETERS, ", ".join(shapes)))
    except RunError as error:
        found.append((runs.PARAMETERS, str(error)))
    return found


def check_parameters(folder: Path) -> None:
    """Raise `RunError` if the parameters' file is missing or cut; reads its header alone."""
    path = folder / runs.PARAMETERS
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            size = os.fstat(stream.fileno()).st_size
            tensors = json.loads(stream.read(length)) if 8 + length <= size else None
        if isinstance(tensors, dict):
            ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
            if 8 + length + max(ends, default=0) == size:
                return
    except FileNotFoundError:
        raise RunError(f"{path} is missing; {runs.again(folder)}") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):
        pass
    raise RunError(f"{path} is damaged: it is no whole safetensors file; {runs.again(folder)}")


Check = Callable[[Any], bool]


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _positive(value: Any) -> bool:
    return _integer(value) and value > 0


def _number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)


def _float32(value: Any) -> bool:
    limit = 2.0**128 - 2.0**103  # from here on a number rounds to no float32
    return _number(value) and (abs(value) < limit or not math.isfinite(value))


def _seconds(value: Any) -> bool:
    return _number(value) and math.isfinite(value) and value >= 0


def _number_or_null(value: Any) -> bool:
    return value is None or _number(value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _one_of(kind: Any) -> Check:
    return lambda value: isinstance(value, str) and value in set(kind)


@dataclass(frozen=True)
class _ListOf:
    item: Any


@dataclass(frozen=True)
class _OrNull:
    """Null, or of this form."""

    form: Any


@dataclass(frozen=True)
class _Maybe(_OrNull):
    """Left out too, as in records of before it was there."""


_SUMMARY = dict.fromkeys(("min", "max", "mean", "std"), _number)
_COLUMN = dict.fromkeys(_SUMMARY, _float32)
_SUMMARY_OR_NULL = dict.fromkeys(("min", "max", "mean", "std"), _number_or_null)
_SHAPE = _ListOf(_integer)

# What the screens rely on; a part of the record that is not so is left out of them.
_FORM: dict[str, Any] = {
    "run_name": _text,
    "created": _text,
    "config": {
        "hidden_size": _positive,
        "batch_size": _positive,
        "num_epochs": _positive,
        "initializer": _one_of(Initializer),
        "activation": _one_of(Activation),
        "scaling": _one_of(Scaling),
        "seed": _integer,
        "dataset": _text,
    },
    "sources": {},
    "dataset": {"path": _text, "rows": _positive, "sha256": _OrNull(_text), "x": _COLUMN, "y": _COLUMN},
    "device": {
        "platform": _text,
        "kind": _text,
        "devices": _positive,
        "processes": _positive,
        "matmul_precision": _text,
    },
    "versions": {},
    "iterations": _positive,
    "epochs": _ListOf({"epoch": _positive, "loss": _number, "seconds": _seconds}),
    "loss": _number,
    "loss_in_data_units": _number,
    "tensors": _ListOf(
        {
            "name": _text,
            "label": _text,
            "shape": _SHAPE,
            **_SUMMARY_OR_NULL,
            "zeros": _seconds,
            **dict.fromkeys(("nonfinite", "nan", "posinf", "neginf"), _integer),
            "quantiles": _Maybe(dict.fromkeys(("0.01", "0.5", "0.99"), _number)),
            "histogram": _Maybe({"edges": _ListOf(_number), "counts": _ListOf(_integer)}),
        }
    ),
    "parameters": _ListOf({"name": _text, "shape": _SHAPE, "dtype": _text, "count": _integer, **_SUMMARY}),
    "units": dict.fromkeys(("count", "distinct", "dead", "always_on", "rank"), _integer),
    "first_nonfinite": _OrNull({"tensor": _text, "epoch": _positive, "batch": _positive, "row": _positive}),
    "gradients": _Maybe(
        {
            "parameters": _ListOf(
                {"name": _text, "shape": _SHAPE, **dict.fromkeys(("norm", "min", "max", "step_ratio"), _number_or_null)}
            ),
            "largest_learning_rate": _number_or_null,
        }
    ),
    "findings": _ListOf({"id": _text, "level": _text, "value": _number, "limit": _number, "text": _text}),
    "context": dict.fromkeys(("target_variance", "r_squared", "noise_floor"), _number_or_null),
    "verification": _OrNull(
        {
            "reference": _text,
            "batches": _integer,
            "max_relative_error": _number,
            "tolerance": _number,
            "deterministic": _boolean,
            "passed": _boolean,
        }
    ),
    "timing": dict.fromkeys(("compile_seconds", "epoch_seconds", "samples_per_second"), _seconds),
}


def check_record(record: Record) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a record: the place, as in `tensors[1].max`, and what stands there."""
    yield from _check(record, _FORM, "")
    names = [tensor.get("name") for tensor in _dicts(record.get("tensors"))]
    if isinstance(record.get("tensors"), list) and names != ["z1", "a1", "z2", "loss"]:
        yield "tensors", "not a list of z1, a1, z2 and loss"
    for index, tensor in enumerate(_dicts(record.get("tensors"))):
        histogram = tensor.get("histogram")
        if isinstance(histogram, dict) and not list(_check(histogram, {"edges": _ListOf(_seen_edge)}, "")):
            edges, counts = histogram["edges"], histogram.get("counts")
            rises = all(a < b for a, b in itertools.pairwise(edges))
            if not (isinstance(counts, list) and len(edges) == len(counts) + 1 and rises):
                yield f"tensors[{index}].histogram", "not made of rising edges and a count between each two"
        elif histogram is not None:
            yield f"tensors[{index}].histogram", "damaged"


def _seen_edge(value: Any) -> bool:
    return _number(value) and math.isfinite(value)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _check(value: Any, form: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(form, _OrNull):
        if value is None:
            return
        form = form.form
    if isinstance(form, dict):
        if not isinstance(value, dict):
            yield where, _shown(value)
            return
        for key, inner in form.items():
            place = f"{where}.{key}" if where else key
            if key in value or isinstance(inner, _Maybe):
                yield from _check(value.get(key), inner, place)
            else:
                yield place, "missing"
    elif isinstance(form, _ListOf):
        if not isinstance(value, list):
            yield where, _shown(value)
            return
        for index, item in enumerate(value):
            yield from _check(item, form.item, f"{where}[{index}]")
    elif not form(value):
        yield where, _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def losses_of(scratch: Path, record: Record) -> Float32 | None:
    """Return the losses of the first epoch of a run that is being saved, None where they cannot be read."""
    try:
        return first_epoch_losses(scratch, record)
    except RunError:
        return None
