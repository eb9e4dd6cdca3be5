"""The `.env` file: settings that lie underneath the environment. A value is never shown, for a `.env` holds secrets.

The nearest file from the current folder upward counts. One above the current folder may be a stranger's: it is passed
over if others may write it, or if its owner is neither this user, nor root, nor the owner of the current folder.
"""

import errno
import io
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cubic_cli.config import SETTINGS
from cubic_cli.errors import CubicError, UsageError
from cubic_cli.parsers import expand_home

if TYPE_CHECKING:
    from dotenv.parser import Binding

# Of JAX's variables, those that choose and can neither load code nor write a file. (A compilation cache is code.)
JAX_VARIABLES = frozenset(
    {
        "JAX_PLATFORMS",
        "JAX_NUM_CPU_DEVICES",
        "JAX_CUDA_VISIBLE_DEVICES",
        "JAX_ROCM_VISIBLE_DEVICES",
        "JAX_ENABLE_X64",
        "JAX_DEFAULT_MATMUL_PRECISION",
        "JAX_ENABLE_COMPILATION_CACHE",
        "JAX_DEBUG_NANS",
        "JAX_DEBUG_INFS",
        "JAX_LOGGING_LEVEL",
    }
)
_PATHS = {name for name, setting in SETTINGS.items() if setting.is_path}
_MAX_SIZE = 1 << 16  # bytes of a file, and letters of all its values once they are expanded


@dataclass(frozen=True)
class DotEnv:
    """The `.env` that was found, the names that it set and their lines, what is to be told of it, what is wrong."""

    path: Path | None = None
    names: frozenset[str] = frozenset()
    lines: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: CubicError | None = None


def load(start: Path | None = None) -> DotEnv:
    """Lay the nearest `.env`, from `start` or the current folder upward, underneath the environment.

    What is wrong is not raised but returned, so that `--help` can be shown all the same.
    """
    notes: list[str] = []
    lines: dict[str, int] = {}
    try:
        folder = start or Path.cwd()
        path, raw = _find(folder, notes)
        values = {} if path is None else _read(path, raw, folder, notes, lines)
    except FileNotFoundError:
        gone = CubicError("the current folder is not there any more; change to another with `cd`")
        return DotEnv(error=gone)
    except UsageError as error:
        return DotEnv(notes=tuple(notes), error=error)
    os.environ.update(values)
    return DotEnv(path, frozenset(values), lines, tuple(notes))


def _find(start: Path, notes: list[str]) -> tuple[Path | None, bytes]:
    """Return the nearest `.env` that can be trusted, and its bytes."""
    owners = {0, start.stat().st_uid, os.geteuid()} if hasattr(os, "geteuid") else set()
    for folder in (start, *start.parents):
        path, guarded = folder / ".env", folder != start and bool(owners)
        try:
            # A pipe, opened so, keeps nobody waiting.
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        except (FileNotFoundError, NotADirectoryError):
            if path.is_symlink():
                notes.append(f"{path} is passed over: it is a link to what is not there")
            continue
        except OSError as error:
            if error.errno == errno.ENXIO:  # a socket
                notes.append(f"{path} is passed over: it is no file")
                continue
            if error.errno == errno.ELOOP:
                notes.append(f"{path} is passed over: it is a link to itself")
                continue
            if folder != start and not os.access(folder, os.X_OK):  # closed to this user
                continue
            if guarded and _owner(path) not in owners:  # or it would keep all from working
                notes.append(f"{path} is passed over: {_FOREIGN}")
                continue
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            notes.append(f"{path} is passed over: it is no file")
            continue
        with open(descriptor, "rb") as stream:
            if guarded and status.st_mode & stat.S_IWOTH:
                notes.append(f"{path} is passed over: everybody may write it (`chmod o-w` if it is yours)")
            elif guarded and status.st_uid not in owners:
                notes.append(f"{path} is passed over: {_FOREIGN}")
            else:
                return path, stream.read(_MAX_SIZE + 1)
    return None, b""


_FOREIGN = "it is neither yours nor of the owner of the current folder"


def _owner(path: Path) -> int:
    """Return the owner of a file, or of the link to one that cannot be looked at."""
    try:
        return path.stat().st_uid
    except OSError:
        return path.lstat().st_uid


