"""A run from end to end: read, scale, run the epochs, verify, and write down what was seen."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cubic_cli.config import ForwardConfig, Scaling
from cubic_cli.data.parameters_file import NetworkFile
from cubic_cli.data.read import Tell, quietly, read_chunks
from cubic_cli.data.scaling import choose_scale
from cubic_cli.data.source import Arrays, Ingested, Scaled, Source, ingest
from cubic_cli.engine.compiler import undisturbed
from cubic_cli.engine.devices import keep_compiled, pick_devices
from cubic_cli.experiments import adopted
from cubic_cli.experiments.described import Inputs, Observations, describe_run
from cubic_cli.float32 import Float32
from cubic_cli.parameters import Parameters, by_name
from cubic_cli.reference import expected, verify
from cubic_cli.reference import gradients as reference_gradients
from cubic_cli.runs import store as runs
from cubic_cli.runs.files import HISTORY, PARAMETERS, SAMPLES, digest
from cubic_cli.runs.history import History
from cubic_cli.runs.record import Record

if TYPE_CHECKING:
    from cubic_cli.cluster.join import Group

Progress = Callable[[int, float], None]


def run(
    config: ForwardConfig,
    sources: dict[str, str],
    scratch: Path,
    data: Ingested,
    *,
    progress: Progress = lambda epoch, loss: None,
    group: "Group | None" = None,
    tell: Tell = quietly,
    network: NetworkFile | None = None,
    devices: list[Any] | None = None,
) -> tuple[Record, Float32]:
    """Run the forward pass as `config` asks, and write the run's files to `scratch`.

    Returns the record of the run, and the losses of the batches of its first epoch, `[K]`.

    A distributed run is this same run in every process of its group: all have the samples and see every figure, and
    each passes over its part on its own devices.

    Args:
        config: the settings; where there is a `network`, as `adopted.adopt` returns them.
        sources: where each came from.
        scratch: the folder for the run's files.
        data: the samples, as `read` gives them.
        progress: called with the number and the loss of each epoch.
        group: the processes of a distributed run.
        tell: takes lines for people.
        network: the parameters, where they are not those of the initialiser.
        devices: JAX's; where they are None, JAX is prepared and asked for them.

    Raises:
        DeviceError: the device is not there.
        PeerError: another process has other samples or parameters.
    """
    scales = choose_scale(config.scaling, data.x), choose_scale(config.scaling, data.y)
    source = data.source if config.scaling is Scaling.none else Scaled(data.source, *scales)
    if devices is None:
        keep_compiled()
        devices = pick_devices(config.device)
    parameters = draw_parameters(config) if network is None else network.parameters
    if group is not None:
        digests = {"the dataset's SHA-256": data.sha256, "the parameters' SHA-256": _sha256(parameters)}
        group.agree("data", {"rows": source.count, **digests})
    if network is not None:
        for line in adopted.remarks(config, sources, network, *scales):
            tell(line)
    inputs = Inputs(config, sources, data, source, *scales, network, parameters)
    with History(scratch) as history:
        seen = observe(inputs, devices, history, progress)
        history.write(scratch / HISTORY)
        record, losses = describe_run(inputs, seen), history.losses
    runs.write_parameters(scratch, by_name(parameters), adopted.metadata(config, *scales))
    record = record.model_copy(update={"files": {name: digest(scratch / name) for name in (HISTORY, PARAMETERS)}})
    runs.write_record(scratch, record)
    return record, losses


def read(
    config: ForwardConfig, scratch: Path, tell: Tell = quietly, progress: Callable[[int], None] = lambda rows: None
) -> Ingested:
    """Read the samples that `config` names; more than the memory is to hold are kept in `scratch`.

    `progress` is called with how many rows more were read.

    Raises:
        DatasetError: the dataset cannot be read.
    """
    columns = (config.x_column, config.y_column)
    return ingest(read_chunks(Path(config.dataset), config.num_samples, columns, tell), scratch / SAMPLES, progress)


def draw_parameters(config: ForwardConfig) -> Parameters:
    """Return the first parameters, as NumPy arrays."""
    from cubic_cli.network import initialise

    assert config.initializer is not None
    with undisturbed():
        return Parameters(*map(np.asarray, initialise(config.initializer, config.hidden_size, config.seed)))


def _sha256(parameters: Parameters) -> str:
    """Return the SHA-256 of the parameters' bytes, little-endian, in their order."""
    return hashlib.sha256(b"".join(array.astype("<f4").tobytes() for array in parameters)).hexdigest()


def observe(inputs: Inputs, devices: list[Any], history: History, progress: Progress) -> Observations:
    """Run the epochs, verify them, and measure the gradients, as the settings ask.

    Args:
        inputs: of the run.
        devices: JAX's.
        history: takes the rows of every epoch.
        progress: called with the number and the loss of each epoch.

    Raises:
        OSError: the history has no room beside the run.
    """
    from cubic_cli.engine.passes import Pass

    config, source, parameters = inputs.config, inputs.source, inputs.parameters
    batch, activation = config.batch_size, config.activation
    batches = verify.choose_batches(source.count, batch)
    samples = _read_batches(source, batch, batches) if config.verify else None
    with ThreadPoolExecutor(1) as pool:  # the reference is computed while XLA compiles
        reference = (
            pool.submit(expected.compute, parameters, samples.x, samples.y, batch, activation) if samples else None
        )
        seen = Observations(Pass(parameters, source, batch, activation, devices), history)
        for number, chunks in groupby(seen.passing.run(config.num_epochs), lambda chunk: chunk.epoch):
            progress(number, seen.record(number, chunks))
        if samples and reference:
            seen.verdict = verify.verify(reference.result(), seen.of_batches(batches, samples), batches)
    if config.gradients:
        from cubic_cli.engine.gradients import measure

        seen.gradients = measure(parameters, source, activation, devices)
        if samples and seen.verdict:
            every = samples.count == source.count
            of_samples = seen.gradients if every else measure(parameters, samples, activation, devices)
            by_hand = reference_gradients.compute(parameters, samples.x, samples.y, activation)
            seen.verdict = seen.verdict.joined(*reference_gradients.verify(of_samples, by_hand))
    return seen


def _read_batches(source: Source, batch_size: int, batches: NDArray[np.int64]) -> Arrays:
    """Return the samples of some batches, one after the other."""
    if len(batches) == -(-source.count // batch_size):
        return Arrays(*source.read(0, source.count))
    parts = [source.read(k * batch_size, min((k + 1) * batch_size, source.count)) for k in batches.tolist()]
    return Arrays(*(np.concatenate(column) for column in zip(*parts, strict=True)))
