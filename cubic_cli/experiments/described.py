"""What a run starts from and what it saw, and the record that is made of both."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cubic_cli.analysis import describe, distribution, findings, formats, learning_rate
from cubic_cli.analysis.scaled import scale_summary
from cubic_cli.analysis.units import describe_units
from cubic_cli.config import ForwardConfig
from cubic_cli.data.parameters_file import NetworkFile
from cubic_cli.data.scaling import Scale
from cubic_cli.data.source import Arrays, Ingested, Source, spread
from cubic_cli.experiments import adopted
from cubic_cli.float32 import TENSORS, shortest
from cubic_cli.parameters import Parameters, by_name
from cubic_cli.reference import verify
from cubic_cli.runs import record as parts
from cubic_cli.runs.history import History
from cubic_cli.runs.record import Epoch, Record
from cubic_cli.statistics import EMPTY, Statistics, merge

if TYPE_CHECKING:
    from cubic_cli.engine.observed import Chunk
    from cubic_cli.engine.passes import Pass


@dataclass(frozen=True)
class Inputs:
    """What a run starts from: its settings and where each came from, the samples, and the parameters.

    `data` are the samples as they were read, `source` as the network gets them, by the two scales. `network` is the
    file that gave the parameters, if one did; these are NumPy arrays, float32.
    """

    config: ForwardConfig
    sources: dict[str, str]
    data: Ingested
    source: Source
    scale_x: Scale
    scale_y: Scale
    network: NetworkFile | None
    parameters: Parameters


@dataclass
class Observations:
    """What a run sees, from epoch to epoch.

    The `tensors`, and the first batch, from 0, that holds a value that is not finite, are of the first epoch: nothing
    changes after it. `verdict` and `gradients` are None where they were not asked for.
    """

    passing: "Pass"
    history: History
    epochs: list[Epoch] = field(default_factory=list)
    tensors: dict[str, Statistics] = field(default_factory=lambda: dict.fromkeys(TENSORS, EMPTY))
    first_nonfinite: int | None = None
    verdict: verify.Verdict | None = None
    gradients: Parameters | None = None

    def record(self, number: int, chunks: "Iterable[Chunk]") -> float:
        """Record the chunks of an epoch, and return its loss."""
        total, seconds = 0.0, 0.0
        for chunk in chunks:
            self.history.add(number, chunk.columns)
            seconds += chunk.seconds
            total += chunk.squared_error
            if chunk.tensors is not None:
                self.tensors = {name: merge(seen, chunk.tensors[name]) for name, seen in self.tensors.items()}
                if self.first_nonfinite is None and chunk.columns["nonfinite"].any():
                    self.first_nonfinite = chunk.first_batch + int(np.argmax(chunk.columns["nonfinite"] > 0))
        with np.errstate(over="ignore"):
            loss = shortest(total / self.passing.source.count)
        self.epochs.append(Epoch(epoch=number, loss=loss, seconds=seconds))
        return loss

    def of_batches(self, batches: NDArray[np.int64], samples: Arrays) -> verify.Seen:
        """Return what the devices said of some batches; `samples` are those of them."""
        every = len(batches) == self.history.batches
        # The statistics of a spread of batches: they once more, alone, through the same program.
        tensors = self.tensors if every else self.passing.observe(samples.x, samples.y)
        loss = self.epochs[0].loss if every else None
        alike = self.history.deterministic and len({repr(epoch.loss) for epoch in self.epochs}) == 1
        return verify.Seen(self.history.take(batches), tensors, loss, alike)


def describe_run(inputs: Inputs, seen: Observations) -> Record:
    """Return the record, with its findings."""
    config, data, source, parameters = inputs.config, inputs.data, inputs.source, inputs.parameters
    scale_x, scale_y, devices = inputs.scale_x, inputs.scale_y, seen.passing.devices
    batch, losses = seen.passing.batch, seen.history.losses
    square = scale_y.factor**2
    loss = seen.epochs[0].loss
    seconds = float(np.median([epoch.seconds for epoch in seen.epochs]))
    spread_x, _ = spread(source)
    named = by_name(parameters)
    spreads = distribution.take_tensors(parameters, config.activation, spread_x)
    spreads |= {name: distribution.take(array) for name, array in named.items()}
    flops = describe.count_flops(batch, config.hidden_size)
    widths = {"z1": config.hidden_size, "a1": config.hidden_size, "z2": 1}
    tensors = [
        describe.describe_tensor(name, (batch, width), flops[name], seen.tensors[name], spreads[name])
        for name, width in widths.items()
    ]
    arrays = [describe.describe_parameter(name, array, spreads[name]) for name, array in named.items()]
    entries: list[parts.Tensor | parts.Parameter] = [*tensors, *arrays]
    ends = scale_x.apply(
        np.array([-np.inf if data.x.neginf else data.x.min, np.inf if data.x.posinf else data.x.max], np.float32)
    )
    columns = describe.describe_column(data.x), describe.describe_column(data.y)
    processes = len({device.process_index for device in devices})
    nonfinite = None
    if seen.first_nonfinite is not None:
        nonfinite = describe.find_first_nonfinite(seen.first_nonfinite, parameters, source, config)
    gradients = None
    if seen.gradients is not None:
        gradients = learning_rate.describe(seen.gradients, parameters, source, config.activation)
    record = Record(
        schema=parts.SCHEMA_VERSION,
        run_name=config.run_name,
        created=describe.now(),
        config=parts.Config.model_validate(config.as_json()),
        sources=inputs.sources,
        dataset=parts.Dataset(
            path=os.path.abspath(config.dataset) if config.dataset else None,
            rows=source.count,
            sha256=data.sha256 if processes == 1 else None,
            digest=data.sha256 if processes > 1 else None,
            x=columns[0],
            y=columns[1],
        ),
        parameters_file=None if inputs.network is None else adopted.describe(inputs.network),
        scaling=parts.ScalingPart(
            statistics_of="the samples used",
            x=parts.Scale(shift=scale_x.shift, factor=scale_x.factor),
            y=parts.Scale(shift=scale_y.shift, factor=scale_y.factor),
        ),
        scaled=parts.Scaled(
            x=scale_summary(config.scaling, columns[0]),
            y=scale_summary(config.scaling, columns[1]),
        ),
        device=parts.Device(
            platform=devices[0].platform,
            kind=devices[0].device_kind,
            devices=len(devices),
            processes=processes,
            matmul_precision="highest",
        ),
        versions=describe.describe_versions(),
        iterations=config.num_epochs * losses.size,
        epochs=tuple(seen.epochs),
        loss=loss,
        loss_in_data_units=loss * square,  # not rounded to float32, which might not hold it
        tensors=(*tensors, describe.describe_losses(losses, flops["loss"])),
        parameters=tuple(arrays),
        units=describe_units(parameters, config.activation, ends, spread_x),
        first_nonfinite=nonfinite,
        gradients=gradients,
        findings=(),
        context=describe.describe_context(
            loss,
            (float(data.y.std) ** 2 / square if square else 0.0) if data.y.count else None,
            data.noise_floor / square if square else 0.0,
        ),
        verification=None if seen.verdict is None else describe.describe_verdict(seen.verdict),
        formats=tuple(
            format for of in entries for format in formats.describe(of.name, spreads[of.name], of.min, of.max)
        ),
        samples=describe.take_samples(data.source, source, parameters, config.activation, scale_y),
        timing=parts.Timing(
            compile_seconds=seen.passing.clock.compile_seconds,
            epoch_seconds=seconds,
            samples_per_second=source.count / seconds,
        ),
    )
    return record.model_copy(update={"findings": findings.find(record)})
