"""A run on disk: the record, the history and the parameters, replaced in one step. No JAX here.

    <artifact_dir>/<run_name>/run.json, history.parquet, params.safetensors

A run is written to a scratch folder beside its place and exchanged with the earlier run when it is whole.
"""

import contextlib
import contextvars
import errno
import functools
import html
import json
import math
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from cubic_cli.atomic import clear, half_made, replacing_folder, scratch_folder
from cubic_cli.errors import RunError, five_digits, printable
from cubic_cli.runs import damage
from cubic_cli.runs.listed import Listed
from cubic_cli.runs.record import SCHEMA_VERSION, Record, to_json

if TYPE_CHECKING:
    import polars as pl

RECORD, HISTORY, PARAMETERS = "run.json", "history.parquet", "params.safetensors"
FILES = (RECORD, HISTORY, PARAMETERS)
SAMPLES = "samples.f32"  # in a scratch folder: the samples, where they are too many for the memory


_DESCRIPTORS = Path("/proc/self/fd")  # Linux: a file that is open here, whatever became of its name
_TRIES = 10
_held: contextvars.ContextVar[dict[Path, int]] = contextvars.ContextVar("held", default={})  # noqa: B039 (not changed)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Within the block, all that is read of `folder` is of the one run that stood there when it began.

    A run is replaced by another folder, so the files in the one that was opened are one run's. They are opened at once
    and stay open, for whoever replaces the run removes them. Where the system has no `/proc` they are read by path.
    """
    if folder in _held.get() or not _DESCRIPTORS.is_dir():
        yield
        return
    for attempt in range(_TRIES):
        with contextlib.ExitStack() as stack:
            found, whole = _open_files(folder, stack)
            if not whole and attempt < _TRIES - 1:
                time.sleep(0.001)
                continue
            token = _held.set({**_held.get(), **found})
            try:
                yield
            finally:
                _held.reset(token)
            return


def _open_files(folder: Path, stack: contextlib.ExitStack) -> tuple[dict[Path, int], bool]:
    """Return the descriptors of a folder and its files, closed by `stack`, and whether it was not replaced under way.

    What cannot be opened or is no file is left out: its reader tells what is wrong with it.
    """

    def open_(path: Path | str, flags: int, where: int | None = None) -> int:
        descriptor = os.open(path, os.O_RDONLY | flags, dir_fd=where)
        stack.callback(os.close, descriptor)
        return descriptor

    found: dict[Path, int] = {}
    try:
        parent = found[folder] = open_(folder, os.O_DIRECTORY)
    except OSError as error:
        return {}, error.errno != errno.ENOENT
    for name in FILES:
        with contextlib.suppress(OSError):
            descriptor = open_(name, os.O_NONBLOCK, parent)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                found[folder / name] = descriptor
    if len(found) > len(FILES):
        return found, True
    try:
        return found, os.path.samestat(os.fstat(parent), folder.stat())
    except OSError:
        return found, False


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
        refuse_strangers(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        recover_all(folder.parent)
        yield
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE) or _is_elsewhere(error, folder):
            raise
        if isinstance(error, FileExistsError | NotADirectoryError) and not folder.parent.is_dir():
            what = "a link to what is not there" if folder.parent.is_symlink() else "no folder"
            raise RunError(
                f"cannot save the run in {folder}: {folder.parent} is {what}. {_way_out(error, folder)}"
            ) from None
        raise RunError(
            f"cannot save the run in {folder}: {error.strerror or error}; an earlier run is untouched. "
            f"{_way_out(error, folder)}"
        ) from None


def _is_elsewhere(error: OSError, folder: Path) -> bool:
    """Return whether an error is about a file that is none of the run's, as one of a library's cache."""
    if not isinstance(error.filename, str | bytes):
        return False
    ours, path = folder.parent.absolute(), Path(os.fsdecode(error.filename)).absolute()
    return path != ours and ours not in path.parents and path not in ours.parents


def _way_out(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "Free some space, or name a folder on another disk with --artifact-dir"
    if error.errno == errno.ENOENT and not folder.parent.is_dir():
        return f"{folder.parent} was removed under way; run the command again"
    if error.errno == errno.EXDEV:
        return (
            f"The file system of {folder.parent} renames no folders, as the layers of a container's image; "
            "name a folder on a volume with --artifact-dir"
        )
    return "Name another folder with --artifact-dir"


def write_record(scratch: Path, record: Record) -> None:
    """Write the record of a run to its scratch folder."""
    (scratch / RECORD).write_text(to_json(record) + "\n", encoding="utf-8")


def write_parameters(
    scratch: Path, parameters: dict[str, NDArray[np.float32]], metadata: dict[str, str] | None = None
) -> None:
    """Write the parameters of a run to its scratch folder; the same ones and `metadata` always give the same bytes."""
    from safetensors.numpy import save as to_safetensors

    raw = to_safetensors(parameters, metadata)
    # The library writes the metadata in an order that changes from call to call.
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header["__metadata__"] = metadata or {}
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
        raise RunError(f"{folder / RECORD} is damaged: {damages[0]}; {again(folder)}")
    return record


def load_listed(folder: Path) -> Listed:
    """Return what the list shows of the run in `folder`; the rest of its record is not looked at.

    Raises:
        RunError: there is no run, or what is listed is damaged or of a later schema.
    """
    found = damage.parse_listed(load_document(folder))
    if isinstance(found, damage.Damage):
        raise RunError(f"{folder / RECORD} is damaged: {found}; {again(folder)}")
    return found


def load_document(folder: Path) -> dict[str, Any]:
    """Return what the record of the run in `folder` says, an object of JSON whose parts may be damaged.

    Raises:
        RunError: there is no run, or its record cannot be read or is of a later schema.
    """
    path = folder / RECORD
    if path not in _held.get() and not folder.is_dir():
        raise RunError(f"there is no run {folder}; `cubic inspect --list` shows the runs, `cubic forward` makes one")
    source = find_file(path)
    try:
        document = json.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged ({error}); {again(folder)}") from None
    schema = document.get("schema") if isinstance(document, dict) else None
    if type(schema) is not int or not 1 <= schema <= SCHEMA_VERSION:
        raise RunError(
            f"{path} has schema {schema!r}; this version of cubic reads schema 1 to {SCHEMA_VERSION}: "
            "use the version that wrote it, or run `cubic forward` again"
        )
    return cast(dict[str, Any], document)


def load_history(folder: Path) -> "pl.DataFrame":
    """Return the history of the run in `folder`, a row an iteration.

    Raises:
        RunError: the file is missing or damaged.
    """
    import polars as pl

    path = folder / HISTORY
    source = find_file(path)
    try:
        return pl.read_parquet(source, glob=False)
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
    source = find_file(path)
    try:
        return load_file(source)
    except (OSError, SafetensorError, ValueError, KeyError):
        raise RunError(f"{path} is damaged; {again(folder)}") from None


def find_file(path: Path) -> Path:
    """Return where a run's file is read: at its path, or where `held` holds it open.

    Raises:
        RunError: it is no file; a pipe would make its reader wait for ever.
    """
    if path in _held.get():
        return _DESCRIPTORS / str(_held.get()[path])
    try:
        if path.is_file():
            return path
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
        self.folder: Path | None = folder
        with held(folder):
            self.parsed = load_record(folder)  # the same with types
            self._identity = _identify(folder)

    @classmethod
    def detached(cls, folder: Path) -> "Run":
        """Return a run that holds all that is in `folder`, which may go; its own `folder` is None."""
        run = cls(folder)
        run.history, run.parameters  # noqa: B018 (read now, and kept)
        run.folder = None
        return run

    @property
    def saved_in(self) -> Path:
        """The folder of a run that has one."""
        if self.folder is None:
            raise RunError("this run is not saved; give it a run_name")
        return self.folder

    @functools.cached_property
    def record(self) -> dict[str, Any]:
        """What `run.json` says; numbers that are not finite are floats."""
        return self.parsed.as_dict()

    @functools.cached_property
    def history(self) -> "pl.DataFrame":
        """A row an iteration, as in `history.parquet`."""
        with self._unreplaced() as folder:
            return load_history(folder)

    @functools.cached_property
    def parameters(self) -> dict[str, NDArray[np.float32]]:
        """The parameters by name, as in `params.safetensors`."""
        with self._unreplaced() as folder:
            return load_parameters(folder)

    @contextlib.contextmanager
    def _unreplaced(self) -> Iterator[Path]:
        """Hold the run's files, if they are still those of its record."""
        with held(self.saved_in):
            if _identify(self.saved_in) != self._identity:
                raise RunError(f"{self.saved_in} was replaced by another run since it was loaded; load it again")
            yield self.saved_in

    def __repr__(self) -> str:
        record, check = self.parsed, self.parsed.verification
        verified = "not verified" if check is None else "verified" if check.passed else "NOT VERIFIED"
        sizes = f"N = {record.dataset.rows:,}, H = {record.config.hidden_size:,}"
        where = "not saved" if self.folder is None else repr(str(self.folder))
        return f"<Run {where}: {sizes}, loss {record.loss:.7g}, {verified}>"

    def _repr_html_(self) -> str:
        """Return the run as a notebook shows it: its tensors, and what the numbers say."""
        record = self.parsed
        names = ("min", "max", "mean", "std")
        head = "".join(f"<th>{name}</th>" for name in ("tensor", *names))
        rows = "".join(
            f"<tr><td>{html.escape(tensor.label)}</td>"
            + "".join(f"<td>{_shown(getattr(tensor, name))}</td>" for name in names)
            + "</tr>"
            for tensor in record.tensors
        )
        found = "".join(
            f"<li><b>{html.escape(printable(f.id))}</b>: {html.escape(printable(f.text))}</li>" for f in record.findings
        )
        title = html.escape(printable(repr(self)))
        return f"<p>{title}</p><table><tr>{head}</tr>{rows}</table><ul>{found}</ul>"


def _identify(folder: Path) -> tuple[int, int, int]:
    """Return what tells the record of a run from that of one which replaces it."""
    found = find_file(folder / RECORD).stat()
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _shown(value: float | None) -> str:
    return "–" if value is None else five_digits(value) if math.isfinite(value) else str(value)


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


def near(path: str) -> Path:
    """Return the path as people would write it: relative to the current folder, if it lies there."""
    with contextlib.suppress(ValueError, OSError):
        return Path(path).relative_to(Path.cwd())
    return Path(path)


def list_runs(artifact_dir: Path) -> Iterator[tuple[str, Listed | str]]:
    """Yield all runs in `artifact_dir` by name: the name, and what is listed or, where that is damaged, what is wrong.

    A run's name is that of its folder, by which it is found, though it may have been copied or renamed.
    """
    if not artifact_dir.is_dir():
        return
    for folder in sorted(p for p in artifact_dir.iterdir() if p.is_dir() and not p.name.startswith(".")):
        try:
            yield folder.name, load_listed(folder)
        except RunError as error:
            yield folder.name, str(error)
