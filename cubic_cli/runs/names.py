"""Which run is meant: by a name, by a folder, or the newest."""

import difflib
import os
import re
import shlex
import stat
from datetime import UTC, datetime
from pathlib import Path

from cubic_cli.errors import RunError, UsageError
from cubic_cli.runs.files import FILES, RECORD, has_files
from cubic_cli.runs.store import recover, recover_all

_CREATED = re.compile(rb'"created"\s*:\s*"([^"]{1,40})"')
_HEAD = 1 << 16  # bytes: a record says early when it was made
_NEVER = datetime.min.replace(tzinfo=UTC)
_FEW = 3  # names in a message


def find(name: str, artifact_dir: Path) -> Path:
    """Return the folder of the run that is meant: text without a separator is a name in `artifact_dir`, else a path.

    `.` and `..` are paths, too.

    Raises:
        UsageError: the name is empty.
        RunError: there is no such folder, it cannot be looked into, or nothing of a run is in it; names the nearest
            and the newest runs.
    """
    if not name:
        raise UsageError("found '' for a run; expected its name, or the path of its folder")
    is_path = name in (".", "..") or any(separator and separator in name for separator in (os.sep, os.altsep))
    folder = Path(name) if is_path else artifact_dir / name
    if folder.name in ("", ".."):
        folder = folder.resolve()
    if folder.name:
        recover(folder)
    if has_files(folder):
        return folder
    _refuse_what_is_nearly_one(name, folder, folder if is_path else Path(name))
    known = newest_first(folder.parent)
    if not known:
        raise RunError(f"there is no run {folder}; `cubic forward` makes one")
    near = difflib.get_close_matches(folder.name, known, n=_FEW)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    newest = [one for one in known if one not in near][:_FEW]
    more = f"; the newest: {', '.join(newest)}" if newest else ""
    raise RunError(f"there is no run {folder}{hint}{more}; `cubic inspect --list` shows them all")


def _refuse_what_is_nearly_one(name: str, folder: Path, place: Path) -> None:
    """Raise `RunError` if there is a run, though not by this `name`; `place` is what it names as a path."""
    if has_files(place):
        raise RunError(f"there is no run {folder}, but .{os.sep}{name} is one; name it so, as a path")
    if place.name in FILES and has_files(place.parent):
        raise RunError(f"{place} is a file of a run; name its folder, {place.parent}")
    if runs := newest_first(place):
        raise RunError(
            f"{place} is a folder of runs; name one, as in {place / runs[0]}, or list them: "
            f"`cubic inspect --list --artifact-dir {shlex.quote(str(place))}`"
        )


def newest_first(artifact_dir: Path) -> list[str]:
    """Return the names of the runs in `artifact_dir`, by when they were made, the folder's time and the name.

    Raises:
        RunError: it cannot be looked into.
    """
    recover_all(artifact_dir)
    found = []
    try:
        with os.scandir(artifact_dir) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.is_dir():
                    when = created(artifact_dir / entry.name)
                    if when is not None:
                        found.append((when, entry.stat().st_mtime_ns, entry.name))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise RunError(f"cannot read {artifact_dir}: {error.strerror}") from None
    return [name for _, _, name in sorted(found, reverse=True)]


def created(folder: Path) -> datetime | None:
    """Return when a run says it was made: the beginning of time if it does not tell, None where there is no run."""
    try:
        descriptor = os.open(folder / RECORD, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # a pipe would keep its reader waiting
            return None
        match = _CREATED.search(os.read(descriptor, _HEAD))
        when = datetime.fromisoformat(match[1].decode()) if match else _NEVER
        return when if when.tzinfo else when.replace(tzinfo=UTC)
    except (OSError, ValueError):
        return _NEVER
    finally:
        os.close(descriptor)
