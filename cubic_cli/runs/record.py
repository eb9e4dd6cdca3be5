"""The record of a run, `run.json`: one typed definition, of which writer, reader's checks and JSON Schema are made.

Schema 2. What 1 did not have may be missing, so that records of both are read by the same models. What a later version
or someone else added is kept, and not looked at.
"""

import itertools
import json
import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from cubic_cli.config import Activation, Initializer, Scaling
from cubic_cli.runs.values import Count, Flag, NotNegative, Number, Part, Positive, Text, Value, damage

SCHEMA_VERSION: Literal[2] = 2


class Config(Part):
    """What the run was asked for; `num_samples` is a number or `all`."""

    hidden_size: Positive
    batch_size: Positive
    num_epochs: Positive
    num_samples: Positive | Literal["all"]
    seed: Count
    initializer: Initializer | None  # null for parameters from a file
    activation: Activation
    scaling: Scaling
    dataset: Text | None  # null for samples from arrays
    x_column: Text = "x"
    y_column: Text = "y"
    parameters: Text | None = None
    run_name: Text
    artifact_dir: Text = "model"
    device: Text = "auto"
    verify: Flag = True
    gradients: Flag = False
    fail_on: tuple[Text, ...] = ()


class Summary(Part):
    """The range, mean and population standard deviation of finite values; NaN where there is none."""

    min: Number
    max: Number
    mean: Number
    std: Number


class Column(Summary):
    """A column of the dataset; the counts are of what is not finite (schema 2)."""

    min: Value
    max: Value
    mean: Value
    std: Value
    nan: Count = 0
    posinf: Count = 0
    neginf: Count = 0


class Dataset(Part):
    """The samples used. `sha256` is over them, float32, little-endian, x and y in turn, row by row."""

    path: Text | None
    rows: Positive
    sha256: Text | None
    digest: Text | None = None  # of a distributed run: what its processes agreed on
    x: Column
    y: Column

    @property
    def identity(self) -> str | None:
        """The SHA-256 of the samples, be the run distributed or not; None where the record has none."""
        return self.sha256 or self.digest


class ParametersFile(Part):
    """The file that the parameters came from."""

    path: Text | None
    sha256: Text
    dtype: Text


class Scale(Part):
    """The network got `(v − shift) / factor`; a factor of 0 stands for a constant column, which becomes 0."""

    shift: Number
    factor: Number


class ScalingPart(Part):
    """How both columns were scaled."""

    statistics_of: Text
    x: Scale
    y: Scale


class Scaled(Part):
    """Both columns as the network got them (schema 2)."""

    x: Summary
    y: Summary


class Device(Part):
    """What computed the run; `devices` counts JAX's devices in use, virtual ones too."""

    platform: Text
    kind: Text
    devices: Positive
    processes: Positive
    matmul_precision: Text


class Epoch(Part):
    """One epoch: its loss over the samples, and its time until the figures were on the host."""

    epoch: Positive
    loss: Number
    seconds: NotNegative


class Histogram(Part):
    """Counts between rising edges; zeros are left out in schema 2."""

    edges: tuple[Number, ...]
    counts: tuple[Count, ...]

    @model_validator(mode="after")
    def _check(self) -> "Histogram":
        rises = all(a < b for a, b in itertools.pairwise(self.edges))
        if not (rises and all(map(math.isfinite, self.edges)) and len(self.edges) == len(self.counts) + 1):
            raise damage("not made of rising edges and a count between each two")
        return self


class Exponents(Part):
    """Bin k counts the values with 2^(first+k) ≤ |v| < 2^(first+k+1); zeros are left out."""

    first: Annotated[int, Field(strict=True)]
    negative: tuple[Count, ...]
    positive: tuple[Count, ...]

    @model_validator(mode="after")
    def _check(self) -> "Exponents":
        if len(self.negative) != len(self.positive):
            raise damage("not made of two lists of one length")
        return self


class Tensor(Part):
    """A tensor over one epoch. `min` to `std` are over its finite values, null where there is none.

    `bytes` and `flops` are of the recorded shape; quantiles, histogram, exponents and the `smallest` non-zero magnitude
    are over an even spread of samples.
    """

    name: Text
    label: Text
    shape: tuple[Count, ...]
    dtype: Text = "float32"
    min: Number | None
    max: Number | None
    mean: Number | None
    std: Number | None
    zeros: NotNegative  # a share
    nonfinite: Count
    nan: Count
    posinf: Count
    neginf: Count
    smallest: Number | None = None
    bytes: Count | None = None
    flops: Count | None = None
    quantiles: dict[str, Number] | None = None
    histogram: Histogram | None = None
    exponents: Exponents | None = None


