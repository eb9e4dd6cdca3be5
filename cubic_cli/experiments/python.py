"""`cubic_cli.forward`: a run from Python, of arrays or of a dataset, that leaves the process as it was."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cubic_cli.config import SETTINGS, Device, ForwardConfig
from cubic_cli.data.parameters_file import from_arrays, read_parameters
from cubic_cli.data.source import ingest
from cubic_cli.errors import CubicError, DeviceError, UsageError, no_memory
from cubic_cli.experiments import adopted, run
from cubic_cli.runs import store as runs
from cubic_cli.runs.files import SAMPLES
from cubic_cli.runs.run import Run


def forward(
    x: ArrayLike | Path,
    y: ArrayLike | None = None,
    *,
    hidden_size: int | None = None,
    batch_size: int = ForwardConfig.batch_size,
    num_epochs: int = ForwardConfig.num_epochs,
    num_samples: int | str | None = None,
    seed: int = ForwardConfig.seed,
    initializer: str | None = None,
    activation: str = ForwardConfig.activation,
    scaling: str = ForwardConfig.scaling,
    x_column: str = ForwardConfig.x_column,
    y_column: str = ForwardConfig.y_column,
    parameters: str | Path | Mapping[str, ArrayLike] | None = None,
    device: str = ForwardConfig.device,
    verify: bool = ForwardConfig.verify,
    gradients: bool = ForwardConfig.gradients,
    run_name: str | None = None,
    artifact_dir: str | Path = ForwardConfig.artifact_dir,
) -> Run:
    """Run the forward pass over arrays `x [N]` and `y [N]`, or over the dataset at the path `x`, and return the run.

        >>> run = cubic_cli.forward(x, y, initializer="he_normal", scaling="standard")
        >>> run.record["loss"], run.record["findings"]

    The settings are those of `cubic forward`, with their defaults, but that all samples of arrays are used. Nothing is
    read from the environment or a `.env`, nothing is said, and nothing is saved unless the run has a name; `folder` of
    one that is not saved is None. It works in any thread and where JAX is in use already, with the devices there are.

    Args:
        x: numbers, or the path of a .csv or .parquet file.
        y: numbers, as many; None where `x` is a path.
        hidden_size: H, 64 where no `parameters` give it.
        batch_size: B.
        num_epochs: how often the samples pass.
        num_samples: at most so many of the first samples, or "all"; 1000 of a file and all of arrays where it is None.
        seed: of the initialiser.
        initializer: makes the parameters; "ones" where there are no `parameters`.
        activation: of the hidden layer.
        scaling: of x and y.
        x_column: of the file.
        y_column: of the file.
        parameters: a .safetensors or .json file, or arrays by name as PyTorch's `state_dict` or a run has them.
        device: a backend of JAX.
        verify: compute it again in NumPy float64; whether it agreed stands in the record.
        gradients: measure them.
        run_name: save the run in `artifact_dir` under this name.
        artifact_dir: the folder of the runs.

    Raises:
        CubicError: it could not be done; says why and what to do.
    """
    given = dict(locals())
    try:
        return _forward(given)
    except CubicError:
        raise
    except Exception as error:
        if said := no_memory(error):
            raise CubicError(said) from error
        raise CubicError(*f"{type(error).__name__}: {error}".splitlines()) from error


def _forward(given: dict[str, Any]) -> Run:
    x, y, parameters = (given.pop(name) for name in ("x", "y", "parameters"))
    from_file = isinstance(x, str | Path)
    if from_file and y is not None:
        raise UsageError("forward: give two arrays, or the path of a dataset alone")
    if from_file:
        given["dataset"] = str(x)
    sources = {name: "default" if value is None else "argument" for name, value in given.items()}
    values = {name: _parse(name, value) for name, value in given.items() if value is not None}
    if not from_file:
        values |= {"dataset": "", "num_samples": values.get("num_samples")}
        if given["num_samples"] is None:  # arrays have no default to speak of
            del sources["num_samples"]
    network = None
    if parameters is not None:
        if given["initializer"] is not None:
            raise UsageError("forward: parameters and initializer both give the parameters; leave one of them out")
        mapped = isinstance(parameters, Mapping)
        network = from_arrays(parameters) if mapped else read_parameters(Path(parameters))
        if given["hidden_size"] not in (None, network.parameters.hidden_size):
            raise UsageError(
                f"hidden_size: found {given['hidden_size']}; the parameters have {network.parameters.hidden_size:,} "
                "hidden units: leave it out"
            )
        values["parameters"] = None if mapped else str(parameters)
    config = ForwardConfig(**values)
    if network is not None:
        config = adopted.adopt(config, network)
    devices = _devices(config.device)
    saves = given["run_name"] is not None
    folder = Path(config.artifact_dir) / config.run_name
    with runs.replacing(folder) if saves else tempfile.TemporaryDirectory(prefix="cubic-") as made:
        scratch = Path(made)
        if from_file:
            data = run.read(config, scratch)
        else:
            columns = _columns(x, y, config.num_samples)
            data = ingest(iter([columns]), scratch / SAMPLES)
        run.run(config, sources, scratch, data, network=network, devices=devices)
        if not saves:
            return Run.detached(scratch)
    return Run(folder)


def _parse(name: str, value: Any) -> Any:
    truth = name in ("verify", "gradients")
    if isinstance(value, bool) != truth:
        raise UsageError(f"{name}: found {value!r}; expected {'True or False' if truth else 'a number or a word'}")
    try:
        return SETTINGS[name.upper()].parse(str(value))
    except ValueError as error:
        raise UsageError(f"{name}: found {value!r}; {error}") from None


def _devices(device: Device) -> list[Any]:
    """Return JAX's devices, as they are in this process: nothing is set for it.

    Raises:
        DeviceError: there is none.
    """
    import jax

    try:
        return list(jax.devices(None if device is Device.auto else device.value))
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"there is no {device} for JAX here: {error}") from None


def _columns(x: Any, y: Any, most: int | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return both columns as float32, `[N]`.

    Raises:
        UsageError: they are no two columns of numbers of one length, or hold what float32 does not.
    """
    if y is None:
        raise UsageError("forward: y is missing; give two arrays, or the path of a dataset")
    found = []
    for name, given in (("x", x), ("y", y)):
        if np.ma.is_masked(given):  # NumPy would take what is under the mask
            raise UsageError(f"{name}: some numbers are masked; leave these samples out of x and of y")
        values = np.asarray(given)
        if values.dtype.kind not in "iuf" and values.dtype.name != "bfloat16":
            raise UsageError(f"{name}: found {values.dtype}; expected numbers")
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim != 1 or not values.size:
            raise UsageError(f"{name}: found the shape {list(values.shape)}; expected [N] or [N, 1], N at least 1")
        with np.errstate(over="ignore"):
            narrow = np.ascontiguousarray(values, np.float32)
        if (np.isinf(narrow) & np.isfinite(values.astype(np.float64))).any():
            raise UsageError(f"{name}: a number is outside the range of float32")
        found.append(narrow)
    if len(found[0]) != len(found[1]):
        raise UsageError(f"x has {len(found[0]):,} numbers and y {len(found[1]):,}; expected equally many")
    return found[0][:most], found[1][:most]
