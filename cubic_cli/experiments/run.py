"""A run from end to end: read, scale, run the epochs, verify, and write down what was seen."""

import functools
import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cubic_cli.analysis import describe, distribution, findings, formats, learning_rate
from cubic_cli.analysis.units import describe_units
from cubic_cli.config import ForwardConfig, Scaling
from cubic_cli.data.read import Tell, quietly, read_chunks
from cubic_cli.data.scaling import choose_scale
from cubic_cli.data.source import Arrays, Ingested, Scaled, Source, ingest, spread
from cubic_cli.engine.devices import keep_compiled, pick_devices
from cubic_cli.float32 import Float32, Float64, shortest
from cubic_cli.parameters import from_names
from cubic_cli.reference import expected, verify
from cubic_cli.reference import gradients as reference_gradients
from cubic_cli.runs import record as parts
from cubic_cli.runs import store as runs
from cubic_cli.runs.history import Batches, HistoryWriter, recording
from cubic_cli.runs.record import (
    SCHEMA_VERSION,
    Config,
    Dataset,
    Device,
    Epoch,
    FirstNonfinite,
    Record,
    Scale,
    ScalingPart,
    Timing,
    Verification,
)

if TYPE_CHECKING:
    from cubic_cli.cluster.join import Group
    from cubic_cli.engine.observed import Chunk
    from cubic_cli.engine.passes import Pass
    from cubic_cli.parameters import Parameters
    from cubic_cli.statistics import Statistics

Progress = Callable[[int, float], None]


def run(
    config: ForwardConfig,
    sources: dict[str, str],
    scratch: Path,
    progress: Progress = lambda epoch, loss: None,
    data: Ingested | None = None,
    group: "Group | None" = None,
    tell: Tell = quietly,
) -> Record:
    """Run the forward pass as `config` asks, write the run's files to `scratch`, and return the record.

    A distributed run is this same run in every process of its group: all have the samples and see every figure, and
    each passes over its part on its own devices.

    Args:
        config: the settings.
        sources: where each came from.
        scratch: the folder for the run's files.
        progress: called with the number and the loss of each epoch.
        data: the samples, where they are read already; else they are read from the dataset of `config`.
        group: the processes of a distributed run.
        tell: takes lines for people.

    Raises:
        DatasetError: the dataset cannot be read.
        DeviceError: the device is not there.
        PeerError: another process has other samples or parameters.
    """
    data = data or read(config, scratch, tell)
    source = rescale(config, data)
    keep_compiled()
    devices = pick_devices(config.device)
    parameters, values = first_parameters(config)
    if group is not None:
        digests = {"the dataset's SHA-256": data.sha256, "the parameters' SHA-256": _sha256(values)}
        group.agree("data", {"rows": source.count, **digests})
    picked = verify.choose_batches(source.count, config.batch_size)
    with HistoryWriter(scratch / runs.HISTORY) as history:
        outcome = observe(config, parameters, values, source, devices, picked, history.append, progress)
    return write(config, sources, scratch, data, values, outcome, spread(source)[0], source)


def read(
    config: ForwardConfig, scratch: Path, tell: Tell = quietly, progress: Callable[[int], None] = lambda rows: None
) -> Ingested:
    """Read the samples that `config` names; more than the memory is to hold are kept in `scratch`.

    `progress` is called with how many rows more were read.

    Raises:
        DatasetError: the dataset cannot be read.
    """
    columns = (config.x_column, config.y_column)
    chunks = read_chunks(Path(config.dataset), config.num_samples, columns, tell)

    def counted() -> Iterator[tuple[Float32, Float32]]:
        for x, y in chunks:
            yield x, y
            progress(len(x))

    return ingest(counted(), scratch / runs.SAMPLES)


def rescale(config: ForwardConfig, data: Ingested) -> Source:
    """Return the samples as the network gets them."""
    if config.scaling is Scaling.none:
        return data.source
    return Scaled(data.source, choose_scale(config.scaling, data.x), choose_scale(config.scaling, data.y))


def first_parameters(config: ForwardConfig) -> "tuple[Parameters, dict[str, Float32]]":
    """Return the network's parameters, for JAX and by name for NumPy."""
    from cubic_cli.network import initialise
    from cubic_cli.parameters import by_name

    parameters = initialise(config.initializer, config.hidden_size, config.seed)
    return parameters, {name: np.asarray(array) for name, array in by_name(parameters).items()}