def _read(path: Path, raw: bytes, start: Path, notes: list[str], lines: dict[str, int]) -> dict[str, str]:
    """Return what takes effect of a file: the values of names that the environment does not set.

    What is to be told is added to `notes`, and the line of each name to `lines`.

    Raises:
        UsageError: a line of a file that names a setting of ours cannot be read.
    """
    text = raw.decode("utf-8-sig", "surrogateescape")
    letters = re.sub("[\0\ud800-\udfff]", "", text)  # of a file in UTF-16, too
    is_ours = re.search(rf"^\s*(?:(?:export|set)\s+)?'?(?:{'|'.join(SETTINGS)})\b", letters, re.MULTILINE) is not None
    if len(raw) > _MAX_SIZE:
        if is_ours:
            raise UsageError(f"{path} is larger than 64 KiB; a file of settings is smaller")
        return {}

    def refuse(line: int, why: str) -> None:
        if is_ours:
            raise UsageError(f"{path}, line {line}: {why}")

    values: dict[str, str] = {}
    unread: dict[str, tuple[int, str]] = {}
    room = _MAX_SIZE
    for binding, line in _bindings(text):
        string = binding.original.string
        if _NO_TEXT.search(string):
            before = string[: _NO_TEXT.search(string).start()]  # type: ignore[union-attr]
            refuse(binding.original.line + before.count("\n"), "this is not UTF-8 text; save the file as UTF-8")
        elif binding.error or "\0" in string or (binding.key and binding.value is None):
            refuse(line, "expected NAME=VALUE, a comment or an empty line")
        elif binding.key:
            lines[binding.key] = line
            unread.pop(binding.key, None)
            try:
                values[binding.key] = _expand(binding, values, room)
                room -= len(values[binding.key])
            except OverflowError:
                values.pop(binding.key, None)
                refuse(line, "with this line the values are larger than 64 KiB once each ${NAME} is replaced")
            except ValueError as error:
                values.pop(binding.key, None)
                unread[binding.key] = (line, str(error))
    notes += _mistaken(path, [*values, *unread])
    for name, (line, why) in unread.items():
        if name in SETTINGS:
            raise UsageError(f"{path}, line {line}: {name} has {why}; single quotation marks keep a text as it is")
    return {
        name: _absolute(value, path, lines[name], start) if name in _PATHS else value
        for name, value in values.items()
        if value and (name in SETTINGS or name in JAX_VARIABLES) and not os.environ.get(name)
    }


_NO_TEXT = re.compile("[\ud800-\udfff]")  # how bytes that are not UTF-8 are decoded


def _bindings(text: str) -> "Iterator[tuple[Binding, int]]":
    """Yield what is bound in a file, with its line."""
    from dotenv.parser import parse_stream

    for binding in parse_stream(io.StringIO(text)):
        string = binding.original.string
        yield binding, binding.original.line + string[: len(string) - len(string.lstrip())].count("\n")


def _expand(binding: "Binding", above: Mapping[str, str], room: int) -> str:
    """Return a value with `${NAME}` and `${NAME:-default}` replaced, but within single quotation marks.

    Raises:
        ValueError: such a name is set neither in the environment nor `above`, and has no default; or it is not
            written so.
        OverflowError: the value is longer than `room`; each line may double the one above.
    """
    from dotenv.variables import Variable, parse_variables

    value = binding.value or ""
    if re.search(r"=\s*'", binding.original.string):
        return value
    parts = []
    # One `${` at a time: the library looks for the end of each as far as the value reaches.
    for atom in (atom for piece in re.split(r"(?=\$\{)", value) for atom in parse_variables(piece)):
        if isinstance(atom, Variable):
            known = os.environ.get(atom.name) or above.get(atom.name) or atom.default
            if known is None and atom.name not in os.environ and atom.name not in above:
                raise ValueError(f"${{{atom.name}}}, which is set neither in the environment nor above this line")
            parts.append(known or "")
        else:
            parts.append(atom.resolve({}))
            if parts[-1].startswith("${"):
                raise ValueError("a ${ that begins neither ${NAME} nor ${NAME:-text}")
            for name in re.findall(r"\$([A-Za-z_]\w*)", parts[-1]):
                if binding.key in _PATHS and (name in os.environ or name in above):  # or it would name a folder
                    raise ValueError(f"${name}, which is not replaced; write ${{{name}}}")
        room -= len(parts[-1])
        if room < 0:
            raise OverflowError
    return "".join(parts)


def _absolute(value: str, file: Path, line: int, start: Path) -> str:
    """Return a path that stands in `file`: `~` is the home folder, and what is relative is relative to its folder.

    Raises:
        UsageError: there is no such home folder.
    """
    try:
        path = expand_home(value)
    except ValueError as error:
        raise UsageError(f"{file}, line {line}: {error}") from None
    return path if file.parent == start else os.path.join(file.parent, path)


def _mistaken(path: Path, names: Collection[str]) -> Iterator[str]:
    """Yield a line for each name that has no effect and looks as if it were to have one."""
    for name in names:
        if name in SETTINGS or name in JAX_VARIABLES:
            continue
        if name.startswith(("JAX_", "XLA_")):
            yield f"{name} in {path} has no effect; set it in the environment"
        else:
            near = [one for one in SETTINGS if _distance(name.upper(), one) <= (1 if len(one) <= 6 else 2)]
            if near:
                yield f"{name} in {path} has no effect; did you mean {near[0]}?"


def _distance(a: str, b: str) -> int:
    """Return how many letters must be changed, added or left out, or swapped with their neighbour, to get from a to b.

    Optimal string alignment; as far as it matters here, where a distance above 2 is far.
    """
    if abs(len(a) - len(b)) > 2:
        return 3
    rows = [list(range(len(b) + 1))]
    for i, one in enumerate(a, 1):
        row = [i]
        for j, other in enumerate(b, 1):
            row.append(min(row[-1] + 1, rows[-1][j] + 1, rows[-1][j - 1] + (one != other)))
            if i > 1 and j > 1 and one == b[j - 2] and a[i - 2] == other:
                row[-1] = min(row[-1], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]
