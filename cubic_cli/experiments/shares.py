"""A run over many processes: who passes over which samples, and how what they saw becomes one run at process 0.

Whole batches are dealt out in order: process `p` takes a run of them, so batches, rows and history keep the numbers
that one process alone would give them. What is merged is what `run.observe` returns: statistics, sums, counts and
extremes. The history, which may be larger than the memory, is kept in files, and sent to process 0 piece by piece as it
asks.
"""

import hashlib
import io
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cubic_cli.analysis import describe as record
from cubic_cli.cluster.join import Group
from cubic_cli.config import ForwardConfig
from cubic_cli.data.problem import Float32
from cubic_cli.data.read import count_samples, read_part
from cubic_cli.data.source import Arrays, Ingested, Source, ingest, spread_indices
from cubic_cli.engine.devices import pick_devices
from cubic_cli.errors import PeerError
from cubic_cli.experiments.run import Outcome, Progress, first_parameters, observe, rescale, write
from cubic_cli.reference import verify
from cubic_cli.runs import store as runs
from cubic_cli.runs.history import Batches, HistoryWriter
from cubic_cli.runs.record import Record
from cubic_cli.statistics import EMPTY, Statistics, merge

_OWN = ("dataset", "run_name", "artifact_dir", "fail_on", "device")  # settings that may differ among the processes
_SEARCHED = 1 << 14  # samples among which the gradients' largest learning rate is looked for
_PIECE = 1 << 16  # rows of the history in one message: about 3 MB


@dataclass(frozen=True)
class Share:
    """The batches of one process, from `first` up to `last`, and their samples, from `start` up to `stop`."""

    first: int
    last: int
    start: int
    stop: int


