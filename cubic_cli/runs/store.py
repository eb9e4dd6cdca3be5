"""A run on disk: the record, the history and the parameters, replaced in one step. No JAX here.

    <artifact_dir>/<run_name>/run.json, history.parquet, params.safetensors

A run is written to a scratch folder beside its place and exchanged with the earlier run when it is whole.
"""

import contextlib
import errno
import functools
import json
import math
import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from cubic_cli.atomic import clear, half_made, replacing_folder, scratch_folder
from cubic_cli.errors import RunError

if TYPE_CHECKING:
    import polars as pl

Record = dict[str, Any]  # described by record.schema.json

SCHEMA_VERSION = 1
RECORD, HISTORY, PARAMETERS = "run.json", "history.parquet", "params.safetensors"
FILES = (RECORD, HISTORY, PARAMETERS)
SAMPLES = "samples.f32"  # in a scratch folder: the samples, where they are too many for the memory
_TEXTS = {"run_name", "path", "dataset", "artifact_dir"}
_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def shortest(value: Any) -> float:
    """Return the float whose text is the shortest that reads back to the same float32."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))


def to_json(document: Any, indent: int | None = 2) -> str:
    """Return `document` as JSON; numbers that are not finite become the strings NaN, Infinity and -Infinity.

    It is ASCII, so that no stream spoils it, whatever its encoding, and a path of any bytes can be told.
    """
    return json.dumps(_encode(document), indent=indent, allow_nan=False)


def _encode(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _decode(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {
        key: _NONFINITE.get(value, value) if isinstance(value, str) and key not in _TEXTS else value
        for key, value in pairs
    }


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a scratch folder for a run's files; when they are whole, they replace the earlier run in `folder`.

    Raises:
        RunError: the folder is a link, holds a stranger's files, or cannot be written; an earlier run is untouched.
    """
    with _saving(folder), replacing_folder(folder, FILES, (SAMPLES,), refuse_strangers) as scratch:
        yield scratch


@contextlib.contextmanager
def scratch_beside(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside the run's `folder`, for samples that several runs share; removed at the end.

    Raises:
        RunError: it cannot be written.
    """
    with _saving(folder), scratch_folder(folder, (SAMPLES,)) as scratch:
        yield scratch


@contextlib.contextmanager
def _saving(folder: Path) -> Iterator[None]:
    try:
        refuse_strangers(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        recover_all(folder.parent)
        yield
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        raise RunError(
            f"cannot save the run in {folder}: {error.strerror or error}; an earlier run is untouched. "
            f"{_way_out(error, folder)}"
        ) from None


def _way_out(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "Free some space, or name a folder on another disk with --artifact-dir"
    if error.errno == errno.ENOENT and not folder.parent.is_dir():
        return f"{folder.parent} was removed under way; run the command again"
    return "Name another folder with --artifact-dir"


def write_record(scratch: Path, record: Record) -> None:
    """Write the record of a run to its scratch folder."""
    (scratch / RECORD).write_text(to_json(record) + "\n", encoding="utf-8")


def write_parameters(scratch: Path, parameters: dict[str, NDArray[np.float32]]) -> None:
    """Write the parameters of a run to its scratch folder."""
    from safetensors.numpy import save as to_safetensors

    (scratch / PARAMETERS).write_bytes(to_safetensors(parameters))


def refuse_strangers(folder: Path) -> None:
    """Raise `RunError` unless `folder` is free or holds nothing but a run's files."""
    if folder.is_symlink():
        raise RunError(f"{folder} is a link; a run is not saved through links: remove it, or choose another --run-name")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunError(f"{folder} is no folder; move it away, or choose another --run-name")
    try:
        with os.scandir(folder) as entries:
            strangers = sorted(e.name for e in entries if e.name not in FILES or not e.is_file(follow_symlinks=False))
    except FileNotFoundError:  # another run is just being put there
        return
    except OSError as error:
        raise RunError(f"cannot read {folder}: {error.strerror}") from None
    if strangers:
        raise RunError(
            f"{folder} holds {strangers[0]!r}, which is no file of a run; move it away, or choose another --run-name"
        )


def recover(folder: Path) -> None:
    """Mend what a killed process left beside `folder`: put an earlier run back, remove abandoned scratch folders."""
    clear(folder, (*FILES, SAMPLES))


def recover_all(artifact_dir: Path) -> None:
    """Mend what killed processes left of any run in `artifact_dir`."""
    with contextlib.suppress(OSError):
        for name in half_made(artifact_dir):
            recover(artifact_dir / name)


def load_record(folder: Path) -> Record:
    """Return the record of the run in `folder`.

    Raises:
        RunError: there is no run, or its record is damaged or of a later schema; says which file and what.
    """
    path = folder / RECORD
    if not folder.is_dir():
        raise RunError(f"there is no run {folder}; `cubic inspect --list` shows the runs, `cubic forward` makes one")
    _check_file(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_decode)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}); {again(folder)}") from None
    schema = record.get("schema") if isinstance(record, dict) else None
    if isinstance(schema, bool) or schema != SCHEMA_VERSION:
        raise RunError(
            f"{path} has schema {schema!r}; this version of cubic reads schema {SCHEMA_VERSION}: "
            "use the version that wrote it, or run `cubic forward` again"
        )
    return cast(Record, record)


