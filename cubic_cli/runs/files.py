"""The files of a run, and how they are read as those of one run, though another replaces it meanwhile."""

import contextlib
import contextvars
import errno
import hashlib
import math
import os
import shlex
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cubic_cli.errors import RunError

if TYPE_CHECKING:
    from cubic_cli.runs.record import Record

RECORD, HISTORY, PARAMETERS = "run.json", "history.parquet", "params.safetensors"
FILES = (RECORD, HISTORY, PARAMETERS)
SAMPLES = "samples.f32"  # in a scratch folder: the samples, where they are too many for the memory
QUICK = 1 << 24  # bytes: so many are digested in some ten milliseconds


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
    except ValueError:  # no file system takes such a name
        return {}, True
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


def find_file(path: Path) -> Path:
    """Return where a run's file is read: at its path, or where `held` holds it open.

    Raises:
        RunError: there is no run, or it is no file; a pipe would make its reader wait for ever.
    """
    folder = path.parent
    if path in _held.get():
        return _DESCRIPTORS / str(_held.get()[path])
    if not has_files(folder):
        raise RunError(f"there is no run {folder}; `cubic inspect --list` shows the runs, `cubic forward` makes one")
    try:
        if path.is_file():
            return path
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from None
    if os.path.lexists(path):
        raise RunError(f"{path} is no regular file; move it away, and {rerun_hint(folder)}")
    raise RunError(f"{path} is missing; {rerun_hint(folder)}")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_digest(path: Path, record: "Record | None", most: float = math.inf) -> None:
    """Refuse a file of a run that is not as it was written; one of more than `most` bytes is not looked at.

    Libraries that decode files need it: some damage they do not see, and at some of it polars asks for so much memory
    that Rust ends the process.

    Args:
        path: the file.
        record: the run's, which has the digests; earlier versions of cubic wrote none, and they may be damaged.
        most: what to read at most, where the file will be read in part.

    Raises:
        RunError: the file is damaged, or missing.
    """
    digests: Mapping[str, str] = getattr(record, "files", None) or {}
    source, expected = find_file(path), digests.get(path.name)
    if expected is not None and source.stat().st_size <= most and digest(source) != expected:
        raise RunError(f"{path} is damaged: its SHA-256 is not what {RECORD} says of it; {rerun_hint(path.parent)}")


def has_files(folder: Path) -> bool:
    """Return whether `folder` is there and holds a file of a run, whole or not.

    Raises:
        RunError: it cannot be looked into.
    """
    for name in FILES:
        try:
            os.lstat(folder / name)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            continue
        except OSError as error:
            raise RunError(f"cannot read {folder}: {error.strerror}") from None
        return True
    return False


def refuse_in_run(path: Path, flag: str) -> None:
    """Refuse a path within the folder of a run, which could not be replaced any more; `flag` named it.

    Raises:
        RunError: all files of a run stand beside it.
    """
    if all(os.path.lexists(path.parent / name) for name in FILES):
        raise RunError(f"cannot write {path}: a run's folder holds its own files alone; name another with {flag}")


def rerun_hint(folder: Path) -> str:
    """Return what to do about a run that is damaged."""
    where = "" if folder.parent == Path("model") else f" --artifact-dir {shlex.quote(str(folder.parent))}"
    return f"run `cubic forward --run-name {folder.name}{where}` again, with the settings that it had"


def near(path: str) -> Path:
    """Return the path as people would write it: relative to the current folder, if it lies there."""
    with contextlib.suppress(ValueError, OSError):
        return Path(path).relative_to(Path.cwd())
    return Path(path)