def deal(samples: int, batch_size: int, processes: int, process_id: int) -> Share:
    """Return the share of a process: equal numbers of whole batches, the first processes take one more."""
    batches = -(-samples // batch_size)
    each, more = divmod(batches, processes)
    first, last = (p * each + min(p, more) for p in (process_id, process_id + 1))
    return Share(first, last, min(first * batch_size, samples), min(last * batch_size, samples))


def run(
    config: ForwardConfig,
    sources: dict[str, str],
    scratch: Path,
    group: Group,
    progress: Progress = lambda epoch, loss: None,
) -> Record | None:
    """Run the forward pass in all processes of `group`; write the run to process 0's `scratch`, and return its record.

    Other processes return None, and keep in their `scratch` what the memory cannot hold.

    Raises:
        DatasetError: the dataset cannot be read here.
        DeviceError: the device is not there.
        PeerError: the processes have different settings, or samples.
    """
    path = Path(config.dataset)
    devices = pick_devices(config.device)
    samples = count_samples(path, config.num_samples, (config.x_column, config.y_column))
    _agree(group, config, samples)
    share = deal(samples, config.batch_size, group.processes, group.process_id)
    data = _describe_all(group, _ingest(config, share, scratch), samples)
    source = rescale(config, data)

    parameters, values = first_parameters(config)
    seen: dict[str, Any] = {"some": _take(source, share, spread_indices(samples))}
    if config.gradients:
        seen["search"] = _take(source, share, spread_indices(samples, _SEARCHED))
    with Spool(scratch) as spool:
        if share.first < share.last:
            picked = _pick(config, samples, share)
            outcome = observe(config, parameters, values, source, devices, picked, spool.append, progress)
            seen |= _to_json(outcome, share)
        parts = group.gather("outcome", seen | {"pieces": len(spool), "history": spool.epochs})
        if parts is None:
            _send_pieces(group, spool)
            return None
        losses = _write_history(scratch, _collect(group, spool, parts, config))
    outcome = replace(_merge(parts, group.processes, values), losses=losses)
    some, search = _put(parts, "some")[0], Arrays(*_put(parts, "search"))
    return write(config, sources, scratch, data, values, outcome, some, search)


def _write_history(scratch: Path, history: Iterator[Batches]) -> record.Losses:
    """Write the history of a run to its scratch folder, and return what is known of the batches' losses."""
    losses = record.Losses()
    with HistoryWriter(scratch / runs.HISTORY) as writer:
        for batches in history:
            writer.append(batches)
            if batches.epoch == 1:
                losses.add(batches.columns["loss"])
    return losses


def _agree(group: Group, config: ForwardConfig, samples: int) -> None:
    """Raise `PeerError` unless all processes do the same work, with the same versions."""
    mine = {name: value for name, value in config.as_json().items() if name not in _OWN}
    mine |= {"samples": samples} | {f"{name}'s version": text for name, text in record.describe_versions().items()}
    for process, theirs in enumerate(group.gather("settings", mine) or []):
        for name, value in mine.items():
            if theirs.get(name) != value:
                raise PeerError(
                    f"process {process} has {name}={theirs.get(name)} and process 0 {name}={value}; "
                    "give all processes the same"
                )


def _ingest(config: ForwardConfig, share: Share, scratch: Path) -> Ingested:
    nothing = np.zeros(0, np.float32)
    chunks = iter([(nothing, nothing)])
    if share.start < share.stop:
        columns = (config.x_column, config.y_column)
        chunks = read_part(Path(config.dataset), share.start, share.stop, columns)
    return ingest(chunks, scratch / runs.SAMPLES)


def _describe_all(group: Group, data: Ingested, samples: int) -> Ingested:
    """Return the samples of this process, described as all of them together."""
    noise = data.noise_floor * data.source.count
    parts = group.gather(
        "columns", {"columns": [[float(field) for field in column] for column in (data.x, data.y)], "noise": noise}
    )
    told = None
    if parts is not None:
        x, y = EMPTY, EMPTY
        for part in parts:
            x, y = (merge(seen, Statistics(*own)) for seen, own in zip((x, y), part["columns"], strict=True))
        noise = sum(part["noise"] for part in parts) / samples
        told = {"x": [float(field) for field in x], "y": [float(field) for field in y], "noise_floor": noise}
    told = group.share("summary", told)
    x, y = Statistics(*told["x"]), Statistics(*told["y"])
    return replace(data, sha256="", x=x, y=y, noise_floor=told["noise_floor"])


def _take(source: Source, share: Share, indices: NDArray[np.int64]) -> list[str]:
    """Return x and y of those samples at `indices` that are in the share, as hexadecimal text."""
    here = indices[(indices >= share.start) & (indices < share.stop)] - share.start
    return [column.astype("<f4").tobytes().hex() for column in source.take(here)] if here.size else ["", ""]


def _put(parts: list[dict[str, Any]], name: str) -> list[Float32]:
    """Return x and y of what `_take` gave in each process."""
    nothing = ["", ""]
    columns = zip(*(part.get(name, nothing) for part in parts), strict=True)
    return [np.frombuffer(bytes.fromhex("".join(column)), "<f4") for column in columns]


def _pick(config: ForwardConfig, samples: int, share: Share) -> NDArray[np.int64]:
    """Return the batches to verify, from 0 within the share; at least one."""
    picked = verify.choose_batches(samples, config.batch_size)
    picked = picked[(picked >= share.first) & (picked < share.last)] - share.first
    return picked if len(picked) else np.zeros(1, np.int64)


def _to_json(outcome: Outcome, share: Share) -> dict[str, Any]:
    """Return an outcome as JSON, batches and rows numbered as in the whole."""
    numbered = asdict(replace(outcome, losses=None))  # type: ignore[arg-type]
    if (found := numbered["first_nonfinite"]) is not None:
        found |= {"batch": found["batch"] + share.first, "row": found["row"] + share.start}
    failure = (numbered["verification"] or {}).get("failure")
    if failure is not None and failure["batch"] is not None:
        failure["batch"] += share.first
    del numbered["losses"]  # the history tells them
    if outcome.gradients is not None:
        numbered["gradients"] = {name: values.ravel().tolist() for name, values in outcome.gradients.items()}
    numbered["tensors"] = {
        name: [np.asarray(field).item() for field in statistics] for name, statistics in outcome.tensors.items()
    }
    return numbered


def _merge(parts: list[dict[str, Any]], processes: int, values: dict[str, Float32]) -> Outcome:
    """Return the outcome over all samples from those of the processes, in their order; some may have had no batch."""
    from cubic_cli.statistics import EMPTY, Statistics, merge

    parts = [part for part in parts if "samples" in part]
    first = parts[0]
    tensors: dict[str, Statistics] = {}
    for part in parts:
        for name, fields in part["tensors"].items():
            tensors[name] = merge(tensors.get(name, EMPTY), Statistics(*fields))
    gradients = None
    if first["gradients"] is not None:
        # The gradient of a mean is the mean of the gradients, each weighted with its samples.
        weights = [part["samples"] for part in parts]
        gradients = {
            name: np.average([part["gradients"][name] for part in parts], axis=0, weights=weights).reshape(value.shape)
            for name, value in values.items()
        }
    by_epoch = {name: list(zip(*(part[name] for part in parts), strict=True)) for name in ("totals", "seconds")}
    return Outcome(
        samples=sum(part["samples"] for part in parts),
        batch=first["batch"],
        batches=sum(part["batches"] for part in parts),
        totals=[sum(totals) for totals in by_epoch["totals"]],
        seconds=[max(seconds) for seconds in by_epoch["seconds"]],
        tensors=tensors,
        losses=record.Losses(),
        first_nonfinite=next((part["first_nonfinite"] for part in parts if part["first_nonfinite"]), None),
        verification=_merge_verifications([part["verification"] for part in parts]),
        gradients=gradients,
        compile_seconds=max(part["compile_seconds"] for part in parts),
        platform=first["platform"],
        kind=first["kind"],
        devices=sum(part["devices"] for part in parts),
        processes=processes,
    )


def _merge_verifications(checks: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return one verdict: each process has verified its own batches, and that its own epochs are alike."""
    done = [check for check in checks if check is not None]
    if not done:
        return None
    merged = done[0] | {
        "batches": sum(check["batches"] for check in done),
        "max_relative_error": max(check["max_relative_error"] for check in done),
        "deterministic": all(check["deterministic"] for check in done),
        "passed": all(check["passed"] for check in done),
    }
    failures = [check["failure"] for check in done if "failure" in check]
    return merged | ({"failure": failures[0]} if failures else {})


class Spool:
    """The history of a share in a file without a name, in pieces; equal pieces, as all epochs have, are kept once."""

    def __init__(self, folder: Path) -> None:
        self.epochs: list[list[int]] = []  # the numbers of the pieces of each epoch
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._where: list[tuple[int, int]] = []
        self._known: dict[bytes, int] = {}

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._where)

    def append(self, batches: Batches) -> None:
        """Keep batches of one epoch."""
        if batches.epoch > len(self.epochs):
            self.epochs.append([])
        for piece in pl.DataFrame(batches.columns).iter_slices(_PIECE):
            stream = io.BytesIO()
            piece.write_ipc(stream)
            self.epochs[-1].append(self.keep(stream.getvalue()))

    def keep(self, piece: bytes) -> int:
        """Keep a piece and return its number."""
        digest = hashlib.sha256(piece).digest()
        if digest not in self._known:
            self._known[digest] = len(self._where)
            self._where.append((self._file.seek(0, io.SEEK_END), len(piece)))
            self._file.write(piece)
        return self._known[digest]

    def piece(self, number: int) -> bytes:
        """Return a piece."""
        at, size = self._where[number]
        self._file.seek(at)
        return self._file.read(size)


def _send_pieces(group: Group, spool: Spool) -> None:
    """Send the pieces of the history as process 0 asks for them, so that it never holds more than it can take."""
    for number in range(len(spool)):
        group.take(f"wanted/{group.process_id}/{number}")
        group.put(f"piece/{group.process_id}/{number}", spool.piece(number))


def _collect(group: Group, own: Spool, parts: list[dict[str, Any]], config: ForwardConfig) -> Iterator[Batches]:
    """Yield what the history records, epoch by epoch and batch by batch, from those of all processes."""
    numbers = [list(range(len(own)))]
    for process, part in list(enumerate(parts))[1:]:
        kept = []
        for number in range(part["pieces"]):
            group.put(f"wanted/{process}/{number}", b"")
            kept.append(own.keep(group.take(f"piece/{process}/{number}")))
        numbers.append(kept)
    for epoch in range(config.num_epochs):
        batch = 0
        for kept, part in zip(numbers, parts, strict=True):
            for number in part["history"][epoch] if part["history"] else []:
                rows = pl.read_ipc(own.piece(kept[number]))
                yield Batches(epoch + 1, batch, {column.name: column.to_numpy() for column in rows})
                batch += rows.height