def _sha256(values: dict[str, Float32]) -> str:
    """Return the SHA-256 of the parameters' bytes, little-endian, in their order."""
    return hashlib.sha256(b"".join(value.astype("<f4").tobytes() for value in values.values())).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What the pass told.

    `totals` are the sums of the squared errors and `seconds` the times, by epoch; `batch` is the size of the first.
    """

    samples: int
    batch: int
    batches: int
    totals: list[float]
    seconds: list[float]
    tensors: "dict[str, Statistics]"
    losses: describe.Losses
    first_nonfinite: dict[str, Any] | None
    verification: dict[str, Any] | None
    gradients: dict[str, Float64] | None  # of the mean over these samples, by the parameters' names
    compile_seconds: float
    platform: str
    kind: str
    devices: int
    processes: int

    @functools.cached_property
    def epochs(self) -> tuple[Epoch, ...]:
        """The record's `epochs`."""
        return tuple(
            Epoch(epoch=number, loss=_loss(total, self.samples), seconds=seconds)
            for number, (total, seconds) in enumerate(zip(self.totals, self.seconds, strict=True), 1)
        )


def _loss(total: float, samples: int) -> float:
    with np.errstate(over="ignore"):
        return shortest(total / samples)


def observe(
    config: ForwardConfig,
    parameters: "Parameters",
    values: dict[str, Float32],
    source: Source,
    devices: list[Any],
    picked: NDArray[np.int64],
    append: Callable[[Batches], None],
    progress: Progress,
) -> Outcome:
    """Run the epochs over `source`, verify the batches `picked`, and return what was seen.

    `append` takes what the history records.
    """
    from cubic_cli.engine.passes import Pass

    with ThreadPoolExecutor(1) as pool:  # the reference is computed while XLA compiles
        reference = pool.submit(_reference, config, values, source, picked) if config.verify else None
        forward = Pass(parameters, source, config.batch_size, config.activation, devices)
        with recording(append) as record_batches:
            seen = Watch(record_batches, picked)
            for number, chunks in groupby(forward.run(config.num_epochs), lambda chunk: chunk.epoch):
                progress(number, seen.epoch(number, chunks, source.count))
        verification = None
        if reference is not None:
            verification = verify.verify(reference.result(), seen.verified(forward, source), picked)
        gradients = None
        if config.gradients:
            gradients, verification = _measure_gradients(
                config, parameters, values, source, picked, devices, verification
            )
    nonfinite = None
    if seen.first_nonfinite is not None:
        nonfinite = describe.find_first_nonfinite(seen.first_nonfinite, values, source, config)
    return Outcome(
        samples=source.count,
        batch=forward.batch,
        batches=seen.batches,
        totals=seen.totals,
        seconds=seen.seconds,
        tensors=seen.tensors,
        losses=seen.losses,
        first_nonfinite=nonfinite,
        verification=None if verification is None else describe_verdict(verification),
        gradients=gradients,
        compile_seconds=forward.clock.compile_seconds,
        platform=forward.devices[0].platform,
        kind=forward.devices[0].device_kind,
        devices=len(forward.devices),
        processes=len({device.process_index for device in forward.devices}),
    )


def write(
    config: ForwardConfig,
    sources: dict[str, str],
    scratch: Path,
    data: Ingested,
    values: dict[str, Float32],
    outcome: Outcome,
    some: Float32,
    search: Source,
) -> Record:
    """Write the record and the parameters to `scratch`, and return the record.

    Args:
        data: what is known of all samples.
        outcome: of the pass over all samples.
        some: x as the network got it, of samples that are evenly spread.
        search: the samples among which the gradients' largest learning rate is looked for.
    """
    runs.write_parameters(scratch, values)
    described = _describe(config, sources, data, values, outcome, some, search)
    record = described.model_copy(update={"findings": findings.find(described)})
    runs.write_record(scratch, record)
    return record


def _reference(
    config: ForwardConfig, values: dict[str, Float32], source: Source, picked: NDArray[np.int64]
) -> expected.Reference:
    x, y = _read_batches(source, config.batch_size, picked)
    return expected.compute(from_names(values), x, y, config.batch_size, config.activation)


