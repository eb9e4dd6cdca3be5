"""What a command is asked to do: the settings, each declared once.

To add a setting, add its field to a dataclass here: flag, variable, help and the check of its value follow from it.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, NamedTuple

from cubic_cli.errors import UsageError
from cubic_cli.parsers import (
    check_address,
    check_column,
    check_dataset,
    check_folder,
    check_parameters,
    check_run_name,
    expand_home,
    parse_boolean,
    parse_choice,
    parse_count_or_all,
    parse_integer,
    parse_size,
)


class Initializer(StrEnum):
    """How the parameters get their first values."""

    ones = "ones"
    zeros = "zeros"
    glorot_uniform = "glorot_uniform"
    glorot_normal = "glorot_normal"
    he_uniform = "he_uniform"
    he_normal = "he_normal"


class Activation(StrEnum):
    """The function of the hidden layer."""

    relu = "relu"
    leaky_relu = "leaky_relu"
    gelu = "gelu"
    tanh = "tanh"
    identity = "identity"


class Scaling(StrEnum):
    """How x and y are rescaled before the pass."""

    none = "none"
    minmax = "minmax"
    standard = "standard"


class Device(StrEnum):
    """The JAX backend: `auto` is the one JAX prefers."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"
    tpu = "tpu"


# What a setting is about.
DATA, NETWORK, RUN, SHOW, CHECKS, MACHINES = "Data", "Network", "Run", "Show", "Checks", "Many machines"


class Setting(NamedTuple):
    """How a setting is given: by its field's name as a flag, and in capitals as a variable.

    `parse` raises `ValueError` for what it does not take. The path of an `is_path` in a `.env` is relative to that
    file's folder.
    """

    parse: Callable[[str], Any]
    metavar: str
    panel: str
    help: str
    flags: tuple[str, ...] = ()
    is_path: bool = False
    words: tuple[str, ...] = ()  # all that is accepted, where these are words


def _setting(
    default: Any, parse: Callable[[str], Any], metavar: str, panel: str, help: str, *flags: str, **more: Any
) -> Any:
    return field(default=default, metadata={"setting": Setting(parse, metavar, panel, help, flags, **more)})


def _path(default: str | None, check: Callable[[str], str], *more: str) -> Any:
    return _setting(default, lambda text: check(expand_home(text)), *more, is_path=True)


def _choice(default: StrEnum, panel: str, help: str) -> Any:
    words = tuple(type(default))
    help = f"{help} {', '.join(words[:-1])} or {words[-1]}."
    return _setting(default, parse_choice(type(default)), "NAME", panel, help, words=words)


def _switch(default: bool, panel: str, help: str, flag: str) -> Any:
    return _setting(default, parse_boolean, "", panel, help, f"--{flag}/--no-{flag}")


_count = parse_integer(1)
# Of generate and of forward alike.
_dataset = functools.partial(_path, "data.csv", check_dataset, "PATH", DATA, "Use this .csv or .parquet file.")
_seed = functools.partial(_setting, 0, parse_integer(0, 2**32 - 1), "INT", DATA, "Draw with this seed.")


@dataclass(frozen=True)
class GenerateConfig:
    """What `cubic generate` is asked to do."""

    num_dataset: int = _setting(100_000, _count, "INT", DATA, "Write this many rows.", "--n", "--num-dataset")
    dataset: str = _dataset()
    noise_std: float = _setting(10.0, parse_size, "FLOAT", DATA, "Add noise of this std to y.")
    seed: int = _seed()


