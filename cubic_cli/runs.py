"""A run on disk: the record, the history and the parameters, replaced in one step. No JAX here.

    <artifact_dir>/<run_name>/run.json, history.parquet, params.safetensors

A run is written to a scratch folder beside its place and exchanged with the earlier run when it is whole.
"""

import contextlib
import ctypes
import errno
import json
import math
import os
import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from cubic_cli.errors import RunError

Record = dict[str, Any]  # described by record.schema.json

SCHEMA_VERSION = 1
RECORD, HISTORY, PARAMETERS = "run.json", "history.parquet", "params.safetensors"
FILES = (RECORD, HISTORY, PARAMETERS)
SAMPLES = "samples.f32"  # in a scratch folder: the samples, where they are too many for the memory
_LOCK = "lock"  # in a scratch folder: locked for as long as its process lives
_TEXTS = {"run_name", "path", "dataset", "artifact_dir"}
_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def shortest(value: Any) -> float:
    """Return the float whose text is the shortest that reads back to the same float32."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(value)))


def to_json(document: Any, indent: int | None = 2) -> str:
    """Return `document` as JSON; numbers that are not finite become the strings NaN, Infinity and -Infinity."""
    return json.dumps(_encode(document), indent=indent, allow_nan=False, ensure_ascii=False)


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
        RunError: the folder is a link, holds a stranger's files, or cannot be written; the earlier run is untouched.
    """
    refuse_strangers(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        recover(folder)
        scratch = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.scratch")
        scratch.mkdir()
    except OSError as error:
        raise _cannot_save(folder, error) from None
    try:
        with _owned(scratch):
            yield scratch
            try:
                for name in FILES:
                    with (scratch / name).open("rb+") as stream:
                        os.fsync(stream.fileno())
                for name in (SAMPLES, _LOCK):
                    (scratch / name).unlink(missing_ok=True)
                _put(scratch, folder)
            except OSError as error:
                raise _cannot_save(folder, error) from None
    finally:
        _remove(scratch)


def _cannot_save(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"cannot save the run in {folder}: {error.strerror or error}; the earlier run is untouched. "
        "Free some space or name another folder with --artifact-dir"
    )


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
        strangers = sorted(p.name for p in folder.iterdir() if p.name not in FILES or p.is_dir())
    except OSError as error:
        raise RunError(f"cannot read {folder}: {error.strerror}") from None
    if strangers:
        raise RunError(
            f"{folder} holds {strangers[0]!r}, which is no file of a run; move it away, or choose another --run-name"
        )


@contextlib.contextmanager
def _owned(scratch: Path) -> Iterator[None]:
    with (scratch / _LOCK).open("w") as stream:
        _lock(stream.fileno())
        yield


def _lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _put(scratch: Path, folder: Path) -> None:
    """Move the whole run `scratch` to `folder`; an earlier run ends up in `scratch`. Others may do so at once."""
    while True:
        try:
            if not folder.exists():
                os.rename(scratch, folder)
                return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        refuse_strangers(folder)
        try:
            _exchange(scratch, folder)
            return
        except FileNotFoundError:
            if not scratch.exists():
                raise


def _exchange(a: Path, b: Path) -> None:
    """Exchange two folders in one step where the system can (Linux), else by two renames that `recover` mends."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        at_cwd, rename_exchange = -100, 2
        if hasattr(libc, "renameat2"):
            if libc.renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), rename_exchange) == 0:
                return
            code = ctypes.get_errno()
            if code not in (errno.EINVAL, errno.ENOSYS):
                raise OSError(code, os.strerror(code), str(b))
    aside = a.with_suffix(".earlier")
    os.rename(b, aside)
    os.rename(a, b)
    os.rename(aside, a)


def _remove(scratch: Path) -> None:
    """Remove a scratch folder: a run's files alone, so that nothing of a stranger's is ever deleted."""
    for name in (*FILES, SAMPLES, _LOCK):
        with contextlib.suppress(OSError):
            (scratch / name).unlink()
    with contextlib.suppress(OSError):
        scratch.rmdir()


def recover(folder: Path) -> None:
    """Mend what a killed process left beside `folder`: put an earlier run back, remove abandoned scratch folders."""
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{8}}\.(scratch|earlier)")
    if not folder.parent.is_dir():
        return
    for left in sorted(folder.parent.iterdir()):
        match = pattern.fullmatch(left.name)
        if not match or left.is_symlink() or not left.is_dir():
            continue
        with contextlib.suppress(OSError):
            if match[1] == "earlier" and not folder.exists():
                os.rename(left, folder)
                continue
            try:
                stream = (left / _LOCK).open("r+")
            except FileNotFoundError:
                _remove(left)
            else:
                with stream:
                    if _lock(stream.fileno()):
                        _remove(left)


def load_record(folder: Path) -> Record:
    """Return the record of the run in `folder`.

    Raises:
        RunError: there is no run, or its record is damaged or of a later schema; says which file and what.
    """
    path = folder / RECORD
    if not folder.is_dir():
        raise RunError(f"there is no run {folder}; `cubic inspect --list` shows the runs, `cubic forward` makes one")
    try:
        record = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_decode)
    except FileNotFoundError:
        raise RunError(f"{path} is missing; run `cubic forward --run-name {folder.name}` again") from None
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); run `cubic forward --run-name {folder.name}` again") from None
    schema = record.get("schema") if isinstance(record, dict) else None
    if schema != SCHEMA_VERSION:
        raise RunError(
            f"{path} has schema {schema!r}; this version of cubic reads schema {SCHEMA_VERSION}: "
            "use the version that wrote it, or run `cubic forward` again"
        )
    return cast(Record, record)


def load_history(folder: Path) -> pl.DataFrame:
    """Return the history of the run in `folder`, a row an iteration.

    Raises:
        RunError: the file is missing or damaged.
    """
    path = folder / HISTORY
    try:
        return pl.read_parquet(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing; run `cubic forward --run-name {folder.name}` again") from None
    except (OSError, pl.exceptions.PolarsError):
        raise RunError(f"{path} is damaged; run `cubic forward --run-name {folder.name}` again") from None


def load_parameters(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return the parameters of the run in `folder` by name.

    Raises:
        RunError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / PARAMETERS
    try:
        return load_file(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing; run `cubic forward --run-name {folder.name}` again") from None
    except (OSError, SafetensorError, ValueError):
        raise RunError(f"{path} is damaged; run `cubic forward --run-name {folder.name}` again") from None


class Run:
    """A saved run: `record`, `history` and `parameters`, each read when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = load_record(folder)

    @property
    def history(self) -> pl.DataFrame:
        """A row an iteration, as in `history.parquet`."""
        return load_history(self.folder)

    @property
    def parameters(self) -> dict[str, NDArray[np.float32]]:
        """The parameters by name, as in `params.safetensors`."""
        return load_parameters(self.folder)


def load_run(path: str | Path) -> Run:
    """Return the run saved in the folder `path`, for notebooks and scripts.

    Raises:
        RunError: there is no run, or its record is damaged or of a later schema.
    """
    return Run(Path(path))


def list_runs(artifact_dir: Path) -> list[Record]:
    """Return the records of all runs in `artifact_dir`, by name; a damaged one has only `run_name` and `damaged`."""
    runs: list[Record] = []
    if not artifact_dir.is_dir():
        return runs
    for folder in sorted(p for p in artifact_dir.iterdir() if p.is_dir() and not p.name.startswith(".")):
        try:
            runs.append(load_record(folder))
        except RunError as error:
            runs.append({"run_name": folder.name, "damaged": str(error)})
    return runs