def describe_verdict(verdict: verify.Verdict) -> dict[str, Any]:
    """Return the record's `verification`."""
    described = asdict(verdict) | {"passed": verdict.passed}
    return {name: value for name, value in described.items() if value is not None}


def _measure_gradients(
    config: ForwardConfig,
    parameters: "Parameters",
    values: dict[str, Float32],
    source: Source,
    picked: NDArray[np.int64],
    devices: list[Any],
    verification: verify.Verdict | None,
) -> tuple[dict[str, Float64], verify.Verdict | None]:
    """Return the gradients over `source`, and the `verification` with what they say of the picked batches."""
    from cubic_cli.engine import gradients

    found = gradients.measure(parameters, source, config.activation, devices)
    if verification is not None:
        x, y = _read_batches(source, config.batch_size, picked)
        of_picked = found
        if len(x) < source.count:
            of_picked = gradients.measure(parameters, Arrays(x, y), config.activation, devices)
        by_hand = reference_gradients.compute(from_names(values), x, y, config.activation)
        verification = verification.joined(*reference_gradients.verify(from_names(of_picked), by_hand))
    return found, verification


def _read_batches(source: Source, batch_size: int, batches: NDArray[np.int64]) -> tuple[Float32, Float32]:
    """Return the samples of some batches, one after the other."""
    if len(batches) == -(-source.count // batch_size):
        return source.read(0, source.count)
    parts = [source.read(k * batch_size, min((k + 1) * batch_size, source.count)) for k in batches.tolist()]
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


class Watch:
    """What is seen of the epochs as they pass; the first one gives the statistics, for nothing changes after it."""

    def __init__(self, record_batches: Callable[[Batches], None], picked: NDArray[np.int64]) -> None:
        self.totals: list[float] = []  # the sum of the squared errors, by epoch
        self.seconds: list[float] = []
        self.tensors: dict[str, Statistics] = {}
        self.losses = describe.Losses()
        self.batches = 0
        self.first_nonfinite: int | None = None  # the batch, from 0
        self._record_batches = record_batches
        self._picked = picked
        self._losses: list[float] = []
        self._picked_columns: list[dict[str, NDArray[Any]]] = []
        self._digests: list[int] = []

    def epoch(self, number: int, chunks: "Iterable[Chunk]", samples: int) -> float:
        """Watch the chunks of one epoch over `samples`, hand over their history, and return its loss."""
        total, digest, seconds = 0.0, 0, 0.0
        for chunk in chunks:
            self._record_batches(Batches(number, chunk.first_batch, chunk.columns))
            with np.errstate(over="ignore"):
                total += float(chunk.squared_error.sum())
            digest = zlib.crc32(chunk.columns["loss"].data, digest)
            seconds += chunk.seconds
            if number == 1:
                self._first(chunk, chunk.columns)
        loss = _loss(total, samples)
        self.totals.append(total)
        self.seconds.append(seconds)
        self._losses.append(loss)
        self._digests.append(digest)
        return loss

    def _first(self, chunk: "Chunk", columns: dict[str, NDArray[Any]]) -> None:
        from cubic_cli.statistics import EMPTY, merge

        assert chunk.tensors is not None
        self.tensors = {name: merge(self.tensors.get(name, EMPTY), seen) for name, seen in chunk.tensors.items()}
        self.losses.add(columns["loss"])
        self.batches += len(chunk)
        if self.first_nonfinite is None and columns["nonfinite"].any():
            self.first_nonfinite = chunk.first_batch + int(np.argmax(columns["nonfinite"] > 0))
        here = self._picked[np.searchsorted(self._picked, chunk.first_batch) :] - chunk.first_batch
        here = here[here < len(chunk)]
        self._picked_columns.append({name: values[here] for name, values in columns.items()})

    def verified(self, forward: "Pass", source: Source) -> verify.Seen:
        """Return what the devices said of the picked batches, for the verification."""
        history = {
            name: np.concatenate([columns[name] for columns in self._picked_columns])
            for name in self._picked_columns[0]
        }
        every = len(self._picked) == self.batches
        tensors = self.tensors
        if not every:
            # The statistics of a spread of batches: they once more, alone, through the same program.
            tensors = forward.observe(*_read_batches(source, forward.batch, self._picked))
        alike = len({np.float32(loss).tobytes() for loss in self._losses}) == 1 and len(set(self._digests)) == 1
        return verify.Seen(history, tensors, self._losses[0] if every else None, alike)


def _describe(
    config: ForwardConfig,
    sources: dict[str, str],
    data: Ingested,
    values: dict[str, Float32],
    outcome: Outcome,
    some: Float32,
    search: Source,
) -> Record:
    """Return the record but for the findings."""
    scales = {"x": choose_scale(config.scaling, data.x), "y": choose_scale(config.scaling, data.y)}
    loss = outcome.epochs[0].loss
    seconds = float(np.median(outcome.seconds))
    square = scales["y"].factor ** 2
    widths = {"z1": config.hidden_size, "a1": config.hidden_size, "z2": 1}
    ends = scales["x"].apply(np.array([data.x.min, data.x.max], np.float32))
    parameters = from_names(values)
    spreads = distribution.take_tensors(parameters, config.activation, some)
    flops = describe.count_flops(outcome.batch, config.hidden_size)
    tensors = (
        *(
            describe.describe_tensor(
                name, (outcome.batch, widths[name]), flops[name], outcome.tensors[name], spreads[name]
            )
            for name in widths
        ),
        outcome.losses.describe(flops["loss"]),
    )
    described_parameters = tuple(describe.describe_parameter(name, array) for name, array in values.items())
    gradients = None
    if outcome.gradients is not None:
        found = from_names(outcome.gradients)
        gradients = learning_rate.describe(found, parameters, search, config.activation)
    columns = describe.describe_column(data.x), describe.describe_column(data.y)
    return Record(
        schema=SCHEMA_VERSION,
        run_name=config.run_name,
        created=describe.now(),
        config=Config.model_validate(config.as_json()),
        sources=sources,
        dataset=Dataset(
            path=os.path.abspath(config.dataset),
            rows=outcome.samples,
            sha256=data.sha256 if outcome.processes == 1 else None,
            digest=data.sha256 if outcome.processes > 1 else None,
            x=columns[0],
            y=columns[1],
        ),
        scaling=ScalingPart(
            statistics_of="the samples used",
            x=Scale(shift=scales["x"].shift, factor=scales["x"].factor),
            y=Scale(shift=scales["y"].shift, factor=scales["y"].factor),
        ),
        scaled=parts.Scaled(
            x=describe.scale_summary(config.scaling, columns[0]),
            y=describe.scale_summary(config.scaling, columns[1]),
        ),
        device=Device(
            platform=outcome.platform,
            kind=outcome.kind,
            devices=outcome.devices,
            processes=outcome.processes,
            matmul_precision="highest",
        ),
        versions=describe.describe_versions(),
        iterations=config.num_epochs * outcome.batches,
        epochs=outcome.epochs,
        loss=loss,
        loss_in_data_units=loss * square,  # not rounded to float32, which might not hold it
        tensors=tensors,
        parameters=described_parameters,
        units=describe_units(values, config.activation, ends, some),
        first_nonfinite=None
        if outcome.first_nonfinite is None
        else FirstNonfinite.model_validate(outcome.first_nonfinite),
        gradients=gradients,
        findings=(),
        context=describe.describe_context(
            loss,
            float(data.y.std) ** 2 / square if square else 0.0,
            data.noise_floor / square if square else 0.0,
        ),
        verification=None if outcome.verification is None else Verification.model_validate(outcome.verification),
        formats=(
            *(entry for t in tensors[:3] for entry in formats.describe(t.name, spreads[t.name], t.min, t.max)),
            *(
                entry
                for p in described_parameters
                for entry in formats.describe(p.name, distribution.take(values[p.name]), p.min, p.max)
            ),
        ),
        # A process of several that has a part of the samples cannot tell.
        samples=describe.take_samples(data.source, search, parameters, config.activation, scales["y"])
        if data.source.count == search.count == outcome.samples
        else None,
        timing=Timing(
            compile_seconds=outcome.compile_seconds,
            epoch_seconds=seconds,
            samples_per_second=outcome.samples / seconds,
        ),
    )
