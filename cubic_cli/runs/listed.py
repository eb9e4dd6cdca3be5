"""What the list of runs shows of a record, read without the rest: a folder of 500 runs is 23 MB of figures."""

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from cubic_cli.config import Activation, Initializer, Scaling
from cubic_cli.errors import RunError
from cubic_cli.runs.damage import describe
from cubic_cli.runs.files import RECORD, rerun_hint
from cubic_cli.runs.store import load_document
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


def load_listed(folder: Path) -> Listed:
    """Return what the list shows of the run in `folder`; the rest of its record is not looked at.

    Raises:
        RunError: there is no run, or what is listed is damaged or of a later schema.
    """
    document = load_document(folder)
    try:
        return Listed.model_validate(document)
    except ValidationError as error:
        found = describe(error.errors(include_url=False)[0], document)
    raise RunError(f"{folder / RECORD} is damaged: {found}; {rerun_hint(folder)}")


def list_runs(artifact_dir: Path) -> Iterator[tuple[str, Listed | str]]:
    """Yield all runs in `artifact_dir` by name: the name, and what is listed or, where that is damaged, what is wrong.

    A run's name is that of its folder, by which it is found, though it may have been copied or renamed.

    Raises:
        RunError: `artifact_dir` is a file, or a link to what is not there, or cannot be looked into.
    """
    if not artifact_dir.is_dir():
        if os.path.lexists(artifact_dir):
            raise RunError(f"{artifact_dir} is no folder of runs; name another with --artifact-dir")
        return
    for folder in sorted(p for p in artifact_dir.iterdir() if p.is_dir() and not p.name.startswith(".")):
        try:
            yield folder.name, load_listed(folder)
        except RunError as error:
            yield folder.name, str(error)