@dataclass(frozen=True)
class ForwardConfig:
    """What `cubic forward` is asked to do. `num_samples` None means all of them.

    `dataset` is empty where the samples are arrays. `initializer` is None where the `parameters` are those of a file;
    `hidden_size` is the file's then.
    """

    dataset: str = _dataset()
    x_column: str = _setting("x", check_column, "NAME", DATA, "Read x from this column.", "--x")
    y_column: str = _setting("y", check_column, "NAME", DATA, "Read y from this column.", "--y")
    seed: int = _seed()
    num_samples: int | None = _setting(
        1000, parse_count_or_all, "INT|all", DATA, "Use at most this many of the first rows, or all."
    )
    parameters: str | None = _path(
        None, check_parameters, "FILE", NETWORK, "Take the parameters, and so H, from this .safetensors or .json file."
    )
    hidden_size: int = _setting(64, _count, "INT", NETWORK, "Give the hidden layer H units.")
    initializer: Initializer | None = _choice(Initializer.ones, NETWORK, "Initialise the parameters by")
    activation: Activation = _choice(Activation.relu, NETWORK, "Activate the hidden layer by")
    scaling: Scaling = _choice(Scaling.none, NETWORK, "Scale x and y by")
    batch_size: int = _setting(10, _count, "INT", RUN, "Take B samples in a batch.")
    num_epochs: int = _setting(10, _count, "INT", RUN, "Pass over the samples this often.")
    run_name: str = _setting("default_run", check_run_name, "NAME", RUN, "Use this name for the run.")
    device: Device = _choice(Device.auto, RUN, "Compute on")
    artifact_dir: str = _path("model", check_folder, "FOLDER", RUN, "The runs are in this folder.")
    verify: bool = _switch(True, CHECKS, "Compute it again in NumPy float64, and compare.", "verify")
    gradients: bool = _switch(False, CHECKS, "Measure the gradients and the largest learning rate.", "gradients")
    # What ids there are is known where the findings are.
    fail_on: tuple[str, ...] = _setting((), str, "ID", CHECKS, "Exit 1 if the run has one of these findings.")

    def __post_init__(self) -> None:
        """Refuse one column for both."""
        if self.x_column == self.y_column:
            raise UsageError(f"--x and --y both name the column {self.x_column!r}; expected two columns")

    def as_json(self) -> dict[str, object]:
        """Return the settings as the record's `config` holds them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["num_samples"] = "all" if self.num_samples is None else self.num_samples
        values["fail_on"] = list(self.fail_on)
        values["dataset"] = self.dataset or None
        return values


# The settings that a sweep may vary, the slowest first, and what stands before their values in a run's name.
AXES = {"hidden_size": "h", "batch_size": "b", "initializer": "", "activation": "", "scaling": "", "seed": "s"}


@dataclass(frozen=True)
class ProcessAddress:
    """Where a process of a distributed run stands: the address of process 0, how many there are, which one it is."""

    coordinator_address: str
    num_processes: int
    process_id: int


@dataclass(frozen=True)
class ProcessConfig:
    """What a process is told of its place; all is None where JAX is to find it in a cluster's environment."""

    coordinator_address: str | None = _setting(
        None,
        check_address,
        "ADDR",
        MACHINES,
        "Meet process 0 at this host:port. On a cluster JAX finds this and the next two by itself.",
    )
    num_processes: int | None = _setting(None, _count, "INT", MACHINES, "Expect this many processes.")
    process_id: int | None = _setting(None, parse_integer(0), "INT", MACHINES, "Be this process, from 0.")

    def choose(self) -> ProcessAddress | None:
        """Return the place, None where it is left to JAX.

        Raises:
            UsageError: some of the three are missing, or there is no such process.
        """
        address, processes, process_id = self.coordinator_address, self.num_processes, self.process_id
        missing = [each.name.upper() for each in fields(self) if getattr(self, each.name) is None]
        if address is None or processes is None or process_id is None:
            if len(missing) == len(fields(self)):
                return None
            names = ", ".join(each.name.upper() for each in fields(self))
            raise UsageError(f"{names} go together, all or none; not set: {', '.join(missing)}")
        if process_id >= processes:
            raise UsageError(
                f"PROCESS_ID / --process-id: found {process_id}; expected an integer from 0 to {processes - 1}, "
                f"for NUM_PROCESSES is {processes}"
            )
        return ProcessAddress(address, processes, process_id)


SETTINGS: dict[str, Setting] = {  # by variable
    "GENERATE_DATASET": Setting(parse_boolean, "", DATA, "Generate the dataset first.", ("--generate/--no-generate",)),
    **{
        each.name.upper(): each.metadata["setting"]
        for kind in (GenerateConfig, ForwardConfig, ProcessConfig)
        for each in fields(kind)
    },
}
