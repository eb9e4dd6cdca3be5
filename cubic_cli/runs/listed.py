"""What the list of runs shows of a record, read without the rest: a folder of 500 runs is 23 MB of figures."""

from pydantic import BaseModel, ConfigDict

from cubic_cli.config import Activation, Initializer, Scaling
from cubic_cli.runs.values import Count, Flag, Number, Positive, Text


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Settings(_Part):
    """The settings by which runs are told apart."""

    hidden_size: Positive
    batch_size: Positive
    num_epochs: Positive
    initializer: Initializer | None
    parameters: Text | None = None
    activation: Activation
    scaling: Scaling
    seed: Count


class Samples(_Part):
    """How many samples a run used."""

    rows: Positive


class Fit(_Part):
    """How well the network fits."""

    r_squared: Number | None


class Backend(_Part):
    """What computed the run."""

    platform: Text


class Verdict(_Part):
    """Whether the run is verified."""

    passed: Flag


class Listed(_Part):
    """The parts of a record that the list shows; they are named, and may stand, as in `record.Record`."""

    created: Text
    config: Settings
    dataset: Samples
    device: Backend
    loss: Number
    loss_in_data_units: Number
    context: Fit
    verification: Verdict | None