def _check_tensors(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if [tensor.name for tensor in tensors] != ["z1", "a1", "z2", "loss"]:
        raise damage("not a list of z1, a1, z2 and loss")
    return tensors


class Parameter(Part):
    """One array of the network's parameters."""

    name: Text
    shape: tuple[Count, ...]
    dtype: Text
    count: Count
    min: Number
    max: Number
    mean: Number
    std: Number
    smallest: Number | None = None
    bytes: Count | None = None
    histogram: Histogram | None = None
    exponents: Exponents | None = None


class Units(Part):
    """The hidden layer over the samples: how its units differ, and the numerical rank of a1."""

    count: Count
    distinct: Count
    dead: Count
    always_on: Count
    rank: Count
    switching: Count | None = None  # units whose z1 takes both signs (schema 2)


class FirstNonfinite(Part):
    """Where the first value that is not finite arose; `row` is from 1 among the samples used."""

    tensor: Text
    epoch: Positive
    batch: Positive
    row: Positive
    cause: Text


class Gradient(Part):
    """The gradient of the loss by one parameter; `step_ratio` is null for a parameter of zeros."""

    name: Text
    shape: tuple[Count, ...]
    norm: Number | None
    min: Number | None
    max: Number | None
    step_ratio: Number | None


class Gradients(Part):
    """The gradients of the epoch's loss, and the largest step down them that does not raise it."""

    parameters: tuple[Gradient, ...]
    learning_rate: Number
    largest_learning_rate: Number | None


class Finding(Part):
    """What the numbers say: `value` beyond `limit`, and a sentence."""

    id: Text
    level: Text
    tensor: Text | None
    value: Number
    limit: Number
    text: Text


class Context(Part):
    """What the loss is compared with, in its units; null where the data do not tell it."""

    target_variance: Number | None
    r_squared: Number | None
    noise_floor: Number | None


class Failure(Part):
    """What differs from the reference, the first in the order of the data flow."""

    quantity: Text
    batch: Positive | None
    found: Number
    expected: Number
    relative_error: Number


class Verification(Part):
    """What came of recomputing the batches in NumPy float64, and of holding the epochs against each other."""

    reference: Text
    batches: Count
    max_relative_error: Number
    tolerance: Number
    deterministic: Flag
    passed: Flag
    failure: Failure | None = None


class Format(Part):
    """What a tensor would lose in fewer bits (schema 2)."""

    tensor: Text
    format: Text
    overflow: Number
    underflow: Number
    median_error: Number | None
    scale: Number | None
    scaled_underflow: Number | None


class Sample(Part):
    """One sample in data units; `row` is from 1 among the samples used (schema 2)."""

    row: Positive
    x: Number
    y: Number
    z2: Number


class Timing(Part):
    """`epoch_seconds` is the median."""

    compile_seconds: NotNegative
    epoch_seconds: NotNegative
    samples_per_second: NotNegative


class Record(Part):
    """All that is known of a run."""

    version: Literal[1, 2] = Field(alias="schema")
    run_name: Text
    created: Text
    config: Config
    sources: dict[str, Text]
    dataset: Dataset
    parameters_file: ParametersFile | None = None
    scaling: ScalingPart | None = None
    scaled: Scaled | None = None
    device: Device
    versions: dict[str, Text]
    iterations: Positive
    epochs: tuple[Epoch, ...]
    loss: Number
    loss_in_data_units: Number
    tensors: Annotated[tuple[Tensor, ...], AfterValidator(_check_tensors)]
    parameters: tuple[Parameter, ...]
    units: Units
    first_nonfinite: FirstNonfinite | None
    gradients: Gradients | None = None
    findings: tuple[Finding, ...]
    context: Context
    verification: Verification | None
    formats: tuple[Format, ...] | None = None
    samples: tuple[Sample, ...] | None = None
    timing: Timing
    files: dict[str, Text] | None = None  # the SHA-256 of the run's other files, by their names (schema 2)

    def tensor(self, name: str) -> Tensor:
        """Return a tensor by its name."""
        return next(tensor for tensor in self.tensors if tensor.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Return the record as `run.json` says it, with floats for numbers that are not finite.

        What the file that it was read from did not say is not here either.
        """
        return self.model_dump(mode="json", by_alias=True, exclude_unset=self.version == 1)


def record_schema(version: Literal[1, 2] = SCHEMA_VERSION) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a run's record, as `run.json` and `--json` write it.

    Args:
        version: of the record, its `schema`.
    """
    # All that this version writes is required; 1 lacked what has a default.
    schema = Record.model_json_schema(mode="serialization" if version == SCHEMA_VERSION else "validation")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["schema"] = {"const": version}
    return schema


def to_json(document: Any) -> str:
    """Return any document as JSON; numbers that are not finite become the strings NaN, Infinity and -Infinity.

    It is ASCII, so that no stream spoils it, whatever its encoding, and a path of any bytes can be told.
    """
    if isinstance(document, Record):
        document = document.as_dict()
    try:
        return json.dumps(document, indent=2, allow_nan=False)
    except ValueError:
        return to_json(json.loads(json.dumps(document), parse_constant=str))
