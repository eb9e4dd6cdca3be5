"""The runs on disk: written to a scratch folder, exchanged with the earlier run when whole, listed and read.

<artifact_dir>/<run_name>/run.json, history.parquet, params.safetensors
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from cubic_cli.atomic import clear, half_made, replacing_folder, scratch_folder
from cubic_cli.errors import RunError
from cubic_cli.float32 import Float32
from cubic_cli.runs import damage
from cubic_cli.runs.files import FILES, PARAMETERS, RECORD, SAMPLES, check_digest, find_file, refuse_in_run, rerun_hint
from cubic_cli.runs.record import SCHEMA_VERSION, Record, to_json


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
    """Yield an empty folder beside the run's `folder`, for what is not kept; removed at the end.

    Raises:
        RunError: it cannot be written.
    """
    with _saving(folder), scratch_folder(folder, (*FILES, SAMPLES)) as scratch:
        yield scratch


@contextlib.contextmanager
def _saving(folder: Path) -> Iterator[None]:
    try:
        refuse_in_run(folder, "--artifact-dir")
        _make(folder.parent)
        refuse_strangers(folder)
        recover_all(folder.parent)
        yield
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE) or _is_elsewhere(error, folder):
            raise
        remedy = _remedy(error, folder.parent)
        if error.errno == errno.ENOENT and not folder.parent.is_dir():
            remedy = f"{folder.parent} was removed under way; run the command again"
        raise RunError(
            f"cannot save the run in {folder}: {error.strerror or error}; an earlier run is untouched. {remedy}"
        ) from None


def _make(artifact_dir: Path) -> None:
    """Make the folder of the runs.

    Raises:
        RunError: it cannot be made.
    """
    try:
        artifact_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if isinstance(error, FileExistsError | NotADirectoryError):
            why = f"{artifact_dir} is {'a link to what is not there' if artifact_dir.is_symlink() else 'no folder'}"
        else:
            why = f"the folder {artifact_dir} cannot be made: {error.strerror}"
        raise RunError(f"cannot save the run: {why}. {_remedy(error, artifact_dir)}") from None


def _is_elsewhere(error: OSError, folder: Path) -> bool:
    """Return whether an error is about a file that is none of the run's, as one of a library's cache."""
    if not isinstance(error.filename, str | bytes):
        return False
    ours, path = folder.parent.absolute(), Path(os.fsdecode(error.filename)).absolute()
    return path != ours and ours not in path.parents and path not in ours.parents


def _remedy(error: OSError, artifact_dir: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "Free some space, or name a folder on another disk with --artifact-dir"
    if error.errno == errno.EXDEV:
        return (
            f"The file system of {artifact_dir} renames no folders, as the layers of a container's image; "
            "name a folder on a volume with --artifact-dir"
        )
    return "Name another folder with --artifact-dir"


def write_record(scratch: Path, record: Record) -> None:
    """Write the record of a run to its scratch folder."""
    (scratch / RECORD).write_text(to_json(record) + "\n", encoding="utf-8")


def write_parameters(scratch: Path, parameters: dict[str, Float32], metadata: dict[str, str]) -> None:
    """Write the parameters of a run to its scratch folder; the same ones and `metadata` always give the same bytes."""
    from safetensors.numpy import save as to_safetensors

    raw = to_safetensors(parameters, metadata)
    # The library writes the metadata in an order that changes from call to call.
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header["__metadata__"] = metadata
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    (scratch / PARAMETERS).write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])


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
    record, damages = damage.parse(load_document(folder))
    if damages:
        raise RunError(f"{folder / RECORD} is damaged: {damages[0]}; {rerun_hint(folder)}")
    return record


def load_document(folder: Path) -> dict[str, Any]:
    """Return what the record of the run in `folder` says, an object of JSON whose parts may be damaged.

    Raises:
        RunError: there is no run, or its record cannot be read or is of a later schema.
    """
    path = folder / RECORD
    source = find_file(path)
    try:
        document = json.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}); {rerun_hint(folder)}") from None
    except MemoryError:
        raise RunError(f"there is not enough memory to read {path}") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if type(schema) is not int or not 1 <= schema <= SCHEMA_VERSION:
        raise RunError(
            f"{path} has schema {schema!r}; this version of cubic reads schema 1 to {SCHEMA_VERSION}: "
            "use the version that wrote it, or run `cubic forward` again"
        )
    return cast(dict[str, Any], document)


def load_parameters(folder: Path, record: Record | None = None) -> dict[str, Float32]:
    """Return the parameters of the run in `folder` by name; with its `record`, those that were written.

    Raises:
        RunError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / PARAMETERS
    source = find_file(path)
    check_digest(path, record)
    try:
        return load_file(source)
    except (OSError, SafetensorError, ValueError, KeyError):
        raise RunError(f"{path} is damaged; {rerun_hint(folder)}") from None
