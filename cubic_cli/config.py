"""What a command is asked to do: the settings, each declared once, and the parsers that hold them to their limits.

To add a setting, add its field to a dataclass here: flag, variable, help and the check of its value follow from it.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cubic_cli.errors import UsageError


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


MAX_RUN_NAME = 100
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Names that Windows gives to devices, with or without an extension.
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{i}" for port in ("COM", "LPT") for i in range(1, 10))}


def suggestion(found: str, accepted: Iterable[str]) -> str:
    """Return `; did you mean …?` for what is nearly one of the accepted words, and nothing for anything else."""
    near = difflib.get_close_matches(found, list(accepted), n=1)
    return f"; did you mean {str(near[0])!r}?" if near else ""


Word = TypeVar("Word", bound=StrEnum)


def parse_choice(words: type[Word]) -> Callable[[str], Word]:
    """Return a parser of one of the `words`."""

    def choice(text: str) -> Word:
        try:
            return words(text)
        except ValueError:
            raise ValueError(f"expected one of {', '.join(words)}{suggestion(text, words)}") from None

    return choice


_BOOLEANS = dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True)
_BOOLEANS |= dict.fromkeys(("false", "f", "no", "n", "off", "0"), False)


def parse_boolean(text: str) -> bool:
    """Return what a boolean word says, in any case.

    Raises:
        ValueError: it is none.
    """
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError("expected a boolean word: true, false, yes, no, on, off, 1, 0") from None


def parse_size(text: str) -> float:
    """Return a finite decimal number of at least 0; stricter than `float`, which takes `1_0`, ` 1` and `inf`.

    Raises:
        ValueError: it is none.
    """
    if not _DECIMAL.fullmatch(text) or not (value := float(text)) < float("inf"):
        raise ValueError("expected a finite number of at least 0")
    return value


_DECIMAL = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def check_column(name: str) -> str:
    """Return `name` if a column may bear it.

    Raises:
        ValueError: it is empty.
    """
    if not name.strip():
        raise ValueError("expected the name of a column")
    return name


def check_run_name(name: str) -> str:
    """Return `name` if a run may bear it.

    Raises:
        ValueError: the name could leave the artifact folder or is no portable file name.
    """
    wanted = (
        f"a run name has 1 to {MAX_RUN_NAME} ASCII letters, digits, '.', '_' or '-', and starts with a letter or digit"
    )
    if not _RUN_NAME.fullmatch(name) or len(name) > MAX_RUN_NAME:
        raise ValueError(wanted)
    if name.endswith("."):
        raise ValueError(f"{wanted}; it does not end with a dot")
    if name.split(".")[0].upper() in _RESERVED:
        raise ValueError(f"{wanted}; Windows reserves this one")
    return name


def check_dataset(path: str) -> str:
    """Return `path` if it names a CSV or Parquet file.

    Raises:
        ValueError: the path ends in neither `.csv` nor `.parquet`, or no file system takes it.
    """
    if Path(path).suffix.lower() not in (".csv", ".parquet") or "\0" in path:
        raise ValueError("expected a path that ends in .csv or .parquet")
    return path


def check_address(text: str) -> str:
    """Return `text` if it is `host:port`; an IPv6 address stands in brackets.

    Raises:
        ValueError: it is not.
    """
    match = re.fullmatch(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.%]+\]):([0-9]{1,5})", text := text.strip())
    if not match or not 1 <= int(match[2]) <= 65535:
        raise ValueError("expected host:port, the address of process 0, as in 10.0.0.1:1234")
    return text


def parse_count_or_all(text: str) -> int | None:
    """Return a count, None for `all`.

    Raises:
        ValueError: neither `all` nor an integer of at least 1.
    """
    if text.lower() == "all":
        return None
    return parse_integer(1, accepted="an integer of at least 1, or 'all'")(text)


def conversion(path: Path) -> str:
    """Return the two lines that make a file of parameters of a pickle, which runs whatever code it holds."""
    target = path.with_suffix(".safetensors").name
    return (
        "a pickle runs code when it is read; convert it once, in Python, with PyTorch:\n"
        "    import torch, safetensors.torch\n"
        f"    safetensors.torch.save_file(torch.load({path.name!r}, weights_only=True), {target!r})"
    )


def check_parameters(path: str) -> str:
    """Return `path` if it names a file of parameters.

    Raises:
        ValueError: its ending is another; for a pickle of PyTorch's it says how to convert it.
    """
    ending = Path(path).suffix.lower()
    if ending in (".pt", ".pth", ".pkl", ".bin"):
        raise ValueError(conversion(Path(path)))
    if ending not in (".safetensors", ".json") or "\0" in path:
        raise ValueError("expected a path that ends in .safetensors or .json")
    return path


def check_folder(path: str) -> str:
    """Return `path` if it names a folder, there or not.

    Raises:
        ValueError: it is empty, or no file system takes it.
    """
    if not path or "\0" in path:
        raise ValueError("expected a folder")
    return path


def parse_integer(low: int, high: int = 2**63 - 1, accepted: str = "") -> Callable[[str], int]:
    """Return a parser of whole numbers from `low` to `high`; stricter than `int`, which takes `1_0`, ` 1` and `+1`."""
    unlimited = high == 2**63 - 1
    accepted = accepted or (f"an integer of at least {low}" if unlimited else f"an integer from {low} to {high}")

    def integer(text: str) -> int:
        if not re.fullmatch(r"[0-9]+", text):
            raise ValueError(f"expected {accepted}")
        value = int(text) if len(text) <= 40 else 2**63
        if value > high and unlimited:
            raise ValueError(f"expected {accepted}, and at most {high}")
        if not low <= value <= high:
            raise ValueError(f"expected {accepted}")
        return value

    return integer


# --- the settings ---------------------------------------------------------------------------------------------------

DATA, NETWORK, RUN, CHECKS, MACHINES = "Data", "Network", "Run", "Checks", "Many machines"  # what a setting is about


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


def _setting(default: Any, parse: Callable[[str], Any], metavar: str, panel: str, help: str, *flags: str) -> Any:
    return field(default=default, metadata={"setting": Setting(parse, metavar, panel, help, flags)})


def _path(default: str | None, parse: Callable[[str], Any], metavar: str, panel: str, help: str) -> Any:
    return field(default=default, metadata={"setting": Setting(parse, metavar, panel, help, is_path=True)})


def _choice(default: Word, panel: str, help: str) -> Any:
    words = tuple(type(default))
    help = f"{help} {', '.join(words[:-1])} or {words[-1]}."
    return field(
        default=default, metadata={"setting": Setting(parse_choice(type(default)), "NAME", panel, help, words=words)}
    )


def _switch(default: bool, panel: str, help: str, flag: str) -> Any:
    return _setting(default, parse_boolean, "", panel, help, f"--{flag}/--no-{flag}")


_count = parse_integer(1)
_seed = parse_integer(0, 2**32 - 1)


@dataclass(frozen=True)
class GenerateConfig:
    """What `cubic generate` is asked to do."""

    num_dataset: int = _setting(100_000, _count, "INT", DATA, "Write this many rows.", "--n", "--num-dataset")
    dataset: str = _path("data.csv", check_dataset, "PATH", DATA, "Use this .csv or .parquet file.")
    noise_std: float = _setting(10.0, parse_size, "FLOAT", DATA, "Add noise of this std to y.")
    seed: int = _setting(0, _seed, "INT", DATA, "Draw with this seed.")


@dataclass(frozen=True)
class ForwardConfig:
    """What `cubic forward` is asked to do. `num_samples` None means all of them.

    `dataset` is empty where the samples are arrays. `initializer` is None where the `parameters` are those of a file;
    `hidden_size` is the file's then.
    """

    dataset: str = _path("data.csv", check_dataset, "PATH", DATA, "Use this .csv or .parquet file.")
    x_column: str = _setting("x", check_column, "NAME", DATA, "Read x from this column.", "--x")
    y_column: str = _setting("y", check_column, "NAME", DATA, "Read y from this column.", "--y")
    seed: int = _setting(0, _seed, "INT", DATA, "Draw with this seed.")
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
    run_name: str = _setting("default_run", check_run_name, "NAME", RUN, "The run has this name.")
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