def load_history(folder: Path) -> "pl.DataFrame":
    """Return the history of the run in `folder`, a row an iteration.

    Raises:
        RunError: the file is missing or damaged.
    """
    import polars as pl

    path = folder / HISTORY
    _check_file(path)
    try:
        return pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        raise RunError(f"{path} is damaged; {again(folder)}") from None


def load_parameters(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return the parameters of the run in `folder` by name.

    Raises:
        RunError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / PARAMETERS
    _check_file(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError):
        raise RunError(f"{path} is damaged; {again(folder)}") from None


def _check_file(path: Path) -> None:
    """Raise `RunError` unless `path` is a file; a pipe would make its reader wait for ever."""
    try:
        if path.is_file():
            return
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    if os.path.lexists(path):
        raise RunError(f"{path} is no regular file; move it away, and {again(path.parent)}")
    raise RunError(f"{path} is missing; {again(path.parent)}")


def again(folder: Path) -> str:
    """Return what to do about a run that is damaged."""
    return f"run `cubic forward --run-name {folder.name}` again"


class Run:
    """A saved run: `folder`, `record`, `history` and `parameters`; the last two are read when first asked for.

    Raises:
        RunError: what is asked for is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = load_record(folder)

    @functools.cached_property
    def history(self) -> "pl.DataFrame":
        """A row an iteration, as in `history.parquet`."""
        return load_history(self.folder)

    @functools.cached_property
    def parameters(self) -> dict[str, NDArray[np.float32]]:
        """The parameters by name, as in `params.safetensors`."""
        return load_parameters(self.folder)

    def __repr__(self) -> str:
        try:
            config, check = self.record["config"], self.record["verification"]
            verified = "not verified" if check is None else "verified" if check["passed"] else "NOT VERIFIED"
            says = (
                f"N = {self.record['dataset']['rows']:,}, H = {config['hidden_size']:,}, "
                f"loss {self.record['loss']:.7g}, {verified}"
            )
        except (KeyError, TypeError, ValueError):
            says = "its record is damaged"
        return f"<Run {str(self.folder)!r}: {says}>"


def load_run(path: str | Path) -> Run:
    """Return the run saved in the folder `path`, for notebooks and scripts. Starts no JAX.

        >>> run = cubic_cli.load_run("model/exp1")
        >>> run
        <Run 'model/exp1': N = 1,000, H = 64, loss 7034115, verified>
        >>> run.record["tensors"][0]["max"]            # run.json: a dict; NaN and infinities are floats
        >>> run.history.filter(pl.col("epoch") == 1)   # history.parquet: a polars DataFrame, a row an iteration
        >>> run.parameters["input_layer.weight"]       # params.safetensors: NumPy arrays by name

    Raises:
        RunError: there is no run, or its record is damaged or of a later schema. `history` and `parameters` raise it
            when they are read.
    """
    return Run(Path(path))


def record_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a run's record, as `run.json` and `--json` write it."""
    text = (resources.files("cubic_cli.runs") / "record.schema.json").read_text(encoding="utf-8")
    return cast(dict[str, Any], json.loads(text))


def list_runs(artifact_dir: Path) -> list[Record]:
    """Return the records of all runs in `artifact_dir`, by name; a damaged one has only `run_name` and `damaged`.

    A run's name is that of its folder, by which it is found, though it may have been copied or renamed.
    """
    runs: list[Record] = []
    if not artifact_dir.is_dir():
        return runs
    for folder in sorted(p for p in artifact_dir.iterdir() if p.is_dir() and not p.name.startswith(".")):
        try:
            runs.append(load_record(folder) | {"run_name": folder.name})
        except RunError as error:
            runs.append({"run_name": folder.name, "damaged": str(error)})
    return runs
